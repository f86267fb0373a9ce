"""Strict DER: one encoding for each value, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.der import (
    INTEGER,
    OCTET_STRING,
    SEQUENCE,
    DerError,
    read_element,
    read_elements,
    read_integer,
    read_only,
    write_element,
    write_integer,
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends inside a tag"),
        (b"\x30", "ends inside a tag"),
        (b"\x30\x02\x00", "ends inside a value"),
        (b"\x30\x80\x00\x00", "indefinite"),
        (b"\x30\x81\x05hello", "not the shortest"),
        (b"\x30\x82\x00\x80" + b"x" * 128, "not the shortest"),
        (b"\x30\x84\x7f\xff\xff\xff", "immense"),
        (b"\x3f\x81\x01\x00", "tag number beyond 30"),
    ],
)
def test_what_is_no_der_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DerError, match=reason):
        read_element(data)


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(DerError, match="bytes after its end"):
        read_only(b"\x04\x01x\x00", OCTET_STRING)


def test_other_tag_is_refused() -> None:
    with pytest.raises(DerError, match="tag 0x04 in place of 0x30"):
        read_only(b"\x04\x01x", SEQUENCE)


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"\xff\xff", b"\x01" * 65])
def test_integer_has_one_encoding(content: bytes) -> None:
    with pytest.raises(DerError, match="INTEGER"):
        read_integer(content)


def test_elements_beyond_the_bound_are_refused() -> None:
    three = write_integer(1) * 3
    assert len(list(read_elements(three, 3))) == 3
    with pytest.raises(DerError, match="more than 2"):
        list(read_elements(three, 2))


@given(st.integers(min_value=0, max_value=1 << 500))
def test_integers_come_back(value: int) -> None:
    assert read_integer(read_only(write_integer(value), INTEGER)) == value


@given(st.integers(0, 255).filter(lambda tag: tag & 0x1F != 0x1F), st.binary(max_size=300))
def test_elements_come_back(tag: int, content: bytes) -> None:
    assert read_only(write_element(tag, content), tag) == content


@given(st.binary(max_size=200), st.integers(0, 5))
def test_arbitrary_bytes_are_read_or_refused(data: bytes, most: int) -> None:
    try:
        elements = list(read_elements(data, most))
    except DerError:
        return
    assert b"".join(element.encoded for element in elements) == data
    assert all(write_element(element.tag, element.content) == element.encoded for element in elements)
