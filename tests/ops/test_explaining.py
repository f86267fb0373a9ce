"""Looking up records in a process of its own, within bounds."""

import asyncio
import json
from pathlib import Path

import pytest

from agent.ops import explaining
from agent.ops.explaining import Finder
from agent.records.settings import SpoolSettings
from agent.records.spool import Spool
from agent.screening import Screening
from tests.fakes.calls import invite, policy, screen

CALL = "x1@a.example.net"


async def spooled(directory: Path, count: int) -> None:
    """Put so many attempts of one call on disk."""
    spool, screening = Spool(SpoolSettings(directory)), Screening(policy())
    await spool.start()
    for n in range(count):
        spool.put(screen(screening, invite(call_id=CALL, from_tag=f"t{n}")))
    await spool.stop(10.0)


def test_every_record_of_the_call_is_found_and_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        await spooled(tmp_path / "spool", 3)
        finder = Finder(tmp_path / "spool")
        found = [json.loads(text) for text in await finder.find(CALL)]
        assert [record["call_id"] for record in found] == [CALL] * 3
        assert await finder.find("x1@a.example.ne") == []
        assert await finder.find("--json") == []
        assert await finder.find("with a \0 in it") == ()

    asyncio.run(main())


def test_one_call_is_looked_up_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        await spooled(tmp_path / "spool", 1)
        finder = Finder(tmp_path / "spool")
        results = await asyncio.gather(finder.find(CALL), finder.find(CALL), return_exceptions=True)
        assert [type(result) for result in results] == [list, LookupError]
        assert len(await finder.find(CALL)) == 1

    asyncio.run(main())


def test_more_than_fits_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "BYTES_MAX", 100)

    async def main() -> None:
        await spooled(tmp_path / "spool", 3)
        with pytest.raises(LookupError, match="too many records of this call"):
            await Finder(tmp_path / "spool").find(CALL)

    asyncio.run(main())


def test_a_look_up_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "SECONDS_MAX", 0.01)

    async def main() -> None:
        with pytest.raises(LookupError, match=r"not found within 0\.01 s"):
            await Finder(tmp_path).find(CALL)

    asyncio.run(main())


def test_a_spool_that_cannot_be_read_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="absent: No such file or directory"):
        asyncio.run(Finder(tmp_path / "absent").find(CALL))
