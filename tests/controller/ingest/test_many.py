"""Many agents at once: what may wait is bounded by what was set, whoever sends how much, and nobody loses anything."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agent.control.backoff import SPREAD, Backoff
from agent.control.errors import ControllerError, Trouble
from controller.errors import Busy, StoreFull
from controller.ingest.ingest import Ingest
from controller.ingest.settings import IngestSettings
from controller.ingest.upload import Upload
from tests.controller.archive.lines import Kept, kept, quiet_log
from tests.controller.ingest.uploads import archived, batch
from tests.fakes.waiting import POLL_SECONDS, until

AGENTS = 500
BATCHES = 2
EACH = 3
"""Records of a batch."""

LONG = 5000
"""Bytes of noise in a record, for all agents together to have twice the least memory that can be set."""

EPOCH = 7
RETRY_SECONDS = 30.0


@asynccontextmanager
async def an_ingest(place: Kept, **changed: Any) -> AsyncIterator[Ingest]:
    """One that runs for a while."""
    settings = IngestSettings(**{"commit_seconds": 0.05, "retry_seconds": RETRY_SECONDS, **changed})
    ingest = Ingest(settings, place.archive, place.store, quiet_log(), lambda: place.now)
    await ingest.start()
    try:
        yield ingest
    finally:
        await ingest.stop(5.0)


class Gate:
    """In front of the store's transaction."""

    def __init__(self, place: Kept) -> None:
        self.opened = asyncio.Event()
        self.failure: Exception | None = None
        self._commit = place.store.records.commit
        place.store.records.commit = self._pass  # type: ignore[method-assign, assignment]

    async def _pass(self, *arguments: Any) -> None:
        await self.opened.wait()
        if self.failure is not None:
            raise self.failure
        await self._commit(*arguments)


async def opened(ingest: Ingest) -> list[Upload]:
    """All of them."""
    return [await ingest.open(f"agent-{n}", EPOCH) for n in range(AGENTS)]


@cache
def a_batch(first: int, noise: int) -> Any:
    """The same for all agents."""
    return batch(first, EACH, noise=noise)


async def sends(upload: Upload, noise: int) -> None:
    """As fast as it is let, whatever its window."""
    for n in range(BATCHES):
        made = a_batch(n * EACH + 1, noise)
        await upload.batch(made.first_sequence, made.count, made.data)


async def all_there_once(place: Kept, folder: Path) -> None:
    rows = await archived(place.store, folder)
    places = {(row["agent"], row["sequence"]) for row in rows}
    assert len(places) == len(rows)
    assert places == {(f"agent-{a}", n) for a in range(AGENTS) for n in range(1, BATCHES * EACH + 1)}


def test_agents_that_come_at_once_are_not_told_more_than_there_is_room_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as place, an_ingest(place) as ingest:
            told = [(await ingest.open(f"agent-{n}", EPOCH)).window for n in range(AGENTS)]
            assert sum(told) <= IngestSettings().memory_mb << 20

    asyncio.run(main())


def test_the_window_of_one_that_is_alone_grows_when_something_is_committed(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as place, an_ingest(place) as ingest:
            upload = await ingest.open("agent-1", EPOCH)
            first = upload.window
            await sends(upload, 10)
            await until(lambda: upload.committed == BATCHES * EACH)
            assert first < upload.window == IngestSettings().window_kb << 10

    asyncio.run(main())


@pytest.mark.slow
def test_what_waits_for_a_slow_store_is_bounded_and_comes_to_be_committed_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as place, an_ingest(place, memory_mb=8) as ingest:
            gate = Gate(place)
            uploads = await opened(ingest)
            largest = len(a_batch(1, LONG).data)
            sending = [asyncio.create_task(sends(upload, LONG)) for upload in uploads]
            await until(lambda: ingest.counters()["ingest_waiting_bytes"] > 8 << 20, 30.0)
            for _ in range(20):
                await asyncio.sleep(0)
                assert ingest.counters()["ingest_waiting_bytes"] <= (8 << 20) + 2 * largest
            assert sum(not task.done() for task in sending) > AGENTS / 3, "twice the memory is on its way"
            gate.opened.set()
            most = 0
            while not all(task.done() for task in sending):
                most = max(most, ingest.counters()["ingest_waiting_bytes"])
                await asyncio.sleep(POLL_SECONDS)
            assert most <= (8 << 20) + 2 * largest
            await asyncio.gather(*sending)
            await until(lambda: all(upload.committed == BATCHES * EACH for upload in uploads), 30.0)
            assert ingest.counters()["ingest_waiting_bytes"] == 0
            await all_there_once(place, tmp_path)

    asyncio.run(main())


@pytest.mark.slow
def test_a_full_disk_sends_all_of_them_away_and_they_come_back_one_after_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as place, an_ingest(place) as ingest:
            gate = Gate(place)
            gate.failure = StoreFull("full")
            uploads = await opened(ingest)
            sending = [asyncio.create_task(sends(upload, 10)) for upload in uploads]
            gate.opened.set()
            await until(lambda: all(upload.failure is not None for upload in uploads), 30.0)
            await asyncio.gather(*sending, return_exceptions=True)
            await until(lambda: ingest.counters()["ingest_waiting_bytes"] == 0, 30.0)
            delays = [comes_again(upload) for upload in uploads]
            assert min(delays) >= RETRY_SECONDS
            assert max(delays) <= RETRY_SECONDS * (1 + SPREAD)
            assert max(delays) - min(delays) > RETRY_SECONDS * SPREAD / 2, "not as one herd"
            for upload in uploads:
                upload.close()
            gate.failure = None
            uploads = await opened(ingest)
            await asyncio.gather(*(sends(upload, 10) for upload in uploads))
            await until(lambda: all(upload.committed == BATCHES * EACH for upload in uploads), 30.0)
            await all_there_once(place, tmp_path)

    asyncio.run(main())


def comes_again(upload: Upload) -> float:
    """When an agent does that was told this."""
    assert isinstance(upload.failure, Busy)
    error = ControllerError(Trouble.BUSY, "", upload.failure.retry_after)
    return Backoff(random.Random(id(upload)).random).failed(error, 0.0)
