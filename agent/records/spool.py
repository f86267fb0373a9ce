"""The spool as the service sees it: `put` returns at once, a thread of its own brings groups of records to the disk.

All state here belongs to the event loop; the thread has the store, and works on what it is handed. What waits is
bounded by number and by bytes; when it is too much, allowed calls are given up first, and counted. Trouble with the
disk never reaches a call: it shows in `health` and in the counters, and ends when the disk works again.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from agent.records.manifest import DroppedRange
from agent.records.rollup import ROLLUP_SECONDS, Counts, Look, roll_up
from agent.records.rows import RowEncoder, plain_row
from agent.records.settings import SpoolSettings
from agent.records.spool_store import HOUSEKEEPING_SECONDS, Group, SpoolStore
from agent.screening import Decision, Passed, RefusedCall, passed, refused

# After a failure; the queue holds what comes meanwhile.
RETRY_SECONDS: Final = 1.0
# A disk that has not answered for so long is a fault that somebody must look at.
STALLED_SECONDS: Final = 5.0
START_SECONDS: Final = 1.0
# Roll-ups that wait in memory: an hour without a disk.
ROLLUPS_MAX: Final = 360
# The thread gives the interpreter back after so many records: the event loop must not wait for a group of thousands.
# Measured with a loop that wakes every millisecond: see tests/benchmarks/records.py.
SLICE_RECORDS: Final = 8
# In a flood the queue matters more: a group of so many is encoded in longer slices, twice as fast.
FLOOD_GROUP: Final = 2000
FLOOD_SLICE: Final = 32
SLICE_PAUSE: Final = 2e-5


@dataclass(frozen=True, slots=True)
class Watermark:
    """Everything of this epoch up to and with this sequence is on disk, or reported as dropped."""

    epoch: int
    sequence: int


Waiting = Decision | Passed | RefusedCall


@dataclass(slots=True)
class _Queue:
    """What waits to be written, or is on its way: a new one begins with every group."""

    refused: deque[Waiting] = field(default_factory=deque)
    allowed: deque[Waiting] = field(default_factory=deque)
    rollups: list[dict[str, object]] = field(default_factory=list)
    flushes: list[asyncio.Future[Watermark]] = field(default_factory=list)
    lost_refused: int = 0
    lost_allowed: int = 0
    # Set when it is taken: how many records, and the bytes of their SIP messages.
    count: int = 0
    bytes: int = 0
    started: float = 0.0


class Spool:
    """A `service.RecordSink` that keeps records on disk. `clock` is monotonic seconds, `wall` epoch seconds."""

    name = "spool"

    def __init__(
        self,
        settings: SpoolSettings,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._clock, self._wall = clock, wall
        self._store = SpoolStore(settings)
        self._encoder = RowEncoder()
        self._sample = settings.sample_allowed
        self._sampled = 0.0
        self._records_max, self._bytes_max = settings.queue_records, settings.queue_bytes
        self._queue = _Queue()
        self._waiting = self._waiting_bytes = 0
        self._in_flight: _Queue | None = None
        self._overflows = self._errors = self._unwritable = 0
        self._trouble = "not started"
        self._wake, self._opened = asyncio.Event(), asyncio.Event()
        self._asked = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._tally: Counts | None = None
        self._look = Look()
        self._flushes: list[asyncio.Future[Watermark]] = []
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []

    # --- the hot path

    def put(self, decision: Decision) -> None:
        """Take one decided attempt. Returns at once, never raises; what cannot be kept is counted."""
        if decision.verdict.rule or decision.shadow:
            queue = self._queue.refused
        elif self._sample == 1.0 or self._in_sample():
            queue = self._queue.allowed
        else:
            return
        self._add(queue, decision, len(decision.attempt.message.raw))

    def put_passed(self, calls: Sequence[Passed]) -> None:
        """The same for calls that passed without a word, a batch at once. They are read when they are written."""
        if self._sample != 1.0:
            calls = [one for one in calls if self._in_sample()]
        size = sum([len(raw) for raw, _, _ in calls])
        room = self._records_max - self._waiting >= len(calls) and self._waiting_bytes + size <= self._bytes_max
        if not room or not calls:
            for one in calls:
                self._add(self._queue.allowed, one, len(one[0]))
            return
        self._waiting += len(calls)
        self._waiting_bytes += size
        self._queue.allowed.extend(calls)
        self._ask()

    def put_refused(self, one: RefusedCall) -> None:
        """The same for a call that nothing but a list refused."""
        self._add(self._queue.refused, one, len(one[0]))

    def _add(self, queue: deque[Waiting], one: Waiting, size: int) -> None:
        if (
            self._waiting >= self._records_max or self._waiting_bytes + size > self._bytes_max
        ) and not self._make_place(queue, size):
            return
        self._waiting += 1
        self._waiting_bytes += size
        queue.append(one)
        self._ask()

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._wake.set()

    def _in_sample(self) -> bool:
        """An exact share, in order of arrival: nothing that a caller can choose puts a call in or out."""
        self._sampled += self._sample
        if self._sampled < 1.0:
            return False
        self._sampled -= 1.0
        return True

    def _make_place(self, queue: deque[Waiting], size: int) -> bool:
        """In a full queue a refused call takes the place of the oldest allowed ones; anything else is lost."""
        taken = self._queue
        self._overflows += 1
        if queue is taken.refused:
            while taken.allowed:
                oldest = taken.allowed.popleft()
                self._waiting -= 1
                self._waiting_bytes -= len(oldest[0] if isinstance(oldest, tuple) else oldest.attempt.message.raw)
                taken.lost_allowed += 1
                if self._waiting < self._records_max and self._waiting_bytes + size <= self._bytes_max:
                    return True
            taken.lost_refused += 1
        else:
            taken.lost_allowed += 1
        return False

    # --- life

    async def start(self, tally: Counts | None = None) -> None:
        """Open the spool and begin to write. Trouble with the disk is no error: it shows in `health`.

        Waits for the disk START_SECONDS at the most: calls must be screened even when it never answers.

        With `tally` a roll-up of it is recorded every ROLLUP_SECONDS.
        """
        self._tally = tally
        self._look = Look(now=self._clock()) if tally is None else Look.at(tally, self._clock())
        self._stopping = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._wake, self._opened = asyncio.Event(), asyncio.Event()  # those of an earlier loop are bound to it
        self._task = asyncio.create_task(self._run(), name="spool")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await self._opened.wait()

    async def stop(self, grace: float) -> None:
        """Write what waits, within `grace` seconds, seal the segments and give the directory back."""
        if self._task is None or self._executor is None:
            return
        self._stopping = True
        self._wake.set()
        try:
            async with asyncio.timeout(grace):
                await self._task
                self._roll()
                await self._turn()
                while self._waiting and not self._trouble:
                    await self._turn()
                await self._in_thread(self._store.close)
        except TimeoutError:
            self._trouble = "stopped while the disk did not answer"
        except OSError as error:
            self._trouble = f"stopped: {self._in_words(error)}"
        except Exception as error:  # what ended the writer; the daemon must still come to its end
            self._trouble = f"stopped: {error!r}"
        finally:
            if self._waiting:
                self._trouble += f"; {self._waiting} records lost"
            self._executor.shutdown(wait=False)
            self._task = self._executor = None
            self._give_up_waiters()

    async def flush(self) -> Watermark:
        """Wait until all that was put so far is on disk. For as long as the disk does not work, this waits."""
        future: asyncio.Future[Watermark] = asyncio.get_running_loop().create_future()
        self._flushes.append(future)
        self._wake.set()
        return await future

    async def committed(self, sequence: int) -> None:
        """Wait until the watermark has reached `sequence`. Cancelled when the spool stops before."""
        if self._store.committed >= sequence:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append((sequence, future))
        await future

    # --- what it says of itself

    @property
    def watermark(self) -> Watermark:
        return Watermark(self._store.manifest.epoch, self._store.committed)

    @property
    def settled(self) -> Watermark:
        """The same, but for what a crash could still undo: numbers of records that were lost to a full queue a moment
        ago could be given again. What is told to others goes no further than this."""
        return Watermark(self._store.manifest.epoch, min(self._store.committed, self._store.settled))

    def uploaded(self, sequence: int) -> None:
        """Somebody else has everything up to and with this: it stays for as long as there is room, and goes first."""
        self._store.uploaded = sequence

    @property
    def dropped_ranges(self) -> tuple[DroppedRange, ...]:
        """What had to be let go, of this run and earlier ones."""
        return self._store.manifest.dropped

    @property
    def problems(self) -> tuple[str, ...]:
        """What was found damaged, in words with file and byte offset; the latest hundred."""
        return tuple(self._store.problems)

    def health(self) -> tuple[bool, str]:
        """(healthy, what is the matter)."""
        taken = self._in_flight
        if taken is not None and (stalled := self._clock() - taken.started) > STALLED_SECONDS:
            return False, f"the disk has not answered for {stalled:.0f} s; {self._waiting} records wait in memory"
        if self._task is not None and self._task.done() and not self._stopping:
            return False, f"the writer has ended by a fault of ours; {self._waiting} records wait in memory"
        if self._trouble:
            return False, f"{self._trouble}; {self._waiting} records wait in memory"
        if self._store.disk_short:
            ratio = self.settings.min_free_ratio
            return False, f"less than {ratio:.0%} of the disk is free: allowed calls are not recorded"
        counts = self._store.counts
        aside = f"; {counts.corrupt} damaged segments set aside" if counts.corrupt else ""
        return True, f"committed up to {self._store.committed}, {counts.bytes} bytes on disk{aside}"

    def _in_words(self, error: OSError) -> str:
        return f"{error.filename or self.settings.directory}: {error.strerror or error}"

    def counters(self) -> Mapping[str, int]:
        counts = self._store.counts
        return {
            "spool_bytes": counts.bytes,
            "spool_queue_records": self._waiting,
            "spool_records_committed": counts.committed,
            "spool_dropped_records": counts.dropped + self._queue.lost_refused + self._queue.lost_allowed,
            "spool_corrupt_segments": counts.corrupt,
            "spool_queue_overflows": self._overflows,
            "spool_errors": self._errors,
            "spool_unwritable_records": self._unwritable,
            "spool_syncs": counts.syncs,
        }

    # --- writing

    async def _run(self) -> None:
        await self._turn()
        self._opened.set()
        while not self._stopping:
            if not self._trouble:
                await self._work_comes()
            await self._pause(RETRY_SECONDS if self._trouble else self.settings.commit_interval)
            self._roll_if_due()
            await self._turn()

    async def _work_comes(self) -> None:
        """Sleep until there is something to write, a roll-up is due, or the bounds must be looked at."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOUSEKEEPING_SECONDS):
                await self._wake.wait()

    async def _pause(self, seconds: float) -> None:
        """Let a group gather; not for those who wait, and not when the queue is half full already."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        step = min(seconds, 0.05)
        while not self._stopping and (left := deadline - loop.time()) > 0:
            if not self._trouble and (self._flushes or self._waiting * 2 > self._records_max):
                return
            await asyncio.sleep(min(step, left))

    async def _turn(self) -> None:
        """One commit: hand what waits to the thread, then tell those who waited for it.

        After a failure the store still has the group, and the turn is another try; nothing new is handed over
        meanwhile, so that the bounds of the queue bound everything that is in memory.
        """
        self._wake.clear()
        self._asked = False
        trouble = ""
        try:
            if not self._store.is_open:
                await self._in_thread(self._store.open)
            if self._in_flight is None:
                self._take()
                await self._in_thread(self._commit, self._in_flight)
            else:
                self._in_flight.started = self._clock()
                await self._in_thread(self._store.write, Group())
        except OSError as error:
            trouble = self._in_words(error)
        except Exception as error:  # a fault of ours: this group may be lost, the next one need not be
            trouble = f"fault of the spool: {error!r}"
            self._lose_group(trouble)
        if trouble:
            self._errors += 1
        self._trouble = trouble
        self._land()

    def _take(self) -> None:
        taken, self._queue = self._queue, _Queue()
        taken.flushes, self._flushes = self._flushes, []
        taken.count, taken.bytes = self._waiting, self._waiting_bytes  # nothing else is on its way now
        taken.started = self._clock()
        self._in_flight = taken

    def _lose_group(self, trouble: str) -> None:
        """Count a group that a fault of ours may have cost; who waited for it must not take it for written."""
        taken = self._in_flight
        if taken is not None and not self._store.pending:
            self._unwritable += taken.count
            for flush in taken.flushes:
                flush.set_exception(RuntimeError(trouble))

    def _land(self) -> None:
        """Account for what is on disk now."""
        taken = self._in_flight
        if taken is not None and not self._store.pending:
            self._in_flight = None
            self._waiting -= taken.count
            self._waiting_bytes -= taken.bytes
            for flush in taken.flushes:
                if not flush.done():
                    flush.set_result(self.watermark)
        reached = self._store.committed
        for sequence, future in self._awaited:
            if sequence <= reached and not future.done():
                future.set_result(None)
        self._awaited = [entry for entry in self._awaited if not entry[1].done()]

    def _commit(self, taken: _Queue, now: float, when: float) -> None:
        """On the thread: encode and write."""
        group = Group(
            self._lines(taken.refused),
            [plain_row(row) for row in taken.rollups],
            self._lines(taken.allowed),
            taken.lost_refused,
            taken.lost_allowed,
        )
        self._store.write(group, now, when)

    def _lines(self, decisions: deque[Waiting]) -> list[bytes]:
        """On the thread: one line of JSON each, in slices. Empties the queue, and so gives messages back as it goes."""
        lines = []
        slice_records = SLICE_RECORDS if len(decisions) < FLOOD_GROUP else FLOOD_SLICE
        while decisions:
            try:
                one = decisions.popleft()
                lines.append(self._encoder.row(_in_full(one)))
            except Exception:
                self._unwritable += 1
            if not len(decisions) % slice_records:
                time.sleep(SLICE_PAUSE)
        return lines

    async def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        """Have the thread do `work(*arguments, now, when)`."""
        assert self._executor is not None
        call = partial(work, *arguments, self._clock(), self._wall())
        await asyncio.get_running_loop().run_in_executor(self._executor, call)

    # --- roll-ups

    def _roll_if_due(self) -> None:
        if self._clock() - self._look.now >= ROLLUP_SECONDS:
            self._roll()

    def _roll(self) -> None:
        """Queue a roll-up of what was counted since the last one."""
        if self._tally is None or len(self._queue.rollups) >= ROLLUPS_MAX:
            return  # the counts are not lost: the next roll-up covers the longer time
        look = Look.at(self._tally, self._clock())
        self._queue.rollups.append(roll_up(self._look, look, self._wall()))
        self._look = look

    # --- small things

    def _give_up_waiters(self) -> None:
        taken = self._in_flight
        flushes = self._flushes + (taken.flushes if taken is not None else [])
        for flush in flushes:
            flush.cancel()
        for _, future in self._awaited:
            future.cancel()
        self._flushes, self._awaited = [], []


def _in_full(one: Waiting) -> Decision:
    if not isinstance(one, tuple):
        return one
    return passed(one) if len(one) == 3 else refused(one)
