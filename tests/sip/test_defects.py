"""Defects: one test per kind, and that well-formed values of the same header have none."""

import pytest

from agent.sip.defects import MAX_DEFECTS
from agent.sip.message import parse
from tests.sip.texts import request


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"Max-Forwards: 256", "over 255"),
        (b"Max-Forwards: -1", "not a number"),
        (b"Max-Forwards: 7x", "not a number"),
        (b"Expires: 4294967296", "over 4294967295"),
        (b"Min-Expires: x", "not a number"),
        (b"Session-Expires: ;refresher=uac", "not a number"),
        (b"Retry-After: 949302838503028349304023988", "over 4294967295"),
        (b"Retry-After: soon", "not a number"),
        (b"Date: Fri, 01 Jan 2010 16:00:00 EST", "GMT"),
        (b"Date: 2010-01-01", "GMT"),
        (b"Contact: <sip:a@b>;;;;", "empty parameter"),
        (b"Contact: <sip:a@b>,,<sip:c@d>", "empty element"),
        (b"Contact: ", "empty element"),
        (b"Contact: sip:a@b?Route=x", "must stand in <>"),
        (b"Contact: <sip:a@b>;expires=280297596632815", "expires is over"),
        (b"Contact: <sip:a@b>;expires=never", "expires is not a number"),
        (b"Contact: <sip:a@2001:db8::1>", "junk after the host"),
        (b"Route: <sip:a@b", "never closed"),
        (b"Record-Route: <sip:a b>", "white space"),
        (b"P-Asserted-Identity: Bo, <sip:a@b>", "no scheme"),
        (b"P-Asserted-Identity: <12015550123>", "no scheme"),
        (b"Diversion: <tel:x>", "not a telephone number"),
        (b"Reply-To: <sip:a@b>, <sip:c@d>", "junk after"),
        (b"Via: SIP/2.0/UDP a;;branch=x", "empty parameter"),
        (b"Via: SIP/2.0/UDP a;branch=", "malformed parameter"),
        (b"Via: SIP/2.0/UDP a,,SIP/2.0/UDP b", "empty element"),
        (b"Via: SIP/2.0/UDP", "SIP/2.0/transport"),
        (b"Via: SIP/7.0/UDP a", "SIP/2.0/transport"),
        (b"Via: SIP/2.0/UDP a:65536", "port is over"),
        (b"Via: SIP/2.0/UDP [2001:db8:::1]", "not an IPv6 address"),
        (b"Via: SIP/2.0/UDP a b", "junk after the host"),
        (b"Subject: a\x07b", "control character"),
        (b"Subject: a\rb", "control character"),
        (b"Subject: \\\\\x00", "control character"),
    ],
)
def test_defect_of_one_row(row: bytes, reason: str) -> None:
    raw = request(row)
    defects = parse(raw).defects
    assert [reason in defect.reason for defect in defects] == [True], defects
    assert defects[0].offset == raw.rindex(row)
    assert defects[0].place == row.partition(b":")[0].decode()


@pytest.mark.parametrize(
    "row",
    [
        b"Max-Forwards: 0",
        b"Max-Forwards: 00255",
        b"Expires: 0",
        b"Expires: 4294967295",
        b"Session-Expires: 90;refresher=uac",
        b"Retry-After: 120",
        b"Retry-After: 120 (in a meeting);duration=3600",
        b"Date: Wed, 14 Oct 2026 14:15:00 GMT",
        b"Contact: *",
        b'Contact: <sip:a@b?Route=%3Csip:x%3E>;q=0.5;expires=0, sip:c@d;+sip.instance="<urn:uuid:1>"',
        b"Contact: <mailto:a@b>",
        b'P-Asserted-Identity: "A, B" <sip:a@b>, tel:+12015550123',
        b"Via: SIP / 2.0 / UDP a : 5060 ; rport ; branch = x, SIP/2.0/TCP [2001:db8::1]:5061;received=2001:db8::2",
        b'Subject: "bell \\\x07"',
        b"Subject: \xe9\xff",
        b'X-Whatever: ;;,,"<',
        b"Subject:",
        b"Diversion: <sip:a@b>;reason=unknown;counter=1;privacy=off",
    ],
)
def test_well_formed_row_has_no_defect(row: bytes) -> None:
    assert parse(request(row)).defects == ()


@pytest.mark.parametrize("name", [b"Via", b"From", b"To", b"Call-ID", b"CSeq"])
def test_missing_mandatory_header(name: bytes) -> None:
    defects = parse(request(without=(name,))).defects
    assert [(defect.place, defect.reason) for defect in defects] == [(name.decode(), "is missing")]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"4294967296 INVITE", "32 bits"),
        (b"36893488147419103232 INVITE", "32 bits"),
        (b"1 ACK", "method ACK"),
        (b"1", "not a number and a method"),
        (b"INVITE", "not a number"),
        (b"-1 INVITE", "not a number"),
        (b"1 INVITE x", "not a number"),
        (b"", "not a number"),
        (b"1INVITE", "not a number"),
        (b"1 invite", "method invite"),
    ],
)
def test_bad_cseq(value: bytes, reason: str) -> None:
    defects = parse(request(b"CSeq: " + value, without=(b"CSeq",))).defects
    assert [(defect.place, reason in defect.reason) for defect in defects] == [("CSeq", True)]


@pytest.mark.parametrize("value", [b"0 INVITE", b"0001 INVITE", b"4294967295 INVITE", b"1\tINVITE"])
def test_good_cseq(value: bytes) -> None:
    assert parse(request(b"CSeq: " + value, without=(b"CSeq",))).defects == ()


def test_method_of_a_response_is_not_compared() -> None:
    raw = request().replace(b"INVITE sip:+13035550199@sbc.example.net SIP/2.0", b"SIP/2.0 200 OK")
    assert parse(raw).defects == ()


@pytest.mark.parametrize(
    "row",
    [
        b"Call-ID: other@x",
        b"i: other@x",
        b"f: <sip:a@b>",
        b"CSeq: 1 INVITE",
        b"T: <sip:a@b>",
    ],
)
def test_second_row_of_a_single_header(row: bytes) -> None:
    raw = request(row)
    assert [(defect.reason, defect.offset) for defect in parse(raw).defects] == [
        ("comes more than once", raw.rindex(row))
    ]


def test_several_rows_of_a_list_header_are_fine() -> None:
    rows = (b"Via: SIP/2.0/UDP b", b"Contact: <sip:a@b>", b"m: <sip:c@d>", b"Identity: a", b"y: b")
    assert parse(request(*rows)).defects == ()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        (b"sip:a@b?Route=%3Csip:x%3E", "headers"),
        (b"sip:2001:db8::10", "brackets"),
        (b"nobodyKnowsThisScheme:opaque", "scheme nobodyknowsthisscheme"),
        (b"mailto:a@b", "scheme mailto"),
        (b"12015550123", "no scheme"),
        (b"sip:a\x01@b", "escaped"),
        (b"tel:", "telephone"),
    ],
)
def test_bad_request_uri(uri: bytes, reason: str) -> None:
    raw = request().replace(b"sip:+13035550199@sbc.example.net SIP", uri + b" SIP")
    defects = parse(raw).defects
    assert [(defect.place, reason in defect.reason) for defect in defects] == [("request-uri", True)]
    assert raw.index(uri) <= defects[0].offset < raw.index(uri) + len(uri) + 1


@pytest.mark.parametrize("uri", [b"sip:b", b"sips:a@[2001:db8::1]:5061", b"tel:911", b"urn:service:sos", b"SIP:A@B"])
def test_good_request_uri(uri: bytes) -> None:
    assert parse(request().replace(b"sip:+13035550199@sbc.example.net SIP", uri + b" SIP")).defects == ()


def test_broadcast_via_is_a_defect_of_responses_only() -> None:
    raw = request(b"Via: SIP/2.0/UDP 255.255.255.255;branch=x")
    assert parse(raw).defects == ()
    response = raw.replace(b"INVITE sip:+13035550199@sbc.example.net SIP/2.0", b"SIP/2.0 200 OK")
    assert [defect.place for defect in parse(response).defects] == ["Via"]


def test_control_character_in_a_reason_phrase() -> None:
    assert parse(b"SIP/2.0 200 O\x00K\r\n" + request().partition(b"\r\n")[2]).defects[0].place == "start-line"


def test_list_of_defects_is_bounded_and_says_so() -> None:
    defects = parse(request(*[b"no colon"] * 1000)).defects
    assert len(defects) == MAX_DEFECTS
    assert defects[-1].reason == "further defects are not listed"
    assert len(parse(request(b"Contact: " + b"," * 60_000)).defects) == MAX_DEFECTS
