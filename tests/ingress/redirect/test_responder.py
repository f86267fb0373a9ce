"""What the responder does with any bytes at all: it never fails, and never answers anybody but the sender."""

from hypothesis import given
from hypothesis import strategies as st

from agent.ingress.redirect.responder import Responder
from agent.model import ParseError
from agent.service import Service
from agent.sip.message import parse
from agent.sip.scan import scan
from agent.sip.transactions import ServerTransactions
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.ingress.redirect.callers import declining, request, service, trunk
from tests.native.sip_strategies import anything, damaged
from tests.sip.texts import Written, messages

SOURCE = ("127.0.0.1", 5062)
Destination = tuple[str, int]


def responder(screened: Service, transport: str = "udp", capacity: int = 100) -> Responder[Destination]:
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        raise AssertionError from error

    return Responder(
        screened,
        ServerTransactions(capacity),
        transport,
        ("127.0.0.1", 5060),
        lambda back, port: (back[0], port),
        lambda _payload, _back: None,
        fail,
    )


def check(raw: bytes, screened: Service) -> None:
    """Take a message in twice: the same bytes both times, a good response, to the host that sent it."""
    it = responder(screened)
    reply = it.receive(raw, SOURCE, SOURCE, 1.0, 1e9)
    again = it.receive(raw, SOURCE, SOURCE, 1.1, 1e9)
    assert reply == again
    assert it.failures == 0
    if reply is None:
        return
    payload, (host, port) = reply
    answer = parse(payload)
    assert 200 <= answer.status <= 699
    assert answer.body == b""
    assert answer.header("Identity") == []
    assert host == SOURCE[0]
    assert 1 <= port <= 65_535
    try:
        assert scan(raw).method not in ("", "ACK")
    except ParseError:
        assert answer.status in (400, 505)


@given(anything)
def test_any_bytes(raw: bytes) -> None:
    check(raw, declining())
    check(raw, service(pb.Policy(trunks=[trunk(next_hop="core.example.net")])))


@given(messages())
def test_any_request(written: Written) -> None:
    check(written.raw, service(pb.Policy(trunks=[trunk(next_hop="core.example.net")])))


@given(damaged(st.just(request())))
def test_damaged_invite(raw: bytes) -> None:
    check(raw, declining())


def test_request_uri_cannot_smuggle_a_header_into_the_contact() -> None:
    it = responder(service(pb.Policy(trunks=[trunk(next_hop="core.example.net")])))
    reply = it.receive(request(called="sip:a>;x=<b@gw"), SOURCE, SOURCE, 1.0, 1e9)
    assert reply is not None
    assert parse(reply[0]).header("Contact") == [b"<sip:a%3E;x=%3Cb@core.example.net>"]


def test_full_table_still_answers_every_call_and_its_copies_alike() -> None:
    it = responder(declining(), capacity=2)
    raws = [request(call_id=f"{i}@a", branch=f"z9hG4bK{i}") for i in range(10)]
    first = [it.receive(raw, SOURCE, SOURCE, 1.0, 1e9) for raw in raws]
    assert [it.receive(raw, SOURCE, SOURCE, 1.1, 1e9) for raw in raws] == first
    assert all(reply is not None and reply[0].startswith(b"SIP/2.0 603 ") for reply in first)
    assert len(it.transactions) == 2
    assert it.transactions.overflows > 0


def test_memory_of_answers_is_bounded_when_policies_come_and_go() -> None:
    screened = declining()
    it = responder(screened)
    for number in range(1100):
        screened.screening.swap(declining().policy)
        assert it.receive(request(call_id=f"{number}@a", branch=f"z9hG4bK{number}"), SOURCE, SOURCE, 1.0, 1e9)
        assert len(it._rendered) <= 1024


def test_ack_that_carries_another_to_tag_still_finds_its_invite() -> None:
    it = responder(declining())
    in_dialog = request(to_tag="theirs")
    assert it.receive(in_dialog, SOURCE, SOURCE, 1.0, 1e9)  # 481
    assert it.receive(request("ACK", to_tag="theirs"), SOURCE, SOURCE, 1.1, 1e9) is None
    assert it.transactions.acknowledged == 1


def test_old_peer_without_branch_and_tags_is_served() -> None:
    raw = request().replace(b";branch=z9hG4bKa1", b"").replace(b";tag=9f", b"")
    it = responder(declining())
    reply = it.receive(raw, SOURCE, SOURCE, 1.0, 1e9)
    assert reply is not None
    ack = raw.replace(b"INVITE", b"ACK").replace(
        b"user=phone>\r\nCall", b"user=phone>;tag=%s\r\nCall" % scan(reply[0]).to_tag
    )
    it.receive(ack, SOURCE, SOURCE, 1.1, 1e9)
    assert it.transactions.acknowledged == 1
