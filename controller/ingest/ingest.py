"""Takes records in: many agents' batches become few files, and each spool's watermark moves with its file.

    temporary file, fsync, rename, fsync of the folder, transaction (files, watermarks, dropped ranges), answer

Dying between any two steps loses nothing: what was not answered is sent again, what has no transaction is an orphan.
One event loop, no locks; a group is made in a thread. Knows no protobuf.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agent.ops.log import Log
from controller.archive.archive import Archive
from controller.errors import Busy, ControllerError, Invalid, StoreError, StoreUnavailable, WatermarkMoved
from controller.ingest.group import Group, advances, key
from controller.ingest.order import Order
from controller.ingest.settings import IngestSettings
from controller.ingest.upload import Item, Upload
from controller.model import ArchivedFile
from controller.store import Store

GROUP_BYTES: Final = 8 << 20
"""Deflated: so much waiting is worth a commit at once."""

WINDOW_LEAST: Final = 64 << 10
"""Below this an agent could not send an ordinary batch."""

REPLACED_SECONDS: Final = 5.0
UPLOADS_MAX: Final = 20_000
"""Agents that upload at a time; one stream each."""


class Ingest:
    """One for the process. Construction does nothing. `clock` is epoch seconds."""

    name: Final = "ingest"

    def __init__(
        self, settings: IngestSettings, archive: Archive, store: Store, log: Log, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._archive = archive
        self._store = store
        self._log = log
        self._clock = clock
        self._uploads: dict[str, Upload] = {}
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._pending: Counter[str] = Counter()
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._trouble = "not started"
        self._counts: Counter[str] = Counter()

    # --- life

    async def start(self) -> None:
        """Begin to commit."""
        self._stopping = False
        self._trouble = ""
        self._work, self._hurry, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="ingest")

    async def stop(self, grace: float) -> None:
        """Take nothing more, commit what waits within `grace` seconds."""
        self._stopping = True
        self._work.set()
        self._hurry.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=grace)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for upload in list(self._uploads.values()):
            upload.fail(Busy("the controller is stopping", 1.0))
        self._trouble = "stopped"

    # --- what uploads call

    async def open(self, agent_id: str, spool_epoch: int) -> Upload:
        """A new stream of an agent; its older one ends. Raises Busy, Invalid and StoreError."""
        if not 0 < spool_epoch < 1 << 64:
            raise Invalid("hello.spool_epoch", "must not be 0")
        if self._stopping or self._task is None:
            raise Busy("the controller is stopping", 1.0)
        older = self._uploads.get(agent_id)
        if older is None and len(self._uploads) >= UPLOADS_MAX:
            raise Busy(f"{UPLOADS_MAX} agents upload already", self._settings.retry_seconds)
        upload = Upload(self, Order(agent_id, spool_epoch, 0))
        self._uploads[agent_id] = upload
        try:
            if older is not None:
                older.fail(Busy("a newer upload of this agent took its place", REPLACED_SECONDS))
            # Only when all that was taken from this agent is settled, the watermark says where to go on.
            while self._pending[agent_id] and upload.failure is None:
                self._hurry.set()
                self._room.clear()
                await self._room.wait()
            if upload.failure is not None:
                raise upload.failure
            mark = await self._store.records.watermark(agent_id, spool_epoch)
        except BaseException:
            self.forget(upload)
            raise
        upload.committed = mark.committed_through
        upload.order.next = mark.committed_through + 1
        return upload

    def forget(self, upload: Upload) -> None:
        """An upload is over."""
        if self._uploads.get(upload.order.agent_id) is upload:
            del self._uploads[upload.order.agent_id]

    @property
    def window(self) -> int:
        """Of each upload: its share of the memory, within bounds."""
        share = self._budget // max(1, len(self._uploads))
        return max(WINDOW_LEAST, min(self._settings.window_kb << 10, share))

    @property
    def _budget(self) -> int:
        return self._settings.memory_mb << 20

    async def put(self, item: Item) -> None:
        """Queue it when there is room for it. One item of an upload is always taken, so that none is too large."""
        upload = item.upload
        while upload.failure is None and (
            (upload.items and upload.waiting_bytes + item.size > upload.window) or self._bytes > self._budget
        ):
            self._hurry.set()
            self._room.clear()
            await self._room.wait()
        if upload.failure is not None:
            raise upload.failure
        if self._stopping:
            raise Busy("the controller is stopping", 1.0)
        self._queue.append(item)
        self._bytes += item.size
        self._pending[upload.order.agent_id] += 1
        upload.waiting_bytes += item.size
        upload.items += 1
        self._work.set()
        # Half a window that waits makes the agent wait soon.
        if self._bytes >= GROUP_BYTES or upload.waiting_bytes * 2 >= upload.window:
            self._hurry.set()

    def hurry(self) -> None:
        """Somebody wants to see the end of it."""
        self._hurry.set()

    # --- committing

    async def _run(self) -> None:
        while self._queue or not self._stopping:
            self._work.clear()
            if not self._queue:
                await self._work.wait()
                continue
            if not self._hurry.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.commit_seconds):
                        await self._hurry.wait()
            self._hurry.clear()
            await self._commit_next()

    async def _commit_next(self) -> None:
        """Commit what waits, as much as one group holds."""
        group: list[Item] = []
        while self._queue:
            item = self._queue.popleft()
            if item.upload.void:
                self._release(item)
            else:
                group.append(item)
        rest: list[Item] = []
        try:
            rest = await self._commit(group)
        except Exception as error:  # a fault of ours costs this group a repetition, and nothing else
            self._log.fault(error, "ingest")
            self._trouble = f"fault: {error!r}"
            self._fail(group, Busy("a fault of the controller", self._settings.retry_seconds))
        finally:
            for item in group[: len(group) - len(rest)]:
                self._release(item)
            # Back to the head of the queue.
            self._queue.extendleft(reversed(rest))
            if rest:
                self._hurry.set()
            self._work.set()
            self._room.set()

    async def _commit(self, items: list[Item]) -> list[Item]:
        """Commit a group; gives back what it had no room for. Failures end the uploads that they concern."""
        if not items:
            return []
        when = self._clock()
        made = Group(items)
        try:
            files = await self._archive.write(lambda: made.tables(when), when)
        except (StoreError, Busy) as error:
            self._fail(items, self._later(error))
            return []
        except Exception as error:  # a fault of ours; whoever touched it off must not take the others with him
            self._log.fault(error, "ingest")
            await self._one_by_one(items, Busy("a fault of the controller", self._settings.retry_seconds))
            return []
        used = items[: made.used]
        await self._put_on_record([item for item in used if item not in made.left_out], files, when)
        for upload, why in made.wrong.items():
            self._fail([item for item in used if item.upload is upload], why)
        return items[made.used :]

    async def _put_on_record(self, items: list[Item], files: list[ArchivedFile], when: float) -> None:
        """The transaction."""
        if not items:
            return
        moves = advances(items)
        dropped = [item.dropped for item in items if item.dropped is not None]
        try:
            await self._store.records.commit(files, moves, dropped, when)
        except WatermarkMoved as error:
            gone = {(moved.agent_id, moved.spool_epoch) for moved in error.moved}
            await self._archive.take_back(files)
            self._fail([item for item in items if key(item) in gone], error)
            await self._again([item for item in items if key(item) not in gone])
        except StoreUnavailable as error:
            # It may have happened: the files stay. If it has not, they are orphans.
            self._fail(items, self._later(error))
        except StoreError as error:
            await self._archive.take_back(files)
            self._fail(items, self._later(error))
        except ControllerError as error:
            await self._archive.take_back(files)
            await self._one_by_one(items, error)
        else:
            self._committed(items, files)

    async def _again(self, items: list[Item]) -> None:
        """The same without those that have failed."""
        while items := [item for item in items if not item.upload.void]:
            items = await self._commit(items)

    async def _one_by_one(self, items: list[Item], error: ControllerError) -> None:
        """Something about one of the uploads is wrong: find out which, so that the others go on."""
        uploads = list(dict.fromkeys(item.upload for item in items))
        if len(uploads) == 1:
            self._fail(items, error)
            return
        for upload in uploads:
            await self._again([item for item in items if item.upload is upload])

    def _committed(self, items: Sequence[Item], files: Sequence[ArchivedFile]) -> None:
        self._trouble = ""
        for item in items:
            item.upload.committed = item.through
            item.upload.proven = True
            item.upload.changed.set()
        counts = self._counts
        counts["ingest_records"] += sum(item.taken.records for item in items if item.taken is not None)
        counts["ingest_batches"] += sum(item.taken is not None for item in items)
        counts["ingest_bytes"] += sum(item.size for item in items)
        counts["ingest_lost_records"] += sum(item.dropped.count for item in items if item.dropped is not None)
        counts["ingest_commits"] += 1
        counts["ingest_files"] += len(files)

    def _later(self, error: ControllerError) -> Busy:
        """For the agents; the operator is told more."""
        self._trouble = str(error)
        self._counts["ingest_failures"] += 1
        retry_after = error.retry_after if isinstance(error, Busy) else self._settings.retry_seconds
        return Busy("records cannot be kept at the moment", retry_after)

    def _fail(self, items: Sequence[Item], error: ControllerError) -> None:
        """These were not committed: what came after them must not be, either."""
        for item in items:
            item.upload.void = True
            item.upload.fail(error)

    def _release(self, item: Item) -> None:
        self._bytes -= item.size
        item.upload.waiting_bytes -= item.size
        item.upload.items -= 1
        agent_id = item.upload.order.agent_id
        self._pending[agent_id] -= 1
        if not self._pending[agent_id]:
            del self._pending[agent_id]
        item.upload.changed.set()

    # --- what it says of itself

    def health(self) -> tuple[bool, str]:
        """Whether records can be taken in."""
        waiting = f"{len(self._uploads)} agents upload, {self._bytes} bytes wait"
        return not self._trouble, f"{self._trouble}; {waiting}" if self._trouble else waiting

    def counters(self) -> Mapping[str, int]:
        """Since the start."""
        names = ("records", "batches", "bytes", "lost_records", "commits", "files", "failures")
        return {
            **{f"ingest_{name}": self._counts[f"ingest_{name}"] for name in names},
            "ingest_uploads_in_flight": len(self._uploads),
            "ingest_waiting_bytes": self._bytes,
        }
