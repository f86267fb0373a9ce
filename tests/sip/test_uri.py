"""URIs: every form that calls carry, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ParseError
from agent.sip.headers import Param
from agent.sip.uri import Uri, parse_uri, percent_decode


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"sip:a.example", Uri(b"sip", host=b"a.example")),
        (b"SIP:+12015550123@a.example:5060", Uri(b"sip", b"+12015550123", host=b"a.example", port=5060)),
        (b"sips:alice:secret@a.example", Uri(b"sips", b"alice", b"secret", b"a.example")),
        (b"sip:alice:@a.example", Uri(b"sip", b"alice", b"", b"a.example")),
        (
            b"sip:+12015550123@[2001:db8::1]:5070;user=phone;lr",
            Uri(
                b"sip",
                b"+12015550123",
                host=b"[2001:db8::1]",
                port=5070,
                params=(Param(b"user", b"phone"), Param(b"lr", None)),
            ),
        ),
        (
            b"sip:a.example?Route=%3Csip:x%3E&Subject=",
            Uri(b"sip", host=b"a.example", headers=(Param(b"Route", b"%3Csip:x%3E"), Param(b"Subject", b""))),
        ),
        (b"tel:+1-201-555-0123;ext=9", Uri(b"tel", b"+1-201-555-0123", params=(Param(b"ext", b"9"),))),
        (b"tel:5550123;phone-context=+1201", Uri(b"tel", b"5550123", params=(Param(b"phone-context", b"+1201"),))),
        (b"tel:*67", Uri(b"tel", b"*67")),
        (b"urn:service:sos.fire", Uri(b"urn", opaque=b"service:sos.fire")),
        (b"soap.beep://192.0.2.103:3002", Uri(b"soap.beep", opaque=b"//192.0.2.103:3002")),
    ],
)
def test_uri_is_taken_apart_and_put_together_again(text: bytes, expected: Uri) -> None:
    uri = parse_uri(text)
    assert uri == expected
    scheme, colon, rest = text.partition(b":")
    assert bytes(uri) == scheme.lower() + colon + rest


def test_parameters_inside_the_userinfo_belong_to_the_number() -> None:
    uri = parse_uri(b"sip:+12015550123;npdi;rn=+12015551000;verstat=TN-Validation-Passed@gw.example;user=phone")
    assert uri.subscriber == b"+12015550123"
    assert uri.user_params == (
        Param(b"npdi", None),
        Param(b"rn", b"+12015551000"),
        Param(b"verstat", b"TN-Validation-Passed"),
    )
    assert uri.params == (Param(b"user", b"phone"),)
    assert uri.host == b"gw.example"


def test_semicolons_question_marks_and_slashes_in_the_user_are_no_delimiters() -> None:
    uri = parse_uri(
        b"sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com"
    )  # RFC 4475 3.1.1.2
    assert uri.user == b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert uri.password == b"&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert uri.host == b"example.com"
    assert not uri.headers


def test_escapes_in_the_user_are_resolved_only_on_demand() -> None:
    uri = parse_uri(b"sip:sips%3Auser%40example.com@example.net")  # RFC 4475 3.1.1.3
    assert uri.user == b"sips%3Auser%40example.com"
    assert uri.subscriber == b"sips:user@example.com"
    assert (uri.scheme, uri.host) == (b"sip", b"example.net")


def test_percent_that_starts_no_escape_stays() -> None:
    assert percent_decode(b"%Z%45%4%") == b"%ZE%4%"


def test_telephone_number_carries_its_parameters() -> None:
    uri = parse_uri(b"tel:2015550123;phone-context=a.example")
    assert uri.param(b"phone-context") == b"a.example"
    assert uri.user_params == uri.params
    assert uri.param(b"isub") is None


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        (b"", 0),
        (b"alice@a.example", 0),
        (b"1sip:a", 0),
        (b"sip:", 4),
        (b"sip:@a.example", 4),
        (b"sip:a@", 6),
        (b"sip:a@b@c", 7),
        (b"sip:a b@c", 4),
        (b"sip:a%4@c", 4),
        (b"sip:a\x00@c", 4),
        (b"sip:a:p\x00@c", 6),
        (b"sip:2001:db8::10", 8),  # RFC 5118 4.2
        (b"sip:[2001:db8:::10]", 4),
        (b"sip:[2001:db8::10", 4),
        (b"sip:a:", 5),
        (b"sip:a:65536", 6),
        (b"sip:a:99999999999999999999", 6),
        (b"sip:a;;lr", 6),
        (b'sip:a;x="y"', 6),
        (b"sip:a?x", 6),
        (b"sip:a?x=1&&y=2", 10),
        (b"tel:", 4),
        (b"tel:+", 4),
        (b"tel:+1201x", 4),
        (b"tel:()", 4),
        (b"mailto:<a@b>", 7),
        (b"urn:", 4),
    ],
)
def test_malformed_uri_is_refused_at_the_byte(text: bytes, offset: int) -> None:
    with pytest.raises(ParseError) as refusal:
        parse_uri(text)
    assert refusal.value.offset == offset


@given(st.binary(max_size=60), st.sampled_from([b"", b"sip:", b"sips:a@", b"tel:", b"urn:"]))
def test_any_bytes_are_a_uri_that_round_trips_or_a_refusal(tail: bytes, head: bytes) -> None:
    try:
        uri = parse_uri(head + tail)
    except ParseError:
        return
    assert parse_uri(bytes(uri)) == uri


@given(st.binary(max_size=40))
def test_escaping_every_byte_of_a_user_and_decoding_gives_it_back(user: bytes) -> None:
    if user:
        escaped = b"".join(b"%%%02X" % c for c in user)
        assert parse_uri(b"sip:" + escaped + b"@a.example").subscriber == user
