"""The archive of call records as the rest of the controller sees it: files go in, questions are answered.

Runs what blocks in threads of its own. Which files count is the store's to say.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import pyarrow as pa

from agent.ops.log import Log
from controller.archive.keeping import Keeper
from controller.archive.layout import CALLS
from controller.archive.query import Query, Search
from controller.archive.settings import ArchiveSettings
from controller.archive.storage import Storage, storage_of
from controller.archive.writing import Writer
from controller.errors import Busy, StoreError, StoreFull, StoreUnavailable
from controller.model import ArchivedFile
from controller.store import Store

T = TypeVar("T")

WAITING_MAX: Final = 16
"""Questions that wait for their turn; who comes then is told to come again."""

WAITING_SECONDS: Final = 5.0
TRIES: Final = 3
"""A file can become part of a larger one between the look at the list and the look at the file."""


class Archive:
    """One for the process. Construction does nothing. `clock` is epoch seconds."""

    name: Final = "archive"

    def __init__(
        self, settings: ArchiveSettings, store: Store, controller_id: str, log: Log, clock: Callable[[], float]
    ) -> None:
        self.storage: Storage = storage_of(settings)
        self._settings = settings
        self._store = store
        self._clock = clock
        self._writer = Writer(self.storage, controller_id)
        self.keeper = Keeper(settings, self.storage, store, controller_id, log, clock)
        self._writing: ThreadPoolExecutor | None = None
        self._reading: ThreadPoolExecutor | None = None
        self._asking = asyncio.Semaphore(settings.queries)
        self._searches: set[Search] = set()
        self._waiting = self._questions = 0
        self._trouble = "not started"
        self._opening = threading.Lock()
        self._opened = False

    async def start(self) -> None:
        """Open the place, and begin to keep house. Raises ConfigError.

        A place that does not answer is trouble, no error: the fleet is managed without it, and agents keep their
        records. It is tried again whenever something is asked of it.
        """
        self._writing = ThreadPoolExecutor(1, "archive-write")
        self._reading = ThreadPoolExecutor(self._settings.queries, "archive-read")
        self._asking = asyncio.Semaphore(self._settings.queries)
        self._trouble = ""
        try:
            await self._run(self._writing, self._open)
        except StoreError as error:
            self._trouble = str(error)
        await self.keeper.start()

    def _open(self) -> None:
        """In any of the threads, before anything else."""
        with self._opening:
            if not self._opened:
                self.storage.open()
                self._opened = True
                self._trouble = ""

    async def stop(self, grace: float) -> None:
        """End questions and housekeeping, finish what is being written."""
        for search in self._searches:
            search.stop()
        await self.keeper.stop(grace)
        for executor in (self._reading, self._writing):
            if executor is not None:
                executor.shutdown(wait=False)
        self._reading = self._writing = None
        self._trouble = "stopped"

    async def write(self, make: Callable[[], Mapping[str, pa.Table]], when: float) -> list[ArchivedFile]:
        """Files of the tables that `make` makes, in a thread. They must be committed, or taken back.

        Raises StoreError, and whatever `make` raises; then none of them is there.
        """
        return await self._run(self._writing, lambda: self._written(make, when))

    def _written(self, make: Callable[[], Mapping[str, pa.Table]], when: float) -> list[ArchivedFile]:
        self._open()
        free = self.storage.free_ratio()
        if free < self._settings.min_free_ratio:
            raise StoreFull(f"only {free:.1%} of the archive's disk is free")
        return self._writer.write(make(), when)

    async def take_back(self, files: list[ArchivedFile]) -> None:
        """Remove files that were not committed. Never raises."""
        with contextlib.suppress(StoreError):
            await self._run(self._writing, lambda: self._writer.take_back(files))

    async def query(self, query: Query) -> AsyncGenerator[list[str]]:
        """Pages of JSON objects, newest first. Raises Busy and StoreError.

        A page may be asked for whenever it suits; a question that nobody asks on must be closed (aclose).
        """
        async with self._turn():
            self._questions += 1
            for tries_left in reversed(range(TRIES)):
                files = await self._files(query)
                search = Search(self.storage, self._settings.query_memory_mb)
                self._searches.add(search)
                pages = search.pages(query, files)
                begun = False
                try:
                    await self._run(self._reading, self._open)
                    while (page := await self._run(self._reading, lambda: next(pages, None))) is not None:  # noqa: B023
                        begun = True
                        yield page
                    return
                except FileNotFoundError as error:
                    if begun or not tries_left:
                        raise StoreUnavailable(f"a file of the archive is gone: {error}") from error
                finally:
                    self._searches.discard(search)
                    search.stop()
                    await self._close(pages)

    async def _files(self, query: Query) -> Sequence[ArchivedFile]:
        return await self._store.records.files(query.since, query.until, CALLS)

    async def _close(self, pages: Iterator[list[str]]) -> None:
        """In the thread. Where it is still running, because nobody waits for it any more, it has been told to end."""
        with contextlib.suppress(StoreError, ValueError):
            await asyncio.shield(self._run(self._reading, pages.close))  # type: ignore[attr-defined]

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise Busy(f"{WAITING_MAX} questions wait already", WAITING_SECONDS)
        self._waiting += 1
        try:
            await self._asking.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._asking.release()

    async def _run(self, executor: ThreadPoolExecutor | None, work: Callable[[], T]) -> T:
        if executor is None:
            raise StoreUnavailable("the archive is closed")
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    def health(self) -> tuple[bool, str]:
        """Whether records can be kept."""
        trouble = self._trouble or self.keeper.trouble
        return not trouble, trouble or f"{len(self._searches)} questions are being answered"

    def counters(self) -> Mapping[str, int]:
        """Since the start."""
        return {"archive_questions": self._questions, **self.keeper.counters()}
