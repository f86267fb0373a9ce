"""Questions about records: what is asked is found, newest first, and nothing else; bad questions name their field."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from agent.records.segment import Kind
from controller.archive.query import LIMIT_MAX, Query
from controller.archive.tables import tables_of
from controller.errors import Busy, Invalid, StoreUnavailable
from tests.controller.archive.lines import EPOCH, call, kept, lines, rollup
from tests.controller.stores import HOUR, WHEN

DAY = 24 * HOUR


def test_a_record_comes_back_as_the_agent_wrote_it(tmp_path: Path) -> None:
    async def main() -> None:
        verified = {
            "failure": "",
            "why": "",
            "attestation": "A",
            "signer": "1234",
            "origid": "x",
            "rows": [{"ppt": "shaken", "url": "https://c.example/1", "failure": "", "why": ""}],
        }
        shadow = [{"action": "refuse", "rule": "r", "category": "limit", "why": "w", "answer": "603"}]
        value = call(1, verification=verified, shadow=shadow, notes=["n"], asserted=["a", "ü\u0000"])
        async with kept(tmp_path) as archive:
            await archive.put(lines([value, call(2, WHEN + 1, later={"field": [1]})]))
            newest, oldest = await archive.ask()
            place = {"agent": "a1", "epoch": f"{EPOCH:016x}", "kind": "allowed"}
            assert oldest == {**value, **place, "sequence": 1}
            assert newest == {**call(2, WHEN + 1), **place, "sequence": 2, "later": {"field": [1]}}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"limit": 2}, [5, 4]),
        ({"since": WHEN + 2}, [5, 4, 3]),
        ({"until": WHEN + 2}, [2, 1]),
        ({"since": WHEN + 1, "until": WHEN + 4}, [4, 3, 2]),
        ({"agent": "a2"}, [5]),
        ({"agent": "nobody"}, []),
        ({"call_id": "3@192.0.2.1"}, [3]),
        ({"trunk": "other"}, [2]),
        ({"rule": "dno"}, [4]),
        ({"refused_only": True}, [5, 4]),
        ({"calling": "12015550147"}, [3]),
        ({"calling": "+1 (201) 555-0147"}, [3]),
        ({"calling": "2015550147"}, [3]),
        ({"calling": "+2015550147"}, []),
        ({"called": "442079460000"}, [1]),
        ({"calling": "12015550147", "called": "442079460000"}, []),
        ({"trunk": "' OR true --"}, []),
    ],
)
def test_each_question_finds_its_records(tmp_path: Path, asked: dict[str, Any], found: list[int]) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            first = [
                call(1, WHEN, called="442079460000"),
                call(2, WHEN + 1, trunk="other"),
                call(3, WHEN + 2, calling="12015550147"),
                call(4, WHEN + 3, action="refuse", rule="dno"),
            ]
            await archive.put(lines(first))
            await archive.put(lines([call(5, WHEN + 4, action="drop")], agent="a2", kind=Kind.REFUSED))
            await archive.put(lines([rollup()], first=5, kind=Kind.ROLLUP))
            assert [int(r["call_id"].split("@")[0]) for r in await archive.ask(**asked)] == found

    asyncio.run(main())


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": LIMIT_MAX + 1}, "limit"),
        ({"calling": "bob"}, "calling"),
        ({"called": "+"}, "called"),
        ({"calling": "1" * 41}, "calling"),
        ({"call_id": "x" * 1025}, "call_id"),
        ({"since": 5.0, "until": 5.0}, "until"),
    ],
)
def test_a_bad_question_is_refused_with_its_field(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as raised:
        Query(**asked)
    assert raised.value.field == field


def test_a_traceback_finds_the_call_within_its_tolerance(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            await archive.put(lines([call(n, WHEN + n * 100.0) for n in range(20)]))
            await archive.put(lines([call(50, WHEN + 1000.0, called="442079460000")], agent="a2"))
            query = Query.traceback("(201) 555-0123", "+13035550199", WHEN + 1000.0, 250.0)
            found = [line async for page in archive.archive.query(query) for line in page]
            assert len(found) == 5
            assert all('"called":"13035550199"' in line for line in found)

    asyncio.run(main())


def test_the_newest_come_first_over_many_files_and_days(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            sequence = 1
            for n in (5, 1, 9, 0, 7, 3):
                await archive.put(lines([call(sequence + i, WHEN - n * DAY + i) for i in range(30)], first=sequence))
                sequence += 30
            rows = await archive.ask(limit=70)
            assert [r["time"] for r in rows] == sorted((r["time"] for r in rows), reverse=True)
            assert len(rows) == 70
            everything = await archive.ask(limit=1000)
            assert len(everything) == 180
            assert rows == everything[:70]

    asyncio.run(main())


def test_times_beyond_belief_are_found_and_hide_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        odd = ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "later", "-5.0"]
        async with kept(tmp_path) as archive:
            await archive.put(lines([call(n, time=text) for n, text in enumerate(odd)]))
            files = await archive.put(lines([call(n, WHEN) for n in range(10, 12)], first=6))
            assert len({file.path.split("/")[1] for file in files}) == 1
            rows = await archive.ask()
            assert len(rows) == 7
            assert {r["time"] for r in rows} >= {"later", "-5.0"}
            assert len(await archive.ask(since=WHEN - 1, until=WHEN + 1)) == 2 + 4, (
                "what has no time has that of its arrival"
            )

    asyncio.run(main())


def test_an_agent_whose_clock_jumps_makes_no_thousand_files(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            files = await archive.put(lines([call(n, WHEN - n * DAY) for n in range(300)]))
            assert len(files) <= 33
            assert len(await archive.ask(limit=1000)) == 300

    asyncio.run(main())


def test_more_questions_than_may_run_wait_and_more_than_may_wait_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path, queries=1) as archive:
            await archive.put(lines([call(n) for n in range(1200)]))
            first = archive.archive.query(Query(limit=1200))
            assert len(await anext(first)) == 500
            waiting = [asyncio.create_task(archive.ask(limit=1)) for _ in range(16)]
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await archive.ask()
            await first.aclose()
            assert all(len(rows) == 1 for rows in await asyncio.gather(*waiting))

    asyncio.run(main())


def test_a_question_that_nobody_asks_on_lets_the_next_one_in(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path, queries=1) as archive:
            await archive.put(lines([call(n) for n in range(3000)]))
            for _ in range(5):
                asking = asyncio.create_task(archive.ask(limit=3000))
                await asyncio.sleep(0.005)
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking
            assert len(await archive.ask(limit=3000)) == 3000

    asyncio.run(main())


def test_a_damaged_file_is_named_and_the_other_days_can_be_asked_about(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            (old,) = await archive.put(lines([call(1, WHEN - 2 * DAY)]))
            await archive.put(lines([call(2)], first=2))
            path = tmp_path / "archive" / old.path
            path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
            with pytest.raises(StoreUnavailable, match=path.name):
                await archive.ask()
            assert len(await archive.ask(since=WHEN - HOUR)) == 1
            path.unlink()
            with pytest.raises(StoreUnavailable, match="gone"):
                await archive.ask()

    asyncio.run(main())


def test_what_was_never_committed_is_not_found(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as archive:
            await archive.put(lines([call(1)]))
            await archive.archive.write(lambda: tables_of([lines([call(2)], first=2)], WHEN), WHEN)
            assert len(await archive.ask()) == 1

    asyncio.run(main())
