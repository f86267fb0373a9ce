"""Where files of the archive lie: a folder of this host, or object storage. Blocks; runs in threads only.

A file that `put` has returned from is there, whole, also after a power loss; one that it has not returned from is not
there, or an orphan that nobody's row names. Knows nothing of what is in files. Paths are relative, with "/".
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from agent.model import ConfigError
from controller.archive.settings import ArchiveSettings
from controller.errors import StoreFull, StoreUnavailable
from controller.objects import changed_at, open_objects

TEMPORARY: Final = ".tmp"
_FOLDER_MODE: Final = 0o750
_FILE_MODE: Final = 0o640
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """As a listing shows it. `changed` is epoch seconds; 0: the place does not say."""

    path: str
    size: int
    changed: float


class Storage(Protocol):
    """One place. All raise StoreFull and StoreUnavailable."""

    def open(self) -> None:
        """See that it can be written to. Raises ConfigError too."""
        ...

    def put(self, path: str, data: pa.Buffer) -> None:
        """Make a new file, durably."""
        ...

    def remove(self, path: str) -> None:
        """Harmless where it is gone."""
        ...

    def move(self, path: str, new: str) -> None:
        """Give a file another name. Harmless where it is gone."""
        ...

    def listing(self) -> Iterator[StoredFile]:
        """All files, unfinished ones (.tmp) too."""
        ...

    def table(self, path: str) -> pa.Table:
        """The content of a Parquet file. Raises FileNotFoundError."""
        ...

    def free_ratio(self) -> float:
        """Of the room for us, 0 to 1."""
        ...

    def address(self, path: str) -> str:
        """What DuckDB opens; with `file_system` registered there, where that is not None."""
        ...

    @property
    def file_system(self) -> Any:
        """Of fsspec; None for a folder."""
        ...


class FolderStorage:
    """A folder of this host, or one that hosts share and that keeps what was synced."""

    file_system: Final = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        with _translated(self._folder):
            self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise ConfigError("archive.directory", f"{self._folder} cannot be written")

    def put(self, path: str, data: pa.Buffer) -> None:
        """Temporary file, fsync, rename, fsync of the folder."""
        target = self._folder / path
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY}")
        with _translated(target):
            self.make_folder(target.parent)
            try:
                self.write(temporary, data)
                self.rename(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            self.sync_folder(target.parent)

    # The steps of `put`, apart so that a test can die between them.

    def make_folder(self, folder: Path) -> None:
        missing = [one for one in (folder, *folder.parents) if self._folder in one.parents and not one.exists()]
        for one in reversed(missing):
            one.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            self.sync_folder(one.parent)

    def write(self, temporary: Path, data: pa.Buffer) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, temporary: Path, target: Path) -> None:
        temporary.rename(target)

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: str) -> None:
        with _translated(self._folder / path):
            (self._folder / path).unlink(missing_ok=True)

    def move(self, path: str, new: str) -> None:
        target = self._folder / new
        with _translated(self._folder / path), contextlib.suppress(FileNotFoundError):
            target.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            (self._folder / path).rename(target)

    def listing(self) -> Iterator[StoredFile]:
        with _translated(self._folder):
            for place, _, names in os.walk(self._folder):
                for name in names:
                    full = Path(place) / name
                    with contextlib.suppress(FileNotFoundError):
                        status = full.stat()
                        yield StoredFile(full.relative_to(self._folder).as_posix(), status.st_size, status.st_mtime)

    def table(self, path: str) -> pa.Table:
        try:
            file = (self._folder / path).open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"{self._folder / path}: {error.strerror}") from error
        with _translated(self._folder / path), file:
            return pq.read_table(file)

    def free_ratio(self) -> float:
        with _translated(self._folder):
            status = os.statvfs(self._folder)
            return status.f_bavail / status.f_blocks if status.f_blocks else 1.0

    def address(self, path: str) -> str:
        return str(self._folder / path)


class ObjectStorage:
    """See objects.py. An object appears whole or not at all; that is what such stores promise."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._root = ""
        self.file_system: Any = None

    def open(self) -> None:
        try:
            self.file_system, self._root = open_objects(self._url, "archive.url")
            self.file_system.makedirs(self._root, exist_ok=True)
        except ConfigError:
            raise
        except Exception as error:
            raise self._fault(error) from error

    def put(self, path: str, data: pa.Buffer) -> None:
        """In one request."""
        whole = self._whole(path)
        try:
            self.file_system.makedirs(whole.rpartition("/")[0], exist_ok=True)
            self.file_system.pipe_file(whole, data.to_pybytes())
        except Exception as error:
            raise self._fault(error) from error

    def remove(self, path: str) -> None:
        try:
            self.file_system.rm_file(self._whole(path))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._fault(error) from error

    def move(self, path: str, new: str) -> None:
        """A copy, then the end of the original."""
        try:
            self.file_system.makedirs(self._whole(new).rpartition("/")[0], exist_ok=True)
            self.file_system.mv(self._whole(path), self._whole(new))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._fault(error) from error

    def listing(self) -> Iterator[StoredFile]:
        try:
            found = self.file_system.find(self._root, detail=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._fault(error) from error
        for whole, info in found.items():
            yield StoredFile(str(whole)[len(self._root) :].lstrip("/"), int(info.get("size") or 0), changed_at(info))

    def table(self, path: str) -> pa.Table:
        try:
            return pq.read_table(pa.BufferReader(self.file_system.cat_file(self._whole(path))))
        except FileNotFoundError:
            raise
        except Exception as error:
            raise self._fault(error) from error

    def free_ratio(self) -> float:
        """Object stores have room."""
        return 1.0

    def address(self, path: str) -> str:
        return str(self.file_system.unstrip_protocol(self._whole(path)))

    def _whole(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _fault(self, error: Exception) -> StoreUnavailable | StoreFull:
        """What clients of object stores raise is of every kind; what matters is that the object is not known to be."""
        if isinstance(error, OSError) and error.errno in _FULL:
            return StoreFull(f"{self._url} is full")
        return StoreUnavailable(f"{self._url}: {type(error).__name__}: {error}")


def storage_of(settings: ArchiveSettings) -> Storage:
    """As the operator wants it, not yet open."""
    return ObjectStorage(settings.url) if settings.url else FolderStorage(settings.directory)


@contextlib.contextmanager
def _translated(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"the disk of {place} is full") from error
        raise StoreUnavailable(f"{place}: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise StoreUnavailable(f"{place} is damaged: {error}") from error
