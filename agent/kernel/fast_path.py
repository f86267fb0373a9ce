"""The program of eBPF in front of the guard's table: at which interfaces it is, whom it keeps away, what it dropped.

Knows maps, links and interfaces; decides nothing, and nothing depends on it: what it does not drop, the table does. It
ends with this process, kill -9 included, as its links do, and falls silent when `beat` is no longer called.

All but `beat` and what it tells of itself takes system calls, and one thread at a time; `beat` is for the event loop,
whose life it proves, and writes one number.
"""

import contextlib
import errno
import mmap
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.kernel.ebpf import Attach, Link, Map, Program, VerifierError
from agent.kernel.ebpf_guard import (
    BLOCKED,
    BLOCKED_NETS,
    CONTROL,
    COUNTED,
    COUNTS,
    EXEMPT,
    SECOND,
    TIME,
    address_key,
    exempt_keys,
    guard_code,
    guard_maps,
    prefix_key,
)
from agent.kernel.entrances import Entrance, entrances
from agent.kernel.settings import KernelSettings, Network

BEAT_SECONDS: Final = 0.5
"""Between two signs of life."""

ALIVE_SECONDS: Final = 2.0
"""After the last of them all packets pass: three may be late on a busy machine."""

INTERFACES_MAX: Final = 64
"""Interfaces with the program; those of containers beyond are guarded by the table alone."""

_NAMESPACE: Final = Path("/proc/thread-self/ns/net")
_TIME_OFFSETS: Final = Path("/proc/self/timens_offsets")


def program_name() -> str:
    """Of the program in this network namespace, which is in its name: the kernel's list of programs is one for all."""
    return f"sbc_{_NAMESPACE.stat().st_ino & 0xFFFFFFFF:08x}"


class _NoSuchWayError(OSError):
    """This kernel has no such attachment."""


@dataclass(slots=True)
class _At:
    """Where the program is. `own`: a program for this interface alone (XDP)."""

    entrance: Entrance
    link: Link
    own: Program | None

    def close(self) -> None:
        self.link.close()
        if self.own is not None:
            self.own.close()


class FastPath:
    """Not open when made. May be opened again after `close`; counts go on."""

    def __init__(self, ways: Sequence[Attach] = tuple(Attach)) -> None:
        """`ways` to attach it are tried in this order."""
        self._ways = ways
        self.way: Attach | None = None
        self.how = ""
        """That in words, and why it is no better one."""
        self.refused: dict[str, str] = {}
        """Interfaces that did not take it, and why."""
        self._settings = KernelSettings()
        self._name = ""
        self._maps: dict[str, Map] = {}
        self._control: mmap.mmap | None = None
        self._alive: memoryview | None = None
        self._shared: Program | None = None
        self._at: dict[int, _At] = {}
        self._written: dict[Network, int] = {}  # until when, as the maps have it
        self._before = dict.fromkeys(COUNTED, 0)

    # ---- its life

    def open(self, settings: KernelSettings, blocks: Mapping[Network, float]) -> None:
        """Load it and put it where packets enter; `blocks` are seconds. It is silent until the first `beat`. Raises
        OSError in words: the capability that is missing, what the kernel has not, what the verifier says."""
        try:
            self._open(settings, blocks)
        except BaseException:
            self.close()
            raise

    def _open(self, settings: KernelSettings, blocks: Mapping[Network, float]) -> None:
        self._load_all(settings)
        self.fill(blocks)
        self.follow()
        if self.refused and not self._at:
            name, why = next(iter(self.refused.items()))
            raise OSError(errno.EBUSY, f"no interface takes it; {name}: {why}")

    def _load_all(self, settings: KernelSettings) -> None:
        if _clock_is_shifted():
            raise OSError(errno.ENOTSUP, "in a time namespace the clock is not the one that programs read")
        self._settings, self._name = settings, program_name()
        for spec in guard_maps(settings):
            self._maps[spec.name] = Map.create(spec)
        for key in exempt_keys(settings):
            self._maps[EXEMPT].set(key, bytes(4))
        self._control = self._maps[CONTROL].mapped()
        self._alive = memoryview(self._control)[: TIME.size].cast("Q")
        self.way = self._find_way()

    def probe(self, settings: KernelSettings) -> str:
        """How it would be attached, in words; nothing is left. Raises OSError as `open` does."""
        try:
            self._load_all(settings)
            return self.how
        finally:
            self.close()

    def close(self) -> None:
        """Take it from everywhere."""
        if COUNTS in self._maps:
            self._before = self.counts()
        for one in self._at.values():
            one.close()
        if self._shared is not None:
            self._shared.close()
        if self._alive is not None:
            self._alive.release()
        if self._control is not None:
            self._control.close()
        for each in self._maps.values():
            each.close()
        self._at, self._maps, self._written, self.refused = {}, {}, {}, {}
        self._shared = self._control = self._alive = self.way = None

    @property
    def is_open(self) -> bool:
        """Whether it is loaded."""
        return self.way is not None

    @property
    def interfaces(self) -> list[str]:
        """Where it is."""
        return sorted(one.entrance.name for one in list(self._at.values()))  # the other thread may change it

    def beat(self) -> None:
        """A sign of life: it works for another two seconds."""
        alive = self._alive
        if alive is not None:
            with contextlib.suppress(ValueError):  # the other thread closes it this moment
                alive[0] = time.monotonic_ns() + round(ALIVE_SECONDS * SECOND)

    def follow(self) -> None:
        """Put it at interfaces that are new, or have another hardware address; forget those that are gone. Raises
        OSError if the kernel does not tell which there are."""
        now = {one.index: one for one in entrances()[:INTERFACES_MAX]}
        for index, at in list(self._at.items()):
            if now.get(index) != at.entrance:
                at.close()
                del self._at[index]
        refused = {}
        for index, entrance in now.items():
            if index in self._at:
                continue
            try:
                self._at[index] = self._attach(entrance)
            except OSError as error:
                refused[entrance.name] = error.strerror or str(error)
        self.refused = refused

    def _find_way(self) -> Attach:
        """The first that this kernel has, tried at the loopback for a moment. Raises OSError of the last one."""
        *others, last = self._ways
        without: list[str] = []
        for way in others:
            try:
                return self._try(way, without)
            except (VerifierError, _NoSuchWayError) as error:
                without.append(str(error.strerror).splitlines()[0])
        return self._try(last, without)

    def _try(self, way: Attach, without: list[str]) -> Attach:
        program = self._load(way, bytes(6))
        try:
            program.attach_to(socket.if_nametoindex("lo")).close()
        except OSError as error:
            program.close()
            if error.errno == errno.EINVAL:
                words = f"this kernel has no {way.title}, which came with Linux {way.since}"
                raise _NoSuchWayError(error.errno, words) from None
            raise
        if way is Attach.TCX:
            self._shared = program
        else:
            program.close()
        self.how = ": ".join([way.title, *without])
        return way

    def _attach(self, entrance: Entrance) -> _At:
        if self._shared is not None:
            return _At(entrance, self._shared.attach_to(entrance.index), None)
        own = self._load(Attach.XDP, entrance.station)
        try:
            return _At(entrance, own.attach_to(entrance.index), own)
        except OSError:
            own.close()
            raise

    def _load(self, way: Attach, station: bytes = b"") -> Program:
        return Program.load(guard_code(self._settings, way, station), self._maps, way, self._name)

    # ---- whom it keeps away

    def fill(self, blocks: Mapping[Network, float]) -> None:
        """Block these for so many seconds, and nobody else. Raises OSError."""
        now = time.monotonic_ns()
        wanted = {one: now + round(seconds * SECOND) for one, seconds in _longest(blocks).items()}
        for gone in self._written.keys() - wanted.keys():
            self._map_of(gone).delete(_key(gone))
            del self._written[gone]
        for one, until in wanted.items():
            self._write(one, until)

    def block(self, source: Network, seconds: float) -> None:
        """Block one address. Raises OSError."""
        self._write(source, time.monotonic_ns() + round(seconds * SECOND))

    def _write(self, one: Network, until: int) -> None:
        known = self._written.get(one)
        if known is not None and abs(known - until) < _SAME:
            return
        self._map_of(one).set(_key(one), TIME.pack(until))
        self._written[one] = until

    def _map_of(self, one: Network) -> Map:
        return self._maps[BLOCKED if one.prefixlen == one.max_prefixlen else BLOCKED_NETS]

    # ---- what it did

    def counts(self) -> dict[str, int]:
        """What was dropped here, under the names of the table's counters. Raises OSError."""
        read = self._maps[COUNTS].sums() if COUNTS in self._maps else (0,) * len(COUNTED)
        return {name: self._before[name] + number for name, number in zip(COUNTED, read, strict=True)}


_SAME: Final = SECOND // 20
"""Nanoseconds: times that differ by less were the same, and took some time on their way."""


def _key(one: Network) -> bytes:
    return address_key(one.network_address.packed) if one.prefixlen == one.max_prefixlen else prefix_key(one)


def _longest(blocks: Mapping[Network, float]) -> dict[Network, float]:
    """The kernel finds the longest prefix that covers an address; its time must be the longest of all that do."""
    lengths = sorted({(one.version, one.prefixlen) for one in blocks if one.prefixlen < one.max_prefixlen})
    out = dict(blocks)
    for one in blocks:
        if one.prefixlen == one.max_prefixlen:
            continue
        covering = [
            one.supernet(new_prefix=n) for version, n in lengths if version == one.version and n < one.prefixlen
        ]
        out[one] = max([blocks[one], *(blocks[wide] for wide in covering if wide in blocks)])
    return out


def _clock_is_shifted() -> bool:
    """Whether CLOCK_MONOTONIC of this process is another than the kernel's (time_namespaces(7))."""
    try:
        rows = _TIME_OFFSETS.read_text().splitlines()
    except OSError:
        return False  # a kernel without them
    return any(row.split()[1:] != ["0", "0"] for row in rows if row.startswith("monotonic"))
