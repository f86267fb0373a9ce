"""PostgreSQL: a few connections, one thread each; several controllers share one database.

Transactions are READ COMMITTED; what must not happen at once takes the same row first (see parts.py). What the server
rolled back to resolve a deadlock is run again. Every statement has a bound in time, on both sides of the wire.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from psycopg import errors as pg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, QueuePool

from agent.model import ConfigError
from controller.errors import Conflict, ControllerError, StoreDamaged, StoreError, StoreFull, StoreUnavailable
from controller.model import Topic
from controller.store.engine import Work
from controller.store.grouping import GroupWriter

T = TypeVar("T")

# idle_session_timeout, which leadership stands on, came with this.
OLDEST: Final = 14
CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 20
# A transaction of ours has no pauses; one that does has lost its process, and must not keep its locks.
IDLE_SECONDS: Final = 10
LOCK_SECONDS: Final = 10
# Unacknowledged bytes on the wire: a partition is noticed after this, not after two hours.
WIRE_SECONDS: Final = 5
# A deadlock is resolved at the first retry; more only guards against bad luck.
TRIES: Final = 5
RETRY_SECONDS: Final = 0.05
# Statements that wait for a connection. Behind this many somebody is told to come back.
WAITING_MAX: Final = 4096
# Keys of advisory locks are two numbers; the first is ours.
LOCK_SPACE: Final = 0x5BCE
MIGRATION_LOCK: Final = 1
LEADER_LOCK: Final = 2

_AGAIN: Final = (pg.SerializationFailure, pg.DeadlockDetected)
_DAMAGED: Final = (pg.DataCorrupted, pg.IndexCorrupted)


class PostgresEngine:
    """One database of a server. Construction does nothing."""

    def __init__(self, url: sa.URL, connections: int) -> None:
        self.url = url
        self._connections = connections
        self._engine: sa.Engine | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._commits = 0  # of those that were alone
        self._retries = 0
        self._writer = GroupWriter(self)

    def open(self) -> None:
        """Connect. Raises StoreUnavailable, ConfigError (a server that is too old, a database that is none of ours)."""
        self._engine = sa.create_engine(
            self.url,
            poolclass=QueuePool,
            pool_size=self._connections + 1,  # one for the thread that writes groups
            max_overflow=0,
            pool_timeout=CONNECT_SECONDS,
            pool_pre_ping=True,  # the server may have been restarted since
            connect_args=connect_arguments(statement=STATEMENT_SECONDS),
        )
        try:
            with translated(), self._engine.connect() as connection:
                version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000
                encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        except BaseException:
            self.close()
            raise
        if version < OLDEST:
            raise ConfigError("store.postgresql", f"is PostgreSQL {version}; {OLDEST} or later is needed")
        if encoding != "UTF8":
            raise ConfigError("store.postgresql", f"is a database of encoding {encoding}; UTF8 is needed")
        self._threads = ThreadPoolExecutor(self._connections, "store")
        self._writer.start()

    def migrate(self, work: Work[None]) -> None:
        """Whoever comes second waits, and finds it done."""
        assert self._engine is not None
        with translated(), self._engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK_SPACE, MIGRATION_LOCK)))
            work(connection)

    def close(self) -> None:
        """Finish what runs, then let go."""
        self._writer.close()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    async def read(self, work: Work[T]) -> T:
        """One snapshot. Raises StoreError, and whatever `work` raises."""
        return await self._run(self._read, work)

    async def write(self, work: Work[T], topics: Sequence[Topic] = ()) -> T:
        """What has topics would wait for their rows one after the other, and so goes in groups; the rest at once.

        Raises StoreError, and whatever `work` raises.
        """
        if topics:
            return await self._writer.write(work, topics)
        result = await self._run(self.alone, work)
        self._commits += 1
        return result

    async def _run(self, way: Callable[[Work[T]], T], work: Work[T]) -> T:
        if self._threads is None:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= WAITING_MAX:
            raise StoreUnavailable(f"{WAITING_MAX} requests wait for the database already")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, way, work)
        finally:
            self._waiting -= 1

    def _read(self, work: Work[T]) -> T:
        assert self._engine is not None
        with translated(), self._engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                return work(connection)

    def counters(self) -> dict[str, int]:
        """Retries are transactions that the server rolled back for our running into each other."""
        return {
            "store_commits": self._commits + self._writer.commits,
            "store_writes": self._commits + self._writer.writes,
            "store_retries": self._retries,
        }

    # --- for the thread that writes

    def begin(self) -> contextlib.AbstractContextManager[Connection]:
        """One transaction."""
        assert self._engine is not None
        return self._engine.begin()

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Makes what the driver raises inside into our words."""
        return translated()

    def tell_all(self, error: ControllerError) -> bool:
        """A server that is gone is gone for each of them; who ran into whom is worth another try."""
        return isinstance(error, StoreError) and not _is_of(error.__cause__, _AGAIN)

    def alone(self, work: Work[T]) -> T:
        """One transaction, run again where the server rolled it back to resolve a deadlock."""
        for attempt in range(TRIES):
            try:
                with translated(), self.begin() as connection:
                    result = work(connection)
            except StoreUnavailable as error:
                if not (attempt < TRIES - 1 and _is_of(error.__cause__, _AGAIN)):
                    raise
                self._retries += 1
                time.sleep(random.random() * RETRY_SECONDS * (attempt + 1))  # noqa: S311  to part those who collided
            else:
                return result
        raise AssertionError("the last try raises or returns")


def connect_arguments(statement: float, idle_session: float = 0.0) -> dict[str, Any]:
    """For libpq; `statement` and `idle_session` are seconds, 0 is for ever."""
    options = {
        "statement_timeout": statement,
        "lock_timeout": LOCK_SECONDS,
        "idle_in_transaction_session_timeout": IDLE_SECONDS,
        "idle_session_timeout": idle_session,
    }
    return {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "sbc-controller",
        "options": " ".join(f"-c {name}={round(seconds * 1000)}" for name, seconds in options.items()),
        "keepalives_idle": WIRE_SECONDS,
        "keepalives_interval": 1,
        "keepalives_count": WIRE_SECONDS,
        "tcp_user_timeout": WIRE_SECONDS * 1000,
    }


def leader_engine(url: sa.URL, lease: float) -> sa.Engine:
    """For one connection that holds a lock for as long as somebody uses it; silent for `lease` seconds, it ends."""
    return sa.create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args=connect_arguments(statement=lease, idle_session=lease),
    )


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What the driver raises inside, in our words."""
    try:
        yield
    except DBAPIError as error:
        raise _fault(error) from error
    except PoolTimeout as error:
        raise StoreUnavailable("no connection to PostgreSQL became free in time") from error


def _fault(error: DBAPIError) -> ControllerError:
    text = " ".join(str(error.orig).split())
    if _is_of(error, (pg.IntegrityError,)):
        return Conflict(f"what is stored already forbids it ({text})")
    if _is_of(error, (pg.DiskFull,)):
        return StoreFull(f"the disk of PostgreSQL is full: {text}")
    if _is_of(error, _DAMAGED):
        return StoreDamaged(f"PostgreSQL found damage: {text}. Restore its back-up")
    return StoreUnavailable(f"PostgreSQL: {text}")


def _is_of(error: BaseException | None, kinds: tuple[type[Exception], ...]) -> bool:
    return isinstance(error, DBAPIError) and isinstance(error.orig, kinds)
