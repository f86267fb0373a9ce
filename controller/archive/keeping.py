"""Housekeeping of the archive: what was never committed goes, what is too old goes, small files become large ones.

Only the controller that leads compacts and forgets. A file that has been replaced is left for an hour, because somebody
may be reading it. A file that nobody names is what a crash left between file and transaction; or the state was put back
from a back-up, and then it holds records that were acknowledged. So it is laid aside for a week, and never counted.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Final, TypeVar

import pyarrow as pa

from agent.ops.log import Log
from controller.archive.layout import CALLS, DROPPED, ROLLUPS, SCHEMAS, FileName, day_of, plain_name
from controller.archive.settings import ArchiveSettings
from controller.archive.storage import TEMPORARY, Storage, StoredFile
from controller.archive.writing import COMPACT_LEVEL, Writer
from controller.errors import Conflict, ControllerError, StoreError, StoreUnavailable
from controller.model import ArchivedFile
from controller.store import Store

T = TypeVar("T")

ORPHAN_SECONDS: Final = 3600.0
"""Somebody else's file may be on its way into the store, and a question may read a replaced one: not for so long."""

ASIDE: Final = "orphans"
ASIDE_DAYS: Final = 7

SWEEP_SECONDS: Final = 3600.0

COMPACT_FILES: Final = 8
"""From so many small ones of a day on they are worth reading again."""

COMPACT_ROWS: Final = 262_144
"""Of one file that was made of several: it is put together in memory, some 150 MB. A file of half of that stays."""

COMPACT_AT_ONCE: Final = 256
"""Files that become one: their handling costs more than their rows."""

ROUNDS_MAX: Final = 64
"""Files made in one turn; the next turn goes on."""


class Keeper:
    """One for the archive. Construction does nothing."""

    def __init__(
        self,
        settings: ArchiveSettings,
        storage: Storage,
        store: Store,
        controller_id: str,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self.trouble = ""
        self._settings = settings
        self._storage = storage
        self._store = store
        self._own = plain_name(controller_id)
        self._log = log
        self._clock = clock
        self._writer = Writer(storage, controller_id)
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._replaced: dict[str, float] = {}
        self._swept = self._compacted = self._forgotten = 0

    async def start(self) -> None:
        """Lay the orphans of our last life aside, then go on in the background."""
        self._thread = ThreadPoolExecutor(1, "archive-keep")
        try:
            await self.sweep(own_age=0.0)
        except StoreError as error:
            self.trouble = f"housekeeping: {error}"
        self._task = asyncio.create_task(self._keep(), name="archive-keep")

    async def stop(self, grace: float) -> None:
        """Give up what is being made; it becomes an orphan."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=grace)
            self._task = None
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None

    async def _keep(self) -> None:
        next_sweep = self._clock() + SWEEP_SECONDS
        while True:
            await asyncio.sleep(self._settings.compact_seconds)
            try:
                self.trouble = ""
                await self._remove_replaced()
                if self._store.leadership.term() is not None:
                    await self.forget()
                    await self.compact()
                if self._clock() >= next_sweep:
                    await self.sweep(own_age=ORPHAN_SECONDS)
                    next_sweep = self._clock() + SWEEP_SECONDS
            except ControllerError as error:
                self.trouble = f"housekeeping: {error}"
            except Exception as error:  # a fault of ours must not end it
                self.trouble = f"housekeeping: {error!r}"
                self._log.fault(error, "archive")

    async def sweep(self, own_age: float) -> int:
        """Lay files aside that nobody names: ours from `own_age` seconds on, others' from an hour on. How many."""
        now = self._clock()
        # First what lies there, then what counts: what was committed in between is in the second, too.
        found = await self._run(lambda: list(self._storage.listing()))
        named = await self._store.records.paths()
        orphans = [file.path for file in found if file.path not in named and self._is_orphan(file, now, own_age)]
        await self._run(lambda: self._lay_aside(orphans, now))
        await self._run(lambda: self._remove(_long_aside(found, now)))
        self._swept += len(orphans)
        if orphans:
            self._log.warning("files that the store does not name are laid aside", files=len(orphans), folder=ASIDE)
        return len(orphans)

    def _is_orphan(self, file: StoredFile, now: float, own_age: float) -> bool:
        """By name and age. Files of another sort are nobody's business."""
        name = FileName.read(_finished(file.path))
        if name is None or file.path in self._replaced:
            return False
        least = own_age if name.controller == self._own else ORPHAN_SECONDS
        return least <= 0.0 or now - max(name.made, file.changed) >= least

    def _lay_aside(self, paths: Sequence[str], now: float) -> None:
        for path in paths:
            if _finished(path) == path:
                self._storage.move(path, f"{ASIDE}/{day_of(now)}/{path}")
            else:
                self._storage.remove(path)

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._storage.remove(path)

    async def _remove_replaced(self) -> None:
        """What was replaced an hour ago."""
        now = self._clock()
        old = [path for path, when in self._replaced.items() if not 0 <= now - when < ORPHAN_SECONDS]
        await self._run(lambda: self._remove(old))
        for path in old:
            del self._replaced[path]

    async def forget(self) -> int:
        """Let files of days that are too old go. How many."""
        today = day_of(self._clock())
        days = {CALLS: self._settings.calls_days, ROLLUPS: self._settings.rollups_days}
        old = []
        for file in await self._store.records.files():
            name = FileName.read(file.path)
            if name is not None and name.day < today - timedelta(days.get(name.table, self._settings.rollups_days)):
                old.append(file)
        if old:
            with contextlib.suppress(Conflict):  # another one was faster
                await self._store.records.replace([file.path for file in old], [])
                self._replaced |= {file.path: self._clock() for file in old}
                self._forgotten += len(old)
        return len(old)

    async def compact(self) -> int:
        """Make large files of small ones, day by day. How many were made."""
        groups: dict[tuple[str, date], list[ArchivedFile]] = defaultdict(list)
        for file in await self._store.records.files():
            name = FileName.read(file.path)
            if name is not None and file.records < COMPACT_ROWS // 2:
                groups[name.table, name.day].append(file)
        made = 0
        for (table, day), files in sorted(groups.items()):
            for some in _portions(files):
                if made >= ROUNDS_MAX:
                    return made
                try:
                    made += await self._merge(table, day, some)
                except StoreError as error:  # one damaged file must not keep the others small
                    self.trouble = f"housekeeping: {error}"
        return made

    async def _merge(self, table: str, day: date, files: Sequence[ArchivedFile]) -> int:
        """Read, sort by time, write, and swap in one transaction."""
        when = self._clock()
        try:
            new = await self._run(lambda: self._merged(table, day, files, when))
        except FileNotFoundError as error:
            # Nothing that the store names ever goes: somebody has removed it by hand.
            raise StoreUnavailable(f"a file of the archive is gone: {error}") from error
        try:
            await self._store.records.replace([file.path for file in files], [new])
        except Conflict:
            await self._run(lambda: self._writer.take_back([new]))
            return 0
        self._replaced |= {file.path: when for file in files}
        self._compacted += len(files)
        return 1

    def _merged(self, table: str, day: date, files: Sequence[ArchivedFile], when: float) -> ArchivedFile:
        schema = SCHEMAS[table]
        read = [self._storage.table(file.path).cast(schema) for file in files]
        keys = [("time", "ascending")] if table == DROPPED else [("time", "ascending"), ("sequence", "ascending")]
        return self._writer.write_one(table, day, pa.concat_tables(read).sort_by(keys), when, COMPACT_LEVEL)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise StoreUnavailable("the archive is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def counters(self) -> Mapping[str, int]:
        """Files since the start."""
        return {
            "archive_swept_files": self._swept,
            "archive_compacted_files": self._compacted,
            "archive_forgotten_files": self._forgotten,
        }


def _portions(files: Sequence[ArchivedFile]) -> Iterator[list[ArchivedFile]]:
    """Neighbours in time that become one file each; too few of them are left for later."""
    some: list[ArchivedFile] = []
    rows = 0
    for file in sorted(files, key=lambda one: (one.first_at, one.path)):
        if rows + file.records > COMPACT_ROWS or len(some) == COMPACT_AT_ONCE:
            if len(some) >= COMPACT_FILES:
                yield some
            some, rows = [], 0
        some.append(file)
        rows += file.records
    if len(some) >= COMPACT_FILES:
        yield some


def _finished(path: str) -> str:
    """The path that an unfinished file was to have; any other one as it is."""
    folder, _, last = path.rpartition("/")
    if last.startswith(".") and last.endswith(TEMPORARY):
        return f"{folder}/{last[1:].rsplit('.', 2)[0]}"
    return path


def _long_aside(files: Iterable[StoredFile], now: float) -> Iterator[str]:
    """What has been aside for long enough."""
    for file in files:
        folder, _, rest = file.path.partition("/")
        if folder == ASIDE:
            with contextlib.suppress(ValueError):
                if date.fromisoformat(rest.partition("/")[0]) < day_of(now) - timedelta(ASIDE_DAYS):
                    yield file.path
