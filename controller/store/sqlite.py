"""SQLite in WAL mode: one thread writes, a few read, one process has the file.

Commits are grouped (grouping.py). synchronous=FULL: what was committed survives a power loss. The process holds a
lock beside the database; not on it, because SQLite's own locks vanish when anybody in the process closes a descriptor
of that file.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from controller.errors import Conflict, ControllerError, StoreBusy, StoreDamaged, StoreFull, StoreUnavailable
from controller.model import Topic
from controller.store.engine import Work
from controller.store.grouping import GroupWriter

T = TypeVar("T")

# Reading is short and from memory; more threads than this only wait for the interpreter.
READERS: Final = 4
# For a back-up tool that holds the database for a moment; no other writer exists.
BUSY_SECONDS: Final = 5.0
# The write-ahead log is cut back to this when it was checkpointed.
WAL_BYTES: Final = 64 << 20

_NOT_A_DATABASE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SqliteEngine:
    """One file. Construction does nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._writer = GroupWriter(self)
        self._readers: ThreadPoolExecutor | None = None
        self._writing: sa.Engine | None = None
        self._reading: sa.Engine | None = None

    def open(self) -> None:
        """Lock and check the file; make it where there is none. Raises StoreBusy, StoreDamaged, StoreUnavailable."""
        self._take_lock()
        try:
            self._writing = _engine(self._path, "BEGIN IMMEDIATE", StaticPool)
            self._reading = _engine(self._path, "BEGIN", QueuePool, read_only=True)
            with _translated(self._path):
                self._check()
        except BaseException:
            self.close()
            raise
        self._readers = ThreadPoolExecutor(READERS, "store-read")
        self._writer.start()

    def _take_lock(self) -> None:
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Policies and hashes of tokens are nobody's business; its companions get the mode of the database.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except BlockingIOError:
            self.close()
            raise StoreBusy(f"another controller is running on {self._path}") from None
        except OSError as error:
            self.close()
            raise StoreUnavailable(f"{self._path} cannot be opened: {error.strerror}") from error

    def _check(self) -> None:
        assert self._writing is not None
        with self._writing.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if found != "ok":
            raise _damaged(self._path, str(found))

    def migrate(self, work: Work[None]) -> None:
        """The lock beside the file makes us the only process."""
        assert self._writing is not None
        with _translated(self._path), self._writing.begin() as connection:
            work(connection)

    def close(self) -> None:
        """Write what queues, then let go. Whoever comes later is told."""
        self._writer.close()
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None
        for engine in (self._reading, self._writing):
            if engine is not None:
                engine.dispose()
        self._reading = self._writing = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def read(self, work: Work[T]) -> T:
        """One snapshot. Raises StoreError, and whatever `work` raises."""
        if self._readers is None:
            raise StoreUnavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Work[T]) -> T:
        assert self._reading is not None
        with _translated(self._path), self._reading.begin() as connection:
            return work(connection)

    async def write(self, work: Work[T], topics: Sequence[Topic] = ()) -> T:
        """In the next group. Raises StoreError, and whatever `work` raises."""
        return await self._writer.write(work, topics)

    def counters(self) -> dict[str, int]:
        """Commits are fewer than writes where these were grouped."""
        return {"store_commits": self._writer.commits, "store_writes": self._writer.writes}

    # --- for the thread that writes

    def begin(self) -> contextlib.AbstractContextManager[Connection]:
        """One transaction, the only one that writes."""
        assert self._writing is not None
        return self._writing.begin()

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Makes what SQLite raises inside into our words."""
        return _translated(self._path)

    def alone(self, work: Work[T]) -> T:
        """Nobody else writes, so trying again would not help."""
        with self.translated(), self.begin() as connection:
            return work(connection)

    def tell_all(self, error: ControllerError) -> bool:
        """On a disk that is nearly full a small change may find room where a group did not."""
        return isinstance(error, StoreDamaged)


def _engine(path: Path, begin: str, pool: type[sa.Pool], *, read_only: bool = False) -> sa.Engine:
    sizes = {"pool_size": READERS, "max_overflow": 0} if pool is QueuePool else {}
    engine = sa.create_engine(
        sa.URL.create("sqlite+pysqlite", database=str(path)),
        poolclass=pool,
        connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        **sizes,
    )

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the module would begin transactions late, and none at all for savepoints
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"journal_size_limit={WAL_BYTES}",
            f"query_only={int(read_only)}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """What SQLite raises inside, in our words."""
    try:
        yield
    except DBAPIError as error:
        raise _fault(path, error.orig) from error
    except sqlite3.Error as error:  # while a connection is made
        raise _fault(path, error) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:  # SQLite has no checksums: bytes just change
        raise _damaged(path, str(error)) from error


def _fault(path: Path, error: BaseException | None) -> ControllerError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_CONSTRAINT:
        return Conflict(f"what is stored already forbids it ({error})")
    if code in _NOT_A_DATABASE:
        return _damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"the disk of {path} is full")
    return StoreUnavailable(f"{path}: {error}")


def _damaged(path: Path, what: str) -> StoreDamaged:
    return StoreDamaged(
        f"{path} is damaged ({what}). The file was left as it is. Put a back-up in its place (with no -wal and -shm "
        "beside it), or move it away to begin anew: then agents must be enrolled again"
    )
