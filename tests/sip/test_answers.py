"""Answers: their exact bytes, what is copied from the request, and every argument that cannot be sent."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from agent.model import Answer, ConfigError, ParseError
from agent.sip import answers
from agent.sip.answers import STANDARD_PHRASES, build_answer, network_blocked, plain, rejected, unavailable
from agent.sip.message import facts, parse
from tests.sip.texts import REQUEST, Written, messages, request

DECLINE = answers.decline()


def test_answer_byte_for_byte() -> None:
    raw = (
        b"INVITE sip:b@sbc.example.net SIP/2.0\r\n"
        b"Record-Route: <sip:p.example.com;lr>\r\n"
        b"v: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKa1;rport , SIP/2.0/TCP b\r\n"
        b'f:  "Bo"\r\n  <sip:+12015550123@a.example.com>;tag=9f\r\n'
        b"VIA : SIP/2.0/UDP c\r\n"
        b"Call-ID:7c1@192.0.2.10\r\n"
        b"CSeq: 0001  INVITE\r\n"
        b"To: <sip:b@sbc.example.net>  \r\n"
        b"Content-Length: 4\r\n\r\nv=0\n"
    )
    assert build_answer(raw, DECLINE, to_tag="ag-1") == (
        b"SIP/2.0 603 Decline\r\n"
        b"v: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKa1;rport , SIP/2.0/TCP b\r\n"
        b"VIA : SIP/2.0/UDP c\r\n"
        b'f:  "Bo"\r\n  <sip:+12015550123@a.example.com>;tag=9f\r\n'
        b"To: <sip:b@sbc.example.net>;tag=ag-1\r\n"
        b"Call-ID:7c1@192.0.2.10\r\n"
        b"CSeq: 0001  INVITE\r\n"
        b"Content-Length: 0\r\n\r\n"
    )


def test_603_plus_byte_for_byte() -> None:
    answer = network_blocked(
        url="https://redress.example.net/b",
        tel="+12015550100",
        email="redress@example.net",
        id="E7-20261014",
        location="RLN",
    )
    assert build_answer(REQUEST, answer, to_tag="ag-7710") == (
        b"SIP/2.0 603 Network Blocked\r\n"
        b"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKa1;rport\r\n"
        b'From: "Bo" <sip:+12015550123@a.example.com;user=phone>;tag=9f\r\n'
        b"To: <sip:+13035550199@sbc.example.net;user=phone>;tag=ag-7710\r\n"
        b"Call-ID: 7c1@192.0.2.10\r\n"
        b"CSeq: 1 INVITE\r\n"
        b'Reason: SIP;cause=603;text="v=analytics1;url=https://redress.example.net/b;tel=+12015550100;'
        b'email=redress@example.net;id=E7-20261014";location=RLN\r\n'
        b"Content-Length: 0\r\n\r\n"
    )


def test_to_tag_of_the_request_stays() -> None:
    raw = REQUEST.replace(b"user=phone>\r\nCall", b"user=phone>;x;TAG=t1\r\nCall")
    assert b"user=phone>;x;TAG=t1\r\n" in build_answer(raw, DECLINE, to_tag="mine")


@pytest.mark.parametrize(
    ("to", "answered"),
    [
        (b"sip:a@b", b"To: sip:a@b;tag=mine\r\n"),
        (b"sip:a@b;x=y", b"To: sip:a@b;x=y;tag=mine\r\n"),
        (b"<sip:a@b;tag=uri>", b"To: <sip:a@b;tag=uri>;tag=mine\r\n"),
        (b'"x;tag=1" <sip:a@b>', b'To: "x;tag=1" <sip:a@b>;tag=mine\r\n'),
        (b"<sip:a@b>\r\n ;x\r\n ", b"To: <sip:a@b>\r\n ;x;tag=mine\r\n"),
        (b"<sip:a@b>\r\n ; tag = 1", b"To: <sip:a@b>\r\n ; tag = 1\r\n"),
    ],
)
def test_to_tag_goes_behind_whatever_form_to_has(to: bytes, answered: bytes) -> None:
    raw = request(b"To: " + to, without=(b"To",))
    answer = build_answer(raw, DECLINE, to_tag="mine")
    assert answered in answer
    assert parse(answer).defects == ()


def test_copies_of_a_request_get_the_same_bytes() -> None:
    assert build_answer(REQUEST, DECLINE, to_tag="t") == build_answer(bytes(REQUEST), DECLINE, to_tag="t")


def test_line_feeds_come_back_as_crlf() -> None:
    raw = (b"\r\n" + request(b"v: SIP/2.0/UDP b\r\n ;branch=2")).replace(b"\r\n", b"\n")
    answer = build_answer(raw, DECLINE, to_tag="t")
    assert answer.count(b"\n") == answer.count(b"\r\n")
    assert b"v: SIP/2.0/UDP b\r\n ;branch=2\r\n" in answer


def test_headers_in_the_body_are_not_copied() -> None:
    answer = build_answer(request(b"Content-Length: 20", body=b"Via: x\r\nFrom: y\r\n\r\n"), DECLINE, to_tag="t")
    assert answer.count(b"Via:") == 1


def test_request_without_empty_line_at_its_end_is_answered() -> None:
    raw = request().removesuffix(b"\r\n\r\n")
    assert build_answer(raw, DECLINE, to_tag="t") == build_answer(request(), DECLINE, to_tag="t")


@pytest.mark.parametrize("name", [b"Via", b"From", b"To", b"Call-ID", b"CSeq"])
def test_request_that_lacks_a_copied_header_cannot_be_answered(name: bytes) -> None:
    with pytest.raises(ParseError) as refusal:
        build_answer(request(without=(name,)), DECLINE, to_tag="t")
    assert refusal.value.place == name.decode()


@pytest.mark.parametrize("raw", [request(method=b"ACK"), b"SIP/2.0 200 OK\r\n\r\n", b"\r\n" + request(method=b"ACK")])
def test_ack_and_responses_are_never_answered(raw: bytes) -> None:
    with pytest.raises(ValueError, match="other than ACK"):
        build_answer(raw, DECLINE, to_tag="t")


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        (
            b"SIP/2.0/UDP 10.0.0.1;rport;branch=x",
            b"Via: SIP/2.0/UDP 10.0.0.1;branch=x;received=192.0.2.9;rport=5062\r\n",
        ),
        (
            b"SIP/2.0/UDP a;branch=x , SIP/2.0/UDP b;rport",
            b"Via: SIP/2.0/UDP a;branch=x;received=192.0.2.9, SIP/2.0/UDP b;rport\r\n",
        ),
        (
            b'SIP/2.0/UDP a;x="1,2";RPORT=1;received=9.9.9.9',
            b'Via: SIP/2.0/UDP a;x="1,2";received=192.0.2.9;rport=5062\r\n',
        ),
        (b"SIP/2.0/UDP a", b"Via: SIP/2.0/UDP a;received=192.0.2.9\r\n"),
    ],
)
def test_source_fills_received_and_rport_of_the_top_via(via: bytes, expected: bytes) -> None:
    raw = request(b"Via: " + via, b"Via: SIP/2.0/UDP z;rport", without=(b"Via",))
    answer = build_answer(raw, DECLINE, to_tag="t", source=("192.0.2.9", 5062))
    assert expected in answer
    assert b"Via: SIP/2.0/UDP z;rport\r\n" in answer
    assert parse(answer).defects == ()


@given(messages())
def test_answer_to_any_request_parses_and_belongs_to_it(written: Written) -> None:
    answer = parse(build_answer(written.raw, unavailable(7), to_tag="t"))
    asked, got = facts(parse(written.raw)), facts(answer)
    assert answer.defects == ()
    for field in ("branch", "sent_by", "call_id", "cseq", "cseq_method", "from_uri", "from_tag", "to_uri"):
        assert getattr(got, field) == getattr(asked, field)
    assert (got.to_tag, got.content_length, answer.first("Retry-After")) == (b"t", 0, b"7")


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (answers.decline, "603 Decline"),
        (answers.forbidden, "403 Forbidden"),
        (answers.unwanted, "607 Unwanted"),
        (answers.temporarily_unavailable, "480 Temporarily Unavailable"),
        (answers.busy_here, "486 Busy Here"),
        (answers.stale_date, "403 Stale Date"),
        (answers.use_identity_header, "428 Use Identity Header"),
        (answers.bad_identity_info, "436 Bad Identity Info"),
        (answers.unsupported_credential, "437 Unsupported Credential"),
        (answers.invalid_identity_header, "438 Invalid Identity Header"),
    ],
)
def test_answers_that_are_only_a_status_line(make: Callable[[], Answer], line: str) -> None:
    answer = make()
    assert str(answer) == line
    assert answer.headers == ()


def test_unavailable_with_and_without_retry_after() -> None:
    assert unavailable(5) == Answer(503, "Service Unavailable", (("Retry-After", "5"),))
    assert unavailable(None) == Answer(503, "Service Unavailable")


def test_rejected_points_to_the_contact_card() -> None:
    assert rejected("https://redress.example.net/jws/E7") == Answer(
        608, "Rejected", (("Call-Info", "<https://redress.example.net/jws/E7>;purpose=jwscard"),)
    )


def test_603_plus_can_say_it_for_both_protocols() -> None:
    answer = network_blocked(tel="+12015550100", protocols=("SIP", "Q.850"), location="TN")
    ((name, value),) = answer.headers
    assert name == "Reason"
    assert value == (
        'SIP;cause=603;text="v=analytics1;tel=+12015550100";location=TN, '
        'Q.850;cause=21;text="v=analytics1;tel=+12015550100";location=TN'
    )


def test_url_that_would_break_the_text_is_escaped() -> None:
    answer = network_blocked(url='https://r.example/b?a=1;c="x"\\')
    assert "url=https://r.example/b?a=1%3Bc=%22x%22%5C" in answer.headers[0][1]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "url"),
        ({"id": "E7"}, "url"),
        ({"url": "http://r.example"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://user@r.example/"}, "url"),
        ({"url": "https://r.example/a b"}, "url"),
        ({"url": "https://r.example/\r\nVia: x"}, "url"),
        ({"url": "https://r.example/<x>"}, "url"),
        ({"url": "https://r.example/ü"}, "url"),
        ({"url": "https://r.example/" + "x" * 500}, "url"),
        ({"tel": "12015550100"}, "tel"),
        ({"tel": "+1-201-555-0100"}, "tel"),
        ({"tel": "+0201555010"}, "tel"),
        ({"tel": "+1234567890123456"}, "tel"),
        ({"tel": "+١٢٣٤٥٦٧"}, "tel"),
        ({"email": "nobody"}, "email"),
        ({"email": "a;b@r.example"}, "email"),
        ({"email": 'a"@r.example'}, "email"),
        ({"email": "a@r"}, "email"),
        ({"email": "a@" + "x" * 250 + ".example"}, "email"),
        ({"tel": "+12015550100", "id": "a b"}, "id"),
        ({"tel": "+12015550100", "id": "x" * 65}, "id"),
        ({"tel": "+12015550100", "id": "a;v=2"}, "id"),
        ({"tel": "+12015550100", "id": "a\n"}, "id"),
        ({"tel": "+12015550100", "location": "rln"}, "location"),
        ({"tel": "+12015550100", "location": ""}, "location"),
        ({"tel": "+12015550100", "location": "LOC-16"}, "location"),
        ({"tel": "+12015550100", "protocols": ()}, "protocols"),
        ({"tel": "+12015550100", "protocols": ("SIP", "SIP")}, "protocols"),
        ({"tel": "+12015550100", "protocols": ("STIR",)}, "protocols"),
    ],
)
def test_603_plus_that_may_not_be_sent_is_refused_by_field(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        network_blocked(**arguments)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    "location",
    [
        "U",
        "LPN",
        "LN",
        "TN",
        "RLN",
        "RPN",
        "LOC-6",
        "INTL",
        "LOC-8",
        "LOC-9",
        "BI",
        "LOC-11",
        "LOC-12",
        "LOC-13",
        "LOC-14",
        "LOC-15",
    ],
)
def test_every_location_of_rfc_8606_may_be_sent(location: str) -> None:
    assert network_blocked(tel="+12015550100", location=location).headers[0][1].endswith(f";location={location}")


@pytest.mark.parametrize("seconds", [0, -1, 86_401, True, 1.5])
def test_retry_after_that_may_not_be_sent(seconds: Any) -> None:
    with pytest.raises(ConfigError) as refusal:
        unavailable(seconds)
    assert refusal.value.field == "retry_after"


@pytest.mark.parametrize("url", ["", "http://r.example/j", "https://r.example/>;x", 'https://r.example/"', "tel:+1201"])
def test_contact_card_that_may_not_be_sent(url: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        rejected(url)
    assert refusal.value.field == "jwscard"


@pytest.mark.parametrize(
    ("code", "phrase", "field"),
    [
        (200, "", "code"),
        (100, "x", "code"),
        (700, "x", "code"),
        (499, "", "phrase"),
        (403, "a\r\nVia: x", "phrase"),
    ],
)
def test_plain_answer_that_may_not_be_sent(code: int, phrase: str, field: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        plain(code, phrase)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (Answer(603, "a\r\nVia: x"), "phrase"),
        (Answer(603, "x", (("Reason", "a\nVia: x"),)), "Reason"),
        (Answer(603, "x", (("Rea son", "a"),)), "Rea son"),
        (Answer(99, "x"), "code"),
    ],
)
def test_answer_cannot_smuggle_another_header(answer: Answer, field: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build_answer(REQUEST, answer, to_tag="t")
    assert refusal.value.field == field


@pytest.mark.parametrize("tag", ["", "a b", "a;b", "a\r\n", "ü"])
def test_tag_must_be_a_token(tag: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build_answer(REQUEST, DECLINE, to_tag=tag)
    assert refusal.value.field == "to_tag"


def test_every_standard_phrase_can_be_sent() -> None:
    for code, phrase in STANDARD_PHRASES.items():
        sent = parse(build_answer(REQUEST, Answer(code, phrase), to_tag="t"))
        assert (sent.status, sent.phrase) == (code, phrase.encode())
