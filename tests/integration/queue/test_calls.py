"""Calls through the real Kamailio, which knows nothing of the agent that screens them in the kernel's queue."""

import signal
import socket
import time
from collections.abc import Iterator

import pytest

from agent.kernel.fast_path import ALIVE_SECONDS
from agent.kernel.tables import GUARD, QUEUE
from tests.fakes.waiting import PATIENCE
from tests.integration.kamailio.test_calls import identity_rows, invites
from tests.integration.kamailio.world import NEVER_CALLS
from tests.integration.peers import wait_for
from tests.integration.queue.world import BLOCKED, GOOD, LIMITED, PORT, SBC, World, with_engine, world

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ENGINES = pytest.mark.parametrize("engine", ["nftables", "ebpf"])
T1_MS = 500.0  # RFC 3261 17.1.1.1: a call that is answered sooner was never sent twice
NEEDS_SPEED = pytest.mark.skipif(PATIENCE > 1, reason="times of calls and floods mean nothing on an emulated machine")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("queue")) as made:
        yield made


def sbc_saw_nothing_of(net: World, call_ids: set[str]) -> None:
    assert call_ids
    for method in ("INVITE", "ACK", "CANCEL"):
        assert not call_ids & set(net.sbc.seen(method)), method


@NEEDS_SPEED
def test_allowed_calls_complete_with_identity_byte_for_byte(net: World) -> None:
    with net.agent() as agent:
        before = len(invites(net.callee.messages("received")))
        phone = net.call(calls=20)
        assert max(phone.response_times()) < T1_MS
        assert agent.counters()["attempts"] == 20
    sent, received = invites(phone.messages("sent")), invites(net.callee.messages("received"))[before:]
    assert len(received) == len(sent) == 20
    assert len(identity_rows(sent[0])) == 3
    assert sorted(map(identity_rows, received)) == sorted(map(identity_rows, sent))


def test_a_number_that_never_originates_is_refused_and_the_sbc_sees_nothing_of_it(net: World) -> None:
    with net.agent() as agent:
        phone = net.refused(603, calling=NEVER_CALLS)
        wait_for(lambda: agent.counters()["queue_acks"] == 1, "the ACK to be absorbed")
        net.call()
    assert phone.messages("received")[-1].startswith(b"SIP/2.0 603 Decline\r\n")
    sbc_saw_nothing_of(net, phone.call_ids)


def test_a_call_beyond_the_limit_gets_503_and_retry_after(net: World) -> None:
    with net.agent() as agent:
        net.call(LIMITED)
        phone = net.refused(503, LIMITED)
        wait_for(lambda: agent.counters()["queue_acks"] == 1, "the ACK to be absorbed")
    assert b"\r\nRetry-After: 5\r\n" in phone.messages("received")[-1]
    sbc_saw_nothing_of(net, phone.call_ids)


def test_a_blocked_trunk_is_refused_but_not_its_emergency_calls(net: World) -> None:
    with net.agent():
        net.refused(603, BLOCKED)
        for called in ("911", "+1911"):
            net.call(BLOCKED, called=called)


@NEEDS_SPEED
def test_acks_of_answered_calls_reach_the_sbc_from_a_source_with_refusals(net: World) -> None:
    with net.agent() as agent:
        net.refused(603, calling=NEVER_CALLS)
        phone = net.call(calls=20)
        assert agent.counters()["queue_acks"] == 1
    assert phone.call_ids <= set(net.sbc.seen("ACK"))


@NEEDS_SPEED
@ENGINES
def test_fifty_good_calls_a_second_lose_nothing_beside_a_flood_of_a_hundred_thousand(net: World, engine: str) -> None:
    """The rate is that of the machine: it is told if it cannot send as many."""
    with net.agent(with_engine(engine)) as agent, net.flood(100_000, 8.0) as flood:
        wait_for(lambda: agent.counters()["kernel_flood"] > 10_000, "the flood to begin")
        phone = net.call(calls=250, rate=50.0)
        assert flood.poll() is None
        counts = agent.counters()
        assert flood.stdout is not None
        reached = float(flood.stdout.readline())
    times = phone.response_times()
    print(f"flood of {reached:,.0f}/s; good calls {len(times)}, slowest {max(times):.0f} ms; {counts}")
    assert len(times) == 250
    assert counts["kernel_flood"] > 0.9 * counts["kernel_invites"]
    assert reached > 50_000


@NEEDS_SPEED
@ENGINES
def test_kill_9_in_a_flood_calls_pass_the_tables_are_gone_and_established_calls_survive(
    net: World, engine: str
) -> None:
    with net.agent(with_engine(engine)) as agent, net.flood(20_000, 6.0):
        wait_for(lambda: agent.counters()["kernel_flood"] > 10_000, "the flood to begin")
        assert {GUARD, QUEUE} <= net.tables()
        assert net.programs() == (engine == "ebpf")
        with net.phone("call", hold="3000") as established:
            wait_for(lambda: established.call_ids & set(net.sbc.seen("ACK")), "the call to be established")
            agent.kill()
            died = time.monotonic()
            wait_for(lambda: not {GUARD, QUEUE} & net.tables(), "the tables to go", 1.0)
            wait_for(lambda: not net.programs(), "the program to go", 1.0)
            # Kamailio alone has the flood now; the one call must be through before its caller gives up waiting.
            with net.phone("refused", status="603", calling=NEVER_CALLS) as passes:
                wait_for(lambda: passes.call_ids & set(net.sbc.seen("INVITE")), "a call to pass", 1.0)
                assert time.monotonic() - died < 2.0
                passes.kill()
            established.finish()


@NEEDS_SPEED
def test_a_hung_agent_in_a_flood_stops_no_call_and_its_program_falls_silent(net: World) -> None:
    """The flood meets the table then, which needs nobody; the program works again when the agent does."""
    with net.agent(with_engine("ebpf")) as agent, net.flood(20_000, 12.0):
        wait_for(lambda: agent.counters()["kernel_dropped_early"] > 10_000, "the flood to begin")
        left = net.dropped_by_table()
        agent.signal(signal.SIGSTOP)
        wait_for(lambda: net.dropped_by_table() > left + 5_000, "the program to fall silent", ALIVE_SECONDS + 2.0)
        phone = net.call(calls=50)
        assert len(phone.response_times()) == 50
        agent.signal(signal.SIGCONT)
        early = agent.counters()["kernel_dropped_early"]
        wait_for(lambda: agent.counters()["kernel_dropped_early"] > early + 10_000, "the program to work again", 3.0)


def test_kill_9_loses_no_call(net: World) -> None:
    with net.agent() as agent, net.phone("call", calls=300, rate=100.0) as phone:
        wait_for(lambda: agent.counters()["attempts"] >= 100, "traffic")
        agent.kill()
        wait_for(lambda: QUEUE not in net.tables(), "the table to go", 1.0)
        phone.finish()
    assert len(phone.response_times()) == 300


def test_a_hung_agent_stops_no_call_and_screens_again_when_it_is_back(net: World) -> None:
    """What waits in the queue when it hangs is sent again by its callers after T1, and passes a second later."""
    with net.agent() as agent:
        with net.phone("call", calls=400, rate=100.0) as phone:
            wait_for(lambda: agent.counters()["attempts"] >= 100, "traffic")
            agent.signal(signal.SIGSTOP)
            seen = len(net.sbc.seen("INVITE"))
            hung = time.monotonic()
            wait_for(lambda: len(net.sbc.seen("INVITE")) > seen + 20, "calls to pass", 1.5)
            print(f"calls passed {time.monotonic() - hung:.2f} s after the agent hung")
            phone.finish()
        times = phone.response_times()
        assert len(times) == 400
        assert max(times) < 4 * T1_MS
        agent.signal(signal.SIGCONT)
        wait_for(lambda: agent.counters()["queue_stalls"] == 1, "the agent to notice")
        net.refused(603, calling=NEVER_CALLS)
        assert agent.counters()["queue_released"] > 0


def test_a_call_that_is_established_survives_start_and_stop_of_the_agent(net: World) -> None:
    with net.phone("call", hold="2500") as established:
        wait_for(lambda: established.call_ids & set(net.sbc.seen("ACK")), "the call to be established")
        with net.agent():
            net.refused(603, calling=NEVER_CALLS)
        with net.agent():
            pass
        established.finish()


def test_kamailio_takes_a_method_in_small_letters_so_we_do_too(net: World) -> None:
    """Why the kernel's rule ignores the case, and skips empty lines: an SBC reads such a call like any other."""
    with net.caller.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((GOOD, 0))
        for number, (begin, method) in enumerate(((b"", b"invite"), (b"\r\n\r\n", b"INVITE"), (b"\n", b"InViTe"))):
            sock.sendto(begin + _call(method, sock.getsockname()[1], number), (SBC, PORT))
            call, word = f"odd-{number}", method.decode()
            wait_for(lambda call=call, word=word: call in net.sbc.seen(word), "Kamailio to take it")  # type: ignore[misc]


def _call(method: bytes, port: int, number: int) -> bytes:
    return (
        b"%s sip:+13035550199@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2:%d;branch=z9hG4bK-odd-%d\r\n"
        b"Max-Forwards: 70\r\nFrom: <sip:+12015550123@192.0.2.2>;tag=odd\r\nTo: <sip:+13035550199@192.0.2.1>\r\n"
        b"Call-ID: odd-%d\r\nCSeq: 1 %s\r\nContent-Length: 0\r\n\r\n" % (method, port, number, number, method)
    )
