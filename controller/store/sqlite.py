"""SQLite in WAL mode: one thread writes, a few read, one process has the file.

Commits are grouped: what has queued while one was being written to disk goes into the next as one transaction, each
piece behind a savepoint, so that a piece that fails fails alone. synchronous=FULL: what was committed survives a power
loss. The process holds a lock beside the database; not on it, because SQLite's own locks vanish when anybody in the
process closes a descriptor of that file.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from controller.errors import Conflict, ControllerError, StoreBusy, StoreDamaged, StoreFull, StoreUnavailable
from controller.store.engine import Work

T = TypeVar("T")

# Reading is short and from memory; more threads than this only wait for the interpreter.
READERS: Final = 4
# How much one commit takes together: bounds how long a reader's snapshot and one fdatasync's worth of work can get.
GROUP_MAX: Final = 256
# Writers that wait. Behind this many somebody is told to come back, instead of all being told too late.
WAITING_MAX: Final = 4096
# For a back-up tool that holds the database for a moment; no other writer exists.
BUSY_SECONDS: Final = 5.0
# The write-ahead log is cut back to this when it was checkpointed.
WAL_BYTES: Final = 64 << 20

_NOT_A_DATABASE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: "Future[Any]"


class SqliteEngine:
    """One file. Construction does nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._writing: sa.Engine | None = None
        self._reading: sa.Engine | None = None
        self._commits = 0
        self._writes = 0

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
        self._writer = threading.Thread(target=self._write_all, name="store-write", daemon=True)
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
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._waiting.put(None)
            writer.join()
            self._turn_away()
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

    async def write(self, work: Work[T]) -> T:
        """In the next group. Raises StoreError, and whatever `work` raises."""
        if self._writer is None:
            raise StoreUnavailable("the store is closed")
        if self._waiting.qsize() >= WAITING_MAX:
            raise StoreUnavailable(f"{WAITING_MAX} changes wait for the disk already")
        done: Future[T] = Future()
        self._waiting.put(_Job(work, done))
        return await asyncio.wrap_future(done)

    def counters(self) -> dict[str, int]:
        """Commits are fewer than writes where these were grouped."""
        return {"store_commits": self._commits, "store_writes": self._writes}

    def _turn_away(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._waiting.get_nowait()
                if job is not None and job.done.set_running_or_notify_cancel():
                    job.done.set_exception(StoreUnavailable("the store is closed"))

    # --- the writing thread

    def _write_all(self) -> None:
        running = True
        while running:
            jobs: list[_Job] = []
            job = self._waiting.get()
            while job is not None:
                if job.done.set_running_or_notify_cancel():  # who gave up waiting before it began gets nothing done
                    jobs.append(job)
                if len(jobs) >= GROUP_MAX or self._waiting.empty():
                    break
                job = self._waiting.get()
            running = job is not None
            self._write_group(jobs)

    def _write_group(self, jobs: list[_Job]) -> None:
        """One transaction for all; where the database itself fails, one for each, so that each knows how it went."""
        if len(jobs) > 1:
            try:
                outcomes = self._together(jobs)
            except Exception:
                outcomes = []  # rolled back, all of it
            if outcomes:
                self._settle(jobs, outcomes)
                return
        for job in jobs:
            self._settle([job], [self._alone(job)])

    def _settle(self, jobs: list[_Job], outcomes: list[Callable[[], Any] | BaseException]) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome())

    def _together(self, jobs: list[_Job]) -> list[Callable[[], Any] | BaseException]:
        assert self._writing is not None
        outcomes: list[Callable[[], Any] | BaseException] = []
        with self._writing.begin() as connection:
            for job in jobs:
                point = connection.begin_nested()
                try:
                    outcomes.append(_holding(job.work(connection)))
                except DBAPIError:
                    raise
                except Exception as error:  # whoever asked gets it
                    point.rollback()
                    outcomes.append(error)
                else:
                    point.commit()
        self._count(len(jobs))
        return outcomes

    def _alone(self, job: _Job) -> Callable[[], Any] | BaseException:
        assert self._writing is not None
        try:
            with _translated(self._path), self._writing.begin() as connection:
                result = job.work(connection)
        except Exception as error:  # whoever asked gets it
            return error
        self._count(1)
        return _holding(result)

    def _count(self, writes: int) -> None:
        self._commits += 1
        self._writes += writes


def _holding(value: T) -> Callable[[], T]:
    return lambda: value


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
