"""The snapshot on disk: found at the start, replaced as a whole. An edge: files and clocks, nothing of what is in them.

    snapshot           the latest whole one
    snapshot.taken     what the running process began with, until it has written its own
    snapshot.bad       what could not be read, for whoever looks for the reason

A snapshot is taken up once: a process that ends before it has written its own, perhaps because of it, leaves none.
Nothing is synced: a process that ends leaves what it wrote to the kernel, after a power cut the checksum tells.
"""

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from agent.restart.snapshot import END_MARK, Clocks, Head, Section, front, read, section

SNAPSHOT: Final = "snapshot"
TAKEN: Final = "snapshot.taken"
BAD: Final = "snapshot.bad"
PRIVATE: Final = 0o600
DIRECTORY: Final = 0o700
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def clocks() -> Clocks:
    """What time it is. A boot that has no name is one that nobody knows again."""
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = f"{time.time()}"
    return Clocks(boot, time.monotonic(), time.time())


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a process before this one left: `head` None for nothing, and `problem` says why if there is a reason."""

    head: Head | None = None
    sections: tuple[Section, ...] = ()
    size: int = 0
    problem: str = ""


NOTHING: Final = Earlier()


def take_up(directory: Path, most: int) -> Earlier:
    """The snapshot, which nobody takes up again. Never raises."""
    path, taken = directory / SNAPSHOT, directory / TAKEN
    try:
        if not path.exists():
            return Earlier(problem=_left(taken))
        path.replace(taken)
        size = taken.stat().st_size
        if size > most:
            taken.unlink()
            return Earlier(problem=f"{path}: {size} bytes, more than max_bytes")
        with taken.open("rb") as file:
            head, sections = read(file.read(most))
    except OSError as error:
        return Earlier(problem=f"{path}: {error.strerror}")
    except ValueError as error:
        with contextlib.suppress(OSError):
            taken.replace(directory / BAD)
        return Earlier(problem=f"{path}: {error}")
    return Earlier(head, tuple(sections), size)


def _left(taken: Path) -> str:
    """What to say of a process that took one up and wrote none: it ended within moments."""
    try:
        taken.unlink()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{taken}: {error.strerror}"
    return f"{taken}: the process that began with it wrote none; it is not tried again"


class Writer:
    """One snapshot as it is written; blocks. Nothing of it is seen before `finish`, and nothing after `abandon`."""

    def __init__(self, directory: Path, most: int) -> None:
        self.size = 0
        self.left_out = 0  # sections for which there was no room
        self._directory = directory
        self._path = directory / f".{SNAPSHOT}.tmp"
        self._room = most - len(END_MARK) - hashlib.sha256().digest_size
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()

    def begin(self, head: Head) -> None:
        """Raises OSError."""
        self._directory.mkdir(mode=DIRECTORY, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()  # of a process that was killed
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        self._file = open(descriptor, "wb", buffering=0)  # noqa: PTH123, SIM115  (a descriptor; closed below)
        self._put(front(head))

    def add(self, one: Section) -> None:
        """Raises OSError. A section that has no room is left out."""
        before = section(one)
        if self.size + len(before) + memoryview(one.data).nbytes > self._room:
            self.left_out += 1
            return
        self._put(before)
        self._put(one.data)

    def finish(self) -> None:
        """It takes the place of the one before. Raises OSError."""
        self._put(END_MARK)
        self._put(self._digest.digest())
        self._close()
        self._path.replace(self._directory / SNAPSHOT)
        with contextlib.suppress(OSError):
            (self._directory / TAKEN).unlink()

    def abandon(self) -> None:
        """Leave the one before as it is. Never raises."""
        with contextlib.suppress(OSError):
            self._close()
            self._path.unlink()

    def _put(self, data: object) -> None:
        assert self._file is not None
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        self._digest.update(view)
        self.size += len(view)
        while len(view):
            view = view[self._file.write(view) or 0 :]

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
