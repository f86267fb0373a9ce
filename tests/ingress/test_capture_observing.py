"""What a capture makes of messages: observed verdicts, legs, counts, its clock and its settings. No sockets."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.calls.legs import TransitResult
from agent.calls.pairing import Pairing
from agent.ingress import counts
from agent.ingress.capture.counts import CaptureCounts
from agent.ingress.capture.observer import Observed, Observer
from agent.ingress.capture.server import BATCH, MAX_AGE, CaptureServer, PacketClock
from agent.ingress.capture.settings import CaptureSettings
from agent.kernel.packet import Shape
from agent.kernel.ring import HOST, NO_VLAN, OUTGOING, Packet
from agent.model import ConfigError, Refuse, Verdict
from agent.settings import fill
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import PEER, SBC, invite, policy, response
from tests.ingress.frames import CLIENT, SERVER, ethernet, ipv4, udp

CAROL = b"\xcb\x00\x71\x05"  # 203.0.113.5: where the SBC sends its calls
WHEN = 1_800_000_000.0
TRUNKS = [pb.Trunk(id="alpha", sources=[PEER]), pb.Trunk(id="beta", sources=["203.0.113.0/24"])]
BLOCKS_ALPHA = pb.Policy(
    trunks=TRUNKS,
    provider_block=pb.ProviderBlockRule(blocks=[pb.ProviderBlock(trunk="alpha", reference="constructed")]),
)
SIGNED = ("Identity: eyJhIjoxfQ.eyJiIjoyfQ.c2ln;info=<https://cert.example.net/a.pem>;ppt=shaken",)


class World:
    """A capture without interfaces, fed with packets."""

    def __init__(self, message: pb.Policy | None = None) -> None:
        self.policy = policy(message or pb.Policy(trunks=TRUNKS))
        self.observed: list[Observed] = []
        self.refusals: list[tuple[str, Verdict]] = []
        self.transits: list[TransitResult] = []
        self.failures: list[Exception] = []
        self.observer = Observer(lambda: self.policy, self, lambda *what: self.refusals.append(what))
        self.server = CaptureServer(
            CaptureSettings(interfaces=("eth0",)),
            self.observer,
            Pairing(self.transits.append),
            self.failures.append,
            clock=lambda: 100.0,
            wall=lambda: WHEN,
        )

    def put(self, observed: Observed) -> None:
        self.observed.append(observed)

    def takes(self, *packets: tuple[bytes, int]) -> None:
        """Frames and their directions, as one block."""

        async def main() -> None:
            block: list[Packet] = [(WHEN, frame, len(frame), kind, NO_VLAN) for frame, kind in packets]
            self.server._take(Shape.ETHERNET, block)
            while self.server._backlog:
                await asyncio.sleep(0)

        asyncio.run(main())

    def comes(self, raw: bytes, source: bytes = CLIENT, destination: bytes = SERVER, kind: int = HOST) -> None:
        self.takes((ethernet(ipv4(udp(raw), source=source, destination=destination)), kind))

    def goes(self, raw: bytes, destination: bytes = CAROL, source: bytes = SERVER, kind: int = OUTGOING) -> None:
        self.comes(raw, source, destination, kind)


def test_what_would_be_refused_is_observed_and_says_so() -> None:
    world = World(BLOCKS_ALPHA)
    world.comes(invite())
    (seen,) = world.observed
    assert seen.would_refuse
    assert isinstance(seen.decision.verdict.action, Refuse)
    record = seen.record()
    assert (record["observed"], record["action"], record["rule"]) == (True, "refuse", "provider-block")
    assert world.server.counts.would_refuse == 1


def test_who_asked_hears_of_each_refused_attempt_and_of_its_source() -> None:
    world = World(BLOCKS_ALPHA)
    first = invite()
    for raw in (first, first, invite()):  # the copy is no further attempt
        world.comes(raw)
    world.comes(invite(), source=CAROL)
    assert [(source, verdict.rule) for source, verdict in world.refusals] == [(PEER, "provider-block")] * 2


def test_an_emergency_call_is_never_reported_as_refused() -> None:
    world = World(BLOCKS_ALPHA)
    world.comes(invite("sip:911@sbc.example.net"))
    assert not world.refusals
    assert not world.observed[0].would_refuse


def test_another_policy_counts_from_the_next_message_on() -> None:
    world = World()
    world.comes(invite())
    world.policy = policy(BLOCKS_ALPHA)
    world.comes(invite())
    assert [seen.would_refuse for seen in world.observed] == [False, True]


def test_what_the_sbc_sends_is_no_attempt_but_the_other_leg() -> None:
    world = World()
    world.comes(invite(call_id="c1", headers=SIGNED))
    world.goes(invite(call_id="c1", headers=SIGNED))
    assert world.server.counts.attempts == 1
    (found,) = world.transits
    assert (found.ingress, found.egress, found.transit.intact) == ("alpha", "beta", True)


@pytest.mark.parametrize("local", [True, False])
def test_directions_come_from_the_policy_where_the_packet_has_none(local: bool) -> None:
    """On a mirror port, and on the loopback interface, nothing is outgoing."""
    world = World(pb.Policy(trunks=TRUNKS, local_addresses=[SBC] if local else []))
    world.comes(invite(call_id="c1", headers=SIGNED))
    world.goes(invite(call_id="c1"), kind=HOST)
    assert world.server.counts.attempts == 2 - local
    assert [found.transit.stripped for found in world.transits] == [1] * local


def test_sessions_are_followed_through_what_the_sbc_answers() -> None:
    world = World()
    call = invite(call_id="c1")
    world.comes(call)
    world.goes(response(call, 200), destination=CLIENT)
    assert world.observer.screening.sessions.answered == 0  # it opened no session: no limit counts them
    assert world.server.counts.responses == {"200": 1}


def test_a_stripped_vlan_and_one_in_the_frame_count_once() -> None:
    world = World()
    frame = ethernet(ipv4(udp(invite())), tags=((0x8100, 6),))

    async def main() -> None:
        bare = ethernet(ipv4(udp(invite())))
        world.server._take(Shape.ETHERNET, [(WHEN, frame, len(frame), HOST, 7), (WHEN, bare, len(bare), HOST, 7)])

    asyncio.run(main())
    assert world.server.counts.vlan == 2
    assert world.server.counts.sip_messages == 2


def test_a_long_block_is_worked_through_in_turns() -> None:
    world = World()
    turns = 0

    async def main() -> None:
        nonlocal turns
        frames = [ethernet(ipv4(udp(invite()))) for _ in range(100)]
        world.server._take(Shape.ETHERNET, [(WHEN, frame, len(frame), HOST, NO_VLAN) for frame in frames])
        while world.server._backlog:
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(main())
    assert turns >= 3
    assert world.server.counts.attempts == 100


def test_in_a_flood_it_takes_its_share_of_the_core_and_no_more() -> None:
    """Of a clock that moves 1 ms with each packet, and a loop that says how long it was asked to wait."""
    world = World()
    now = 100.0
    rests: list[float] = []

    def clock() -> float:
        return now

    class Loop:
        def call_later(self, delay: float, action: Callable[[], None]) -> None:
            rests.append(delay)
            waiting.append(action)

    def packet(*_: object) -> None:
        nonlocal now
        now += 0.001

    waiting: list[Callable[[], None]] = []
    server = CaptureServer(CaptureSettings(interfaces=("eth0",), cpu_share=0.25), world.observer, clock=clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncio.get_running_loop", Loop)
        patch.setattr(server, "_packet", packet)
        server._take(Shape.ETHERNET, [(WHEN, b"", 0, HOST, NO_VLAN)] * (2 * BATCH + 1))
        while waiting:
            assert server.taps.paused
            waiting.pop()()
    assert rests == pytest.approx([0.003 * BATCH, 0.003 * BATCH, 0.003])


def test_junk_is_counted_and_a_fault_of_ours_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.comes(b"INVITE sip:x SIP/3.0\r\n\r\n")
    world.comes(b"\x80\0rtp")
    world.comes(b"INVITE sip:x SIP/2.0\r\n\r\n"[:30])
    assert (world.server.counts.parse_errors, world.server.counts.not_sip) == (1, 1)

    def fail(*_: object) -> None:
        raise RuntimeError("constructed")

    monkeypatch.setattr(world.server._pairing, "observe", fail)
    world.comes(invite())
    monkeypatch.undo()
    world.comes(invite())
    assert len(world.failures) == world.server.counts.failures == 1
    assert world.server.counters()["capture_failures"] == 1
    monkeypatch.setattr(world.server._time, "now", fail)
    world.takes(*[(ethernet(ipv4(udp(invite()))), HOST)] * (2 * BATCH))
    monkeypatch.undo()
    assert world.server.counts.failures == 1 + 2 * BATCH
    before = world.server.counts.attempts
    world.comes(invite())
    assert world.server.counts.attempts == before + 1


def test_it_is_not_running_before_its_start_and_stops_twice() -> None:
    world = World()
    assert world.server.health() == (False, "not running")
    asyncio.run(world.server.stop(0.0))
    assert all(name.startswith("capture_") for name in world.server.counters())


def test_names_that_are_counted_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MAX_NAMES", 2)
    made = CaptureCounts()
    for name in ("A", "B", "C", "D", "A"):
        made.count(made.methods, name)
    assert made.methods == {"A": 2, "B": 1, "(others)": 2}


# ---- the clock of packets ----


class Clocks:
    def __init__(self) -> None:
        self.mono, self.wall = 100.0, WHEN
        self.packets = PacketClock(lambda: self.mono, lambda: self.wall)
        self.packets.read_block()

    def pass_(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds
        self.packets.read_block()


def test_a_packet_has_the_time_at_which_it_came() -> None:
    clocks = Clocks()
    assert clocks.packets.now(WHEN - 0.5) == pytest.approx(99.5)
    assert clocks.packets.now(WHEN - 0.1) == pytest.approx(99.9)
    assert clocks.packets.now(WHEN - 0.4) == pytest.approx(99.9), "time does not go back"


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_clock_of_the_day_that_is_set_changes_nothing(step: float) -> None:
    clocks = Clocks()
    clocks.packets.now(WHEN)
    clocks.wall += step  # while packets stamped before are in the ring
    clocks.pass_(1.0)
    assert clocks.packets.now(WHEN) == pytest.approx(101.0)
    assert clocks.packets.now(WHEN + step + 0.9) == pytest.approx(101.0)


def test_a_packet_that_waited_longer_than_packets_can_is_taken_as_new() -> None:
    clocks = Clocks()
    assert clocks.packets.now(WHEN - MAX_AGE - 0.1) == pytest.approx(100.0)


# ---- settings ----


def filled(**table: Any) -> CaptureSettings | list[str]:
    errors: list[ConfigError] = []
    made = fill(CaptureSettings, table, "capture", errors)
    return [str(error) for error in errors] if made is None else made


def test_settings_are_filled_from_their_section() -> None:
    assert filled(interfaces=["eth0"]) == CaptureSettings(interfaces=("eth0",))
    everything = filled(
        interfaces=["eth0", "bond0.100"], ports=[5060, 5080], methods=[], tunnels=True, promiscuous=True,
        ring_bytes=1 << 21, cpu_share=1, transit=False,
    )  # fmt: skip
    assert isinstance(everything, CaptureSettings)
    assert replace(everything, ports=(5060,)).ports == (5060,)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ({}, "capture.interfaces: is missing"),
        ({"interfaces": []}, "capture.interfaces: name 1 to 16 interfaces"),
        ({"interfaces": ["eth0", ""]}, "capture.interfaces[1]: '' is no name of an interface"),
        ({"interfaces": ["a/b"]}, "capture.interfaces[0]: 'a/b' is no name of an interface"),
        ({"interfaces": ["sixteen-letters-"]}, "capture.interfaces[0]: 'sixteen-letters-' is no name of an interface"),
        ({"interfaces": ["eth0", "eth0"]}, "capture.interfaces[1]: 'eth0' is there twice"),
        ({"interfaces": ["eth0"], "ports": []}, "capture.ports: name 1 to 64 ports"),
        ({"interfaces": ["eth0"], "ports": [5060, 0]}, "capture.ports[1]: 0 is not within 1..65535"),
        ({"interfaces": ["eth0"], "methods": ["IN VITE"]}, "capture.methods[0]: 'IN VITE' is no SIP method"),
        ({"interfaces": ["eth0"], "methods": ["A"] * 33}, "capture.methods: name up to 32 methods"),
        ({"interfaces": ["eth0"], "ring_bytes": 1}, "capture.ring_bytes: must be from 1.04858e+06 to 1.07374e+09"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_field(table: dict[str, Any], error: str) -> None:
    assert filled(**table) == [error]
