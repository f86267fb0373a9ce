"""Disks that are really full, the controller's and the agent's: nothing that was answered for is lost, and it ends."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.records.reading import records
from tests.controller.agents import a_controller
from tests.controller.ingest.uploads import FAST, a_host, archive_of, duplicates
from tests.fakes.waiting import until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"this root may not mount: {done.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def fill(place: Path) -> Path:
    """To the last byte."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return ballast


@pytest.mark.kernel
@pytest.mark.parametrize("low", ["full", "below its ratio"])
def test_a_controller_whose_archive_is_full_says_come_again_and_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path, low: str
) -> None:
    more = FAST + f'directory = "{small_disk / "archive"}"\n'
    if low != "full":
        more = more.replace("min_free_ratio = 0.0", "min_free_ratio = 0.5")

    async def main() -> None:
        async with a_controller(tmp_path / "c", more=more) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool") as host:
                await host.put(50, "before")
                await host.uploaded()
                ballast = fill(small_disk)
                await host.put(500, "during")
                await until(lambda: not host.uploader.health()[0], 20.0)
                assert "come again" in host.uploader.health()[1]
                healthy, why = controller.parts.ingest.health()
                assert not healthy
                assert "full" in why or "free" in why
                assert controller.parts.ingest.counters()["ingest_waiting_bytes"] == 0
                assert host.uploader.behind == 500
                ballast.unlink()
                await host.uploaded(30.0)
                assert controller.parts.ingest.health()[0]
            (tmp_path / "c" / "archive").symlink_to(small_disk / "archive")
            rows = await archive_of(controller, tmp_path / "c")
            assert sorted(row["sequence"] for row in rows) == list(range(1, 551))
            assert not duplicates(rows)
            assert not list((small_disk / "archive").rglob("*.tmp"))

    asyncio.run(main())


@pytest.mark.kernel
def test_an_agent_whose_disk_is_full_uploads_on_and_so_makes_room(tmp_path: Path, small_disk: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, small_disk / "spool") as host:
                await host.put(30, "before")
                await host.uploaded()
                await host.uploader.stop(5.0)
                await host.put(300, "waiting")
                fill(small_disk)
                await host.uploader.start()
                await host.uploaded(30.0)
                assert host.uploader.health()[0], "its mark is written in place"
                for n in range(10):
                    await host.put(60, f"{n}-{os.urandom(20).hex()}")
                    await host.uploaded(30.0)
                settled = host.spool.settled.sequence
                assert host.spool.health()[0]
            rows = await archive_of(controller, tmp_path / "c")
            assert not duplicates(rows)
            assert len(rows) == settled == 930
            assert len(list(records(small_disk / "spool"))) < 930, "what was uploaded has made room"
            assert host.spool.dropped_ranges == ()

    asyncio.run(main())


@pytest.mark.kernel
def test_an_agent_that_dies_with_a_full_disk_repeats_nothing(tmp_path: Path, small_disk: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, small_disk / "spool") as host:
                await host.put(300, "first")
                await host.uploaded()
            fill(small_disk)
            for _ in range(3):
                async with a_host(agent, small_disk / "spool") as host:
                    assert host.spool.settled.sequence == 300
                    await host.uploaded()
                    await until(lambda: host.uploader.health()[0])
            rows = await archive_of(controller, tmp_path / "c")
            assert len(rows) == 300
            assert len({row["epoch"] for row in rows}) == 1

    asyncio.run(main())
