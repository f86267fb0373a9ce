"""What a token is compared with comes from the signalling: canonical numbers, Date, Call-ID, Priority."""

from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.model import SignalledCall
from agent.identity.signalled import callers, read_date, signalled
from agent.model import NO_NUMBER, Scan
from agent.numbers.reading import read_number
from agent.sip.scan import scan, scan_py
from tests.identity.tokens import CALLED, CALLING


def invite(
    *rows: str,
    uri: str = "sip:+13035550199@sbc.example.net;user=phone",
    caller: str = "<sip:+12015550123@a.example;user=phone>;tag=9f",
    to: str = "<sip:+13035550198@sbc.example.net;user=phone>",
) -> bytes:
    lines = [f"INVITE {uri} SIP/2.0", f"From: {caller}", f"To: {to}", "Call-ID: 7c1@192.0.2.10", *rows]
    return "".join(f"{line}\r\n" for line in [*lines, "", ""]).encode()


def call(raw: bytes, country: str = "1", *, asserted: bool = False) -> SignalledCall:
    message = scan(raw)
    shown = callers(message, country) if asserted else (read_number(message.from_uri, country),)
    return signalled(message, shown, read_number(message.request_uri, country), NO_NUMBER, country)


def test_call_as_signalled() -> None:
    assert call(invite()) == SignalledCall((CALLING,), CALLED, "13035550198", b"7c1@192.0.2.10", b"9f", None, False)


@pytest.mark.parametrize(
    "caller",
    [
        "<sip:2015550123@a.example>;tag=9f",
        "<tel:+1-201-555-0123>;tag=9f",
        "sip:+12015550123;npdi;rn=+12015551000@gw.example;tag=9f",
        '"A <sip:evil@x>, B" <sip:12015550123@a.example>;tag=9f',
        "<sip:+1201555%30123@a.example>;tag=9f",
        "<sip:+12015550123;verstat=TN-Validation-Passed@a.example>;tag=9f",
    ],
)
def test_numbers_are_canonical_in_every_form_of_the_wire(caller: str) -> None:
    assert call(invite(caller=caller)).calling == (CALLING,)


def test_country_of_the_trunk_completes_national_numbers() -> None:
    assert call(invite(caller="<sip:02079460123@a.example>;tag=1"), "44").calling == ("442079460123",)
    assert call(invite(uri="sip:02079460124@sbc.example"), "44").called == "442079460124"


ANONYMOUS = '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=3c'


def test_anonymous_caller_is_the_asserted_one() -> None:
    raw = invite("P-Asserted-Identity: <sip:+12015550123@a.example>, <tel:+12015550123>", caller=ANONYMOUS)
    assert call(raw).calling == (CALLING, CALLING)
    assert call(invite(caller=ANONYMOUS)).calling == ()


def test_shown_number_is_not_replaced_by_an_asserted_one() -> None:
    raw = invite("P-Asserted-Identity: <sip:+12015550124@a.example>")
    assert call(raw).calling == (CALLING,)
    assert call(raw, asserted=True).calling == ("12015550124",)


def test_asserted_identity_without_a_number_leaves_from() -> None:
    assert call(invite("P-Asserted-Identity: <sip:alice@a.example>"), asserted=True).calling == (CALLING,)


def test_no_more_than_two_asserted_identities_count() -> None:
    raw = invite(*[f"P-Asserted-Identity: <tel:+1201555010{n}>" for n in range(5)], caller=ANONYMOUS)
    assert call(raw).calling == ("12015550100", "12015550101")


def test_number_of_to_is_read_where_the_caller_of_this_did_not() -> None:
    message = scan(invite())
    numbers = [read_number(uri, "1") for uri in (message.from_uri, message.request_uri)]
    assert signalled(message, numbers[:1], numbers[1], NO_NUMBER).to == "13035550198"
    given_to = read_number(b"tel:+13035550111", "1")
    assert signalled(message, numbers[:1], numbers[1], given_to).to == "13035550111"


def test_name_as_request_uri_is_no_number() -> None:
    assert call(invite(uri="sip:alice@a.example")).called == ""
    assert call(invite(uri="sip:911@a.example")).called == "911"


def test_priority_of_a_call_back_is_seen() -> None:
    assert call(invite("Priority: PSAP-Callback")).psap_callback
    assert not call(invite("Priority: emergency")).psap_callback


@pytest.mark.parametrize(
    ("row", "when"),
    [
        ("Date: Wed, 14 Oct 2026 14:15:00 GMT", 1_791_987_300),
        ("DATE \t:\r\n Wed, 14 Oct 2026 14:15:00 GMT", 1_791_987_300),
        ("Date: Wed, 14 Oct 2026\r\n\t14:15:00 GMT", 1_791_987_300),
        ("date: sun, 01 jan 2000 00:00:60 gmt", 946_684_859),
        ("Date: Thu, 29 Feb 2024 23:59:59 GMT\r\nDate: x", 1_709_251_199),
        ("Date: Tue, 22 Sep 2150 23:29:00 GMT", 5_703_175_740),
        ("Date: Wed, 01 Jan 0001 00:00:00 GMT", -62_135_596_800),
    ],
)
def test_date_is_read(row: str, when: int) -> None:
    assert call(invite(row)).date == when


@pytest.mark.parametrize(
    "row",
    [
        "Date:",
        "Date: 1791987300",
        "Date: Wed, 14 Oct 2026 14:15:00 CEST",
        "Date: Wed, 31 Feb 2026 14:15:00 GMT",
        "Date: Wed, 14 Oct 2026 24:15:00 GMT",
        "Date: Wed, 14 Oct 0000 14:15:00 GMT",
        "Date: Wed, 14 Oct 2026 14:15:00 GMT, x",
    ],
)
def test_date_that_cannot_be_read_is_no_time_at_all(row: str) -> None:
    date = call(invite(row)).date
    assert date is not None
    assert isnan(date)


@pytest.mark.parametrize("raw", [invite(), invite("X-Date: x", "Dated: x"), invite() + b"\r\nDate: x\r\n"])
def test_only_the_date_header_is_the_date(raw: bytes) -> None:
    assert call(raw).date is None


@given(
    st.binary(max_size=100) | st.from_regex(rb"\n[Dd]ate ?: ?[A-Z][a-z]{2}, [0-9]{2} Oct [0-9]{4} [0-9:]{8} GMT\r\n")
)
def test_any_bytes_are_a_date_or_none(raw: bytes) -> None:
    date = read_date(raw, len(raw))
    assert date is None or isinstance(date, float)


@pytest.mark.parametrize("read", [scan, scan_py])
def test_both_scanners_give_the_same(read: object) -> None:
    raw = invite("Date: Wed, 14 Oct 2026 14:15:00 GMT", "Priority: psap-callback")
    message: Scan = read(raw)  # type: ignore[operator]
    assert signalled(message, callers(message), read_number(message.request_uri, "1"), NO_NUMBER) == call(raw)
