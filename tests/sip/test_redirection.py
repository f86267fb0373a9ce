"""The Contact of a redirected call: what stays of the Request-URI, and what must not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sip.address import parse_address
from agent.sip.redirection import redirected
from agent.sip.uri import parse_uri

HOP = b"core.example.net:5070"


@pytest.mark.parametrize(
    ("uri", "contact"),
    [
        (b"sip:+13035550199@sbc.example.net;user=phone", b"sip:+13035550199@core.example.net:5070;user=phone"),
        (b"sip:+13035550199@sbc.example.net:5061", b"sip:+13035550199@core.example.net:5070"),
        (b"SIPS:bo@[2001:db8::1]:5061;x=1", b"SIPS:bo@core.example.net:5070;x=1"),
        (b"sip:[2001:db8::1]", b"sip:core.example.net:5070"),
        (b"sip:sbc.example.net;x", b"sip:core.example.net:5070;x"),
        (b"sip:+13035550199;npdi;rn=+13035550000@gw;user=phone",
         b"sip:+13035550199;npdi;rn=+13035550000@core.example.net:5070;user=phone"),
        (b"sip:a%40b:secret@gw", b"sip:a%40b:secret@core.example.net:5070"),
        (b"sip:bo@gw;maddr=192.0.2.66;transport=tcp;ttl=1;lr;x=1", b"sip:bo@core.example.net:5070;x=1"),
        (b"sip:bo@gw;MADDR=192.0.2.66", b"sip:bo@core.example.net:5070"),
        (b"sip:bo@gw;maddress=1", b"sip:bo@core.example.net:5070;maddress=1"),
        (b"sip:bo@gw?Identity=x", b"sip:bo@core.example.net:5070"),
        (b"tel:+1-303-555-0199;npdi", b"sip:+1-303-555-0199;npdi@core.example.net:5070;user=phone"),
        (b"tel:911;phone-context=+1", b"sip:911;phone-context=+1@core.example.net:5070;user=phone"),
        (b"urn:service:sos", b"urn:service:sos"),
        (b"sip:a>\r;b<\"@gw", b"sip:a%3E%0D;b%3C%22@core.example.net:5070"),
        (b"sip:a@b@gw", b"sip:a@core.example.net:5070"),
        (b"sip:a?b@gw?c=d", b"sip:a?b@core.example.net:5070"),
    ],
)  # fmt: skip
def test_contact(uri: bytes, contact: bytes) -> None:
    assert redirected(uri, HOP) == contact


@given(st.binary(max_size=40).map(lambda tail: b"sip:" + tail) | st.binary(max_size=40))
def test_no_request_uri_breaks_out_of_its_brackets(uri: bytes) -> None:
    contact = redirected(uri, HOP)
    if contact:
        assert parse_address(b"<" + contact + b">").uri == contact


@given(st.from_regex(rb"sip:(?:[a-z0-9;=+.%?-]{1,12}@)?[a-z0-9.:\[\];=?-]{1,30}", fullmatch=True))
def test_the_next_hop_is_the_only_host(uri: bytes) -> None:
    contact = redirected(uri, HOP)
    assert contact.rpartition(b"@")[2].removeprefix(b"sip:").partition(b";")[0] == HOP
    assert b"maddr=" not in contact.rpartition(HOP)[2].lower()
    assert b"?" not in contact.rpartition(HOP)[2]


def test_contact_of_a_usual_call_is_a_good_uri() -> None:
    assert parse_uri(redirected(b"sip:+13035550199@sbc.example.net;user=phone", HOP)).port == 5070
