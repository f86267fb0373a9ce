"""The certificates on disk, so that a restart does not have to fetch all of them again. Blocks; for one thread.

One file per URL, named by the hash of it, replaced as a whole. What is there is an index in memory: a URL that was
never stored costs no look at the disk. Bounded by bytes and count, oldest first; a damaged file is set aside. Nothing
that lies on the disk is fatal, and only `write` raises OSError.
"""

import contextlib
import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Final

from agent.files import replace_file
from agent.stir.stored import Stored, read_stored

FILES_MAX: Final = 16_384
"""Each costs a look at the start; twice the certificates that are kept in memory by default."""

FILE_BYTES_MAX: Final = 256 << 10
"""No file of ours is larger: a chain has 128 KiB at the most."""

CORRUPT_MAX: Final = 16
"""Damaged files that are kept to be looked at; a failing disk makes more than anybody reads."""

_SUFFIX: Final = ".certificate"
_CORRUPT: Final = ".corrupt"
_DIRECTORY_MODE: Final = 0o750


class DiskCache:
    """One directory. `open` it first; without, it is empty. Asking what is there (`in`, `len`) blocks nobody."""

    def __init__(self, directory: Path, bytes_max: int, files_max: int = FILES_MAX) -> None:
        self.bytes = 0
        self.corrupt = 0
        self.evictions = 0
        self._directory = directory
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._sizes: OrderedDict[str, int] = OrderedDict()  # the oldest first
        self._is_open = False

    def open(self) -> None:
        """Take stock. Raises OSError when the directory cannot be had; what was stored is then not used."""
        self._directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        self._sizes.clear()
        self.bytes = 0
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith(".tmp"):  # what a crash in the middle of `replace_file` leaves
                    with contextlib.suppress(OSError):
                        Path(entry.path).unlink()
                elif entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime, entry.name, status.st_size))
        for _, name, size in sorted(found):
            self._add(name, size)
        self._is_open = True
        self._make_room()

    def __contains__(self, url: str) -> bool:
        return _name(url) in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def read(self, url: str) -> Stored | None:
        """What is stored of that URL; None if nothing is, or nothing that can be read."""
        name = _name(url)
        if name not in self._sizes:
            return None
        path = self._directory / name
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except OSError:
            self._forget(name)
            return None
        try:
            stored = read_stored(data)
            if stored.source != url:
                raise ValueError("is of another URL")
        except ValueError:
            self._set_aside(name)
            return None
        return stored

    def write(self, stored: Stored) -> None:
        """Keep it, in place of what was stored of that URL. Raises OSError, and then nothing has changed."""
        data = stored.encode()
        if len(data) > min(self._bytes_max, FILE_BYTES_MAX):
            return
        if not self._is_open:
            self.open()
        name = _name(stored.source)
        replace_file(self._directory / name, [data])
        self._forget(name)
        self._add(name, len(data))
        self._make_room()

    def remove(self, url: str) -> None:
        """Forget what is stored of that URL."""
        self._delete(_name(url))

    def _add(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self.bytes += size

    def _forget(self, name: str) -> None:
        self.bytes -= self._sizes.pop(name, 0)

    def _delete(self, name: str) -> None:
        if name in self._sizes:
            self._forget(name)
            with contextlib.suppress(OSError):
                (self._directory / name).unlink()

    def _make_room(self) -> None:
        while self.bytes > self._bytes_max or len(self._sizes) > self._files_max:
            self._delete(next(iter(self._sizes)))
            self.evictions += 1

    def _set_aside(self, name: str) -> None:
        """Keep a damaged file for whoever wants to know, out of the way."""
        self.corrupt += 1
        self._forget(name)
        path = self._directory / name
        with contextlib.suppress(OSError):
            aside = sum(entry.name.endswith(_CORRUPT) for entry in os.scandir(self._directory))
            if aside < CORRUPT_MAX:
                path.rename(path.with_name(name + _CORRUPT))
            else:
                path.unlink()


def _name(url: str) -> str:
    """A file's name: a URL is longer than a name may be, and holds slashes."""
    return hashlib.sha256(url.encode(errors="replace")).hexdigest() + _SUFFIX
