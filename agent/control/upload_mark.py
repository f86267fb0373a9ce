"""What the uploader remembers of a spool: how far it is, how far it may have sent, and under which epoch.

Before a record is sent for the first time it is written down that it may be (`intent`). So when the controller has more
than that, somebody else has sent it: this host is a copy, or was put back to an earlier state. Then the spool goes on
under another epoch, and nothing of it is taken for what the other one has sent.

The file is two slots that are written in turn, in place: a full disk does not matter, and a torn write costs one slot.
Blocks; runs on the uploader's thread.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent.records.spool_files import FILE_MODE, sync_directory

NAME: Final = "uploaded.mark"
_MAGIC: Final = b"SBCMARK1"
_SLOT: Final = struct.Struct("<8sQQQQQQ")
_CRC: Final = struct.Struct("<I")
_SLOT_BYTES: Final = _SLOT.size + _CRC.size
_SPACING: Final = 512
"""A disk writes a sector whole or not at all."""
_FILE_BYTES: Final = _SPACING + _SLOT_BYTES


@dataclass(frozen=True, slots=True)
class Mark:
    """`epoch` is what the controller knows the spool `spool_epoch` by; of it, records up to `start` are not meant.

    `sure`: it is known to be the last one that was written.
    """

    spool_epoch: int
    epoch: int
    start: int = 0
    acked: int = 0
    intent: int = 0
    sure: bool = False

    def anew(self, epoch: int, committed: int) -> "Mark":
        """Under another epoch, from where this host and the other one may differ."""
        start = min(self.intent if self.sure else 0, committed)
        return replace(self, epoch=epoch, start=start, acked=start, intent=start)


class MarkFile:
    """In the folder of the spool, so that it goes where the spool goes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._generation = 0

    def load(self, spool_epoch: int) -> Mark:
        """The last mark of this spool; a new one, not `sure`, where there is none. Raises OSError."""
        try:
            data = (self._directory / NAME).read_bytes()
        except FileNotFoundError:
            data = b""
        found = [slot for offset in (0, _SPACING) if (slot := _read(data[offset : offset + _SLOT_BYTES])) is not None]
        self._generation = max((generation for generation, _ in found), default=0)
        marks = [mark for generation, mark in found if generation == self._generation]
        if not marks or marks[0].spool_epoch != spool_epoch:
            return Mark(spool_epoch, spool_epoch)
        return replace(marks[0], sure=len(found) == 2)

    def reserve(self) -> None:
        """Take the room that marks need, while there is some. Says nothing of what was sent. Raises OSError."""
        with self._opened() as file:
            size = os.fstat(file).st_size
            if size < _FILE_BYTES:
                os.pwrite(file, bytes(_FILE_BYTES - size), size)
                os.fdatasync(file)

    def save(self, mark: Mark) -> Mark:
        """Write it, durably; it is `sure` from now on. Raises OSError, and then the one before stands."""
        with self._opened() as file:
            for _ in range(1 if mark.sure else 2):
                os.pwrite(file, _written(self._generation + 1, mark), (self._generation + 1) % 2 * _SPACING)
                os.fdatasync(file)
                self._generation += 1
        return replace(mark, sure=True)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        path = self._directory / NAME
        made = not path.exists()
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            yield file
        finally:
            os.close(file)
        if made:
            sync_directory(self._directory)


def _written(generation: int, mark: Mark) -> bytes:
    body = _SLOT.pack(_MAGIC, generation, mark.spool_epoch, mark.epoch, mark.start, mark.acked, mark.intent)
    return body + _CRC.pack(zlib.crc32(body))


def _read(slot: bytes) -> tuple[int, Mark] | None:
    if len(slot) < _SLOT_BYTES or zlib.crc32(slot[: _SLOT.size]) != _CRC.unpack_from(slot, _SLOT.size)[0]:
        return None
    magic, generation, *values = _SLOT.unpack_from(slot)
    return (generation, Mark(*values)) if magic == _MAGIC else None
