"""Watermarks and files: together or not at all, and by one writer only. On both databases."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Connection, text

from controller.errors import Conflict, Denied, Invalid, Moved, WatermarkMoved
from controller.model import Advance, ArchivedFile, DroppedRange
from controller.store import Store, StoreSettings
from controller.store.records import RANGES_MAX, SPOOLS_MAX
from tests.controller.stores import WHEN, opened, with_store

EPOCH = (1 << 64) - 3


def file(path: str, first: float = 0.0, last: float = 10.0, kind: str = "refused", records: int = 5) -> ArchivedFile:
    return ArchivedFile(path, kind, records, 1000, WHEN + first, WHEN + last, WHEN)


def dropped(first: int, last: int, **changed: object) -> DroppedRange:
    values: dict[str, object] = {
        "agent_id": "a",
        "spool_epoch": EPOCH,
        "first": first,
        "last": last,
        "kind": "allowed",
        "count": last - first + 1,
        "reason": "disk short",
        "at": WHEN + first,
    }
    return DroppedRange(**(values | changed))  # type: ignore[arg-type]


def test_a_spool_that_is_not_known_begins_at_nothing(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        mark = await store.records.watermark("a", EPOCH)
        assert (mark.agent_id, mark.spool_epoch, mark.committed_through, mark.records) == ("a", EPOCH, 0, 0)
        assert await store.records.watermarks() == []

    with_store(store_settings, work)


def test_file_watermark_and_losses_are_committed_together(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        lost = dropped(6, 9)
        await store.records.commit([file("a/1")], [Advance("a", EPOCH, 0, 5, 5)], [], WHEN)
        await store.records.commit([file("a/2")], [Advance("a", EPOCH, 5, 12, 3)], [lost], WHEN + 1)
        mark = await store.records.watermark("a", EPOCH)
        assert (mark.committed_through, mark.records, mark.updated_at) == (12, 8, WHEN + 1)
        assert await store.records.watermarks("a") == [mark] == await store.records.watermarks()
        assert await store.records.watermarks("b") == []
        assert await store.records.paths() == {"a/1", "a/2"}
        assert await store.records.dropped("a") == [lost]
        assert await store.records.dropped("b") == []

    with_store(store_settings, work)


def test_a_watermark_that_has_moved_undoes_everything(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await store.records.commit([], [Advance("a", EPOCH, 0, 5, 5)], [], WHEN)
        for wrong in (Advance("a", EPOCH, 0, 6, 1), Advance("a", EPOCH, 4, 6, 1), Advance("a", EPOCH, 7, 9, 1)):
            with pytest.raises(WatermarkMoved) as raised:
                await store.records.commit([file("a/2")], [Advance("b", 1, 0, 3, 3), wrong], [dropped(1, 2)], WHEN)
            assert raised.value.moved == (Moved("a", EPOCH, wrong.expected, 5),)
        assert await store.records.paths() == frozenset()
        assert await store.records.dropped() == []
        assert (await store.records.watermark("b", 1)).committed_through == 0
        assert len(await store.records.watermarks()) == 1

    with_store(store_settings, work)


@pytest.mark.parametrize(("expected", "through"), [(5, 5), (5, 4), (-1, 3), (0, 0), (0, 1 << 63)])
def test_an_advance_that_is_none_is_refused(sqlite_settings: StoreSettings, expected: int, through: int) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(Invalid):
            await store.records.commit([], [Advance("a", 1, expected, through, 1)], [], WHEN)

    with_store(sqlite_settings, work)


def test_statements_of_the_caller_are_part_of_the_commit(store_settings: StoreSettings) -> None:
    def during(tx: Connection) -> None:
        tx.execute(text("INSERT INTO fetches VALUES ('mine', 0, NULL, '', '')"))

    def fails(tx: Connection) -> None:
        during(tx)
        raise Conflict("no")

    async def work(store: Store) -> None:
        with pytest.raises(Conflict, match="no"):
            await store.records.commit([file("a/1")], [Advance("a", 1, 0, 5, 5)], [], WHEN, fails)
        assert await store.records.paths() == frozenset()
        assert await store.artifacts.fetch_states() == {}
        await store.records.commit([file("a/1")], [Advance("a", 1, 0, 5, 5)], [], WHEN, during)
        assert "mine" in await store.artifacts.fetch_states()

    with_store(store_settings, work)


def test_two_controllers_that_take_one_spool_count_each_record_once(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings, "c1") as one, opened(postgres_settings, "c2") as two:
            wins = {"c1": 0, "c2": 0}

            async def takes(store: Store) -> None:
                while (mark := await store.records.watermark("a", 1)).committed_through < 200:
                    through = mark.committed_through + 10
                    path = f"{store.controller_id}/{through}"
                    try:
                        advance = Advance("a", 1, mark.committed_through, through, 10)
                        await store.records.commit([file(path, records=10)], [advance], [], WHEN)
                    except WatermarkMoved:
                        continue
                    wins[store.controller_id] += 1

            await asyncio.gather(takes(one), takes(two), takes(one), takes(two))
            assert sum(wins.values()) == 20
            mark = await one.records.watermark("a", 1)
            assert (mark.committed_through, mark.records) == (200, 200)
            files = await two.records.files()
            assert sum(one.records for one in files) == 200, "a file is there for each move, and for no other"

    asyncio.run(main())


def test_many_agents_at_once_do_not_wait_for_each_other_for_ever(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agents = [f"agent-{n}" for n in range(30)]

        async def takes(order: list[str], step: int) -> None:
            moves = [Advance(agent, step, 0, 1, 1) for agent in order]
            await store.records.commit([], moves, [], WHEN)

        await asyncio.gather(*(takes(agents if step % 2 else agents[::-1], step % 4) for step in range(4)))
        assert len(await store.records.watermarks()) == 120

    with_store(store_settings, work)


def test_files_are_found_by_time_and_kind(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        files = [file("b", 0, 10), file("a", 10, 20), file("c", 20, 30, "rollup")]
        await store.records.commit(files, [], [], WHEN)
        assert await store.records.files() == files

        async def found(first_at: float = -1e6, last_at: float = 1e6) -> list[str]:
            return [one.path for one in await store.records.files(WHEN + first_at, WHEN + last_at)]

        assert await found(first_at=10.0) == ["b", "a", "c"]
        assert await found(first_at=10.5) == ["a", "c"]
        assert await found(last_at=9.0) == ["b"]
        assert await found(first_at=11.0, last_at=19.0) == ["a"]
        assert await found(first_at=31.0) == []
        assert [one.path for one in await store.records.files(kind="rollup")] == ["c"]

    with_store(store_settings, work)


def test_a_path_is_given_once(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await store.records.commit([file("a")], [], [], WHEN)
        with pytest.raises(Conflict, match="a is there already"):
            await store.records.commit([file("a")], [Advance("a", 1, 0, 5, 5)], [], WHEN)
        assert await store.records.watermarks() == []

    with_store(store_settings, work)


def test_files_are_replaced_as_a_whole(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await store.records.commit([file(f"{n}") for n in range(2500)], [], [], WHEN)
        await store.records.replace([f"{n}" for n in range(2000)], [file("merged")])
        assert len(await store.records.paths()) == 501
        with pytest.raises(Conflict, match="replaced already"):
            await store.records.replace(["2400", "7"], [file("again")])
        assert "2400" in await store.records.paths()
        await store.records.replace(["merged"], [])
        assert len(await store.records.paths()) == 500

    with_store(store_settings, work)


def test_a_loss_that_grew_is_told_again(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await store.records.commit([], [], [dropped(1, 5), dropped(1, 9), dropped(20, 30)], WHEN)
        await store.records.commit([], [], [dropped(1, 12, reason="r" * 999)], WHEN)
        found = await store.records.dropped()
        assert [(one.first, one.last) for one in found] == [(20, 30), (1, 12)]
        assert len(found[1].reason) == 255
        assert await store.records.dropped(limit=1) == found[:1]

    with_store(store_settings, work)


def test_an_agent_fills_no_table(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        losses = [dropped(n, n) for n in range(1, RANGES_MAX + 501)]
        await store.records.commit([], [], losses, WHEN)
        kept = await store.records.dropped("a", 100_000)
        assert len(kept) == RANGES_MAX
        assert kept[0].first == RANGES_MAX + 500
        await store.records.commit([], [Advance("a", n, 0, 1, 1) for n in range(SPOOLS_MAX)], [], WHEN)
        with pytest.raises(Denied, match="1000 spools"):
            await store.records.commit([], [Advance("a", SPOOLS_MAX, 0, 1, 1)], [], WHEN)
        await store.records.commit([], [Advance("a", 7, 1, 2, 1), Advance("b", 0, 0, 1, 1)], [], WHEN)

    with_store(store_settings, work)


def test_times_and_numbers_come_back_as_they_went(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        exact = replace(file("a"), first_at=1_700_000_000.123456, last_at=1_900_000_000.654321, records=(1 << 62) + 1)
        await store.records.commit([exact], [], [], WHEN)
        assert await store.records.files() == [exact]

    with_store(store_settings, work)
