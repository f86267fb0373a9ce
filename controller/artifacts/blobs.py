"""The bytes of lists: immutable, named by what they are, in a folder or on object storage.

Knows names and bytes; what they mean is in the store. Everything that touches a disk or a network runs in a thread.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from agent.model import ConfigError
from controller.artifacts.settings import ArtifactSettings
from controller.errors import ControllerError, NotFound, StoreUnavailable
from controller.objects import changed_at, open_objects

P = ParamSpec("P")
T = TypeVar("T")

LOCATION: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
PIECE: Final = 1 << 20
_SUFFIX: Final = ".tmp"

YOUNG_SECONDS: Final = 3600.0
"""A blob that is younger may be of a list that is being imported: the store hears of it when all its bytes are here."""


class Blobs:
    """Construction does nothing."""

    def __init__(self, settings: ArtifactSettings) -> None:
        self._url = settings.url or str(settings.directory.absolute())
        self._is_remote = bool(settings.url)
        self._system: Any = None
        self._root = ""
        self._opening = threading.Lock()

    async def open(self) -> None:
        """Raises ConfigError, and StoreUnavailable for a folder that is not there and cannot be made.

        Object storage that does not answer is no reason not to start: it is asked again when a list is.
        """
        try:
            await self._in_thread(self._open)
        except StoreUnavailable:
            if not self._is_remote:
                raise

    async def put(self, chunks: Iterable[bytes], suffix: str = "") -> tuple[str, bytes, int]:
        """Keep these bytes: where they are, their SHA-256, how many. Durable on return; the same bytes, once.

        Raises StoreError. `chunks` is iterated in a thread.
        """
        return await self._in_thread(self._put, chunks, suffix)

    async def read(self, location: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on; fewer only at the end. Raises NotFound, StoreUnavailable."""
        return await self._in_thread(self._read, location, offset, size)

    async def sweep(self, used: frozenset[str], when: float) -> int:
        """Remove old blobs that nothing refers to, half written ones too; how many. Raises StoreUnavailable."""
        return await self._in_thread(self._sweep, used, when)

    def path(self, location: str) -> Path | None:
        """The file, where it is one: to be mapped."""
        return Path(self._where(location)) if self._is_local else None

    # --- in a thread

    async def _in_thread(self, work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        try:
            return await asyncio.to_thread(self._opened, partial(work, *arguments, **keywords))
        except (ControllerError, ConfigError):
            raise
        except FileNotFoundError:
            raise NotFound("list", arguments[0] if arguments else self._url) from None
        except Exception as error:  # every storage has errors of its own
            raise StoreUnavailable(f"{self._url}: {error}") from error

    def _opened(self, work: Callable[[], T]) -> T:
        self._open()
        return work()

    def _open(self) -> None:
        with self._opening:
            if self._system is None:
                system, self._root = open_objects(self._url, "artifacts.url")
                try:
                    system.makedirs(self._root, exist_ok=True)
                except FileNotFoundError as error:
                    raise StoreUnavailable(f"{self._url}: {error}") from error
                self._system = system

    def _put(self, chunks: Iterable[bytes], suffix: str) -> tuple[str, bytes, int]:
        digest, size = hashlib.sha256(), 0
        temporary = f"{secrets.token_hex(8)}{_SUFFIX}"
        try:
            with self._system.open(self._where(temporary), "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
                if self._is_local:
                    file.flush()
                    os.fsync(file.fileno())
            location = f"{digest.hexdigest()}{suffix}"
            self._system.mv(self._where(temporary), self._where(location))
        except BaseException:
            with contextlib.suppress(Exception):
                self._system.rm_file(self._where(temporary))
            raise
        if self._is_local:
            _sync_folder(Path(self._root))
        return location, digest.digest(), size

    def _read(self, location: str, offset: int, size: int) -> bytes:
        with self._system.open(self._where(location), "rb", block_size=PIECE) as file:
            file.seek(offset)
            return bytes(file.read(size))

    def _sweep(self, used: frozenset[str], when: float) -> int:
        found = self._system.find(self._root, detail=True)
        changed = {str(path).rsplit("/", 1)[-1]: changed_at(info) for path, info in found.items()}
        old = [name for name, at in changed.items() if name not in used and when - at > YOUNG_SECONDS]
        unused = [name for name in old if LOCATION.fullmatch(name)]
        for name in unused:
            self._system.rm_file(self._where(name))
        return len(unused)

    @property
    def _is_local(self) -> bool:
        return self._system is not None and "file" in _names(self._system.protocol)

    def _where(self, location: str) -> str:
        if not LOCATION.fullmatch(location):
            raise NotFound("list", location)
        return f"{self._root}/{location}"


def _names(protocol: str | tuple[str, ...]) -> tuple[str, ...]:
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
