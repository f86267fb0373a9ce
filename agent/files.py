"""The only door to files for what the core reads and writes: mapping, line reading, replacement as a whole.

Knows nothing of what is in them. An OSError passes through to the caller, who knows what the file was for.
"""

import contextlib
import mmap
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

# The longest line of a list that anybody would send; what is longer is no text file.
MAX_LINE: Final = 1 << 20
_NEW_FILE_MODE: Final = 0o644


def map_file(path: Path) -> memoryview:
    """A file as read-only memory, without reading it in. Pages are shared with every process that maps it.

    The mapping lives as long as the view, or anything made of it. A mapped file must be replaced (`replace_file`),
    never written in place: shortening it kills whoever reads beyond its new end. Raises OSError; for a file of
    no bytes, which cannot be mapped, the view is empty.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def unmap(memory: memoryview) -> None:
    """Give a mapping back now, where no view of it is left but this one. Raises BufferError when there is."""
    mapping = memory.obj
    memory.release()
    if isinstance(mapping, mmap.mmap):
        mapping.close()


def read_lines(path: Path, moved: Callable[[float], None] | None = None) -> Iterator[bytes]:
    """The lines of a file with their line ends. Raises OSError, and ValueError for a line beyond MAX_LINE.

    `moved` is told the position in bytes every few thousand lines.
    """
    position = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise ValueError(f"line {number + 1} is longer than {MAX_LINE} bytes")
            number += 1
            position += len(line)
            if moved is not None and number % 4096 == 0:
                moved(position)
            yield line


def replace_file(path: Path, chunks: Iterable[bytes | memoryview], mode: int | None = None) -> None:
    """Write a file as a whole or not at all: readers see the old one or the new one, also after a power loss.

    Follows a symbolic link to what it names. Without `mode` a new file is readable by all, and a replaced one keeps
    its mode; nobody beyond `mode` can read it at any time. Raises OSError (full disk, no permission), and then the
    old file is as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, not a path)
            file.writelines(chunks)
            file.flush()
            os.fchmod(file.fileno(), _mode_of(target) if mode is None else mode)
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return _NEW_FILE_MODE


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: it is in the folder, not in the file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
