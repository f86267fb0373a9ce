"""Via: what screening takes from the top one, and the grammar of every one."""

import pytest

from agent.model import ParseError
from agent.sip.headers import Param
from agent.sip.via import Via, parse_via, read_top_via


@pytest.mark.parametrize(
    ("value", "branch", "sent_by"),
    [
        (b"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport", b"z9hG4bK1", b"192.0.2.1:5060"),
        (b"SIP / 2.0 / UDP  [2001:db8::1] : 5061 ; Branch = x , SIP/2.0/TCP b;branch=y", b"x", b"[2001:db8::1]:5061"),
        (b"SIP/2.0/UDP a", b"", b"a"),
        (b"SIP/2.0/UDP a;branch", b"", b"a"),
        (b"SIP/2.0/UDP a;branch=1;branch=2", b"1", b"a"),
        (b"SIP/2.0/UDP a;branchy=1;branch=2", b"2", b"a"),
        (b'SIP/2.0/UDP a;x="1,2;branch=evil";branch=2', b"2", b"a"),
        (b'SIP/2.0/UDP "a;branch=x', b"", b'"a;branch=x'),
        (b'SIP/2.0/UDP a;x="1;branch=x', b"", b"a"),
        (b"SIP/2.0/UDP", b"", b""),
        (b"SIP/2.0 a;branch=x", b"x", b""),
        (b"", b"", b""),
        (b", SIP/2.0/UDP a;branch=x", b"", b""),
    ],
)
def test_branch_and_sent_by_of_the_top_via(value: bytes, branch: bytes, sent_by: bytes) -> None:
    assert read_top_via(value) == (branch, sent_by)


def test_via_in_its_parts() -> None:
    via = parse_via(b"SIP/2.0/tls-sctp [2001:db8::1]:5061;branch=z9hG4bK1;received=192.0.2.9;rport")
    assert via == Via(
        b"tls-sctp",
        b"[2001:db8::1]",
        5061,
        (Param(b"branch", b"z9hG4bK1"), Param(b"received", b"192.0.2.9"), Param(b"rport", None)),
    )
    assert via.branch == b"z9hG4bK1"
    assert parse_via(b"sip/2.0/UDP host_1.example.com").branch == b""


@pytest.mark.parametrize(
    ("element", "offset"),
    [
        (b"", 0),
        (b"SIP/2.0/UDP", 0),
        (b"HTTP/2.0/UDP a", 0),
        (b"SIP/2.0/UDP ;branch=x", 12),
        (b"SIP/2.0/UDP [::1", 12),
        (b"SIP/2.0/UDP a:99999", 14),
        (b"SIP/2.0/UDP a b", 13),
        (b"SIP/2.0/UDP a;b=1;B=2", 13),
    ],
)
def test_malformed_via_is_refused_at_the_byte(element: bytes, offset: int) -> None:
    with pytest.raises(ParseError) as refusal:
        parse_via(element)
    assert (refusal.value.place, refusal.value.offset) == ("Via", offset)
