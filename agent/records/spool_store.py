"""The spool on disk: numbers records, writes them in groups, keeps to the bounds, says what it had to let go.

Blocks; runs on the spool's own thread only. After an OSError nothing is lost: what was not yet on disk is kept in
memory (`pending`) and written by the next call. Sequence numbers are given when a group is written, refused first;
records that a full queue or a short disk cost get numbers too, so that no number is ever missing without a reason.
"""

import contextlib
import errno
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent.records.manifest import (
    DISK_SHORT,
    NOT_WRITTEN,
    QUEUE_FULL,
    TOO_OLD,
    TOTAL_BYTES,
    DroppedRange,
    Manifest,
)
from agent.records.naming import STREAMS
from agent.records.segment import Kind, SegmentHeader, encode_batches
from agent.records.settings import SpoolSettings
from agent.records.spool_files import OpenSegment, Stored, free_ratio, lock_directory, stream_of
from agent.records.spool_recovery import Recovered, examine, recover, set_aside_in, write_manifest

# Each costs an open at start; a process that is restarted every few seconds for days makes many.
SEGMENTS_MAX: Final = 8192
# The bounds and the free space are looked at this often; a second of the fastest flood is 10 MB.
HOUSEKEEPING_SECONDS: Final = 1.0
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Group:
    """What one commit is to write: lines of JSON, and how many records a full queue has cost since the last one."""

    refused: Sequence[bytes] = ()
    rollups: Sequence[bytes] = ()
    allowed: Sequence[bytes] = ()
    lost_refused: int = 0
    lost_allowed: int = 0


@dataclass(frozen=True, slots=True)
class _Write:
    stream: Kind
    last: int
    count: int
    data: bytes


@dataclass(slots=True)
class StoreCounts:
    """Since the start of the process, but for `bytes`, which is what is on disk."""

    bytes: int = 0
    committed: int = 0
    dropped: int = 0
    corrupt: int = 0
    syncs: int = 0


class SpoolStore:
    """One directory. Open it, then write groups; any call may raise OSError and may then be tried again."""

    def __init__(self, settings: SpoolSettings) -> None:
        self.counts = StoreCounts()
        self.problems: deque[str] = deque(maxlen=100)
        self.manifest = Manifest(0)
        self.disk_short = False
        # The last sequence that is on disk: everything up to it is, or is reported as dropped.
        self.committed = 0
        # The last sequence that will never be given again, whatever happens to this process or its host.
        self.settled = 0
        # What somebody else has for good: it may go without being a loss.
        self.uploaded = 0
        self._settings = settings
        self._directory = settings.directory
        self._lock = -1
        self._next = 1
        self._open: dict[Kind, OpenSegment] = {}
        self._sealed: dict[Kind, deque[Stored]] = {stream: deque() for stream in STREAMS}
        self._unread: deque[Stored] = deque()
        self._aside: list[tuple[Path, int]] = []
        self._pending: deque[_Write] = deque()
        self._manifest_behind = False
        self._next_look = 0.0

    @property
    def is_open(self) -> bool:
        return self._lock >= 0

    @property
    def pending(self) -> bool:
        """Whether something that was handed over is not on disk yet."""
        return bool(self._pending)

    def open(self, now: float, when: float) -> None:
        """Take the directory and put right what a crash left. Raises OSError when it cannot be had or written."""
        lock = lock_directory(self._directory)
        try:
            found = recover(self._directory, now, when)
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        self.manifest = found.manifest
        self._next = found.manifest.next
        self.committed = self._next - 1
        for stored in found.segments:
            self._sealed[stored.name.stream].append(stored)
            self.settled = max(self.settled, stored.name.last)
        self._unread.extend(found.unread)
        self._report(found)
        self._manifest_behind = True
        self._next_look = now
        self.keep_house(now, when)

    def write(self, group: Group, now: float, when: float) -> None:
        """Put a group on disk, after what an earlier failure left. On return all of it is there.

        Raises OSError; what was not written is then pending, and the caller comes again with an empty group.
        """
        self._write_pending(now, when)
        self._number(group, when)
        self._write_pending(now, when)
        if now >= self._next_look:
            self.keep_house(now, when)

    def close(self, now: float, when: float) -> None:
        """Seal what is open and give the directory back. What is still pending is tried once more."""
        if not self.is_open:
            return
        try:
            self._write_pending(now, when)
        finally:
            for stream in list(self._open):
                self._seal(stream)
            with contextlib.suppress(OSError):
                self._save_manifest()
            os.close(self._lock)
            self._lock = -1

    # --- writing

    def _number(self, group: Group, when: float) -> None:
        """Give sequence numbers, frame the records and queue them to be written."""
        self._lose(Kind.REFUSED, group.lost_refused, QUEUE_FULL, when)
        self._lose(Kind.ALLOWED, group.lost_allowed, QUEUE_FULL, when)
        self._frame(Kind.REFUSED, group.refused, when)
        self._frame(Kind.ROLLUP, group.rollups, when)
        if self.disk_short:
            self._lose(Kind.ALLOWED, len(group.allowed), NOT_WRITTEN, when)
        else:
            self._frame(Kind.ALLOWED, group.allowed, when)
        if not self._pending:
            self.committed = self._next - 1

    def _frame(self, kind: Kind, lines: Sequence[bytes], when: float) -> None:
        for count, data in encode_batches(kind, self._next, lines, when):
            self._next += count
            self._pending.append(_Write(stream_of(kind), self._next - 1, count, data))

    def _lose(self, kind: Kind, count: int, reason: str, when: float) -> None:
        if count:
            first = self._next
            self._next += count
            self._dropped(DroppedRange(self.manifest.epoch, first, self._next - 1, kind.word, count, reason, when))

    def _write_pending(self, now: float, when: float) -> None:
        while self._pending:
            try:
                self._write_some(now, when)
            except OSError as error:
                if error.errno not in _FULL or not self._make_room(when):
                    raise

    def _write_some(self, now: float, when: float) -> None:
        """Write the pending batches of one stream that fit its segment, as one commit."""
        stream = self._pending[0].stream
        segment = self._segment(stream, now, when)
        run: list[_Write] = []
        size = segment.size
        for write in self._pending:
            if write.stream is not stream or (run and size + len(write.data) > self._settings.segment_bytes):
                break
            run.append(write)
            size += len(write.data)
        records = sum(write.count for write in run)
        try:
            segment.append(b"".join([write.data for write in run]), run[-1].last, records)
        except OSError:
            del self._open[stream]
            self._keep(segment.abandon())
            raise
        for _ in run:
            self._pending.popleft()
        self.committed = run[-1].last if self._pending else self._next - 1
        self.settled = max(self.settled, run[-1].last)
        self.counts.committed += records
        self.counts.syncs += 1
        if segment.size >= self._settings.segment_bytes:
            self._seal(stream)

    def _segment(self, stream: Kind, now: float, when: float) -> OpenSegment:
        segment = self._open.get(stream)
        if segment is not None:
            full = segment.size + len(self._pending[0].data) > self._settings.segment_bytes
            if not (full and segment.count) and now - segment.born < self._settings.segment_seconds:
                return segment
            self._seal(stream)
        write = self._pending[0]
        header = SegmentHeader(stream, self.manifest.epoch, write.last - write.count + 1, when)
        segment = self._open[stream] = OpenSegment(self._directory, header, now)
        self.counts.syncs += 1
        return segment

    def _seal(self, stream: Kind) -> None:
        self._keep(self._open.pop(stream).seal())

    def _keep(self, stored: Stored | None) -> None:
        if stored is not None:
            self._sealed[stored.name.stream].append(stored)

    # --- bounds

    def keep_house(self, now: float, when: float) -> None:
        """Seal what is old, keep to the bounds, look at one segment of an earlier run. Raises OSError."""
        for stream, segment in list(self._open.items()):
            if segment.count and now - segment.born >= self._settings.segment_seconds:
                self._seal(stream)
        self._keep_age(now, when)
        self._keep_total(when)
        self._keep_free(when)
        self._read_one(when)
        self._count_bytes()
        if self._manifest_behind:
            self._save_manifest()
        self._next_look = now + HOUSEKEEPING_SECONDS

    def _keep_age(self, now: float, when: float) -> None:
        for sealed in self._sealed.values():
            while sealed and now - sealed[0].born > self._settings.max_age_seconds:
                self._drop(sealed.popleft(), TOO_OLD, when)

    def _keep_total(self, when: float) -> None:
        self._count_bytes()
        while self._total() > self._settings.max_bytes or sum(map(len, self._sealed.values())) > SEGMENTS_MAX:
            if self._aside:
                self._drop_aside()
                continue
            oldest = self._uploaded_ones() or self._sealed[Kind.ALLOWED] or self._sealed[Kind.REFUSED]
            if not oldest:
                return
            self._drop(oldest.popleft(), TOTAL_BYTES, when)
            self._count_bytes()

    def _keep_free(self, when: float) -> None:
        """Under the ratio allowed calls go, new ones too; what was refused is evidence and stays as long as it may.

        One segment at a look: some file systems tell of freed room late, and ENOSPC makes room at once anyway.
        """
        self.disk_short = free_ratio(self._directory) < self._settings.min_free_ratio
        if self.disk_short:
            self._make_room(when)

    def _make_room(self, when: float) -> bool:
        """Let go of a segment: one that is uploaded, else the oldest of allowed calls, the one that is being written
        too. False when there is none."""
        sealed = self._uploaded_ones() or self._sealed[Kind.ALLOWED]
        if not sealed:
            for stream in [s for s, one in self._open.items() if one.count and one.last <= self.uploaded]:
                self._seal(stream)
            if not self._uploaded_ones() and Kind.ALLOWED in self._open:
                self._seal(Kind.ALLOWED)
            sealed = self._uploaded_ones() or self._sealed[Kind.ALLOWED]
        if not sealed:
            return False
        self._drop(sealed.popleft(), DISK_SHORT, when)
        return True

    def _drop(self, stored: Stored, reason: str, when: float) -> None:
        """First the manifest says so, then the file goes: a crash in between is finished by the next start.

        What is uploaded is no loss, and just goes.
        """
        name = stored.name
        if name.last <= self.uploaded:
            with contextlib.suppress(FileNotFoundError):
                stored.path.unlink()
            return
        self._dropped(
            DroppedRange(self.manifest.epoch, name.first, name.last, name.stream.word, name.count, reason, when)
        )
        with contextlib.suppress(OSError):  # a full disk may not take it; making room must go on
            self._save_manifest()
        with contextlib.suppress(FileNotFoundError):
            stored.path.unlink()

    def _uploaded_ones(self) -> deque[Stored] | None:
        """The stream whose oldest segment is uploaded, if there is one."""
        for sealed in self._sealed.values():
            if sealed and sealed[0].name.last <= self.uploaded:
                return sealed
        return None

    def _drop_aside(self) -> None:
        """Damaged files go before anything that can be read does."""
        path, _ = self._aside.pop(0)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def _read_one(self, when: float) -> None:
        """Check one segment of an earlier run for damage, so that it is found before somebody needs it."""
        if not self._unread:
            return
        stored = self._unread.popleft()
        sealed = self._sealed[stored.name.stream]
        if stored not in sealed:
            return
        found = Recovered(self.manifest)
        try:
            kept = examine(stored, found, when)
        except OSError as error:
            self.problems.append(f"{stored.path.name}: {error.strerror or error}")
            return
        if kept is stored:
            return
        self.manifest = found.manifest
        where = sealed.index(stored)
        sealed.remove(stored)
        if kept is not None:
            sealed.insert(where, kept)
        self._report(found)

    # --- accounts

    def _dropped(self, loss: DroppedRange) -> None:
        self.manifest = self.manifest.with_dropped(loss)
        self.counts.dropped += loss.count
        self._manifest_behind = True

    def _save_manifest(self) -> None:
        self.manifest = replace(self.manifest, next=max(self.manifest.next, self.committed + 1))
        write_manifest(self._directory, self.manifest)
        self.settled = max(self.settled, self.manifest.next - 1)
        self._manifest_behind = False

    def _report(self, found: Recovered) -> None:
        self.problems.extend(found.problems)
        self.counts.corrupt += found.set_aside
        self._aside = set_aside_in(self._directory)

    def _total(self) -> int:
        return self.counts.bytes + sum(size for _, size in self._aside)

    def _count_bytes(self) -> None:
        own = sum(stored.size for sealed in self._sealed.values() for stored in sealed)
        self.counts.bytes = own + sum(segment.size for segment in self._open.values())
