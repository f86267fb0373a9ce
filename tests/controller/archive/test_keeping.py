"""Housekeeping: orphans are laid aside, small files become large, old days go; nothing that counts is touched."""

import asyncio
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agent.records.segment import Kind
from controller.archive.keeping import ORPHAN_SECONDS
from controller.archive.layout import CALLS
from controller.archive.tables import tables_of
from controller.errors import StoreUnavailable
from tests.controller.archive.lines import Kept, call, kept, lines, rollup
from tests.controller.stores import HOUR, WHEN

DAY = 24 * HOUR


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


async def fill(archive: Kept, number: int, first: int = 1, when: float = WHEN) -> None:
    """So many files of ten calls."""
    for n in range(number):
        start = first + n * 10
        await archive.put(lines([call(start + i, when + start + i) for i in range(10)], first=start), when=when)


def test_what_a_crash_left_is_laid_aside_at_start_and_what_counts_stays(tmp_path: Path) -> None:
    async def main() -> None:
        folder = tmp_path / "archive"
        async with kept(tmp_path) as archive:
            (good,) = await archive.put(lines([call(1)]))
            (orphan,) = await archive.archive.write(lambda: tables_of([lines([call(2)], first=2)], WHEN), WHEN)
            (folder / good.path).with_name(f".{Path(orphan.path).name}.0badc0de.tmp").write_bytes(b"half")
            (folder / "calls" / "notes.txt").write_text("of somebody else")
            foreign = orphan.path.replace("/c1-", "/c2-")
            (folder / foreign).write_bytes(b"PAR1")
        async with kept(tmp_path) as archive:
            aside = f"orphans/2027-01-15/{orphan.path}"
            assert files_in(folder) == sorted([good.path, "calls/notes.txt", aside, foreign])
            assert len(await archive.ask()) == 1
            # A file of another controller may be on its way; after an hour it is not.
            archive.now += ORPHAN_SECONDS * 24 * 400
            assert await archive.archive.keeper.sweep(ORPHAN_SECONDS) == 1
            archive.now += 9 * DAY
            await archive.archive.keeper.sweep(ORPHAN_SECONDS)
            assert files_in(folder) == sorted([good.path, "calls/notes.txt"])

    asyncio.run(main())


def test_records_that_only_a_lost_state_knew_are_not_deleted(tmp_path: Path) -> None:
    """The state was put back from a back-up, or begun anew: the files hold what agents were told is durable."""

    async def main() -> None:
        async with kept(tmp_path) as archive:
            await fill(archive, 5)
        for path in tmp_path.glob("state.db*"):
            path.unlink()
        async with kept(tmp_path) as archive:
            assert await archive.ask() == []
            assert len([p for p in files_in(tmp_path / "archive") if p.startswith("orphans/2027-01-15/calls/")]) == 5

    asyncio.run(main())


def test_small_files_become_one_and_hold_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            await fill(archive, 20)
            await archive.put(lines([call(n, WHEN - 2 * DAY) for n in range(7)], first=201))
            for n in range(9):
                await archive.put(lines([rollup(WHEN + n)], first=208 + n, kind=Kind.ROLLUP))
            before = await archive.ask(limit=1000)
            assert await archive.archive.keeper.compact() == 2
            assert await archive.archive.keeper.compact() == 0
            files = await archive.store.records.files(kind=CALLS)
            assert sorted(file.records for file in files) == [7, 200]
            assert await archive.ask(limit=1000) == before
            # Who reads an old file still can, for an hour.
            folder = tmp_path / "archive"
            assert len(files_in(folder)) == 2 + 1 + 20 + 9
            archive.now += ORPHAN_SECONDS + 1
            await archive.archive.keeper._remove_replaced()
            assert len(files_in(folder)) == 3
            (large,) = [file for file in files if file.records == 200]
            times = pq.read_table(folder / large.path, partitioning=None)["time"].to_pylist()
            assert times == sorted(times)

    asyncio.run(main())


def test_a_question_goes_on_while_its_files_are_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            await fill(archive, 60)
            asking = asyncio.create_task(archive.ask(limit=1000))
            await archive.archive.keeper.compact()
            assert len(await asking) == 600
            assert len(await archive.ask(limit=1000)) == 600

    asyncio.run(main())


def test_old_days_go_by_the_day_of_the_calls(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path, calls_days=30, rollups_days=60) as archive:
            await archive.put(lines([call(1, WHEN - 31 * DAY), call(2, WHEN - 29 * DAY), call(3, WHEN)]))
            await archive.put(lines([rollup(WHEN - 31 * DAY)], first=4, kind=Kind.ROLLUP))
            assert await archive.archive.keeper.forget() == 1
            assert [r["call_id"] for r in await archive.ask()] == ["3@192.0.2.1", "2@192.0.2.1"]
            archive.now += 2 * HOUR
            await archive.archive.keeper._remove_replaced()
            assert len(files_in(tmp_path / "archive")) == 3
            archive.now += 70 * DAY
            assert await archive.archive.keeper.forget() == 3

    asyncio.run(main())


def test_a_damaged_file_keeps_only_its_own_day_from_being_compacted(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            await fill(archive, 10, when=WHEN - 3 * DAY)
            await fill(archive, 10, first=101)
            bad = (await archive.store.records.files())[0]
            (tmp_path / "archive" / bad.path).write_bytes(b"no parquet")
            assert await archive.archive.keeper.compact() == 1
            assert not archive.archive.health()[0]
            assert len(await archive.ask(since=WHEN - HOUR)) == 100

    asyncio.run(main())


def test_a_place_that_does_not_answer_is_trouble_and_no_end(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "objects").write_text("a file where a folder should be")
        async with kept(tmp_path, url=f"file://{tmp_path}/objects") as archive:
            assert not archive.archive.health()[0]
            with pytest.raises(StoreUnavailable):
                await archive.put(lines([call(1)]))
            (tmp_path / "objects").unlink()
            await archive.put(lines([call(1)]))
            assert len(await archive.ask()) == 1
            assert archive.archive.health()[0] or "housekeeping" in archive.archive.health()[1]

    asyncio.run(main())
