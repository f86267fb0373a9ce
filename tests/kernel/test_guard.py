"""The guard with real packets: what a flooding or blocked source gets through, and what never is touched."""

import asyncio
import errno
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from typing import Literal, cast

import pytest

from agent.kernel.capabilities import keep_only
from agent.kernel.ebpf import Map, VerifierError
from agent.kernel.ebpf_code import R0, R3, Code
from agent.kernel.guard import Guard
from agent.kernel.nft import Nft
from agent.kernel.settings import KernelSettings
from agent.kernel.tables import GUARD
from tests.fakes.calls import invite, response
from tests.fakes.waiting import until
from tests.ingress.queue.wire import CALLER, CALLER6, OTHER, PORT, SBC, SBC6, Wire, bound, wire

pytestmark = pytest.mark.kernel

Engine = Literal["nftables", "ebpf"]
ENGINE: dict[str, Engine] = {"now": "nftables"}
NEIGHBOUR6 = "2001:db8:1::ffff"
LIMITED = KernelSettings(flood_rate=1, flood_burst=10)
EMERGENCY = (
    "sip:911@sbc.example.net",
    "SIP:911@sbc.example.net",
    "sip:911;user=phone",
    "sip:+1911@sbc.example.net;user=phone",
    "sip:+911@sbc.example.net",
    "sips:911@sbc.example.net",
    "tel:911",
    "tel:+1911;phone-context=+1",
    "sip:933@sbc.example.net",
    "sip:112@sbc.example.net",
    "urn:service:sos",
    "urn:service:sos.fire",
    "URN:Service:SOS",
)
NO_EMERGENCY = ("sip:9115550100@x", "sip:19115550100@x", "sip:+19115550100@x", "sip:1911@x", "sip:x911@x", "tel:9110")


@pytest.fixture(scope="module")
def net() -> Iterator[Wire]:
    with wire() as made:
        made.caller.address("caller0", f"{NEIGHBOUR6}/64")
        yield made


@pytest.fixture(params=["nftables", "ebpf"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Everything is so with either."""
    monkeypatch.setitem(ENGINE, "now", request.param)
    return cast("Engine", request.param)


@asynccontextmanager
async def guarding(net: Wire, settings: KernelSettings = LIMITED) -> AsyncIterator[Guard]:
    failures: list[Exception] = []
    with net.sbc.inside():
        guard = Guard(replace(settings, engine=ENGINE["now"]), failures.append)
        await guard.start()
        try:
            yield guard
        finally:
            await guard.stop(0.0)
    assert not failures


def passed(net: Wire, raws: list[bytes], phone: socket.socket | None = None, sbc: str = SBC) -> list[bytes]:
    """Which of these datagrams reach the SBC: all that come before one that nobody drops and nobody overtakes."""
    proxy, last = (net.proxy6 if ":" in sbc else net.proxy), b"last %d" % next(_numbers)
    for raw in (*raws, last):
        (phone or net.phone).sendto(raw, (sbc, PORT))
    out: list[bytes] = []
    while True:
        assert select.select([proxy], [], [], 5.0)[0], "the last datagram did not arrive"
        raw = proxy.recv(65_535)
        if raw == last:
            return out
        out.append(raw)


_numbers = count()


def flood(count: int = 30) -> list[bytes]:
    return [invite() for _ in range(count)]


def test_beyond_the_threshold_invites_of_one_source_are_dropped_and_others_lose_nothing(net: Wire) -> None:
    async def scenario() -> None:
        with bound(net.caller, OTHER) as other:
            async with guarding(net) as guard:
                assert 10 <= len(passed(net, flood())) <= 12
                good = flood(10)
                assert passed(net, good, other) == good
                await guard.look()
                counts = guard.counters()
                assert counts["kernel_invites"] == 40
                assert 18 <= counts["kernel_flood"] <= 20

    asyncio.run(scenario())


def test_sources_of_ipv6_are_limited_by_their_64(net: Wire) -> None:
    async def scenario() -> None:
        with bound(net.caller, NEIGHBOUR6) as other:
            async with guarding(net):
                assert 10 <= len(passed(net, flood(), net.phone6, SBC6)) <= 12
                assert len(passed(net, flood(), other, SBC6)) <= 2

    asyncio.run(scenario())


def test_what_belongs_to_calls_in_progress_and_keep_alives_pass_a_flooding_and_a_blocked_source(net: Wire) -> None:
    following = [
        invite(method="BYE", to_tag="1"),
        invite(method="ACK", to_tag="1"),
        invite(method="CANCEL"),
        invite(method="OPTIONS"),
        response(invite(), 200),
        b"\r\n\r\n",
        b"\0",
    ]

    async def scenario() -> None:
        async with guarding(net) as guard:
            passed(net, flood())
            assert passed(net, following) == following
            await guard.block(ip_network(CALLER), 60.0)
            assert passed(net, flood(3)) == []
            assert passed(net, following) == following

    asyncio.run(scenario())


def test_emergency_calls_in_plain_form_pass_a_flooding_and_a_blocked_source(net: Wire) -> None:
    calls = [invite(called) for called in EMERGENCY]
    others = [invite(called) for called in NO_EMERGENCY]

    async def scenario() -> None:
        async with guarding(net) as guard:
            passed(net, flood())
            assert passed(net, calls) == calls
            await guard.block(ip_network(CALLER), 60.0)
            assert passed(net, calls) == calls
            assert passed(net, others) == []
            await guard.look()
            # Those that the bucket still had room for passed as any call.
            assert guard.counters()["kernel_emergency"] >= 2 * len(calls) - 2

    asyncio.run(scenario())


def test_an_exempt_source_is_neither_limited_nor_blocked(net: Wire) -> None:
    async def scenario() -> None:
        exempt = replace(LIMITED, exempt=(f"{CALLER}/32", "2001:db8:1::/64"))
        async with guarding(net, exempt) as guard:
            await guard.block(ip_network("192.0.2.0/24"), 60.0)
            await guard.block(ip_network(CALLER6), 60.0)
            calls = flood(30)
            assert passed(net, calls) == calls
            assert passed(net, calls, net.phone6, SBC6) == calls

    asyncio.run(scenario())


@pytest.mark.parametrize("source", [CALLER, "192.0.2.0/30", "0.0.0.0/0", CALLER6, "2001:db8::/32"])
def test_a_blocked_source_is_let_in_again_by_hand_or_when_its_time_is_up(net: Wire, source: str) -> None:
    sbc, phone = (SBC6, net.phone6) if ":" in source else (SBC, net.phone)

    async def scenario() -> None:
        async with guarding(net, KernelSettings()) as guard:
            for let_in in (lambda: guard.unblock(ip_network(source)), None):
                await guard.block(ip_network(source), 60.0 if let_in else 0.3)
                assert passed(net, flood(2), phone, sbc) == []
                if let_in:
                    assert await let_in()
                await until(lambda: bool(passed(net, flood(1), phone, sbc)))
            await until(lambda: not guard.blocks())

    asyncio.run(scenario())


def test_a_longer_block_stays_and_a_shorter_one_is_made_longer(net: Wire) -> None:
    async def scenario() -> None:
        async with guarding(net, KernelSettings()) as guard:
            for seconds in (50.0, 5.0):
                await guard.block(ip_network(CALLER), seconds)
            assert guard.blocks()[ip_network(CALLER)] > 49
            await guard.block(ip_network(CALLER), 500.0)
            with net.sbc.inside(), Nft() as nft:
                (element,) = nft.elements(GUARD, "blocked4")
            assert element.seconds is not None
            assert element.seconds > 499

    asyncio.run(scenario())


def test_there_is_a_bound_to_blocks_and_it_is_counted(net: Wire) -> None:
    async def scenario() -> None:
        async with guarding(net, KernelSettings(max_blocks=16)) as guard:
            done = [await guard.block(ip_network(f"198.51.100.{n}"), 60.0) for n in range(18)]
            assert done == [True] * 16 + [False] * 2
            assert guard.counters()["kernel_refused_blocks"] == 2
            with pytest.raises(ValueError, match="is not within"):
                await guard.block(ip_network(CALLER), float("nan"))

    asyncio.run(scenario())


def test_a_flood_with_empty_lines_before_it_is_a_flood(net: Wire) -> None:
    async def scenario() -> None:
        async with guarding(net):
            assert len(passed(net, [b"\r\n" + raw for raw in flood()])) <= 12

    asyncio.run(scenario())


def test_in_shadow_mode_all_pass_and_are_counted_as_if_not(net: Wire) -> None:
    async def scenario() -> None:
        async with guarding(net, replace(LIMITED, mode="shadow")) as guard:
            calls = flood()
            assert passed(net, calls) == calls
            await guard.look()
            assert 18 <= guard.counters()["kernel_flood"] <= 20

    asyncio.run(scenario())


def test_it_tells_which_engine_drops(net: Wire, engine: Engine) -> None:
    async def scenario() -> None:
        async with guarding(net) as guard:
            passed(net, flood())
            await guard.look()
            early = guard.counters()["kernel_dropped_early"]
            assert (18 <= early <= 20) if engine == "ebpf" else early == 0
            assert guard.counters()["kernel_early_interfaces"] == (engine == "ebpf")
            assert guard.health()[1].endswith(") on sbc0" if engine == "ebpf" else "nftables alone")

    asyncio.run(scenario())


def test_other_settings_take_over_with_blocks_and_counts_kept(net: Wire, engine: Engine) -> None:
    async def scenario() -> None:
        async with guarding(net) as guard:
            await guard.block(ip_network(CALLER), 60.0)
            passed(net, flood(5))
            await guard.apply(replace(LIMITED, ports=(5061, PORT), engine=engine))
            assert passed(net, flood(5)) == []
            await guard.look()
            assert guard.counters()["kernel_blocked"] == 10

    asyncio.run(scenario())


def test_a_guard_that_is_held_stays_and_the_next_agent_takes_over_its_blocks(net: Wire) -> None:
    held = replace(LIMITED, on_death="hold")

    async def scenario() -> None:
        async with guarding(net, held) as guard:
            await guard.block(ip_network(CALLER), 60.0)
            await guard.block(ip_network("198.51.100.0/23"), 60.0)
        assert passed(net, flood(3)) == []
        async with guarding(net, LIMITED) as guard:
            assert set(guard.blocks()) == {ip_network(CALLER), ip_network("198.51.100.0/23")}
            assert passed(net, flood(3)) == []
        assert len(passed(net, flood(30))) == 30

    asyncio.run(scenario())


def test_a_table_that_somebody_removes_is_made_again(net: Wire) -> None:
    async def scenario() -> None:
        async with guarding(net, replace(LIMITED, on_death="hold")) as guard:
            await guard.block(ip_network(CALLER), 60.0)
            with net.sbc.inside(), Nft() as nft:
                assert nft.remove(GUARD)
            await guard.look()
            assert passed(net, flood(3)) == []
            assert guard.counters()["kernel_reinstalled"] == 1
            assert guard.health()[0]
        with net.sbc.inside(), Nft() as nft:
            nft.remove(GUARD)

    asyncio.run(scenario())


def test_without_capabilities_it_says_so_at_once(net: Wire) -> None:
    errors: list[OSError] = []

    def unprivileged() -> None:
        keep_only()  # of this thread
        try:
            asyncio.run(Guard(LIMITED).start())
        except OSError as error:
            errors.append(error)

    began = time.monotonic()
    thread = threading.Thread(target=unprivileged)
    thread.start()
    thread.join(5.0)
    assert time.monotonic() - began < 2.0
    assert "CAP_NET_ADMIN" in str(errors[0])


def test_where_a_program_cannot_be_had_the_table_does_it_alone_or_the_guard_does_not_start(
    net: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "make a map of eBPF: not here")

    monkeypatch.setattr(Map, "create", refuses)

    async def scenario() -> None:
        with net.sbc.inside():
            guard = Guard(LIMITED)
            await guard.start()
            healthy, words = guard.health()
            assert healthy
            assert words.endswith("0 sources blocked; nftables alone: make a map of eBPF: not here")
            assert len(passed(net, flood())) <= 12
            await guard.stop(0.0)
            with pytest.raises(OSError, match="make a map of eBPF: not here"):
                await Guard(replace(LIMITED, engine="ebpf")).start()
            with Nft() as nft:
                assert nft.find(GUARD) is None

    asyncio.run(scenario())


def test_a_program_that_the_verifier_refuses_is_told_once_and_the_table_guards(
    net: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(*_: object) -> Code:
        code = Code()
        code.move(R0, R3)
        code.exit()
        return code

    monkeypatch.setattr("agent.kernel.fast_path.guard_code", bad)
    failures: list[Exception] = []

    async def scenario() -> None:
        with net.sbc.inside():
            guard = Guard(LIMITED, failures.append)
            await guard.start()
            assert "nftables alone: load a program of eBPF: Permission denied (R3 !read_ok)" in guard.health()[1]
            assert len(passed(net, flood())) <= 12
            await guard.stop(0.0)

    asyncio.run(scenario())
    assert [type(one) for one in failures] == [VerifierError]
