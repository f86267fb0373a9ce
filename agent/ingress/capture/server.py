"""The capture as one part of the daemon: packets of the interfaces, their messages, and what is to be learnt of them.

Out of path: it sees what comes and goes, and can hold up nothing. What comes in is screened by an observer, whose
verdicts nobody enforces; both legs of a call go to the pairing. Which way a message goes is told by the packet (what
this host sends, the kernel marks) and by the policy's list of the SBC's own addresses.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from agent.calls.pairing import Pairing, Side
from agent.ingress.assembly import Assembly
from agent.ingress.capture.counts import CaptureCounts
from agent.ingress.capture.observer import Observer
from agent.ingress.capture.settings import CaptureSettings
from agent.ingress.capture.taps import Taps
from agent.ingress.recognition import Message, address_text
from agent.kernel.packet import BLOCK_MS, Shape
from agent.kernel.ring import NO_VLAN, OUTGOING, Packet
from agent.model import Scan
from agent.screening import Observation

BATCH: Final = 16
"""Packets in one turn of the event loop: half a millisecond, as much as a live call may have to wait for it."""

TICK_SECONDS: Final = 1.0

MAX_AGE: Final = 2.0
"""Seconds that a packet may have waited to be read. What says that it is older was stamped by a clock that was set."""

LAST_BLOCK_SECONDS: Final = 4 * BLOCK_MS / 1e3
"""How long the kernel may keep packets that are on their way when the capture is told to stop."""
REST_SECONDS: Final = 0.002  # between two looks whether they have come


class PacketClock:
    """Monotonic seconds of packets that are stamped with the time of day: of when they came, not of when we read them.

    The clock of the day may be set meanwhile; then a packet is taken to have come just now.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._latest = self._floor = self._shift = self._ceiling = 0.0

    def read_block(self) -> None:
        """Look at the clocks; once for each block."""
        self._ceiling = self._clock()
        self._shift = self._ceiling - self._wall()
        self._floor = self._ceiling - MAX_AGE

    def now(self, when: float) -> float:
        """The monotonic time of a packet stamped `when` (epoch seconds); never less than what was told before."""
        now = when + self._shift
        if not self._floor <= now <= self._ceiling:
            now = self._ceiling
        self._latest = max(self._latest, now)
        return self._latest


class CaptureServer:
    """A component of the daemon (agent.ops.component.Server). `clock` is monotonic seconds, `wall` epoch seconds.

    `on_failure` hears of faults of ours; nothing in the path of calls depends on them.
    """

    name: Final = "capture"

    def __init__(
        self,
        settings: CaptureSettings,
        observer: Observer,
        pairing: Pairing | None = None,
        on_failure: Callable[[Exception], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.counts = CaptureCounts()
        self.taps = Taps(settings, self._take)
        self._observer = observer
        self._pairing = pairing if settings.transit else None
        self._on_failure = on_failure
        self._clock = clock
        self._wall = wall
        self._time = PacketClock(clock, wall)
        ports = frozenset(settings.ports)
        # Of each direction its own: no stream and no datagram goes both ways, and so the way of a message is known.
        self._assemblies = {side: Assembly(self.counts, ports) for side in Side}
        self._backlog: deque[Packet] = deque()
        self._rest = 1.0 / settings.cpu_share - 1.0  # seconds for each second of work
        self._shape = Shape.ETHERNET
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin. Raises PermissionError that names the missing capability, OSError; an interface that is not there is
        waited for."""
        self.taps.start()
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    async def stop(self, grace: float) -> None:
        """Read what the rings hold, for `grace` seconds at most, and let go of the interfaces."""
        if not self.taps.running:
            return
        began = self._clock()
        self._rest = 0.0
        while (now := self._clock()) < began + grace:
            if self._backlog or self.taps.read_rest():
                await asyncio.sleep(0)
            elif now < began + LAST_BLOCK_SECONDS:
                await asyncio.sleep(REST_SECONDS)
            else:
                break
        self._backlog.clear()
        for side, assembly in self._assemblies.items():
            for message in assembly.finish():
                self._message(message, side, self._wall(), self._clock())
        if self._timer is not None:
            self._timer.cancel()
        self.taps.close()

    def health(self) -> tuple[bool, str]:
        """Whether every interface is captured, and what was lost."""
        if not self.taps.running:
            return False, "not running"
        trouble = self.taps.trouble()
        words = []
        for tap in self.taps.sockets:
            if tap.name in trouble:
                words.append(f"{tap.name} {trouble[tap.name]}")
            else:
                lost = f", {tap.lost} lost" if tap.lost else ""
                words.append(f"{tap.name}: {tap.received} packets{lost}")
        return not trouble, "; ".join(words)

    def counters(self) -> Mapping[str, int]:
        """Everything counted since the start, over all interfaces; the last four are what is held now."""
        counts = dict(self.counts.numbers())
        assemblies = self._assemblies.values()
        counts["damaged_blocks"] = self.taps.damaged_blocks
        counts["kernel_packets"] = sum(tap.received for tap in self.taps.sockets)
        counts["kernel_drops"] = sum(tap.lost for tap in self.taps.sockets)
        counts["interfaces_returned"] = self.taps.returned
        counts["reassembled"] = sum(assembly.fragments.counts.reassembled for assembly in assemblies)
        counts["fragments_expired"] = sum(assembly.fragments.counts.expired for assembly in assemblies)
        counts["fragments_refused"] = sum(assembly.fragments.counts.refused for assembly in assemblies)
        counts["fragments_evicted"] = sum(assembly.fragments.counts.evicted for assembly in assemblies)
        counts["tcp_gaps"] = sum(assembly.streams.counts.gaps for assembly in assemblies)
        counts["tcp_evicted"] = sum(assembly.streams.counts.evicted for assembly in assemblies)
        counts["datagrams_unfinished"] = sum(len(assembly.fragments) for assembly in assemblies)
        counts["streams"] = sum(len(assembly.streams) for assembly in assemblies)
        counts["interfaces"] = len(self.taps.sockets)
        counts["interfaces_silent"] = len(self.taps.trouble())
        return {f"capture_{name}": number for name, number in counts.items()}

    # ---- packets ----

    def _take(self, shape: Shape, packets: list[Packet]) -> None:
        """A block was read; no other one is until all of it is worked through."""
        self._time.read_block()
        self._shape = shape
        self._backlog.extend(packets)
        self._turn()

    def _turn(self) -> None:
        """Some packets of the backlog, and the next ones after a rest, so that nobody else waits long."""
        backlog, began = self._backlog, self._clock()
        for _ in range(min(len(backlog), BATCH)):
            try:
                self._packet(*backlog.popleft())
            except Exception as error:  # one packet that nobody foresaw must not end the capture
                self._failed(error)
        if backlog:
            self.taps.pause()
            self._after_rest(began, self._turn)
        elif self.taps.paused:
            self._after_rest(began, self._resume)

    def _after_rest(self, began: float, action: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later((self._clock() - began) * self._rest, action)

    def _resume(self) -> None:
        if self.taps.running:
            self.taps.resume()

    def _packet(self, when: float, data: bytes, length: int, kind: int, vlan: int) -> None:
        counts = self.counts
        counts.packets += 1
        counts.truncated += length > len(data)
        side = Side.IN
        if kind == OUTGOING:
            counts.outgoing += 1
            side = Side.OUT
        now = self._time.now(when)
        tagged = counts.vlan
        for message in self._assemblies[side].add(self._shape.value, data, now):
            self._message(message, side, when, now)
        if vlan != NO_VLAN and counts.vlan == tagged:  # its only tag is not in the bytes
            counts.vlan += 1

    def _tick(self) -> None:
        now = self._clock()
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        self.taps.tick()
        for side, assembly in self._assemblies.items():
            for message in assembly.streams.tick(now):
                self._message(message, side, self._wall(), now)
        if self._pairing is not None:
            self._pairing.tick(now)

    # ---- messages ----

    def _message(self, message: Message, side: Side, when: float, now: float) -> None:
        """Count one message and show it to whoever learns from it. Never raises."""
        read = self.counts.read(message)
        if read is None:
            return
        try:
            self._show(message, read, side, when, now)
        except Exception as error:  # nor hide the messages beside it
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.counts.failures += 1
        self._on_failure(error)

    def _show(self, message: Message, read: Scan, side: Side, when: float, now: float) -> None:
        addresses = self._observer.policy.addresses
        source, destination = address_text(message.source), address_text(message.destination)
        sender = addresses.sender(source)
        if side is Side.OUT or sender is None:
            side, peer = Side.OUT, addresses.sender(destination)
        else:
            peer = sender
        opens = read.method == "INVITE" and not read.to_tag
        if side is Side.IN or not opens:  # what the SBC begins is no attempt of a trunk
            seen = self._observer.observe(
                Observation(
                    message.raw, message.transport, source, message.source_port, destination,
                    message.destination_port, when,
                ),
                now,
            )  # fmt: skip
            if seen is not None:
                self.counts.attempts += 1
                self.counts.would_refuse += seen.would_refuse
        if self._pairing is not None and peer is not None:
            self._pairing.observe(read, side, peer.id, when, now, peer.default_country)
