"""The compiled hot path beside the reference: the same traffic, the same bytes back, counts, records and tables."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import native
from agent.calls.attempts import AttemptTablePy
from agent.gate import GateKeeper
from agent.ingress.datagrams import pack_address, recv_batch, send_batch, with_port
from agent.ingress.hook import wire
from agent.ingress.hook.desk import Desk
from agent.ingress.redirect.responder import Responder
from agent.ingress.redirect.settings import Listen, RedirectSettings
from agent.ingress.redirect.udp import UdpEndpoint, bound_socket
from agent.model import ParseError
from agent.numbers.dno import Assertion, DnoCategory
from agent.numbers.dno_build import DnoBuilder
from agent.numbers.listfile import encode, read_list
from agent.numbers.ranges import parse_piece
from agent.policy.compile import compile_policy
from agent.screening import Decision, RefusedCall, Screening
from agent.service import RecordSink, Service
from agent.sip.scan import scan
from agent.sip.tags import transaction_tag
from agent.sip.transactions import ServerTransactions
from sbcedge.policy.v1 import policy_pb2 as pb
from sbcedge.screening.v1 import screening_pb2 as screening_pb
from tests.fakes.lists import small_list
from tests.native.traffic import SECRET, Sent, policies, traffic

pytestmark = pytest.mark.skipif(native.gate is None, reason="the gate is not built")

START = 1_000.0
WHEN = 1_800_000_000.0
EXAMPLES = 60
SO_NO_CHECK = 11  # asm-generic/socket.h


class Records(RecordSink):
    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def put(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def as_said(self) -> list[dict[str, object]]:
        """In an order of their own: within a batch, the gate hands refused calls over before those that passed."""
        return sorted((one.record().as_dict() for one in self.decisions), key=repr)


class Side:
    """One of the two: screening with tables of its own, and a clock that stands while a batch is served."""

    def __init__(self, message: pb.Policy, *, compiled: bool) -> None:
        self.compiled = compiled
        self.now = START
        self.failures: list[Exception] = []
        self.records = Records()
        screening = Screening(compile_policy(message, {"small": small_list(WHEN)}), SECRET, self.failures.append)
        if not compiled:
            screening.attempts = AttemptTablePy()
        self.service = Service(screening, self.records, lambda: self.now)

    def state(self) -> dict[str, object]:
        tally, screening = self.service.tally, self.service.screening
        return {
            "attempts": tally.attempts, "repeats": tally.repeats, "not decided": tally.not_decided,
            "by trunk": tally.by_trunk, "by rule": tally.by_rule, "records": self.records.as_said(),
            "known": len(screening.attempts), "unreadable": screening.unreadable, "failures": self.failures,
            "overflows": screening.overflows, "sessions": screening.sessions.counts(),
        }  # fmt: skip


class Redirect(Side):
    """The redirect server's UDP socket, served by hand."""

    def __init__(self, message: pb.Policy, stack: ExitStack, *, compiled: bool, host: str = "127.0.0.1") -> None:
        super().__init__(message, compiled=compiled)
        listen = Listen(host, 0)
        self.endpoint = UdpEndpoint(
            self.service, listen, RedirectSettings(), lambda: self.now, lambda: WHEN + self.now, self.failures.append
        )
        self.socket = stack.enter_context(bound_socket(listen, socket.SOCK_DGRAM))
        if not compiled:
            self.endpoint.transactions = ServerTransactions()
        endpoint = self.endpoint
        self.responder = endpoint.responder = Responder(
            self.service, endpoint.transactions, "udp", listen, with_port, endpoint._send, self.failures.append
        )
        self.responder._secret = SECRET
        endpoint._gates = GateKeeper(self.service, endpoint._sender, self.responder.passing, serves_sessions=False)
        if not compiled:
            endpoint._gates._build = lambda _screening: None  # type: ignore[assignment, method-assign]
        endpoint._timer = cast("object", "not to be armed")  # type: ignore[assignment]

    @property
    def address(self) -> bytes:
        return pack_address(*self.socket.getsockname())

    def serve(self, later: float) -> None:
        self.now += later
        received = -1
        while received != self.endpoint.received:
            received = self.endpoint.received
            self.endpoint._readable(self.socket.fileno(), self.responder)
        copies = self.endpoint.transactions.due(self.now)
        send_batch(self.socket.fileno(), sorted(copies))

    def state(self) -> dict[str, object]:
        it, table = self.responder, self.endpoint.transactions
        counts = {
            name: getattr(it, name)
            for name in (
                "requests",
                "answers",
                "acks",
                "responses",
                "dropped",
                "bad_requests",
                "ignored",
                "undecided",
                "failures",
            )
        }
        tables = {name: getattr(table, name) for name in (
            "waiting", "overflows", "shortened", "retransmissions", "acknowledged", "unacknowledged")}  # fmt: skip
        return super().state() | counts | tables | {"transactions": len(table), "received": self.endpoint.received}


@contextmanager
def senders() -> Iterator[dict[int, socket.socket]]:
    """A socket for each last byte of 127.0.0.0/8, made when it is asked for."""
    with ExitStack() as stack:

        class Sockets(dict[int, socket.socket]):
            def __missing__(self, last: int) -> socket.socket:
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.bind((f"127.0.0.{last}", 0))
                sock.setblocking(False)
                self[last] = sock
                return sock

        yield Sockets()


def as_sent(one: Sent) -> bytes:
    """An ACK with the tag that our answer has; most of them."""
    if one.is_ack and b";tag=abc" not in one.raw:
        try:
            tag = transaction_tag(SECRET, scan(one.raw)).encode()
        except ParseError:
            return one.raw
        return one.raw.replace(b">\r\nCall-ID", b">;tag=" + tag + b"\r\nCall-ID", 1)
    return one.raw


def answers(sockets: dict[int, socket.socket]) -> dict[int, list[bytes]]:
    """What came back to each sender. The order of one batch does not matter: answers of one length go together."""
    got: dict[int, list[bytes]] = {}
    for last, sock in sockets.items():
        while batch := recv_batch(sock.fileno(), 64):
            got.setdefault(last, []).extend(payload for payload, _ in batch)
    return {last: sorted(payloads) for last, payloads in got.items()}


@pytest.mark.parametrize("policy", range(len(policies())))
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(batches=traffic())
def test_redirected_traffic_is_answered_counted_and_recorded_as_by_the_reference(
    policy: int, batches: list[list[Sent]]
) -> None:
    message = policies()[policy]
    with ExitStack() as stack, senders() as sockets:
        sides = [Redirect(message, stack, compiled=compiled) for compiled in (True, False)]
        for batch in batches:
            got = []
            for side in sides:
                for one in batch:
                    sockets[one.sender].sendto(as_sent(one), side.socket.getsockname())
                side.serve(batch[0].later)
                got.append(answers(sockets))
            assert got[0] == got[1]
        assert sides[0].state() == sides[1].state()
        for later in (0.5, 5.0, 40.0):
            got = []
            for side in sides:
                side.serve(later)
                got.append(answers(sockets))
            assert got[0] == got[1]
        assert sides[0].state() == sides[1].state()
        assert sides[0].failures == []


def invites(count: int, length: int = 0) -> list[bytes]:
    """New calls of a trunk; each `length`th is longer than the others."""
    return [
        b"INVITE sip:+13035550199@sbc.example.net SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;rport;branch=z9hG4bK%06d%s\r\n"
        b"From: <sip:+12015550100@a.example.net>;tag=t\r\nTo: <sip:+13035550199@sbc.example.net>\r\n"
        b"Call-ID: %06d@a.example.net\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        % (n, b"x" * (n if length and n % length == 0 else 0), n)
        for n in range(count)
    ]


@pytest.mark.parametrize("longer", [0, 1, 3])
@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_every_call_of_a_full_batch_gets_its_answer_whatever_their_lengths(host: str, longer: int) -> None:
    with ExitStack() as stack:
        side = Redirect(policies()[0], stack, compiled=True, host="::1" if ":" in host else "127.0.0.1")
        callers = [stack.enter_context(bound_socket(Listen(host, 0), socket.SOCK_DGRAM)) for _ in range(2)]
        raws = invites(150, longer)
        for n, raw in enumerate(raws):
            callers[n % 2].sendto(raw, side.socket.getsockname())
        side.serve(0.0)
        got = [payload for caller in callers for _ in range(3) for payload, _ in recv_batch(caller.fileno(), 64)]
        assert sorted(scan(payload).call_id for payload in got) == sorted(scan(raw).call_id for raw in raws)
        assert {scan(payload).status for payload in got} == {404}
        assert side.endpoint.unsent == 0


class Apart(Records):
    """Keeps those apart that a list alone has refused."""

    def __init__(self) -> None:
        super().__init__()
        self.by_list: list[RefusedCall] = []

    def put_refused(self, one: RefusedCall) -> None:
        self.by_list.append(one)
        super().put_refused(one)


def test_a_listed_call_is_refused_by_its_number_alone_and_not_once_its_entry_has_expired() -> None:
    policy = pb.Policy(
        trunks=[pb.Trunk(id="plain", sources=["127.0.0.2"])],
        do_not_originate=pb.DoNotOriginateRule(lists=["small"]),
        limits=[pb.Limit(name="calling", scope=pb.SCOPE_CALLING, rate=10, burst=10)],
    )
    builder = DnoBuilder()
    says = Assertion(DnoCategory.SUBSCRIBER_REQUEST, "registry", "example", WHEN, WHEN + START + 60.0)
    builder.add(parse_piece("2015550100"), builder.assertion_id(says))
    lists = {"small": read_list(memoryview(b"".join(encode(builder.finish(), 5, WHEN, "test"))), "test")}
    with ExitStack() as stack:
        side = Redirect(policy, stack, compiled=True)
        side.service.screening.swap(compile_policy(policy, lists))
        side.service._records = records = Apart()
        caller = stack.enter_context(bound_socket(Listen("127.0.0.2", 0), socket.SOCK_DGRAM))
        got = []
        for raw, later in zip(invites(4), (0.0, 1.0, 59.0, 1.0), strict=True):
            caller.sendto(raw, side.socket.getsockname())
            side.serve(later)
            got.append(next(scan(payload).status for payload, _ in recv_batch(caller.fileno(), 64) if payload))
    assert got == [603, 603, 404, 404]
    assert [one[3].rule for one in records.by_list] == ["do-not-originate"] * 2
    assert [one.record().as_dict()["why"] for one in records.decisions[:1]] == [records.by_list[0][3].why]
    assert side.failures == []


def test_answers_that_cannot_leave_together_leave_one_by_one() -> None:
    """From a socket without checksums the kernel takes no segments."""
    with ExitStack() as stack:
        side = Redirect(policies()[0], stack, compiled=True)
        caller = stack.enter_context(bound_socket(Listen("127.0.0.2", 0), socket.SOCK_DGRAM))
        side.socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        for _ in range(2):
            for raw in invites(40):
                caller.sendto(raw, side.socket.getsockname())
            side.serve(0.0)
        got = [payload for _ in range(2) for payload, _ in recv_batch(caller.fileno(), 64)]
        assert len(got) == 80
        assert side.endpoint.unsent == 0
        assert side.endpoint._gates is not None
        assert (gate := side.endpoint._gates.gate) is not None
        assert gate.sends_singly


def request(number: int, one: Sent) -> screening_pb.ScreenRequest:
    names = {2: "trusted", 3: ""}.get(number % 7, "")
    return screening_pb.ScreenRequest(
        id=number, sip_message=one.raw, source_address=f"127.0.0.{one.sender}", source_port=5060, trunk=names,
        customer="acme" if number % 11 == 5 else "", received_at_unix_micros=number * 10**6 if number % 3 else 0,
        transport="" if number % 13 else "carrier pigeon",
    )  # fmt: skip


@pytest.mark.parametrize("policy", range(len(policies())))
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(batches=traffic(), odd=st.booleans())
def test_requests_of_the_hook_are_answered_counted_and_recorded_as_by_the_reference(
    policy: int, batches: list[list[Sent]], odd: bool
) -> None:
    message = policies()[policy]
    sides = [Side(message, compiled=compiled) for compiled in (True, False)]
    desks = [Desk(side.service, side.failures.append, lambda: START) for side in sides]
    for number, batch in enumerate(batches):
        requests = [request(number * 100 + n, one) for n, one in enumerate(batch) if one.raw]
        if not odd:
            for one in requests:
                one.transport = "udp"
        data = screening_pb.ScreenStreamRequest(requests=requests).SerializeToString()
        for side in sides:
            side.now += batch[0].later
        said = b"".join(desks[1].answer_all(wire.read_requests(data, WHEN)))
        start, parts = 0, []
        while start < len(data) and (gate := desks[0].gate_for(data[start:])) is not None:
            responses, end = desks[0].answer_by(gate, data[start:], WHEN)
            parts.append(responses)
            start += end
        if start < len(data):
            parts = desks[0].answer_all(wire.read_requests(data, WHEN))
        assert b"".join(parts) == said
    assert sides[0].state() == sides[1].state()
    assert desks[0].requests == desks[1].requests
    assert sides[0].failures == []
    assert asdict(sides[0].service.tally)["attempts"] == len(sides[0].records.decisions)
