"""The compiled reader of SHAKEN rows gives what its reference gives, or leaves the row to the long way."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import native
from agent.identity.jws import der_signature_py
from agent.identity.plain import Plain, take_apart_py
from agent.identity.rows import MAX_ROW
from tests.identity.tokens import (
    CLAIMS,
    HEADER,
    PARAMETERS,
    VECTOR,
    VECTOR_TOKEN,
    base64url,
    compact,
    rcd,
    shaken,
    sign_parts,
)

pytestmark = pytest.mark.skipif(native.identity is None, reason="the compiled twin is not built")

SIGNATURE = VECTOR_TOKEN.rpartition(b".")[2]


def agree(value: bytes) -> bool:
    """Assert that the compiled twin says nothing else than the reference, and say whether it read the row."""
    assert native.identity is not None
    mine: Plain | None = native.identity.take_apart(value)
    if mine is not None:
        assert mine == take_apart_py(value)
    return mine is not None


def row_of(payload: bytes, header: bytes = compact(HEADER)) -> bytes:
    return base64url(header) + b"." + base64url(payload) + b"." + SIGNATURE + PARAMETERS


@pytest.mark.parametrize(
    "value",
    [
        VECTOR,
        b" \t\r\n " + VECTOR_TOKEN + b"\r\n " + PARAMETERS + b"\r",
        VECTOR_TOKEN + b";",
        shaken(attest="A", dest={"tn": ["*#9"]}, iat=0, orig={"tn": "1" * 32}, origid="~" * 128),
        shaken(iat=999_999_999_999_999),
        b"x." + VECTOR_TOKEN.partition(b".")[2] + PARAMETERS,
        VECTOR + b";" * (MAX_ROW - len(VECTOR)),
    ],
)
def test_plain_rows_are_read(value: bytes) -> None:
    assert agree(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b";",
        b"..;",
        VECTOR_TOKEN,
        b"." + VECTOR,
        VECTOR_TOKEN + b"=" + PARAMETERS,
        VECTOR_TOKEN[:-1] + b"x" + PARAMETERS,
        VECTOR_TOKEN[:-1] + PARAMETERS,
        VECTOR_TOKEN + b"A" + PARAMETERS,
        VECTOR_TOKEN.replace(b"_", b"/") + PARAMETERS,
        VECTOR_TOKEN + b"\0" + PARAMETERS,
        VECTOR_TOKEN[:-1] + b"\xff" + PARAMETERS,
        VECTOR + b";" * (MAX_ROW - len(VECTOR) + 1),
        rcd(),
        shaken(attest="D"),
        shaken(attest="AB"),
        shaken(attest=""),
        shaken(origid=""),
        shaken(origid="x" * 129),
        shaken(origid='"'),
        shaken(origid="\\"),
        shaken(origid="é"),
        shaken(orig={"tn": ""}),
        shaken(orig={"tn": "1" * 33}),
        shaken(orig={"tn": "+1"}),
        shaken(dest={"tn": ["1", "2"]}),
        shaken(dest={"tn": []}),
        shaken(iat=-1),
        shaken(iat=10**15),
        shaken(iat="1"),
        shaken(more=1),
        row_of(compact(CLAIMS).replace(b'"iat":1', b'"iat":01')),
        row_of(compact(CLAIMS).replace(b":", b": ")),
        row_of(compact(CLAIMS) + b" "),
        row_of(compact(CLAIMS)[:-1]),
        row_of(b""),
        row_of(b"a" * 470),
        row_of(b"a" * 9000),
    ],
)
def test_what_is_not_plain_is_left_to_the_long_way_by_both(value: bytes) -> None:
    assert not agree(value)
    assert take_apart_py(value) is None


@pytest.mark.parametrize("length", range(12))
def test_every_length_of_base64_is_bounded(length: int) -> None:
    for cut in range(length):
        agree(base64url(compact(HEADER)) + b"." + b"e" * cut + b"." + SIGNATURE + PARAMETERS)
        agree(VECTOR_TOKEN[:-length] + PARAMETERS if length else VECTOR)


values = st.sampled_from([VECTOR, shaken(origid="x"), b" " + VECTOR, row_of(compact(CLAIMS) * 2)])
edits = st.tuples(st.integers(0, 600), st.binary(max_size=3), st.integers(0, 3))


@given(values, st.lists(edits, max_size=3))
def test_damaged_rows(value: bytes, changes: list[tuple[int, bytes, int]]) -> None:
    damaged = value
    for at, new, removed in changes:
        damaged = damaged[:at] + new + damaged[at + removed :]
    agree(damaged)


@given(st.lists(edits, max_size=3))
def test_damaged_claims(changes: list[tuple[int, bytes, int]]) -> None:
    payload = compact(CLAIMS)
    for at, new, removed in changes:
        payload = payload[: at % 130] + new + payload[at % 130 + removed :]
    agree(sign_parts(compact(HEADER), payload) + PARAMETERS)


@given(st.binary(max_size=600))
def test_any_bytes(value: bytes) -> None:
    agree(value)
    agree(b"a." + value + b"." + SIGNATURE + b";")
    agree(b"a." + base64url(value) + b"." + SIGNATURE + b";")


@given(st.integers(0, 32), st.binary(min_size=32, max_size=32), st.integers(0, 32), st.binary(min_size=32, max_size=32))
def test_der_of_any_signature(zeros: int, r: bytes, more: int, s: bytes) -> None:
    assert native.identity is not None
    signature = (bytes(zeros) + r)[:32] + (bytes(more) + s)[:32]
    assert native.identity.der_signature(signature) == der_signature_py(signature)


@pytest.mark.parametrize("wrong", [b"", bytes(63), bytes(65), "x" * 64, bytearray(64), None])
def test_signature_of_another_length_or_type_is_refused(wrong: object) -> None:
    assert native.identity is not None
    with pytest.raises(ValueError, match="64 bytes"):
        native.identity.der_signature(wrong)


@pytest.mark.parametrize("wrong", [None, "text", bytearray(b"x"), memoryview(b"x")])
def test_value_that_is_not_bytes_is_refused(wrong: object) -> None:
    assert native.identity is not None
    with pytest.raises(TypeError, match="bytes"):
        native.identity.take_apart(wrong)


def test_nothing_leaks() -> None:
    twin = native.identity
    assert twin is not None
    other = rcd()

    def work(times: int) -> None:
        for _ in range(times):
            for value in (VECTOR, VECTOR + b";x", other):
                twin.take_apart(value)
            twin.der_signature(bytes(64))

    work(10)
    blocks = sys.getallocatedblocks()
    work(2000)
    assert sys.getallocatedblocks() - blocks < 100
