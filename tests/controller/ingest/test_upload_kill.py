"""kill -9 at each step, on either side: what is in the spool is in the archive, once, when both live again."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from agent.control.upload import Uploader
from agent.records.reading import records
from agent.records.spool import Spool
from controller.store import StoreSettings
from tests.controller.agents import OPTIONS
from tests.controller.archive.lines import quiet_log
from tests.controller.ingest.uploads import Host, archived, duplicates, spool_settings
from tests.controller.ingest.victim import AGENT_STEPS, CONTROLLER_STEPS
from tests.controller.stores import opened
from tests.fakes.waiting import until

ROOT = Path(__file__).resolve().parents[3]


def victim(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.controller.ingest.victim", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def address_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    return str(said["address"])


def ended(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def everything(folder: Path) -> list[dict[str, Any]]:
    """What the archive of a dead controller holds."""

    async def look() -> list[dict[str, Any]]:
        async with opened(StoreSettings(folder / "state.db"), "c1") as store:
            return await archived(store, folder)

    return asyncio.run(look())


def is_all_there_once(folder: Path) -> None:
    """The spool and the archive hold the same."""
    rows = everything(folder / "c")
    assert not duplicates(rows)
    there = Counter((row["sequence"], row["call_id"]) for row in rows)
    held = Counter((r["sequence"], r["call_id"]) for r in records(folder / "spool"))
    assert there == held
    assert len({row["epoch"] for row in rows}) == 1


async def uploads_while_it_dies(folder: Path, steps: list[tuple[str, int]]) -> int:
    """An agent that writes on while one controller after the other is killed. How many died as they should."""
    place = {"address": ""}
    identity: dict[str, str] = {}

    def channel() -> aio.Channel:
        secret = grpc.ssl_channel_credentials(*(identity[name].encode() for name in ("roots", "key", "chain")))
        return aio.secure_channel(place["address"], secret, options=OPTIONS)

    spool = Spool(spool_settings(folder / "spool"))
    host = Host(spool, Uploader(spool, folder / "spool", channel, lambda: 0, quiet_log(), lambda: 0.02))
    await spool.start()
    died = 0
    for step, occurrence in [*steps, ("never", 1)]:
        process = await asyncio.to_thread(victim, "controller", folder / "c", step, occurrence)
        try:
            place["address"] = await asyncio.to_thread(address_of, process)
            identity.update(json.loads((folder / "c" / "identity.json").read_text()))
            if host.uploader._task is None:
                await host.uploader.start()
            for _ in range(400):
                if process.poll() is not None:
                    break
                await host.put(7, f"{step}-{occurrence}")
                await asyncio.sleep(0.01)
                if step == "never" and host.made > 1000:
                    break
            if step == "never":
                await host.uploaded(120.0)
            else:
                await until(lambda: process.poll() is not None, 60.0)  # noqa: B023
                died += process.returncode == -9
        finally:
            ended(process)
    await host.uploader.stop(1.0)
    await spool.stop(5.0)
    return died


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_controller_that_dies_around_its_transaction_loses_nothing(tmp_path: Path) -> None:
    assert asyncio.run(uploads_while_it_dies(tmp_path, [("commit", 2), ("committed", 2)])) == 2
    is_all_there_once(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_controller_that_dies_at_any_step_loses_nothing(tmp_path: Path) -> None:
    steps = [(step, occurrence) for occurrence in (1, 2, 5) for step in CONTROLLER_STEPS]
    steps = [(step, n) for step, n in steps if not (step == "folder" and n > 1)]
    assert asyncio.run(uploads_while_it_dies(tmp_path, steps)) == len(steps)
    is_all_there_once(tmp_path)
    assert not list((tmp_path / "c" / "archive").rglob("*.tmp")), "what dying controllers left is swept"


def agents_die(folder: Path, steps: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """One agent after the other on one spool, each killed. Those that did not come to their step."""
    server = victim("controller", folder / "c", "never", 1)
    alive, output = [], ""
    try:
        address = address_of(server)
        for step, occurrence in [*steps, ("never", 1)]:
            process = victim("agent", folder / "spool", address, step, occurrence)
            output, _ = process.communicate(timeout=120)
            if step != "never" and process.returncode != -9:
                alive.append((step, occurrence))
        assert output.splitlines()[-1].startswith("done")
    finally:
        ended(server)
    return alive


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_agent_that_dies_before_and_after_it_says_what_it_sends_repeats_nothing(tmp_path: Path) -> None:
    assert agents_die(tmp_path, [("saved", 2), ("sent", 5)]) == []
    is_all_there_once(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_agent_that_dies_at_any_step_loses_and_repeats_nothing(tmp_path: Path) -> None:
    steps = [(step, occurrence) for occurrence in (1, 2) for step in AGENT_STEPS]
    steps += [(step, 6) for step in ("next", "sent")]
    assert agents_die(tmp_path, steps) == []
    is_all_there_once(tmp_path)
