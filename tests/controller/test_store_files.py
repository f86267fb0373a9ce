"""SQLite and what can happen to a file: taken, damaged, not writable, a full disk. Told clearly, never made worse."""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.errors import ControllerError, StoreBusy, StoreDamaged, StoreFull, StoreUnavailable, WatermarkMoved
from controller.model import Act, Advance
from controller.store import Store, StoreSettings
from controller.store.grouping import WAITING_MAX
from tests.controller.stores import JANE, WHEN, draft, opened, with_store
from tests.fakes.disks import fill, small_disk

ROOT = Path(__file__).resolve().parents[2]


async def nothing(_store: Store) -> None:
    """Only open it."""


def filled(path: Path, count: int = 200) -> StoreSettings:
    """A store with something on many pages."""
    settings = StoreSettings(path)

    async def work(store: Store) -> None:
        for n in range(count):
            await store.policies.add(draft(f"{n} " * 400), WHEN, JANE)

    with_store(settings, work)
    return settings


def test_only_the_controller_reads_its_state(sqlite_settings: StoreSettings) -> None:
    async def work(_store: Store) -> None:
        for path in sqlite_settings.file.parent.glob("state.db*"):
            assert path.stat().st_mode & 0o077 == 0, path

    with_store(sqlite_settings, work)


def test_a_second_controller_is_told_that_the_first_one_runs(sqlite_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(sqlite_settings) as store:
            with pytest.raises(StoreBusy, match="another controller is running"):
                async with opened(sqlite_settings, "c2"):
                    pass
            await store.ping()
        async with opened(sqlite_settings, "c2") as store:
            await store.ping()

    asyncio.run(main())


def test_every_start_leads_in_a_later_term(sqlite_settings: StoreSettings) -> None:
    async def work(store: Store) -> int:
        term = store.leadership.term()
        leader = await store.leader()
        assert term is not None
        assert leader is not None
        assert (leader.epoch, leader.controller_id) == (term.epoch, "c1")
        assert await store.leadership.wait(None, 10.0) == term
        return term.epoch

    assert [with_store(sqlite_settings, work) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("damage", [b"", b"this is no database, but it is long enough to be taken for one" * 100])
def test_a_file_that_is_no_database_is_named_and_left_alone(sqlite_settings: StoreSettings, damage: bytes) -> None:
    if not damage:  # a database of which only the first pages are left
        filled(sqlite_settings.file)
        damage = sqlite_settings.file.read_bytes()[:10_000]
    sqlite_settings.file.write_bytes(damage)
    with pytest.raises(StoreDamaged, match=r"state\.db is damaged .* back-up") as raised:
        with_store(sqlite_settings, nothing)
    assert str(sqlite_settings.file) in str(raised.value)
    assert sqlite_settings.file.read_bytes() == damage
    with pytest.raises(StoreDamaged):  # and again, not "busy"
        with_store(sqlite_settings, nothing)


def test_damaged_pages_are_told_and_never_raise_anything_else(tmp_path: Path) -> None:
    settings = filled(tmp_path / "whole.db")
    whole = settings.file.read_bytes()
    chance, outcomes = random.Random(20261123), set()
    for n in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 8, 64))):
            at = chance.randrange(len(damaged))
            damaged[at : at + 64] = chance.randbytes(min(64, len(damaged) - at))
        path = tmp_path / f"damaged-{n}.db"
        path.write_bytes(damaged)

        async def work(store: Store) -> None:
            await store.audit.verify()
            await store.policies.history(1000)
            for generation in range(1, 201):
                await store.policies.get(generation)

        try:
            with_store(StoreSettings(path), work)
            outcomes.add("unused bytes, or data that only their reader can judge")
        except ControllerError as error:
            outcomes.add(type(error).__name__)
    assert "StoreDamaged" in outcomes


def test_damage_that_comes_while_it_runs_is_told(sqlite_settings: StoreSettings) -> None:
    filled(sqlite_settings.file)

    async def work(store: Store) -> None:
        with sqlite_settings.file.open("r+b") as file:  # what a broken disk or controller would do
            file.seek(8192)
            file.write(os.urandom(sqlite_settings.file.stat().st_size - 8192))
        asked = (store.policies.get(generation) for generation in range(1, 201))
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(result) for result in results if isinstance(result, BaseException)} == {StoreDamaged}

    with_store(sqlite_settings, work)


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(StoreUnavailable, match=r"state\.db cannot be opened: Is a directory"):
        with_store(StoreSettings(tmp_path / "state.db"), nothing)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        with_store(StoreSettings(tmp_path / "file" / "state.db"), nothing)


def test_a_closed_store_says_so(sqlite_settings: StoreSettings) -> None:
    async def main() -> None:
        store = Store(sqlite_settings, "c1", "")
        assert store.health() == (False, "closed")
        async with opened(sqlite_settings) as store:
            assert store.health() == (True, "leading")
            assert store.counters()["store_writes"] > 0
        for asked in (store.ping(), store.audit.append(JANE, WHEN)):
            with pytest.raises(StoreUnavailable, match="closed"):
                await asked
        await store.close()

    asyncio.run(main())


def test_what_was_asked_before_the_end_is_done(sqlite_settings: StoreSettings) -> None:
    async def main() -> int:
        async with opened(sqlite_settings) as store:
            asked = [asyncio.ensure_future(store.audit.append(JANE, WHEN)) for _ in range(500)]
            await asyncio.sleep(0)
        return len(await asyncio.gather(*asked))

    assert asyncio.run(main()) == 500


def test_too_many_who_wait_are_told_to_come_back(sqlite_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        asked = [asyncio.ensure_future(store.audit.append(JANE, WHEN)) for _ in range(WAITING_MAX + 2000)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(error, StoreUnavailable) for error in refused)
        assert (await store.audit.verify()).entries == len(results) - len(refused) >= WAITING_MAX

    with_store(sqlite_settings, work)


def test_changes_that_wait_are_committed_together_and_fail_alone(sqlite_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        before = store.counters()
        moves = [Advance(f"agent-{n}", 1, n % 2, 5, 5) for n in range(100)]  # the odd ones begin where nothing is
        both = [[move, Advance(f"beside-{n}", 1, 0, 5, 5)] for n, move in enumerate(moves)]
        results = await asyncio.gather(
            *(store.records.commit([], two, [], WHEN) for two in both), return_exceptions=True
        )
        assert [isinstance(result, WatermarkMoved) for result in results] == [n % 2 == 1 for n in range(100)]
        names = {mark.agent_id for mark in await store.records.watermarks()}
        assert names == {f"{name}-{n}" for name in ("agent", "beside") for n in range(0, 100, 2)}
        assert store.counters()["store_commits"] - before["store_commits"] < 20

    with_store(sqlite_settings, work)


def test_who_gives_up_waiting_stops_nobody_else(sqlite_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        asked = [asyncio.ensure_future(store.audit.append(Act("a", f"{n}"), WHEN)) for n in range(100)]
        await asyncio.sleep(0)
        for task in asked[::2]:
            task.cancel()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert all(not isinstance(result, BaseException) for result in results[1::2])
        assert (await store.audit.verify()).intact

    with_store(sqlite_settings, work)


# --- full


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    with small_disk(tmp_path / "disk", 4) as mount:
        yield mount


@pytest.mark.kernel
def test_a_full_disk_is_told_reading_goes_on_and_it_recovers(disk: Path) -> None:
    ballast = disk / "ballast"

    async def work(store: Store) -> None:
        await store.policies.add(draft("before"), WHEN, JANE)
        await asyncio.to_thread(fill, ballast)
        text = "x" * 100_000
        results = await asyncio.gather(
            *(store.policies.add(draft(text), WHEN, JANE) for _ in range(20)), return_exceptions=True
        )
        assert all(isinstance(result, StoreFull) for result in results), results
        assert "disk" in str(results[0])
        assert (await store.policies.get()).document == b"before"
        assert len(await store.policies.history()) == 1
        assert (await store.audit.verify()).entries == 1
        ballast.unlink()
        assert (await store.policies.add(draft("after"), WHEN, JANE)).info.generation == 2
        assert (await store.audit.verify()).intact

    with_store(StoreSettings(disk / "state.db"), work)


@pytest.mark.kernel
def test_what_was_acknowledged_on_a_disk_that_fills_is_there_afterwards(disk: Path) -> None:
    settings, ballast = StoreSettings(disk / "state.db"), disk / "ballast"
    acknowledged: list[int] = []

    async def work(store: Store) -> None:
        await asyncio.to_thread(fill, ballast)
        with ballast.open("r+b") as file:
            file.truncate(ballast.stat().st_size - 400_000)
        for n in range(200):
            try:
                await store.records.commit([], [Advance(f"agent-{n}", 1, 0, 5, 5)], [], WHEN)
                await store.policies.add(draft("y" * 5000), WHEN, JANE)
            except StoreFull:
                continue
            acknowledged.append(n)
        assert 0 < len(acknowledged) < 200

    async def look(store: Store) -> None:
        marks = {mark.agent_id for mark in await store.records.watermarks()}
        assert {f"agent-{n}" for n in acknowledged} <= marks
        assert len(await store.policies.history(1000)) == len(acknowledged)
        assert (await store.audit.verify()).intact

    with_store(settings, work)
    ballast.unlink()
    with_store(settings, look)


@pytest.mark.kernel
def test_a_first_start_on_a_full_disk_is_told_and_succeeds_later(disk: Path) -> None:
    fill(disk / "ballast")
    with pytest.raises((StoreFull, StoreUnavailable)):
        with_store(StoreSettings(disk / "state.db"), nothing)
    (disk / "ballast").unlink()
    with_store(StoreSettings(disk / "state.db"), nothing)


_LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from controller.errors import StoreError
from controller.store import StoreSettings
from tests.controller.stores import JANE, WHEN, draft, opened

async def main() -> None:
    async with opened(StoreSettings(Path(sys.argv[1]))) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        errors = 0
        for n in range(30):
            try:
                await store.policies.add(draft("z" * 100_000), WHEN, JANE)
            except StoreError:
                errors += 1
        stored = len(await store.policies.history())
        assert errors and stored + errors == 30, (errors, stored)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert (await store.policies.add(draft("after"), WHEN, JANE)).info.generation == stored + 1
        assert (await store.audit.verify()).intact

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_is_told_and_nothing_is_half_done(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _LIMITED, tmp_path / "state.db"], cwd=ROOT, check=True, timeout=60)
    with sqlite3.connect(tmp_path / "state.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
