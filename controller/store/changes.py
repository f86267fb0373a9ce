"""Waiting for what another coroutine, or another controller, changes in the store.

Knows the numbers of topics, and nothing of what they stand for. One task looks at the numbers: at once after a change
of our own, else twice a second, which on either database is a read of six rows from memory.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, select, update

from controller.errors import StoreError
from controller.model import Topic
from controller.store import tables
from controller.store.engine import Engine

Revisions = Mapping[Topic, int]

# Streams of a revoked agent are cut within a second; this is half of it.
POLL_SECONDS: Final = 0.5


class Changes:
    """Belongs to the event loop in which it was started."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[Topic, int] = dict.fromkeys(Topic, 0)
        self._moved = asyncio.Condition()
        self._look = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.failures = 0
        self.problem = ""  # why the last look failed

    async def start(self) -> None:
        """Begin to look. Raises StoreError."""
        self._known = await self._engine.read(_revisions)
        self._task = asyncio.create_task(self._watch(), name="store changes")

    async def stop(self) -> None:
        """Those who wait go on waiting until their time is up."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def look(self) -> None:
        """There is something to see."""
        self._look.set()

    async def seen(self) -> Revisions:
        """The numbers as they are now. What is read after this is at least as new. Raises StoreError."""
        return await self._engine.read(_revisions)

    async def wait(self, seen: Revisions, timeout: float) -> Revisions:
        """Return the numbers when one is beyond `seen`, or `timeout` seconds have gone by. Raises nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._moved:
                await self._moved.wait_for(lambda: any(self._known[topic] > seen.get(topic, 0) for topic in Topic))
        return dict(self._known)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._look.wait()
            self._look.clear()
            try:
                known = await self._engine.read(_revisions)
            except StoreError as error:
                self.failures, self.problem = self.failures + 1, str(error)
                await asyncio.sleep(POLL_SECONDS)
                continue
            self.problem = ""
            if known != self._known:
                async with self._moved:
                    self._known = known
                    self._moved.notify_all()


def _revisions(tx: Connection) -> dict[Topic, int]:
    rows = tx.execute(select(tables.revisions)).all()
    return {Topic(row.topic): row.revision for row in rows if row.topic in set(Topic)}


def touch(tx: Connection, *topics: Topic) -> None:
    """Count topics up, and have them to ourselves until this transaction ends."""
    for topic in sorted(topics):
        tx.execute(
            update(tables.revisions)
            .where(tables.revisions.c.topic == topic)
            .values(revision=tables.revisions.c.revision + 1)
        )
