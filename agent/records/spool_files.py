"""The system calls of the spool: appending to a segment so that it stays whole, and taking stock of a directory.

Blocks, and raises OSError; runs on the spool's own thread only.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.records.naming import LOCK, SegmentName
from agent.records.segment import SEGMENT_HEADER, Kind, SegmentHeader

# Call records are personal data: for the agent and its group only.
FILE_MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750


@dataclass(slots=True)
class Stored:
    """A segment on disk that is no longer written. `born` is monotonic seconds, for one of an earlier run estimated."""

    path: Path
    name: SegmentName
    size: int
    born: float


class OpenSegment:
    """The segment of a stream that is being written. Every `append` is on disk when it returns, or did not happen."""

    def __init__(self, directory: Path, header: SegmentHeader, now: float) -> None:
        """Make the file. Its name has a sequence that was never committed, so nothing of worth can be in its way."""
        self.name = SegmentName(header.stream, header.first)
        self.path = directory / str(self.name)
        self.born = now
        self.size = SEGMENT_HEADER
        self.last = self.count = 0
        self._directory = directory
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, FILE_MODE)
        try:
            _write_all(self._file, header.encode())
            os.fdatasync(self._file)
            sync_directory(directory)
        except OSError:
            self.abandon()
            raise

    def append(self, data: bytes, last: int, count: int) -> None:
        """Write whole batches, `count` records up to sequence `last`, and wait until they are on disk.

        After an OSError the segment must be abandoned: whether the kernel will still write what it has in memory
        is not known (a second fdatasync may report success for data that is gone).
        """
        _write_all(self._file, data)
        os.fdatasync(self._file)
        self.size += len(data)
        self.last, self.count = last, self.count + count

    def seal(self) -> Stored | None:
        """Close it for good and name it by what it holds; None if it held nothing and was removed. Never raises."""
        with contextlib.suppress(OSError):  # all of it was synced before
            os.close(self._file)
        if not self.count:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            return None
        name = SegmentName(self.name.stream, self.name.first, self.last, self.count)
        path = self.path
        with contextlib.suppress(OSError):  # then it stays ".open", which the next start puts right
            path = self.path.rename(self._directory / str(name))
        return Stored(path, name, self.size, self.born)

    def abandon(self) -> Stored | None:
        """Close it after a failure, cut back to what was committed. Never raises.

        Where it cannot be cut it stays ".open": its end is put right when the spool is next opened, and records that
        are then there twice have the same sequence and are shown once.
        """
        try:
            os.ftruncate(self._file, self.size)
            os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(self._file)
            name = SegmentName(self.name.stream, self.name.first, self.last, self.count)
            return Stored(self.path, name, self.size, self.born) if self.count else None
        return self.seal()


def lock_directory(directory: Path) -> int:
    """Make the directory if need be and take it for this process. Raises OSError, also when another one has it."""
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise OSError(error.errno, "another process writes to this spool", str(directory)) from None
        raise
    return lock


def segments_in(directory: Path) -> list[tuple[Path, SegmentName]]:
    """The segments of a directory by first sequence. Raises OSError."""
    found = [(path, name) for path in directory.iterdir() if (name := SegmentName.read(path.name)) is not None]
    return sorted(found, key=lambda item: (item[1].first, item[1].last))


def free_ratio(directory: Path) -> float:
    """How much of the file system is free for us, 0 to 1. Raises OSError."""
    status = os.statvfs(directory)
    return status.f_bavail / status.f_blocks if status.f_blocks else 1.0


def cut(path: Path, size: int) -> None:
    """Shorten a segment to its whole batches, durably. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_size != size:
            os.ftruncate(file, size)
        os.fdatasync(file)
    finally:
        os.close(file)


def sync_directory(directory: Path) -> None:
    """Make names durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stream_of(kind: Kind) -> Kind:
    """Roll-ups live as long as refused calls do, and so beside them."""
    return Kind.ALLOWED if kind is Kind.ALLOWED else Kind.REFUSED


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
