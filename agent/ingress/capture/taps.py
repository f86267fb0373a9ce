"""The interfaces that are captured: each with its packet socket, bound whenever the interface is there.

Knows interfaces, sockets and the event loop; must not know what a packet says. An interface that goes down is heard of
by an error on its socket, one that is deleted stays silent for ever: so the kernel's news of links are followed, and
looked after once more with every tick, in case that a bind came too early.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from agent.ingress.capture.settings import CaptureSettings
from agent.kernel.bpf import capture_filter
from agent.kernel.links import LinkWatch
from agent.kernel.packet import PacketSocket, Shape
from agent.kernel.ring import Packet

NOT_THERE: Final = "is not there"
DOWN: Final = "is down"


class Taps:
    """All interfaces. `take(shape, packets)` gets each block read; none is read between `pause` and `resume`."""

    def __init__(self, settings: CaptureSettings, take: Callable[[Shape, list[Packet]], None]) -> None:
        methods = tuple(method.encode() for method in settings.methods)

        def filter_of(shape: Shape, skip_outgoing: bool) -> bytes:
            ethernet = shape is Shape.ETHERNET
            return capture_filter(
                settings.ports, methods, ethernet=ethernet, skip_outgoing=skip_outgoing, tunnels=settings.tunnels
            )

        self.sockets = [
            PacketSocket(name, filter_of, settings.ring_bytes, promiscuous=settings.promiscuous)
            for name in settings.interfaces
        ]
        self.returned = 0  # interfaces that were gone and came back
        self.damaged_blocks = 0
        self._trouble: dict[str, str] = {}  # why an interface gives nothing
        self._take = take
        self._watch: LinkWatch | None = None
        self.paused = False
        self._readers: dict[str, int] = {}  # the file descriptor that the event loop watches for an interface
        self._was_bound: set[str] = set()

    @property
    def running(self) -> bool:
        """Whether the sockets are open."""
        return self._watch is not None

    def trouble(self) -> dict[str, str]:
        """The interfaces that give nothing now, and why: "is not there", "is down", ..."""
        return dict(self._trouble)

    def start(self) -> None:
        """Open every socket, and bind those whose interface is there. Raises PermissionError that names the capability,
        OSError; then nothing is left open."""
        self._watch = LinkWatch()
        try:
            for tap in self.sockets:
                tap.open()
                self.look_after(tap)
        except BaseException:
            self.close()
            raise
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._links_changed)

    def close(self) -> None:
        """Let go of everything; the counts stay."""
        self._forget_readers()
        for tap in self.sockets:
            tap.close()
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _forget_readers(self) -> None:
        for descriptor in self._readers.values():
            asyncio.get_running_loop().remove_reader(descriptor)
        self._readers.clear()

    def pause(self) -> None:
        """Leave packets in the rings for now."""
        if not self.paused:
            self.paused = True
            self._forget_readers()

    def resume(self) -> None:
        """Go on reading."""
        self.paused = False
        for tap in self.sockets:
            if tap.index:
                self._follow(tap)

    def tick(self) -> None:
        """Once a second: counts of the kernel, and interfaces that could not be bound when they appeared."""
        for tap in self.sockets:
            tap.count()
            self.look_after(tap)

    def read_rest(self) -> bool:
        """Read one more block of some interface; whether there was one."""
        return any(self._read(tap) for tap in self.sockets)

    def look_after(self, tap: PacketSocket) -> None:
        """Bind the socket to the interface that has its name now, if that is another than before. Never raises."""
        if self._watch is None:
            return
        link = self._watch.look(tap.name)
        if tap.index and (link is None or link.index != tap.index or not tap.bound):
            tap.unbind()
        if link is None:
            self._trouble[tap.name] = NOT_THERE
            return
        if not tap.index:
            try:
                tap.bind(link)
            except OSError as error:
                self._trouble[tap.name] = f"cannot be captured: {error.strerror}"
                return
            self.returned += tap.name in self._was_bound
            self._was_bound.add(tap.name)
            self._follow(tap)
        if link.up:
            self._trouble.pop(tap.name, None)
        else:
            self._trouble[tap.name] = DOWN

    def _follow(self, tap: PacketSocket) -> None:
        """Have the event loop watch the socket, which may be another than before."""
        if self.paused:
            return
        loop = asyncio.get_running_loop()
        before = self._readers.get(tap.name)
        if before == tap.fileno():
            return
        if before is not None:
            loop.remove_reader(before)
        loop.add_reader(tap.fileno(), partial(self._readable, tap))
        self._readers[tap.name] = tap.fileno()

    def _links_changed(self) -> None:
        assert self._watch is not None
        if self._watch.drain():
            for tap in self.sockets:
                self.look_after(tap)

    def _readable(self, tap: PacketSocket) -> None:
        if not self._read(tap) and tap.take_error():
            self.look_after(tap)

    def _read(self, tap: PacketSocket) -> bool:
        try:
            packets = tap.read()
        except ValueError:
            self.damaged_blocks += 1
            return True
        if packets:
            self._take(tap.shape, packets)
        return packets is not None
