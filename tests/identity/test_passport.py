"""PASSporTs: JOSE header, full form, and that what is remembered is what would be read."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.passport import PassportReader, read_passport
from agent.identity.rows import MAX_ROW
from agent.model import ParseError
from tests.identity.tokens import CLAIMS, HEADER, URL, VECTOR_TOKEN, compact, sign_parts, token


def test_constructed_vector() -> None:
    passport = read_passport(VECTOR_TOKEN)
    assert (passport.ppt, passport.x5u) == ("shaken", URL)
    assert passport.header == HEADER
    assert passport.payload == CLAIMS
    assert passport.claims.attest == "B"
    assert len(passport.signature) == 64


def reason(raw: bytes) -> str:
    with pytest.raises(ParseError) as caught:
        read_passport(raw)
    return f"{caught.value.place}: {caught.value.reason}"


def test_compact_form_is_refused_by_name() -> None:
    assert "compact form" in reason(b".." + VECTOR_TOKEN.rpartition(b".")[2])


def test_empty_header_with_a_payload_is_malformed() -> None:
    assert reason(b"." + VECTOR_TOKEN.partition(b".")[2]) == "PASSporT header: empty"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"alg": "none"}, "alg is not ES256"),
        ({"alg": "HS256"}, "alg is not ES256"),
        ({"alg": "ES384"}, "alg is not ES256"),
        ({"alg": "es256"}, "alg is not ES256"),
        ({"alg": ["ES256"]}, "alg is not ES256"),
        ({"typ": "JWT"}, "typ is not passport"),
        ({"typ": None}, "typ is not passport"),
        ({"crit": ["x"]}, "crit"),
        ({"ppt": 1}, "ppt is not a string"),
        ({"ppt": ""}, "no ppt"),
        ({"ppt": "msec"}, "not supported"),
        ({"x5u": 1}, "x5u is not a string"),
    ],
)
def test_wrong_header_is_refused(header: dict[str, Any], said: str) -> None:
    assert said in reason(token(**header))


@pytest.mark.parametrize(("missing", "said"), [("alg", "alg"), ("typ", "typ"), ("x5u", "no x5u"), ("ppt", "no ppt")])
def test_header_without_a_member_is_refused(missing: str, said: str) -> None:
    header = {name: value for name, value in HEADER.items() if name != missing}
    assert said in reason(sign_parts(compact(header), compact(CLAIMS)))


def test_token_beyond_the_bound_is_refused() -> None:
    assert "longer than" in reason(b"a" * (MAX_ROW + 1))


def test_header_that_was_refused_is_refused_again_and_a_good_one_is_remembered() -> None:
    reader = PassportReader()
    for _ in range(2):
        with pytest.raises(ParseError):
            reader.read(token(alg="none"))
        assert reader.read(token()).header == HEADER
    long = "https://certs.example.net/" + "a" * 1500
    assert [reader.read(token(x5u=long)).x5u for _ in range(2)] == [long, long]


def test_two_signers_are_not_confused() -> None:
    reader = PassportReader()
    other = "https://certs.example.org/5678.pem"
    assert [reader.read(token(x5u=url)).x5u for url in (URL, other, URL)] == [URL, other, URL]


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_parse_error(raw: bytes, lenient: bool) -> None:
    head, _, rest = VECTOR_TOKEN.partition(b".")
    body, _, signature = rest.partition(b".")
    for candidate in (raw, sign_parts(compact(HEADER), raw), sign_parts(raw, compact(CLAIMS))):
        with suppress(ParseError):
            read_passport(candidate, lenient=lenient)
    for at in range(3):
        parts = [head, body, signature]
        parts[at] = raw
        with suppress(ParseError):
            read_passport(b".".join(parts), lenient=lenient)
