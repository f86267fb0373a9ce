"""Which of several controllers does what only one may do: rollouts, leases of limits, scheduled fetches.

On SQLite the one process leads from the start. On PostgreSQL it is who holds an advisory lock, and a lock alone would
not do: a process that was stopped, or cut off from its database, does not learn that it has lost it. So

- the leader asks over the connection that holds the lock, each second, whether it still does; it counts as leader for
  LEASE seconds from when it last *sent* a question that was answered, by a clock that goes on while the machine sleeps;
- the server ends that connection after the same time of silence, counted from later, so the lock never comes free
  before the old leader knows; and where it does (an operator ends the connection, the server restarts), the new leader
  waits for LEASE seconds before its term begins;
- each term has a higher number, stored with the lock taken; what a leader writes is refused under an old number
  (`fence`).
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection, select, update

from controller.errors import StaleEpoch, StoreError
from controller.model import Term
from controller.store import tables
from controller.store.postgres import LEADER_LOCK, LOCK_SPACE, leader_engine, translated

LEASE: Final = 3.0
"""Seconds that a leader leads on an answer. Three questions; a leader that is gone is followed within two of these."""

ASK_SECONDS: Final = 1.0


def clock() -> float:
    """Seconds that pass while the machine sleeps, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Leader:
    """As the store knows it; it may be gone."""

    epoch: int
    controller_id: str
    address: str


class Leadership(Protocol):
    """Of this process. `term` costs nothing: ask it before every step that only a leader may do."""

    async def start(self) -> None:
        """Begin to stand for it."""
        ...

    async def stop(self) -> None:
        """Resign, so that another one follows at once."""
        ...

    def term(self) -> Term | None:
        """The term in which this process leads now; None: it does not."""
        ...

    async def wait(self, seen: Term | None, timeout: float) -> Term | None:
        """Return when it is not `seen` any more, or `timeout` seconds have gone by."""
        ...


class AlwaysLeader:
    """Of the one process that has the SQLite file. Its term is that of the start."""

    def __init__(self, begin: Callable[[], Awaitable[int]]) -> None:
        self._begin = begin
        self._term: Term | None = None

    async def start(self) -> None:
        self._term = Term(await self._begin(), time.monotonic())

    async def stop(self) -> None:
        self._term = None

    def term(self) -> Term | None:
        return self._term

    async def wait(self, seen: Term | None, timeout: float) -> Term | None:
        if self._term == seen:
            await asyncio.sleep(timeout)
        return self._term


class ElectedLeader:
    """On PostgreSQL. One connection and one thread of its own; construction does nothing."""

    def __init__(self, url: sa.URL, controller_id: str, address: str) -> None:
        self._url = url
        self._controller_id = controller_id
        self._address = address
        self._thread: ThreadPoolExecutor | None = None
        self._engine: sa.Engine | None = None
        self._connection: Connection | None = None  # of that thread
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._term: Term | None = None
        self._until = 0.0  # by clock(): how long the last answer holds
        self._not_before = 0.0  # by clock(): when the leader before this has surely noticed
        self.problem = ""

    async def start(self) -> None:
        self._thread = ThreadPoolExecutor(1, "store-lead")
        self._engine = leader_engine(self._url, LEASE)
        await self._ask()
        self._task = asyncio.create_task(self._stand(), name="store leadership")

    async def stop(self) -> None:
        if self._task is None or self._thread is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task, self._until = None, 0.0
        with contextlib.suppress(StoreError):
            await self._in_thread(self._resign)
        await asyncio.to_thread(self._thread.shutdown)

    def term(self) -> Term | None:
        return self._term if self._not_before <= clock() < self._until else None

    async def wait(self, seen: Term | None, timeout: float) -> Term | None:
        deadline = time.monotonic() + timeout
        while (term := self.term()) == seen and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                # A term also ends, and begins, by nothing but time going by.
                await asyncio.wait_for(self._changed.wait(), min(left, self._next()))
        return term

    def _next(self) -> float:
        now = clock()
        ahead = [at - now for at in (self._until, self._not_before) if at > now]
        return max(0.01, min(ahead, default=ASK_SECONDS))

    async def _stand(self) -> None:
        while True:
            await asyncio.sleep(ASK_SECONDS)
            await self._ask()

    async def _ask(self) -> None:
        sent = clock()
        try:
            term, wait = await self._in_thread(self._hold if self._term is not None else self._take)
        except StoreError as error:
            self.problem = str(error)
            term, wait = None, 0.0
        else:
            self.problem = ""
        if term is None:
            self._term, self._until = None, 0.0
        else:
            if term != self._term:
                self._not_before = clock() + wait
            self._term, self._until = term, sent + LEASE
        self._changed.set()

    async def _in_thread(self, work: Callable[[], tuple[Term | None, float]]) -> tuple[Term | None, float]:
        assert self._thread is not None
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- on the thread

    def _take(self) -> tuple[Term | None, float]:
        """Try for the lock; the term if we have it now, and how long to wait before it begins."""
        with self._connected() as connection:
            lock = select(sa.func.pg_try_advisory_lock(LOCK_SPACE, LEADER_LOCK))
            if not connection.execute(lock).scalar_one():
                return None, 0.0
            before = connection.execute(select(tables.leadership)).one()
            epoch = begin_term(connection, self._controller_id, self._address, time.time())
            wait = 0.0 if before.controller_id is None else LEASE
            return Term(epoch, time.monotonic() + wait), wait

    def _hold(self) -> tuple[Term | None, float]:
        """Ask whether the lock is still ours. Not asking, after a lost connection, is the answer no."""
        if self._connection is None:
            return None, 0.0
        with self._connected() as connection:
            current = connection.execute(select(tables.leadership.c.epoch)).scalar_one()
            assert self._term is not None
            if current == self._term.epoch:
                return self._term, 0.0
        self._disconnect()
        return None, 0.0

    def _resign(self) -> tuple[Term | None, float]:
        if self._connection is not None and self._term is not None:
            with self._connected() as connection:
                leadership = tables.leadership
                connection.execute(
                    update(leadership)
                    .where(leadership.c.epoch == self._term.epoch)
                    .values(controller_id=None, address=None)
                )
        self._disconnect()
        return None, 0.0

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        """The one connection; whatever goes wrong on it ends it, and the lock with it."""
        assert self._engine is not None
        try:
            with translated():
                if self._connection is None:
                    self._connection = self._engine.connect()
                yield self._connection
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it may be dead already
                connection.invalidate()
                connection.close()


def begin_term(tx: Connection, controller_id: str, address: str, when: float) -> int:
    """Count the terms up and say whose this one is; its number."""
    leadership = tables.leadership
    return int(
        tx.execute(
            update(leadership)
            .values(epoch=leadership.c.epoch + 1, controller_id=controller_id, address=address, since=when)
            .returning(leadership.c.epoch)
        ).scalar_one()
    )


def fence(tx: Connection, term: Term) -> None:
    """Let nothing through that an earlier leader writes; no new term begins before this transaction ends.

    Raises StaleEpoch.
    """
    current = tx.execute(select(tables.leadership.c.epoch).with_for_update(read=True)).scalar_one()
    if current != term.epoch:
        raise StaleEpoch(term.epoch, current)
