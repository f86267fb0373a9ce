"""Reading a spool, beside a running agent or without one: records in order, the last ones, those of one call.

Only reads: takes no lock, changes no file. A segment that is renamed or dropped while it is read is found again or
skipped. A record is its JSON object with "epoch", "sequence" and "kind" added; the epoch is sixteen hexadecimal
digits, as a number it is beyond what many JSON readers keep exact. Damage is passed over and told to `problem`.
"""

import heapq
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.records.naming import STREAMS, SegmentName
from agent.records.segment import SEGMENT_HEADER, Batch, Kind, read_batches, read_segment_header

Record = dict[str, Any]
Problem = Callable[[str], None]
_T = TypeVar("_T")

# The times of records are given when a call comes in, those of batches when they are written: a disk that was away,
# or a clock that was set, may lie between.
WRITTEN_SLACK: Final = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records: from `since` up to but without `until`, RFC 3339 as in records ("" is open).

    `since_epoch` is `since` in seconds since the epoch, by which whole batches are passed over.
    """

    since: str = ""
    until: str = ""
    since_epoch: float = float("-inf")
    kinds: frozenset[Kind] = frozenset(Kind)
    refused: bool = False

    def batch(self, batch: Batch) -> bool:
        """Whether a batch may hold any."""
        return batch.kind in self.kinds and batch.written + WRITTEN_SLACK >= self.since_epoch

    def record(self, record: Record) -> bool:
        """Whether it is one. RFC 3339 times of one form sort as text."""
        time = str(record.get("time", ""))
        if (self.since and time < self.since) or (self.until and time >= self.until):
            return False
        return not self.refused or record.get("action") in ("refuse", "drop")


EVERYTHING: Final = Wanted()


def ignore(_problem: str) -> None:
    """For who does not want to hear of damage."""


def records(directory: Path, wanted: Wanted = EVERYTHING, problem: Problem = ignore) -> Iterator[Record]:
    """The records of a spool in the order of their sequence. Raises OSError when the directory cannot be read."""
    streams = [_stream_batches(directory, stream, problem) for stream in STREAMS]
    for epoch, batch in heapq.merge(*streams, key=lambda item: item[1].first):
        if wanted.batch(batch):
            yield from _of_batch(epoch, batch, wanted, problem)


def latest(directory: Path, number: int, wanted: Wanted = EVERYTHING, problem: Problem = ignore) -> list[Record]:
    """The last `number` records, oldest first. Raises OSError when the directory cannot be read."""
    found: list[Record] = []
    for stream in STREAMS:
        of_stream: list[Record] = []
        for path, name in reversed(_segments(directory, stream)):
            batches = [item for item in _batches(path, name, problem) if wanted.batch(item[1])]
            for epoch, batch in reversed(batches):
                if len(of_stream) < number:
                    of_stream.extend(reversed(list(_of_batch(epoch, batch, wanted, problem))))
            if len(of_stream) >= number:
                break
        found += of_stream
    unique = {(record["epoch"], record["sequence"]): record for record in found}
    ordered = sorted(unique.values(), key=lambda record: int(record["sequence"]))
    return ordered[max(0, len(ordered) - number) :]


def find(directory: Path, call_id: str, problem: Problem = ignore) -> Iterator[Record]:
    """The records of the attempts with this Call-ID, oldest first.

    Reads the whole spool, a million records a second. Raises OSError when the directory cannot be read.
    """
    needle = json.dumps(call_id, ensure_ascii=False).encode("utf-8", "backslashreplace")
    streams = [_stream_batches(directory, stream, problem) for stream in STREAMS]
    for epoch, batch in heapq.merge(*streams, key=lambda item: item[1].first):
        if batch.kind is Kind.ROLLUP:
            continue
        text = _checked(batch.text, batch, problem)
        if text is not None and needle in text:
            for record in _of_batch(epoch, batch, EVERYTHING, problem):
                if record.get("call_id") == call_id:
                    yield record


class Follower:
    """Gives what was added since the last look. Keeps one position for each segment that still grows."""

    def __init__(self, directory: Path, after: Iterable[Record] = ()) -> None:
        """Begins behind the records `after`; without any, at the end of what there is."""
        self._directory = directory
        shown = [int(record["sequence"]) for record in after]
        self._reached = max(shown, default=_last_sequence(directory))
        self._positions: dict[tuple[Kind, int], int] = {}
        self._last = dict.fromkeys(STREAMS, self._reached)

    def look(self, wanted: Wanted = EVERYTHING, problem: Problem = ignore) -> list[Record]:
        """The new records, in order. Raises OSError when the directory cannot be read."""
        found: list[Record] = []
        for stream in STREAMS:
            for path, name in _segments(self._directory, stream):
                if name.sealed and name.last <= self._last[stream]:
                    self._positions.pop((stream, name.first), None)
                    continue
                key = stream, name.first
                skip = self._positions.get(key, 0)
                for epoch, batch in _batches(path, name, problem, skip):
                    self._positions[key] = skip + batch.end - SEGMENT_HEADER
                    if batch.last > self._last[stream]:
                        self._last[stream] = batch.last
                        found += _of_batch(epoch, batch, wanted, problem)
        found = [record for record in found if record["sequence"] > self._reached]
        return sorted(found, key=lambda record: int(record["sequence"]))


def _last_sequence(directory: Path) -> int:
    last = 0
    for stream in STREAMS:
        for path, name in _segments(directory, stream)[-1:]:
            last = max(last, name.last, *(batch.last for _, batch in _batches(path, name, ignore)), 0)
    return last


def _segments(directory: Path, stream: Kind) -> list[tuple[Path, SegmentName]]:
    found = [(path, name) for path in directory.iterdir() if (name := SegmentName.read(path.name)) is not None]
    return sorted([item for item in found if item[1].stream is stream], key=lambda item: (item[1].first, item[1].last))


def _stream_batches(directory: Path, stream: Kind, problem: Problem) -> Iterator[tuple[int, Batch]]:
    """The batches of a stream; one that a failing disk left twice comes once."""
    reached = 0
    for path, name in _segments(directory, stream):
        for epoch, batch in _batches(path, name, problem):
            if batch.first > reached:
                reached = batch.last
                yield epoch, batch


def _batches(path: Path, name: SegmentName, problem: Problem, skip: int = 0) -> Iterator[tuple[int, Batch]]:
    """The epoch and batches of one segment, wherever it is by now; nothing if it is gone.

    With `skip` bytes left out behind the header, where they were read before; offsets then count without them.
    """
    try:
        data = _read(path, name, skip)
    except FileNotFoundError:
        return
    except OSError as error:
        problem(f"{path.name}: {error.strerror or error}")
        return
    epoch = 0
    try:
        epoch = read_segment_header(data).epoch
    except ValueError as error:
        if len(data) >= SEGMENT_HEADER:
            problem(f"{path.name}: {error}")
    for part in read_batches(data):
        if isinstance(part, Batch):
            yield epoch, part
        elif not part.torn or name.sealed:
            problem(f"{path.name}: {part}")


def _read(path: Path, name: SegmentName, skip: int) -> bytes:
    """The bytes of a segment, also when it was sealed, and so renamed, since it was listed."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        sealed = sorted(path.parent.glob(f"{name.stream.word}-{name.first:020d}-*.seg"))
        if not sealed:
            raise
        file = sealed[0].open("rb")
    with file:
        header = file.read(SEGMENT_HEADER)
        file.seek(skip, os.SEEK_CUR)
        return header + file.read()


def _of_batch(epoch: int, batch: Batch, wanted: Wanted, problem: Problem) -> Iterator[Record]:
    lines = _checked(batch.lines, batch, problem)
    for sequence, line in enumerate(lines or (), batch.first):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            problem(f"record {sequence} is no JSON object")
        elif wanted.record(value):
            yield {"epoch": f"{epoch:016x}", "sequence": sequence, "kind": batch.kind.word, **value}


def _checked(read: Callable[[], _T], batch: Batch, problem: Problem) -> _T | None:
    try:
        return read()
    except ValueError as error:
        problem(f"records {batch.first} to {batch.last}: {error}")
        return None
