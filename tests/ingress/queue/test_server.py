"""The queue with real packets: what reaches the SBC, and what its caller hears."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from agent.ingress.queue.settings import QueueSettings
from agent.kernel.nft import Nft
from agent.kernel.tables import ARMED, ARMED_SECONDS, QUEUE
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import invite, response
from tests.fakes.waiting import until
from tests.ingress.queue.wire import (
    CALLER,
    OTHER,
    PORT,
    SBC,
    SBC6,
    Wire,
    bound,
    following,
    nothing_comes,
    one_call_each,
    received,
    received_from,
    refused_call,
    screening,
    wire,
)

pytestmark = pytest.mark.kernel

LONG = (f"Identity: {'a' * 3300}",)  # three fragments of an Ethernet


@pytest.fixture(scope="module")
def net() -> Iterator[Wire]:
    with wire() as made:
        yield made


@pytest.fixture(autouse=True)
def _silence(net: Wire) -> None:
    """What a test left in the sockets is not for the next."""
    for sock in (net.phone, net.phone6, net.proxy, net.proxy6):
        while _waits(sock):
            pass


def _waits(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65_535)
    except BlockingIOError:
        return b""


# ---- what goes on


def test_an_allowed_call_reaches_the_sbc_byte_for_byte(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net) as (_, records):
            raw = invite() + b"\x00\xff body"
            net.phone.sendto(raw, (SBC, PORT))
            assert await received_from(net.proxy) == (raw, (CALLER, PORT))
            assert [verdict.action.word for verdict in records.verdicts] == ["allow"]

    asyncio.run(scenario())


@pytest.mark.parametrize("version", [4, 6])
def test_an_allowed_call_in_fragments_is_screened_whole_and_goes_on_byte_for_byte(net: Wire, version: int) -> None:
    phone, proxy, sbc = (net.phone, net.proxy, SBC) if version == 4 else (net.phone6, net.proxy6, SBC6)

    async def scenario() -> None:
        async with screening(net) as (server, records):
            raw = invite(headers=LONG)
            phone.sendto(raw, (sbc, PORT))
            assert await received(proxy) == raw
            assert [decision.attempt.message.raw for decision in records.decisions] == [raw]
            assert server.counters()["queue_not_whole"] == 0

    asyncio.run(scenario())


def test_what_is_no_invite_never_waits_for_us(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net) as (server, _):
            for raw in (
                invite(method="OPTIONS"),
                invite(method="REGISTER"),
                invite(method="BYE", to_tag="1"),
                invite(method="ACK", to_tag="1"),
                invite(method="CANCEL"),
                response(invite(), 200),
                b"\r\n\r\n",
                b"\r\n",
                b"\x00\x01",
            ):
                net.phone.sendto(raw, (SBC, PORT))
                assert await received(net.proxy) == raw
            assert server.counters()["queue_passed"] == 0

    asyncio.run(scenario())


def test_requests_within_a_dialog_go_on(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()) as (server, records):
            for _ in range(3):
                raw = invite(to_tag="b1")
                net.phone.sendto(raw, (SBC, PORT))
                assert await received(net.proxy) == raw
            assert not records.decisions
            assert server.counters()["queue_undecided"] == 3

    asyncio.run(scenario())


def test_an_unreadable_invite_goes_on(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()):
            for raw in (b"INVITE ", b"INVITE sip:+13035550199@x SIP/2.0\r\n\r\n", b"INVITE \xff\xfe\r\n\r\n" * 9):
                net.phone.sendto(raw, (SBC, PORT))
                assert await received(net.proxy) == raw

    asyncio.run(scenario())


def test_calls_to_other_ports_are_not_ours(net: Wire) -> None:
    async def scenario() -> None:
        with bound(net.sbc, SBC, 5080) as other:
            async with screening(net, one_call_each()) as (server, _):
                for _ in range(3):
                    raw = invite()
                    net.phone.sendto(raw, (SBC, 5080))
                    assert await received(other) == raw
                assert server.counters()["queue_passed"] == 0

    asyncio.run(scenario())


def test_an_emergency_call_passes_an_exhausted_limit(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()):
            await refused_call(net)
            raw = invite("sip:911@sbc.example.net;user=phone")
            net.phone.sendto(raw, (SBC, PORT))
            assert await received(net.proxy) == raw

    asyncio.run(scenario())


# ---- what is refused


def test_a_refused_call_is_answered_from_the_sbcs_own_address_and_never_reaches_it(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()):
            net.phone.sendto(invite(), (SBC, PORT))
            await received(net.proxy)
            net.phone.sendto(invite(), (SBC, PORT))
            answer, source = await received_from(net.phone)
            assert answer.startswith(b"SIP/2.0 503 ")
            assert source == (SBC, PORT)
            await nothing_comes(net.proxy)

    asyncio.run(scenario())


def test_the_same_by_ipv6_and_in_fragments(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()):
            net.phone6.sendto(invite(headers=LONG), (SBC6, PORT))
            await received(net.proxy6)
            net.phone6.sendto(invite(headers=LONG), (SBC6, PORT))
            answer, source = await received_from(net.phone6)
            assert answer.startswith(b"SIP/2.0 503 ")
            assert source == (SBC6, PORT)
            await nothing_comes(net.proxy6)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "disguise",
    [
        lambda raw: b"\r\n" + raw,
        lambda raw: b"\n\n\r\n" * 5 + raw,
        lambda raw: raw.replace(b"INVITE sip", b"invite sip"),
        lambda raw: b"\r\n" + raw.replace(b"INVITE sip", b"iNvItE sip"),
    ],
    ids=["empty line", "empty lines", "lower case", "both"],
)
def test_a_call_that_sbcs_read_although_it_is_not_quite_sip_is_screened_too(net: Wire, disguise: object) -> None:
    assert callable(disguise)

    async def scenario() -> None:
        async with screening(net, one_call_each()):
            raw = disguise(invite())
            net.phone.sendto(raw, (SBC, PORT))
            assert await received(net.proxy) == raw
            net.phone.sendto(disguise(invite()), (SBC, PORT))
            assert (await received(net.phone)).startswith(b"SIP/2.0 503 ")
            await nothing_comes(net.proxy)

    asyncio.run(scenario())


def test_a_copy_of_a_refused_call_gets_the_same_bytes(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()) as (server, _):
            raw, answer = await refused_call(net)
            net.phone.sendto(raw, (SBC, PORT))
            assert await received(net.phone) == answer
            await nothing_comes(net.proxy)
            assert server.counters()["queue_transactions"] == 1

    asyncio.run(scenario())


def test_an_answer_is_sent_again_until_it_is_acknowledged_and_the_sbc_sees_no_ack(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()) as (server, _):
            raw, answer = await refused_call(net)
            assert await received(net.phone) == answer  # Timer G
            net.phone.sendto(following("ACK", raw, answer), (SBC, PORT))
            await until(lambda: server.counters()["queue_acks"] == 1)
            assert server.counters()["queue_waiting_for_ack"] == 0
            net.phone.sendto(following("ACK", raw, answer), (SBC, PORT))  # a copy
            await until(lambda: server.counters()["queue_acks"] == 2)
            await nothing_comes(net.proxy)

    asyncio.run(scenario())


def test_ack_and_cancel_of_other_calls_go_on_from_a_source_that_was_refused(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()) as (server, _):
            await refused_call(net)
            for raw in (invite(method="ACK", to_tag="b1"), invite(method="ACK", to_tag="00"), invite(method="CANCEL")):
                net.phone.sendto(raw, (SBC, PORT))
                assert await received(net.proxy) == raw
            assert server.counters()["queue_passed"] == 1 + 3
            assert server.counters()["queue_acks"] == 0

    asyncio.run(scenario())


def test_a_refused_call_that_is_cancelled_gets_200_and_the_sbc_sees_nothing(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()):
            raw, _ = await refused_call(net)
            net.phone.sendto(following("CANCEL", raw), (SBC, PORT))
            answer = await received(net.phone)
            assert answer.startswith(b"SIP/2.0 200 OK\r\n")
            assert b"\r\nCSeq: 1 CANCEL\r\n" in answer
            await nothing_comes(net.proxy)

    asyncio.run(scenario())


def test_an_answer_goes_to_the_port_that_via_names_unless_it_asks_for_rport(net: Wire) -> None:
    async def scenario() -> None:
        with bound(net.caller, CALLER, 5099) as other:
            async with screening(net, one_call_each()):
                await refused_call(net)
                other.sendto(invite(), (SBC, PORT))
                assert (await received(net.phone)).startswith(b"SIP/2.0 503 ")
                other.sendto(invite().replace(b";branch", b";rport;branch"), (SBC, PORT))
                answer = await received(other)
                assert b";rport=5099" in answer
                assert b";received=192.0.2.2" in answer

    asyncio.run(scenario())


def test_a_source_that_no_trunk_claims_gets_its_answer_once(net: Wire) -> None:
    async def scenario() -> None:
        with bound(net.caller, OTHER) as stranger:
            async with screening(net, one_call_each()) as (server, _):
                stranger.sendto(invite(), (SBC, PORT))
                await received(net.proxy)
                raw = invite()
                stranger.sendto(raw, (SBC, PORT))
                answer = await received(stranger)
                assert answer.startswith(b"SIP/2.0 503 ")
                assert server.counters()["queue_transactions"] == 0
                stranger.sendto(following("ACK", raw, answer), (SBC, PORT))
                await until(lambda: server.counters()["queue_acks"] == 1)
                await nothing_comes(net.proxy)

    asyncio.run(scenario())


def test_a_drop_is_silent(net: Wire) -> None:
    limit = pb.Limit(name="calls", scope=pb.SCOPE_CALLING, rate=1, window_seconds=1, burst=1, drop_above=2)

    async def scenario() -> None:
        async with screening(net, pb.Policy(limits=[limit])) as (server, _):
            for _ in range(50):
                net.phone.sendto(invite(), (SBC, PORT))
            await until(lambda: sum(server.counters()[f"queue_{name}"] for name in ("passed", "stopped")) == 50)
            counts = server.counters()
            assert counts["queue_dropped"] > 40
            assert counts["queue_dropped"] + counts["queue_refused"] == counts["queue_stopped"]

    asyncio.run(scenario())


def test_sessions_of_allowed_calls_are_given_back_as_their_end_is_not_seen(net: Wire) -> None:
    lines = pb.Limit(name="lines", scope=pb.SCOPE_CALLING, sessions=1)

    async def scenario() -> None:
        async with screening(net, pb.Policy(limits=[lines])):
            for _ in range(3):
                raw = invite()
                net.phone.sendto(raw, (SBC, PORT))
                assert await received(net.proxy) == raw

    asyncio.run(scenario())


# ---- when something fails


def test_when_the_event_loop_hangs_calls_pass_within_the_second_and_what_waited_is_let_go(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()) as (server, records):
            await refused_call(net)
            began = time.monotonic()
            waiting = invite()
            net.phone.sendto(waiting, (SBC, PORT))
            passed = b""
            while not passed:  # the loop hangs here
                net.phone.sendto(invite(call_id="later@a.example.net"), (SBC, PORT))
                passed = _waits(net.proxy)
                time.sleep(0.01)
                assert time.monotonic() - began < ARMED_SECONDS + 0.1
            assert b"later@" in passed
            time.sleep(max(0.0, began + ARMED_SECONDS + 0.1 - time.monotonic()))
            while _waits(net.proxy):
                pass
            judged = len(records.decisions)
            await until(lambda: server.counters()["queue_stalls"] == 1)
            assert await received(net.proxy) == waiting
            assert len(records.decisions) == judged
            while _waits(net.proxy):
                pass
            await until(lambda: _is_refused(net))

    asyncio.run(scenario())


def _is_refused(net: Wire) -> bool:
    net.phone.sendto(invite(), (SBC, PORT))
    return _waits(net.phone).startswith(b"SIP/2.0 503 ")


def test_what_finds_the_queue_full_goes_on(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each(), QueueSettings(length=16)) as (server, _):
            for _ in range(100):  # faster than anybody could look
                net.phone.sendto(invite(), (SBC, PORT))
            passed = 0
            while _waits(net.proxy):
                passed += 1
            assert passed == 100 - 16
            await until(lambda: server.counters()["queue_stopped"] == 15)
            await until(lambda: server.counters()["queue_passed_full"] == passed, 10.0)

    asyncio.run(scenario())


def test_a_second_agent_is_told_that_the_queue_is_taken_and_disturbs_nothing(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()):
            with pytest.raises(OSError, match="another program has it"):
                async with screening(net):
                    pass
            with pytest.raises(OSError, match="another process holds table sbc_edge_queue"):
                async with screening(net, settings=QueueSettings(number=7)):
                    pass
            await refused_call(net)

    asyncio.run(scenario())


def test_a_stopped_server_leaves_nothing_behind_and_calls_pass(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()):
            await refused_call(net)
        with net.sbc.inside(), Nft() as nft:
            assert nft.find(QUEUE) is None
        for _ in range(3):
            raw = invite()
            net.phone.sendto(raw, (SBC, PORT))
            assert await received(net.proxy) == raw

    asyncio.run(scenario())


def test_a_server_that_stops_takes_no_calls_and_waits_for_acks(net: Wire) -> None:
    async def scenario() -> None:
        async with screening(net, one_call_each()) as (server, _):
            raw, answer = await refused_call(net)
            stopping = asyncio.create_task(server.stop(20.0))
            with net.sbc.inside(), Nft() as nft:
                await until(lambda: not nft.elements(QUEUE, ARMED.name))
            assert not stopping.done()
            call = invite()
            net.phone.sendto(call, (SBC, PORT))
            assert await received(net.proxy) == call
            net.phone.sendto(following("ACK", raw, answer), (SBC, PORT))
            await asyncio.wait_for(stopping, 5.0)
            assert server.counters()["queue_acks"] == 1

    asyncio.run(scenario())
