"""The redirect server over UDP, from outside: what each message gets back, on real sockets."""

import asyncio
import itertools
import os

import pytest

from agent.gate import GateKeeper
from agent.ingress.redirect import responder, udp
from agent.ingress.redirect.settings import RedirectSettings
from agent.sip.answers import build_reply
from agent.sip.message import parse
from agent.sip.scan import scan
from agent.sip.transactions import T1
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.waiting import until
from tests.ingress.redirect.callers import (
    LOOPBACK,
    LOOPBACK_6,
    Caller,
    Records,
    declining,
    request,
    service,
    serving,
    to_tag_of,
    trunk,
)


class Clock:
    """Real time, until a test moves it on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


def test_refused_call_gets_its_answer_and_nothing_of_the_identity() -> None:
    async def run() -> None:
        async with serving(declining()) as server:
            with Caller(server) as caller:
                answer = parse(await caller.ask(request(port=caller.port)))
        assert (answer.status, answer.phrase, answer.defects) == (603, b"Decline", ())
        assert answer.first("Via").endswith(b";branch=z9hG4bKa1;received=127.0.0.1;rport=%d" % caller.port)
        assert answer.header("Identity") == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "status"), [(0, b"SIP/2.0 404 Not Found"), (404, b"SIP/2.0 404 Not Found"), (503, b"SIP/2.0 503 Service ")]
)
def test_passing_call_gets_the_code_of_its_trunk(code: int, status: bytes) -> None:
    async def run() -> None:
        async with serving(service(pb.Policy(trunks=[trunk(code=code)]))) as server:
            with Caller(server) as caller:
                answer = await caller.ask(request(port=caller.port))
        assert answer.startswith(status)
        assert b"Retry-After" not in answer  # which would silence the SBC altogether

    asyncio.run(run())


def test_passing_call_is_redirected_to_the_next_hop_of_its_trunk() -> None:
    async def run() -> None:
        async with serving(service(pb.Policy(trunks=[trunk(next_hop="core.example.net:5070")]))) as server:
            with Caller(server) as caller:
                answer = parse(await caller.ask(request(port=caller.port)))
        assert (answer.status, answer.defects) == (302, ())
        assert answer.header("Contact") == [b"<sip:+13035550199@core.example.net:5070;user=phone>"]
        assert answer.header("Identity") == []

    asyncio.run(run())


def test_call_from_an_address_of_no_trunk_passes_and_is_answered_once() -> None:
    async def run() -> None:
        async with serving(service(pb.Policy())) as server:
            with Caller(server) as caller:
                answer = await caller.ask(request(port=caller.port))
                again = await caller.ask(request(port=caller.port))
            assert answer.startswith(b"SIP/2.0 404 ")
            assert again == answer
            assert server.counters()["redirect_transactions"] == 0

    asyncio.run(run())


def test_retransmitted_invite_gets_the_same_bytes_and_counts_once() -> None:
    async def run() -> None:
        screened = declining()
        async with serving(screened) as server:
            with Caller(server) as caller:
                first = await caller.ask(request(port=caller.port))
                assert await caller.ask(request(port=caller.port)) == first
            assert server.counters()["redirect_retransmissions"] == 1
        assert (screened.tally.attempts, screened.tally.repeats) == (1, 1)

    asyncio.run(run())


def test_copy_of_an_invite_gets_the_same_bytes_after_the_policy_was_replaced() -> None:
    async def run() -> None:
        screened = declining()
        async with serving(screened) as server:
            with Caller(server) as caller:
                first = await caller.ask(request(port=caller.port))
                screened.screening.swap(service().policy)
                assert await caller.ask(request(port=caller.port)) == first

    asyncio.run(run())


def test_answer_is_sent_again_until_it_is_acknowledged() -> None:
    async def run() -> None:
        clock = Clock()
        async with serving(declining(), clock) as server:
            with Caller(server) as caller:
                answer = await caller.ask(request(port=caller.port))
                clock.ahead = T1
                assert await caller.receive() == answer
                caller.send(request("ACK", caller.port, to_tag=to_tag_of(answer)))
                await until(lambda: server.counters()["redirect_acknowledged"] == 1)
                clock.ahead = 100.0
                assert await caller.is_silent()
                counters = server.counters()
            assert counters["redirect_waiting_for_ack"] == 0
            assert counters["redirect_retransmissions"] == 1

    asyncio.run(run())


def test_options_is_answered_and_says_when_the_agent_drains() -> None:
    async def run() -> None:
        screened = service()
        async with serving(screened) as server:
            with Caller(server) as caller:
                alive = parse(await caller.ask(request("OPTIONS", caller.port)))
                screened.draining = True
                draining = await caller.ask(request("OPTIONS", caller.port, branch="z9hG4bKa2"))
                invite = await caller.ask(request("INVITE", caller.port))
        assert (alive.status, alive.first("Allow")) == (200, b"INVITE, ACK, CANCEL, OPTIONS")
        assert draining.startswith(b"SIP/2.0 503 ")
        assert invite.startswith(b"SIP/2.0 404 ")

    asyncio.run(run())


def test_cancel_of_an_answered_invite_gets_200_and_of_an_unknown_one_481() -> None:
    async def run() -> None:
        async with serving(declining()) as server:
            with Caller(server) as caller:
                unknown = await caller.ask(request("CANCEL", caller.port))
                invite = await caller.ask(request(port=caller.port))
                known = await caller.ask(request("CANCEL", caller.port))
        assert unknown.startswith(b"SIP/2.0 481 ")
        assert known.startswith(b"SIP/2.0 200 ")
        assert b" CANCEL\r\n" in known
        assert to_tag_of(known) == to_tag_of(invite)  # RFC 3261 9.2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "to_tag", "status"),
    [("BYE", "x", 481), ("INVITE", "x", 481), ("REGISTER", "", 405), ("SUBSCRIBE", "", 405), ("OPTIONS", "x", 481)],
)
def test_requests_that_a_redirect_server_does_not_serve(method: str, to_tag: str, status: int) -> None:
    async def run() -> None:
        async with serving(declining()) as server:
            with Caller(server) as caller:
                answer = parse(await caller.ask(request(method, caller.port, to_tag=to_tag)))
        assert answer.status == status
        assert bool(answer.first("Allow")) == (status == 405)

    asyncio.run(run())


def test_invite_from_the_sbc_itself_passes() -> None:
    async def run() -> None:
        async with serving(service(pb.Policy(local_addresses=["127.0.0.1"]))) as server:
            with Caller(server) as caller:
                assert (await caller.ask(request(port=caller.port))).startswith(b"SIP/2.0 404 ")
            assert server.counters()["redirect_undecided"] == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"INVITE  sip:b@sbc.example.net SIP/2.0", b"400"),
        (b"INVITE <sip:b@sbc.example.net> SIP/2.0", b"400"),
        (b"INVITE sip:b@sbc.example.net SIP/7.0", b"505"),
    ],
)
def test_bad_start_line_is_answered_if_the_rest_allows_it(line: bytes, status: bytes) -> None:
    async def run() -> None:
        async with serving(declining()) as server:
            with Caller(server) as caller:
                raw = line + request(port=caller.port)[request().index(b"\r\n") :]
                answer = await caller.ask(raw)
                assert await caller.ask(raw) == answer
        assert answer.startswith(b"SIP/2.0 " + status)

    asyncio.run(run())


def test_garbage_responses_and_keep_alives_get_silence_and_are_counted() -> None:
    async def run() -> None:
        async with serving(declining()) as server:
            with Caller(server) as caller:
                whole = request(port=caller.port)
                junk = [
                    b"", b"\r\n\r\n", b"\0", b"\xff" * 1400, os.urandom(64_000), b"INVITE ",
                    b"INVITE sip:b@sbc.example.net SIP/2.0\r\n\r\n", whole.replace(b"Call-ID", b"X-Call-ID"),
                    b"INVITE sip:b@sbc.example.net SIP/2.0" + b"\r\nVia: x" * 5000,
                ]  # fmt: skip
                for raw in junk:
                    caller.send(raw)
                for _ in range(3):
                    caller.send(b"SIP/2.0 200 OK\r\n" + whole.split(b"\r\n", 1)[1])
                caller.send(request("ACK", caller.port))
                assert await caller.is_silent()
            counters = server.counters()
        assert counters["redirect_ignored"] == len(junk)
        assert counters["redirect_responses"] == 3
        assert counters["redirect_acks"] == 1
        assert counters["redirect_answers"] == 1

    asyncio.run(run())


def test_flood_of_garbage_delays_no_call() -> None:
    async def run() -> None:
        async with serving(declining()) as server:
            with Caller(server) as attacker, Caller(server) as caller:
                for number in range(50):
                    for _ in range(20):
                        attacker.send(os.urandom(1200))
                    answer = await caller.ask(
                        request(port=caller.port, call_id=f"{number}@a", branch=f"z9hG4bK{number}")
                    )
                    assert answer.startswith(b"SIP/2.0 603 ")
            assert server.counters()["redirect_ignored"] >= 900

    asyncio.run(run())


def test_without_rport_the_answer_goes_to_the_port_of_sent_by() -> None:
    async def run() -> None:
        async with serving(declining()) as server:
            with Caller(server) as sender, Caller(server) as listener:
                sender.send(request(port=listener.port, rport=False))
                assert (await listener.receive()).startswith(b"SIP/2.0 603 ")

    asyncio.run(run())


def test_ipv6() -> None:
    async def run() -> None:
        async with serving(declining(), udp=(LOOPBACK, LOOPBACK_6)) as server:
            with Caller(server, "::1") as caller:
                answer = await caller.ask(request(port=caller.port, host="[::1]"))
        assert answer.startswith(b"SIP/2.0 603 ")
        assert b";received=::1;rport=%d\r\n" % caller.port in answer

    asyncio.run(run())


def test_drop_is_silent() -> None:
    limit = pb.Limit(name="flood", scope=pb.SCOPE_GLOBAL, rate=1, burst=1, drop_above=2)

    async def run() -> None:
        async with serving(service(pb.Policy(trunks=[trunk()], limits=[limit]))) as server:
            with Caller(server) as caller:
                for number in range(40):
                    caller.send(request(port=caller.port, call_id=f"{number}@a", branch=f"z9hG4bK{number}"))
                await until(lambda: server.counters()["redirect_requests"] == 40)
                counters = server.counters()
        assert counters["redirect_dropped"] > 0
        assert counters["redirect_answers"] == 40 - counters["redirect_dropped"]

    asyncio.run(run())


def test_fault_of_ours_passes_the_call_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    build = build_reply
    faults = itertools.chain([RuntimeError("a fault")], itertools.repeat(None))

    def faulty(*arguments: object) -> tuple[bytes, int]:
        fault = next(faults)
        if fault is not None:
            raise fault
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(responder, "build_reply", faulty)
    monkeypatch.setattr(GateKeeper, "gate", None)
    reported: list[Exception] = []

    async def run() -> None:
        async with serving(declining()) as server:
            endpoint = server.udp[0].responder
            assert endpoint is not None
            endpoint._on_failure = reported.append
            with Caller(server) as caller:
                assert (await caller.ask(request(port=caller.port))).startswith(b"SIP/2.0 404 ")
            assert server.counters()["redirect_failures"] == 1

    asyncio.run(run())
    assert [str(error) for error in reported] == ["a fault"]


@pytest.mark.parametrize("fault", ["_handle", "decide"])
def test_screening_that_fails_passes_the_call(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    screened = declining()
    if fault == "_handle":  # which the compiled hot path does without
        monkeypatch.setattr(GateKeeper, "gate", None)
    monkeypatch.setattr(screened.screening, fault, lambda *_: 1 / 0)

    async def run() -> None:
        async with serving(screened) as server:
            with Caller(server) as caller:
                assert (await caller.ask(request(port=caller.port))).startswith(b"SIP/2.0 404 ")

    asyncio.run(run())
    assert screened.screening.failures == 1


def test_redirected_calls_are_not_held_against_session_limits() -> None:
    limit = pb.Limit(name="sessions", scope=pb.SCOPE_TRUNK, sessions=2)

    async def run() -> None:
        screened = service(pb.Policy(trunks=[trunk()], limits=[limit]))
        async with serving(screened) as server:
            with Caller(server) as caller:
                for number in range(5):
                    raw = request(port=caller.port, call_id=f"{number}@a", branch=f"z9hG4bK{number}")
                    assert (await caller.ask(raw)).startswith(b"SIP/2.0 404 ")
        assert screened.screening.sessions.in_progress == 0

    asyncio.run(run())


def test_stopping_waits_for_the_ack_and_no_longer_than_the_grace() -> None:
    async def run() -> None:
        async with serving(declining()) as server:
            with Caller(server) as caller:
                answer = await caller.ask(request(port=caller.port))
                stopping = asyncio.create_task(server.stop(5.0))
                await asyncio.sleep(0)
                assert (await caller.ask(request("OPTIONS", caller.port))).startswith(b"SIP/2.0 200 ")
                caller.send(request("ACK", caller.port, to_tag=to_tag_of(answer)))
                async with asyncio.timeout(4.0):
                    await stopping
            assert server.health() == (False, "not running")
            assert server.counters()["redirect_unacknowledged"] == 0

    asyncio.run(run())


def test_address_that_cannot_be_had_is_named_and_nothing_stays_open() -> None:
    async def run() -> None:
        async with serving(service()) as server:
            taken = server.addresses[0][1]
            with pytest.raises(OSError, match=f"cannot bind 127.0.0.1 port {taken.port}"):
                async with serving(service(), udp=(LOOPBACK, taken)):
                    pass

    asyncio.run(run())


def test_health_says_where_it_listens() -> None:
    async def run() -> None:
        async with serving(service(), udp=(LOOPBACK,), tcp=(LOOPBACK,)) as server:
            (_, udp), (_, tcp) = server.addresses
            assert udp.port
            assert tcp.port
            server.udp[0].receive_buffer = RedirectSettings().receive_buffer  # what only root is granted
            assert server.health() == (
                True,
                f"listening on udp 127.0.0.1 port {udp.port}, tcp 127.0.0.1 port {tcp.port}",
            )

    asyncio.run(run())


def test_receive_buffer_that_the_kernel_does_not_grant_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "SO_RCVBUFFORCE", 9999)  # as without CAP_NET_ADMIN

    async def run() -> None:
        async with serving(service(), receive_buffer=1 << 30) as server:
            healthy, words = server.health()
        assert healthy
        assert "bytes instead of 1073741824 (raise net.core.rmem_max)" in words

    asyncio.run(run())


def test_every_decided_call_is_recorded_once() -> None:
    async def run() -> None:
        screened = declining()
        async with serving(screened) as server:
            with Caller(server) as caller:
                for _ in range(3):
                    await caller.ask(request(port=caller.port))
        records = screened._records
        assert isinstance(records, Records)
        assert [scan(one.attempt.message.raw).call_id for one in records.decisions] == [b"7c1@a.example.net"]

    asyncio.run(run())
