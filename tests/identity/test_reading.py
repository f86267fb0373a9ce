"""A reader that has read other calls reads what a new one reads: what it remembers changes nothing but the time."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.model import Failure
from agent.identity.reading import NOTHING_CLAIMED, RowReader, Stage
from agent.identity.rows import MAX_ROW
from agent.identity.x5u import PORTS
from tests.identity.tokens import (
    CLAIMS,
    HEADER,
    PARAMETERS,
    URL,
    VECTOR,
    VECTOR_TOKEN,
    base64url,
    compact,
    div,
    rcd,
    row,
    rph,
    shaken,
    token,
)

SEEN = (
    VECTOR,
    b" " + VECTOR + b"\r",
    VECTOR_TOKEN + PARAMETERS.replace(b"shaken", b'"shaken"'),
    VECTOR_TOKEN + PARAMETERS.replace(b"shaken", b"SHAKEN"),
    VECTOR_TOKEN + PARAMETERS.replace(b";ppt=shaken", b""),
    VECTOR_TOKEN + PARAMETERS + b";x=y",
    rcd(),
    rph(),
    div("13035550199", "13035550142"),
    row(x5u="https://certs.example.org/other.pem"),
)


def reader(*, lenient: bool = False, warm: bool = True) -> RowReader:
    made = RowReader(PORTS, lenient=lenient)
    for value in SEEN * 2 if warm else ():
        made.read([value])
    return made


WARM = {lenient: reader(lenient=lenient) for lenient in (False, True)}


def assert_same(values: list[bytes], lenient: bool) -> None:
    assert WARM[lenient].read(values) == reader(lenient=lenient, warm=False).read(values)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("value", SEEN)
def test_what_was_seen_is_read_the_same_again(value: bytes, lenient: bool) -> None:
    assert_same([value], lenient)
    assert_same([value, VECTOR], lenient)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        b"x" + PARAMETERS,
        PARAMETERS,
        VECTOR_TOKEN + b"," + VECTOR,
        b"a, " + VECTOR,
        VECTOR_TOKEN + b" x" + PARAMETERS,
        VECTOR_TOKEN + b"\r\n " + PARAMETERS,
        VECTOR_TOKEN[:40] + b"\r\n " + VECTOR_TOKEN[40:] + PARAMETERS,
        token(x5u="https://certs.example.org/other.pem") + PARAMETERS,
        token(ppt="rcd") + PARAMETERS,
        b'"' + VECTOR,
        b"<" + VECTOR + b">",
        b"a" * MAX_ROW + VECTOR,
    ],
)
def test_known_parameters_behind_another_token_are_read_as_by_a_new_reader(value: bytes, lenient: bool) -> None:
    assert_same([value], lenient)


changes = st.tuples(st.integers(0, len(VECTOR) + 5), st.binary(max_size=3), st.integers(0, 3))


@given(st.sampled_from(SEEN), st.lists(changes, max_size=3), st.booleans())
def test_changed_rows_are_read_as_by_a_new_reader(
    value: bytes, edits: list[tuple[int, bytes, int]], lenient: bool
) -> None:
    for at, new, removed in edits:
        value = value[:at] + new + value[at + removed :]
    assert_same([value], lenient)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([*SEEN, VECTOR_TOKEN, PARAMETERS]), max_size=4), st.booleans())
def test_arbitrary_values_are_read_as_by_a_new_reader(values: list[bytes], lenient: bool) -> None:
    assert_same(values, lenient)


def test_nothing_is_claimed_without_rows() -> None:
    assert reader().read([]) is NOTHING_CLAIMED
    assert reader().read([]).urls == ()


def test_row_tells_how_far_it_got() -> None:
    rows = (
        row(ppt="msec"),
        b"junk" + PARAMETERS,
        VECTOR_TOKEN + b";alg=ES256;ppt=shaken",
        shaken(),
    )
    assert [read.stage for read in reader().read(rows).rows] == [
        Stage.IGNORED,
        Stage.UNREADABLE,
        Stage.NO_URL,
        Stage.GOOD,
    ]


def test_url_of_a_row_that_cannot_be_used_is_not_to_be_fetched() -> None:
    unusable = [row(x5u="http://a.example/"), b"junk" + PARAMETERS, row(ppt="msec"), shaken(attest="W")]
    assert reader().read(unusable).urls == ()


@pytest.mark.parametrize("parameters", [PARAMETERS, b";ppt=shaken;alg=ES256;info=<" + URL.encode() + b">"])
def test_long_parameters_and_headers_are_read_each_time(parameters: bytes) -> None:
    made = reader()
    url = "https://certs.example.net/" + "a" * 1500
    for _ in range(2):
        (read,) = made.read([row(x5u=url)]).rows
        assert read.url == url
    assert made.read([VECTOR_TOKEN + parameters]).urls == (URL,)


def test_every_kept_input_is_read_without_a_fault_of_ours(corpus: Path) -> None:
    kept = sorted((corpus / "identity").glob("*.row"))
    assert kept
    for path in kept:
        for lenient in (False, True):
            assert_same([path.read_bytes()], lenient)


def test_compact_form_says_so() -> None:
    compact_form = b".." + VECTOR_TOKEN.rpartition(b".")[2] + PARAMETERS
    (read,) = reader().read([compact_form]).rows
    assert (read.failure, "compact form" in read.why) == (Failure.INVALID, True)
    headless = b"." + base64url(compact(CLAIMS)) + b"." + base64url(bytes(64)) + PARAMETERS
    assert reader().read([headless]).rows[0].why == "PASSporT header: empty"
    assert HEADER["ppt"] == "shaken"
