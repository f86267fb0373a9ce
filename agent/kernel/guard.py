"""The guard against floods as one part of the daemon: its table, the program of eBPF in front of that, blocked sources,
and what the kernel counted.

Knows what is to be in the kernel and keeps it there; decides nothing: `block` is called by whoever applies policy. All
work on the kernel is done in a thread of its own, since another program's rules may make it wait.

With `on_death = "hold"` the table outlives the agent, and the next one takes over the blocks that have time left. The
program never does: it only does sooner what the table would do, and where it cannot be had, or falls silent since the
event loop hangs, the table does it.
"""

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range
from typing import Any, Final

from agent.kernel.ebpf import VerifierError
from agent.kernel.fast_path import BEAT_SECONDS, FastPath
from agent.kernel.netlink import KernelError
from agent.kernel.nft import Nft
from agent.kernel.ruleset import Element
from agent.kernel.ruleset_wire import ElementFound
from agent.kernel.settings import KernelSettings, Network
from agent.kernel.tables import GUARD, Blocks, block_sets, guard_table

LOOK_SECONDS: Final = 5.0
"""Between two readings of the kernel's counters, which take some milliseconds of the interpreter."""

BLOCK_MAX_SECONDS: Final = 86_400.0
"""One day: what is to be kept away for longer is for the firewall of whoever runs the network."""

_READ: Final = ("invites", "empty_lines", "exempt", "emergency", "blocked", "flood")


class Guard:
    """A component of the daemon (agent.ops.component.Server). `clock` is monotonic seconds."""

    name: Final = "kernel"

    def __init__(
        self,
        settings: KernelSettings,
        on_failure: Callable[[Exception], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._clock = clock
        self._nft = Nft()
        self._fast = FastPath()
        self._without_fast = ""  # why there is no program
        self._not_taken: VerifierError | None = None  # a fault of ours, to be told
        self._worker = ThreadPoolExecutor(1, "kernel-guard")
        self._blocks: dict[Network, float] = {}  # until when
        self._read = dict.fromkeys(_READ, 0)  # by rules of this table
        self._before = dict.fromkeys(_READ, 0)  # by those that it replaced
        self._refused_blocks = 0
        self._reinstalled = 0
        self._errors = 0
        self._reassembles = False
        self._running = False
        self._trouble = ""
        self._dropped_early = dict.fromkeys(_READ, 0)  # of those, by the program
        self._beside: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Install the table, and the program unless it is not wanted or cannot be had. Raises PermissionError that
        names the capability which is missing, KernelError, OSError."""
        try:
            self._nft.open()
            await self._in_thread(self._take_over)
        except BaseException:
            self._close()
            raise
        self._running = True
        if self._not_taken is not None:
            self._on_failure(self._not_taken)
        self._beside = [asyncio.create_task(work) for work in (self._keep_looking(), self._keep_beating())]

    async def stop(self, grace: float) -> None:  # noqa: ARG002  there is nothing to wait for
        """Remove the table, or leave it if it is to be held."""
        if not self._running:
            return
        self._running = False
        for task in self._beside:
            task.cancel()
        await self._in_thread(self._fast.close)
        if self._settings.on_death == "pass":
            try:
                await self._in_thread(self._nft.remove, GUARD)
            except OSError as error:
                self._on_failure(error)
        self._close()

    def _close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._fast.close()
        self._nft.close()

    # ---- what policy asks for

    async def block(self, source: Network, seconds: float) -> bool:
        """Drop INVITEs of a source for so many seconds, a day at most; a longer block of it stays. False, and counted,
        if there are too many. Raises KernelError, ValueError for seconds that are none."""
        if not 0.0 < seconds <= BLOCK_MAX_SECONDS:
            raise ValueError(f"{seconds!r} is not within 0 and {BLOCK_MAX_SECONDS:g} seconds")
        self._forget_expired()
        known = self._blocks.get(source)
        if known is None and len(self._blocks) >= self._settings.max_blocks:
            self._refused_blocks += 1
            return False
        until = self._clock() + seconds
        if known is not None and known >= until:
            return True
        self._blocks[source] = until
        if known is None and source.prefixlen == source.max_prefixlen:  # one element is quicker than all of them
            one = next(one for one, _ in block_sets(self._settings, {}) if one.name == f"blocked{source.version}")
            element = Element(source.network_address.packed, seconds=seconds)
            await self._in_thread(self._nft.add, GUARD, one, [element])
            await self._in_thread(self._block_early, source, seconds)
        else:
            await self._fill()
        return True

    async def unblock(self, source: Network) -> bool:
        """Let a source in again; False if it was not blocked. Raises KernelError."""
        self._forget_expired()
        if self._blocks.pop(source, None) is None:
            return False
        await self._fill()
        return True

    def blocks(self) -> dict[Network, float]:
        """Every blocked source, and the seconds that it has left."""
        self._forget_expired()
        now = self._clock()
        return {source: until - now for source, until in self._blocks.items()}

    async def apply(self, settings: KernelSettings) -> None:
        """Go on with other settings: one table takes the place of the other between two packets, blocks stay. Raises
        KernelError; then the old one is still there."""
        before, self._settings = self._settings, settings
        try:
            await self._in_thread(self._install, self.blocks())
        except BaseException:
            self._settings = before
            raise

    # ---- in the thread

    def _take_over(self) -> None:
        self._reassembles = self._nft.reassembles()
        found = self._nft.find(GUARD)
        if found is not None and not found.owner:
            self._recover()
        self._install(self.blocks())

    def _open_fast(self, blocks: Blocks) -> None:
        """The program in front of the table, if it can be had. Raises OSError if it must be."""
        self._fast.close()
        self._without_fast = ""
        if self._settings.engine == "nftables":
            return
        if self._settings.mode == "shadow":
            self._without_fast = "nothing is to be dropped"
            return
        try:
            self._fast.open(self._settings, blocks)
        except OSError as error:
            if self._settings.engine == "ebpf":
                raise
            self._without_fast = (error.strerror or str(error)).splitlines()[0]
            self._not_taken = error if isinstance(error, VerifierError) else None
        self._fast.beat()

    def _block_early(self, source: Network, seconds: float) -> None:
        """What the map has no room for now, the table drops, and the next look tries again."""
        if self._fast.is_open:
            with contextlib.suppress(OSError):
                self._fast.block(source, seconds)

    def _fill_early(self, blocks: Blocks) -> None:
        if self._fast.is_open:
            self._fast.fill(blocks)

    def _install(self, blocks: Blocks) -> None:
        if self._running:
            self._count()
        self._nft.install(guard_table(self._settings, blocks, reassembles=self._reassembles))
        self._before, self._read = self._total(), dict.fromkeys(_READ, 0)
        self._open_fast(blocks)

    def _recover(self) -> None:
        """Take over the blocks of a table that was held."""
        now = self._clock()
        for one, _ in block_sets(self._settings, {}):
            try:
                found = self._nft.elements(GUARD, one.name)
            except KernelError:  # a table of another version of us
                continue
            for source, seconds in networks_of(found, ranges=one.ranges):
                self._blocks[source] = now + seconds

    def _count(self) -> None:
        counted = self._nft.counters(GUARD)
        self._read = {name: counted.get(name, 0) for name in _READ}
        self._dropped_early |= self._fast.counts()

    # ---- beside that

    async def _fill(self) -> None:
        blocks = self.blocks()
        await self._in_thread(self._nft.fill, GUARD, block_sets(self._settings, blocks))
        await self._in_thread(self._fill_early, blocks)

    async def _keep_beating(self) -> None:
        """In the event loop, since it is that which must be alive."""
        while True:
            self._fast.beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Read the kernel's counters; if somebody has removed the table, make it again. Never raises."""
        try:
            await self._in_thread(self._look_once, self.blocks())
        except Exception as error:
            self._errors += 1
            self._trouble = str(error)
            if not isinstance(error, OSError):
                self._on_failure(error)
        else:
            self._trouble = ""

    def _look_once(self, blocks: Blocks) -> None:
        try:
            self._count()
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            self._gone(blocks)
        else:
            if self._nft.find(GUARD) is None:
                self._gone(blocks)
        if self._fast.is_open:
            self._fast.follow()
            self._fast.fill(blocks)

    def _gone(self, blocks: Blocks) -> None:
        self._before, self._read = self._total(), dict.fromkeys(_READ, 0)
        self._nft.install(guard_table(self._settings, blocks, reassembles=self._reassembles))
        self._reinstalled += 1

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._worker, partial(work, *arguments))

    def _forget_expired(self) -> None:
        now = self._clock()
        self._blocks = {source: until for source, until in self._blocks.items() if until > now}

    def _total(self) -> dict[str, int]:
        """By the table alone, since the agent began."""
        return {name: self._before[name] + self._read[name] for name in _READ}

    # ---- how it is

    def health(self) -> tuple[bool, str]:
        """Whether the kernel guards, and how."""
        if not self._running:
            return False, "not running"
        if self._trouble:
            return False, f"what is in the kernel cannot be looked after: {self._trouble}"
        settings = self._settings
        ports = ", ".join(map(str, settings.ports))
        limit = f"at most {settings.flood_rate} INVITEs/s of one source" if settings.flood_rate else "no flood limit"
        shadow = "; shadow: nothing is dropped" if settings.mode == "shadow" else ""
        how = f"guards UDP port {ports}: {limit}, {len(self.blocks())} sources blocked{shadow}"
        return True, f"{how}; {self._early()}"

    def _early(self) -> str:
        """Where the program is."""
        fast = self._fast
        if fast.way is None:
            return f"nftables alone: {self._without_fast}" if self._without_fast else "nftables alone"
        refused = "".join(f"; not on {name}: {why}" for name, why in sorted(fast.refused.items()))
        return f"eBPF ({fast.how}) on {', '.join(fast.interfaces) or 'no interface'}{refused}"

    def counters(self) -> Mapping[str, int]:
        """As read last; `kernel_blocks` is what is blocked now. `kernel_blocked` and `kernel_flood` are INVITEs that
        were dropped, or in shadow mode would have been; `kernel_dropped_early` those of them that the program of eBPF
        dropped."""
        total = self._total()
        counts = {name: total[name] + self._dropped_early[name] for name in _READ} | {
            "dropped_early": self._dropped_early["blocked"] + self._dropped_early["flood"],
            "early_interfaces": len(self._fast.interfaces),
            "blocks": len(self._blocks),
            "refused_blocks": self._refused_blocks,
            "reinstalled": self._reinstalled,
            "errors": self._errors,
        }
        return {f"kernel_{name}": number for name, number in counts.items()}


def networks_of(found: list[ElementFound], *, ranges: bool) -> list[tuple[Network, float]]:
    """What the elements of a set block, with the seconds left. Of ranges the kernel tells both ends, in any order."""
    if not ranges:
        return [(ip_network(one.key), one.seconds or 0.0) for one in found if one.seconds]
    edges = sorted(found, key=lambda one: (one.key, not one.is_end))
    out: list[tuple[Network, float]] = []
    for number, begin in enumerate(edges):
        if begin.is_end or not begin.seconds:
            continue
        following = edges[number + 1] if number + 1 < len(edges) else replace(begin, key=b"")
        first = ip_address(begin.key)
        beyond = int.from_bytes(following.key, "big") if following.key else 1 << first.max_prefixlen
        last: IPv4Address | IPv6Address = type(first)(beyond - 1)
        out += [(network, begin.seconds) for network in summarize_address_range(first, last)]
    return out
