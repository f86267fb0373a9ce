"""One thread that commits what waits together: the disk is waited for once for all of it, and so is a lock.

Knows transactions and no database. What has queued while one group was being committed is the next group: one
transaction, each piece behind a savepoint, so that a piece that fails fails alone. Where the database itself fails,
each piece is tried in a transaction of its own, so that each knows how it went.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from controller.errors import ControllerError, StoreUnavailable
from controller.model import Topic
from controller.store.changes import touch
from controller.store.engine import Work

T = TypeVar("T")

# How much one commit takes together: bounds how long others wait for locks, and how much is done again alone.
GROUP_MAX: Final = 128
# Behind this many somebody is told to come back, instead of all being told too late.
WAITING_MAX: Final = 4096

Outcome = Callable[[], Any] | BaseException


class Ways(Protocol):
    """What the thread needs of a database."""

    def begin(self) -> AbstractContextManager[Connection]:
        """One transaction."""
        ...

    def translated(self) -> AbstractContextManager[None]:
        """Makes what the driver raises inside into our words."""
        ...

    def alone(self, work: Work[T]) -> T:
        """One transaction for this, tried again where that helps. Raises ControllerError, and what `work` raises."""
        ...

    def tell_all(self, error: ControllerError) -> bool:
        """Whether this meets all pieces alike, so that trying each alone would only take time."""
        ...


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    topics: Sequence[Topic]
    done: "Future[Any]"


class GroupWriter:
    """Construction does nothing."""

    def __init__(self, ways: Ways) -> None:
        self.commits = 0
        self.writes = 0
        self._ways = ways
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what has queued, then end; blocks. Whoever comes later is told."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._waiting.put(None)
        thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._waiting.get_nowait()
                if job is not None and job.done.set_running_or_notify_cancel():
                    job.done.set_exception(StoreUnavailable("the store is closed"))

    async def write(self, work: Work[T], topics: Sequence[Topic] = ()) -> T:
        """In the next group. Raises ControllerError, and what `work` raises."""
        if self._thread is None:
            raise StoreUnavailable("the store is closed")
        if self._waiting.qsize() >= WAITING_MAX:
            raise StoreUnavailable(f"{WAITING_MAX} changes wait for the database already")
        done: Future[T] = Future()
        self._waiting.put(_Job(work, topics, done))
        return await asyncio.wrap_future(done)

    # --- on the thread

    def _run(self) -> None:
        running = True
        while running:
            jobs: list[_Job] = []
            job = self._waiting.get()
            while job is not None:
                if job.done.set_running_or_notify_cancel():  # who gave up before it began gets nothing done
                    jobs.append(job)
                if len(jobs) >= GROUP_MAX or self._waiting.empty():
                    break
                job = self._waiting.get()
            running = job is not None
            self._write(jobs)

    def _write(self, jobs: list[_Job]) -> None:
        if len(jobs) > 1:
            outcomes = self._together(jobs)
            if outcomes:
                for job, outcome in zip(jobs, outcomes, strict=True):
                    _settle(job, outcome)
                return
        for job in jobs:
            _settle(job, self._alone(job))

    def _together(self, jobs: list[_Job]) -> list[Outcome]:
        """How each went, or nothing: then nothing has happened, and each is to be tried alone."""
        try:
            with self._ways.translated(), self._ways.begin() as connection:
                touch(connection, *{topic for job in jobs for topic in job.topics})
                outcomes = [self._piece(connection, job) for job in jobs]
        except Exception as error:
            whole = isinstance(error, ControllerError) and self._ways.tell_all(error)
            return [error] * len(jobs) if whole else []
        self.commits += 1
        self.writes += len(jobs)
        return outcomes

    def _piece(self, connection: Connection, job: _Job) -> Outcome:
        """What its own fault is is its own; what the driver raises may have ended the transaction for all."""
        point = connection.begin_nested()
        try:
            result = job.work(connection)
        except DBAPIError:
            raise
        except Exception as error:
            point.rollback()
            return self._in_our_words(error)
        point.commit()
        return _holding(result)

    def _alone(self, job: _Job) -> Outcome:
        def work(connection: Connection) -> Any:
            touch(connection, *job.topics)
            return job.work(connection)

        try:
            result = self._ways.alone(work)
        except Exception as error:
            return error
        self.commits += 1
        self.writes += 1
        return _holding(result)

    def _in_our_words(self, error: Exception) -> Exception:
        try:
            with self._ways.translated():
                raise error
        except Exception as translated:
            return translated


def _settle(job: _Job, outcome: Outcome) -> None:
    if isinstance(outcome, BaseException):
        job.done.set_exception(outcome)
    else:
        job.done.set_result(outcome())


def _holding(value: T) -> Callable[[], T]:
    """Told apart from an exception, which a result may be, too."""
    return lambda: value
