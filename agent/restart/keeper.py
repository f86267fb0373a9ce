"""Keeps a snapshot of what screening counts, and begins with the one that it finds: an edge of `agent.restart.state`.

Tables are read on the event loop, a part at a time; what costs is done in a thread: making sections, summing, writing.
No fork: a second process of this size is what a small host has no room for. A snapshot that cannot be written is said
by `health`; calls are screened all the same.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from agent.hashing import SCHEME, get_key, set_key
from agent.ops.log import Log
from agent.restart.files import NOTHING, Earlier, Writer, clocks, take_up
from agent.restart.settings import RestartSettings
from agent.restart.snapshot import Head
from agent.restart.state import Restored, Taking, restore, taking
from agent.screening import Screening

SHARE: Final = 50.0
"""Between two snapshots passes at least so many times what one kept calls waiting: a fiftieth of the time at most."""

SELDOM: Final = 60.0
"""Seconds that this may make of it, at most: an older one would be worth little."""

LATE: Final = 60.0
"""Seconds after which a snapshot that is being written is a disk that hangs."""

T = TypeVar("T")


def find_earlier(settings: RestartSettings, environment: Mapping[str, str], log: Log) -> Earlier:
    """What a process before this one left; from here on all hashes are by its key. Before anything is remembered."""
    place = settings.place(environment)
    if place is None:
        return NOTHING
    earlier = take_up(place, settings.max_bytes)
    if earlier.problem:
        log.warning("begins without what was counted before", error=earlier.problem)
    if earlier.head is None:
        return NOTHING
    if earlier.head.scheme != SCHEME:  # the other twin's: its hashes are of no use here
        log.warning("begins without what was counted before", error=f"was kept by {earlier.head.scheme}, not {SCHEME}")
        return NOTHING
    set_key(bytes.fromhex(earlier.head.key))
    return earlier


def _add(writer: Writer, take: Taking) -> None:
    writer.add(take())


class SnapshotKeeper:
    """Restores at the start, writes every few seconds and at the end."""

    name = "restart"

    def __init__(
        self, settings: RestartSettings, directory: Path, screening: Screening, earlier: Earlier, log: Log
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._screening = screening
        self._earlier = earlier
        self._log = log
        self._restored: Restored | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._written = self._failed = self._left_out = self._size = 0
        self._took = 0.0  # seconds, the latest one
        self._busy = 0.0  # of the event loop, the latest one
        self._begun: float | None = None  # monotonic, the one that is being written
        self._error = ""

    async def start(self) -> None:
        """Take over what there is, within bounds. Never raises for what a file holds."""
        self._thread = ThreadPoolExecutor(1, "restart")
        if self._earlier.head is not None:
            self._restored = self._take_over(self._earlier.head)
        self._earlier = NOTHING  # which is as large as all that was counted
        self._task = asyncio.create_task(self._periodically(), name="restart")

    def _take_over(self, head: Head) -> Restored:
        began = time.monotonic()
        last = began + self._settings.restore_seconds
        restored = Restored()
        gc.disable()  # it would look at all of it again and again, a third of the time
        try:
            now = clocks()
            restored = restore(self._screening, head, self._earlier.sections, now, lambda: time.monotonic() < last)
        except ValueError as error:  # its checksum is right, so we wrote it: half of it is better than none
            self._log.fault(error, "restart")
        finally:
            gc.enable()
        generation = self._screening.policy.generation
        self._log.info(
            "took over what was counted before",
            calls=restored.calls,
            attempts=restored.attempts,
            cells_of_rates=restored.cells,
            sections_left=restored.left,
            not_heard_seconds=round(restored.seconds, 3),
            clean=head.clean,
            bytes=self._earlier.size,
            milliseconds=round((time.monotonic() - began) * 1000, 1),
            policy_generation=generation if generation == head.generation else f"{head.generation}, now {generation}",
        )
        return restored

    async def stop(self, _grace: float) -> None:
        """Write the last one. The second time, leave it."""
        if self._ending.is_set():
            return
        self._ending.set()
        if self._task is not None:
            await self._task
        await self._write(clean=True)
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    async def _periodically(self) -> None:
        while not self._ending.is_set():
            try:
                await self._write(clean=False)
            except Exception as error:  # what is kept for later must not end what runs
                self._log.fault(error, "restart")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._ending.wait(), max(self._settings.interval_seconds, min(SHARE * self._busy, SELDOM))
                )

    async def _write(self, *, clean: bool) -> None:
        """One snapshot. A disk that does not take it is told of once per reason."""
        writer = Writer(self._directory, self._settings.max_bytes)
        self._begun = began = time.monotonic()
        try:
            await self._aside(lambda: writer.begin(self._head(clean=clean)))
            if not await self._add_all(writer, clean=clean):
                return
            await self._aside(writer.finish)
            self._written += 1
            self._size, self._left_out = writer.size, writer.left_out
            self._error = ""
        except OSError as error:
            self._failed += 1
            if self._error != (why := error.strerror or str(error)):
                self._log.warning("what is counted cannot be kept for a restart", error=f"{self._directory}: {why}")
            self._error = why
        finally:
            self._took, self._begun = time.monotonic() - began, None
            await self._aside(writer.abandon)  # nothing, where it is finished

    async def _add_all(self, writer: Writer, *, clean: bool) -> bool:
        """False if the end came in between: the last one follows."""
        steps, busy = taking(self._screening, time.monotonic), 0.0
        while clean or not self._ending.is_set():
            began = time.monotonic()
            take = next(steps, None)
            busy += time.monotonic() - began
            if take is None:
                self._busy = busy
                return True
            await self._aside(partial(_add, writer, take))
        return False

    def _head(self, *, clean: bool) -> Head:
        now, screening = clocks(), self._screening
        key, secret = get_key().hex(), screening.secret.hex()
        return Head(SCHEME, key, secret, screening.policy.generation, now.boot, now.monotonic, now.wall, clean)

    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def health(self) -> tuple[bool, str]:
        """Not well where a restart would lose what is counted."""
        if self._begun is not None and (late := time.monotonic() - self._begun) > LATE:
            return False, f"{self._directory}: being written for {late:.0f} s"
        if self._error:
            return False, f"{self._directory}: {self._error}"
        if self._left_out:
            return False, f"{self._left_out} parts of what is counted find no room in max_bytes"
        kept = f"{self._size} bytes kept, in {self._took * 1000:.1f} ms"
        if self._restored is None:
            return True, kept
        over = self._restored
        return True, f"{kept}; began with {over.calls} calls of {max(over.seconds, 0.0):.1f} s before"

    def counters(self) -> Mapping[str, int]:
        """Of snapshots, and what the start took over."""
        over = self._restored or Restored()
        return {
            "restart_snapshots": self._written,
            "restart_snapshots_failed": self._failed,
            "restart_restored_calls": over.calls,
            "restart_restored_attempts": over.attempts,
            "restart_restored_cells": over.cells,
            "restart_restored_sections_left": over.left,
            "restart_not_heard_milliseconds": round(max(over.seconds, 0.0) * 1000),
        }
