"""Identity rows: every form that the grammar allows and that gear sends means the same; nothing ever raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.rows import MAX_ROW, MAX_ROWS, IdentityRow, read_rows
from tests.identity.tokens import URL, VECTOR, VECTOR_TOKEN


def meaning(read: IdentityRow) -> tuple[bytes, str, str, str, str]:
    return read.token, read.url, read.alg.upper(), read.ppt.lower(), read.fault


PLAIN = (VECTOR_TOKEN, URL, "ES256", "shaken", "")


def one(value: bytes) -> IdentityRow:
    rows = read_rows([value])
    assert len(rows) == 1
    return rows[0]


def test_plain_row_as_all_gear_sends_it() -> None:
    read = one(VECTOR)
    assert meaning(read) == PLAIN
    assert read.raw == VECTOR
    assert read.params == (("info", URL), ("alg", "ES256"), ("ppt", "shaken"))


@pytest.mark.parametrize(
    "parameters",
    [
        b";alg=ES256;ppt=shaken;info=<%s>",
        b' ; ppt = "shaken" ; alg = "ES256" ; info = <%s>',
        b";INFO=<%s>;Alg=es256;PPT=Shaken",
        b"\r\n ;info=<%s>\r\n\t;alg=ES256\r\n ;ppt=shaken\r\n",
        b";info=<%s>;alg=ES256;ppt=shaken,",
    ],
)
def test_other_forms_of_the_same_row(parameters: bytes) -> None:
    assert meaning(one(VECTOR_TOKEN + parameters % URL.encode())) == PLAIN


def test_quoted_ppt_is_accepted_as_in_the_example_of_rfc_8946() -> None:
    assert one(VECTOR_TOKEN + b';info=<https://a.example/b>;alg=ES256;ppt="div"').ppt == "div"


def test_comma_joined_rows_are_taken_apart_outside_brackets_and_quotes() -> None:
    first = VECTOR_TOKEN + b';info=<https://a.example/b,c>;alg=ES256;ppt=shaken;x="a,b"'
    rows = read_rows([first + b" , " + VECTOR + b",\r\n " + VECTOR])
    assert [read.url for read in rows] == ["https://a.example/b,c", URL, URL]
    assert [read.fault for read in rows] == ["", "", ""]
    assert [read.raw for read in rows] == [first, VECTOR, VECTOR]


def test_rows_keep_their_order() -> None:
    values = [VECTOR.replace(b"1234", str(n).encode()) for n in range(5)]
    assert [read.raw for read in read_rows(values)] == values


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"", "empty"),
        (b" \r\n , ", "empty"),
        (b";info=<https://a.example/b>", "no token"),
        (b"a.b.c;info=<https://a.example/b", "not a URL in angle brackets"),
        (b"a.b.c;info=https://a.example/b", "not a URL in angle brackets"),
        (b'a.b.c;info="https://a.example/b"', "not a URL in angle brackets"),
        (b"a.b.c;info", "not a URL in angle brackets"),
        (b"a.b.c;info=<https://a.example/ b>", "not a URL in angle brackets"),
        (b"a.b.c;info=<https://a.ex\xc3\xa4mple/>", "not a URL in angle brackets"),
        (b"a.b.c;alg=<ES256>", "in angle brackets"),
        (b"a.b.c;ppt=shaken;PPT=shaken", "comes twice"),
        (b"a.b.c;;ppt=shaken", "not a parameter"),
        (b'a.b.c;ppt="sha\x1b[2Jken"', "no token"),
        (b"a.b.c;ppt", "no token"),
        (b"a.b.c d;ppt=shaken", "not a parameter"),
        (b"a.b.c" + b"".join(b";p%d=1" % n for n in range(17)), "more than 16 parameters"),
        (b"a" * (MAX_ROW + 1), f"longer than {MAX_ROW} bytes"),
    ],
)
def test_unusable_row_says_why(value: bytes, fault: str) -> None:
    assert fault in one(value).fault


def test_absent_parameters_are_empty() -> None:
    read = one(b"a.b.c")
    assert (read.token, read.url, read.alg, read.ppt, read.fault) == (b"a.b.c", "", "", "", "")


@pytest.mark.parametrize("joined", [True, False])
def test_more_rows_than_the_bound_are_not_read_and_said_to_be_there(joined: bool) -> None:
    values = [VECTOR] * (MAX_ROWS + 5)
    rows = read_rows([b",".join(values)]) if joined else read_rows(values)
    assert len(rows) == MAX_ROWS + 1
    assert all(not read.fault for read in rows[:-1])
    assert "more than 16 Identity rows" in rows[-1].fault


def test_longest_row_is_still_read() -> None:
    padding = b"a" * (MAX_ROW - len(VECTOR))
    assert one(padding + VECTOR).fault == ""


# SWS: where RFC 3261 25.1 has white space, folds included.
white = st.sampled_from([b"", b" ", b"\t", b"\r\n ", b" \r\n\t ", b"\n "])
cased = st.sampled_from([bytes.lower, bytes.upper, bytes.title])
PARAMETER_VALUES = [(b"info", b"<" + URL.encode() + b">"), (b"alg", b"ES256"), (b"ppt", b"shaken")]


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """The vector's row in another form that RFC 3261 and RFC 8224 give it."""
    pieces = []
    for name, value in draw(st.permutations(PARAMETER_VALUES)):
        shown = b'"' + value + b'"' if name != b"info" and draw(st.booleans()) else value
        pieces.append(draw(white) + b";" + draw(white) + draw(cased)(name) + draw(white) + b"=" + draw(white) + shown)
    return draw(white) + VECTOR_TOKEN + b"".join(pieces) + draw(white)


@given(forms())
def test_folded_odd_cased_and_reordered_rows_keep_their_meaning(value: bytes) -> None:
    assert meaning(one(value)) == PLAIN


@given(st.lists(forms(), min_size=1, max_size=4))
def test_comma_joined_forms_keep_their_meaning(values: list[bytes]) -> None:
    assert [meaning(read) for read in read_rows([b",".join(values)])] == [PLAIN] * len(values)


grammar = st.text('ab.,;=<>"\\ \r\n\tinfoalgpt', max_size=60).map(str.encode)
wire = st.lists(st.binary(max_size=80) | grammar, max_size=20)


@given(wire)
def test_arbitrary_bytes_never_raise_and_are_bounded(values: list[bytes]) -> None:
    rows = read_rows(values)
    assert len(rows) <= MAX_ROWS + 1
    for read in rows:
        assert read.url.isascii()
        assert read.url.isprintable()
        assert read.ppt.isascii()
        assert read.ppt.isprintable()
        assert read.fault.isprintable()
