"""The steps by which a number is read say what the reader did."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.numbers.explain import as_uri, explain, plan_of
from agent.numbers.reading import read_number_py


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("2015550123", b"tel:2015550123"),
        (" 911 ", b"tel:911"),
        ("*67", b"tel:*67"),
        ("2015550123@gw.example", b"sip:2015550123@gw.example"),
        ("sip:2015550123@gw.example", b"sip:2015550123@gw.example"),
        ('"Bo" <sip:2015550123@gw.example>;tag=1', b"sip:2015550123@gw.example"),
        ("<tel:911>", b"tel:911"),
        ("", b""),
        ("٢", "tel:٢".encode()),
    ],
)
def test_what_people_type_becomes_a_uri(text: str, uri: bytes) -> None:
    assert as_uri(text) == uri


@pytest.mark.parametrize(
    ("text", "country", "steps"),
    [
        (
            "sip:+1201555%30123;npdi@gw",
            "1",
            [
                "scheme sip, user part +1201555%30123",
                "cut off: ;npdi",
                "without escapes and visual separators: +12015550123",
                "a + stands before the country code",
                "a +1 number of the numbering plan",
                "NANP: 12015550123 (555-01XX is set aside for fiction)",
            ],
        ),
        (
            "2110550123",
            "1",
            [
                "the URI is tel:2110550123",
                "scheme tel, user part 2110550123",
                "no country code stated: the default country is 1",
                "a +1 number that the plan does not allow",
                "NANP_INVALID: 12110550123 (NPA 211 is an N11 code)",
            ],
        ),
        (
            "tel:5550123;phone-context=+1201",
            "1",
            [
                "scheme tel, user part 5550123",
                "cut off: ;phone-context=+1201",
                "phone-context +1201 goes before the digits: +12015550123",
                "a +1 number of the numbering plan",
                "NANP: 12015550123 (555-01XX is set aside for fiction)",
            ],
        ),
        (
            "tel:2079460123;phone-context=+44",
            "1",
            [
                "scheme tel, user part 2079460123",
                "cut off: ;phone-context=+44",
                "phone-context +44: read as country 44",
                "a national number of country 44",
                "FOREIGN: 442079460123",
            ],
        ),
        (
            "2015550123@gw",
            "",
            [
                "the URI is sip:2015550123@gw",
                "scheme sip, user part 2015550123",
                "no + and no default country",
                "AMBIGUOUS: 2015550123",
            ],
        ),
        ("urn:service:sos", "1", ["the scheme is none of sip, sips and tel", "NOT_A_NUMBER"]),
        ("sip:a.example", "1", ["scheme sip, user part (none)", "there is no user part", "ABSENT"]),
        ("sip:anonymous@x", "1", ["scheme sip, user part anonymous", 'the user part is "anonymous"', "ANONYMOUS"]),
        ("", "1", ["there is no URI", "ABSENT"]),
    ],
)
def test_steps_tell_how_and_why(text: str, country: str, steps: list[str]) -> None:
    assert explain(text, country) == steps


@given(st.text(max_size=40), st.sampled_from(["1", "", "44"]))
def test_last_step_is_what_the_reader_says(text: str, country: str) -> None:
    number = read_number_py(as_uri(text), country)
    last = explain(text, country)[-1]
    assert last.startswith(number.kind.name)
    assert number.digits in last
    judgement = plan_of(number)
    assert (judgement is None) == (number.kind.name not in {"NANP", "NANP_INVALID"})


def test_country_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a country code"):
        explain("911", "usa")
