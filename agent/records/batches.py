"""The batches of a spool in the order of their sequence, for whoever sends them on; and the gaps between them.

Reads beside the agent that writes: takes no lock, changes no file, reads no segment whole. Up to the watermark of the
spool every sequence number is in a batch or lost for good; so a number that is in no batch is a gap, once it has been
looked for twice in a directory that nobody was renaming in. Blocks; knows nothing of who wants the batches.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent.records.manifest import DAMAGED, DroppedRange
from agent.records.naming import STREAMS, SegmentName
from agent.records.segment import BATCH_HEADER, SEGMENT_HEADER, TEXT_MAX, Batch, Kind, read_batches, read_segment_header

CHUNK: Final = 256 << 10
"""Read at a time; one batch can be longer, and is then read by itself."""

LISTINGS_MAX: Final = 8
"""Looks at a directory until two agree: a segment is renamed every few seconds, and a look takes a millisecond."""

UNKNOWN: Final = "not in the spool"

TRIES: Final = 3
"""Of a segment that cannot be read; then what is in it is a gap."""


@dataclass(frozen=True, slots=True)
class Framed:
    """A batch as it lies on the disk."""

    batch: Batch
    data: bytes

    @property
    def first(self) -> int:
        return self.batch.first

    @property
    def last(self) -> int:
        return self.batch.last


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequence numbers that are in no batch. `kind` is "" where nobody knows."""

    first: int
    last: int
    kind: str
    reason: str

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class BatchReader:
    """Goes through a spool of one epoch. `close` it."""

    def __init__(self, directory: Path, epoch: int) -> None:
        self._bad: Counter[str] = Counter()
        self._directory = directory
        self._epoch = epoch
        self._after = 0
        self._cursors: dict[Kind, _Cursor] = {}

    def seek(self, after: int) -> None:
        """Go on behind this sequence."""
        self.close()
        self._after = after

    def next(self, through: int, dropped: Callable[[], Sequence[DroppedRange]]) -> Framed | Gap | None:
        """What comes next, not beyond `through`, up to which the spool must be on disk; None: nothing does yet.

        `dropped` is asked after the look at the disk why there is a gap. Raises OSError.
        """
        if self._after >= through:
            for cursor in self._cursors.values():
                cursor.let_go()
            return None
        found = self._nearest(through)
        if found is None or found.first > self._after + 1:
            # Maybe a segment was passed over while it was renamed: look again, from a new listing.
            self.seek(self._after)
            found = self._nearest(through)
        if found is None or found.first > self._after + 1:
            return _gap(self._after + 1, through if found is None else found.first - 1, self._epoch, dropped())
        return found

    def took(self, item: Framed | Gap) -> None:
        """It has been used: go on behind it."""
        self._after = item.last

    def close(self) -> None:
        """Let go of the files."""
        for cursor in self._cursors.values():
            cursor.close()
        self._cursors = {}

    def _nearest(self, through: int) -> Framed | None:
        if not self._cursors:
            listing = stable_listing(self._directory)
            self._cursors = {
                stream: _Cursor(self._directory, stream, self._epoch, listing, self._bad) for stream in STREAMS
            }
        found = [cursor.peek(self._after, through) for cursor in self._cursors.values()]
        return min((one for one in found if one is not None), key=lambda one: one.first, default=None)


class _Cursor:
    """A place in one stream: a file that is open, and how far it has been read."""

    def __init__(
        self, directory: Path, stream: Kind, epoch: int, listing: Sequence[SegmentName], bad: Counter[str]
    ) -> None:
        self._directory = directory
        self._stream = stream
        self._epoch = epoch
        self._listing = listing
        self._name: SegmentName | None = None
        self._file = -1
        self._offset = 0
        self._chunk: list[Framed] = []
        self._bad = bad

    def peek(self, after: int, through: int) -> Framed | None:
        """The first batch that holds more than `after`, if it is not beyond `through`."""
        while True:
            while self._chunk and self._chunk[0].last <= after:
                self._chunk.pop(0)
            if self._chunk:
                if self._chunk[0].last <= through:
                    return self._chunk[0]
                # Not on disk for certain: what is read again later may be something else.
                self._offset, self._chunk = self._chunk[0].batch.offset, []
                return None
            if not self._fill() and not self._open_next(after):
                return None

    def let_go(self) -> None:
        """Of a file that has been deleted: as long as it is open, its room on the disk is taken."""
        if self._file >= 0 and not os.fstat(self._file).st_nlink:
            self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._chunk = -1, []

    def _fill(self) -> bool:
        """Read on in the open file. False when there is no whole batch."""
        if self._file < 0:
            return False
        try:
            size = os.fstat(self._file).st_size
            self._chunk, self._offset = read_chunk(self._file, self._offset, size)
        except OSError:
            self._give_up()
            raise
        return bool(self._chunk)

    def _open_next(self, after: int) -> bool:
        """Go to the next segment, if the open one is at its end for good. False when there is no other."""
        if self._file >= 0:
            self._listing = stable_listing(self._directory)
        following = [
            name
            for name in self._listing
            if name.stream is self._stream
            and (self._name is None or name.first > self._name.first)
            and not (name.sealed and name.last <= after)
            and self._bad[str(name)] < TRIES
        ]
        if self._file >= 0:
            # A file that grew before it was sealed is read to its end first.
            if self._offset < os.fstat(self._file).st_size and self._fill():
                return True
            if not following:
                return False
        return any(self._open(name) for name in following)

    def _open(self, name: SegmentName) -> bool:
        file = open_segment(self._directory, name)
        self.close()
        self._name = name
        if file < 0:
            return False
        self._file, self._offset = file, SEGMENT_HEADER
        try:
            header = os.pread(file, SEGMENT_HEADER, 0)
        except OSError:
            self._give_up()
            raise
        try:
            if read_segment_header(header).epoch == self._epoch:
                return True
        except ValueError:
            return True  # its batches say themselves whether they are whole
        self.close()  # from another spool
        return False

    def _give_up(self) -> None:
        """A bad sector, maybe."""
        self._bad[str(self._name)] += 1
        self.close()


def read_chunk(file: int, offset: int, size: int) -> tuple[list[Framed], int]:
    """The whole batches from `offset` (the end of one) on, and where they end. Passes over damage. Raises OSError."""
    length = CHUNK
    while offset < size:
        data = os.pread(file, min(length, size - offset), offset)
        if not data:
            break
        at_end = offset + len(data) >= size
        found: list[Framed] = []
        end = 0
        for part in read_batches(data, 0):
            if isinstance(part, Batch):
                found.append(
                    Framed(
                        replace(part, offset=offset + part.offset, end=offset + part.end),
                        bytes(data[part.offset : part.end]),
                    )
                )
                end = part.end
            elif part.end < len(data) or (at_end and not part.torn):
                end = part.end
        offset += end
        if found:
            return found, offset
        if end:
            continue
        if at_end or length > TEXT_MAX + BATCH_HEADER:
            break
        length *= 4
    return [], offset


def stable_listing(directory: Path) -> list[SegmentName]:
    """The segments by first sequence, from two looks that agree: one that is renamed meanwhile may be in neither
    place of a single look. Raises OSError."""
    before: list[SegmentName] | None = None
    for _ in range(LISTINGS_MAX):
        found = [name for path in directory.iterdir() if (name := SegmentName.read(path.name)) is not None]
        found.sort(key=lambda name: (name.first, name.last))
        if found == before:
            return found
        before = found
    raise OSError(f"the segments in {directory} change faster than they can be listed")


def open_segment(directory: Path, name: SegmentName) -> int:
    """A descriptor of the segment, also when it was sealed since it was listed; -1 when it is gone. Raises OSError."""
    for path in (directory / str(name), *sorted(directory.glob(f"{name.stream.word}-{name.first:020d}-*.seg"))):
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    return -1


def _gap(first: int, last: int, epoch: int, dropped: Sequence[DroppedRange]) -> Gap:
    """The gap as far as it has one reason. What fits most closely is what it was: ranges may span other kinds."""
    of_epoch = [one for one in dropped if one.epoch == epoch and one.first <= last and first <= one.last]
    covering = [one for one in of_epoch if one.first <= first]
    if not covering:
        end = min((one.first - 1 for one in of_epoch), default=last)
        return Gap(first, end, "", UNKNOWN)
    best = min(covering, key=lambda one: one.last - one.first)
    # Where a closer one begins, or this one ends, another reason begins.
    closer = [one.first - 1 for one in of_epoch if one.first > first and one.last - one.first < best.last - best.first]
    return Gap(first, min([last, best.last, *closer]), best.kind, best.reason)


__all__ = ["DAMAGED", "BatchReader", "Framed", "Gap"]
