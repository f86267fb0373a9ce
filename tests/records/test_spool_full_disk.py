"""A disk that is really full, and one that is really read-only: calls go on, nothing acknowledged is lost."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.records.manifest import DISK_SHORT
from agent.records.reading import records
from agent.records.settings import SpoolSettings
from agent.records.spool import Spool
from tests.fakes.waiting import until
from tests.records.decisions import allowed, refused

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"this root may not mount: {done.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def settings(directory: Path, **changed: float) -> SpoolSettings:
    values: dict[str, float] = {"segment_bytes": 65536, "min_free_ratio": 0.0, "commit_interval": 0.002, **changed}
    return SpoolSettings(directory, **values)  # type: ignore[arg-type]


@pytest.mark.kernel
def test_a_full_disk_is_reported_calls_go_on_and_it_recovers_when_space_returns(small_disk: Path) -> None:
    spool = Spool(settings(small_disk / "spool", queue_records=200))
    ballast = small_disk / "ballast"

    async def main() -> int:
        await spool.start()
        spool.put(refused("before"))
        await spool.flush()
        with ballast.open("wb", buffering=0) as file:  # somebody else fills the disk to its last byte
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break
        for i in range(500):
            spool.put(refused(f"during-{i}") if i % 2 else allowed(f"allowed-{i}"))
        await until(lambda: not spool.health()[0])
        assert "No space left on device" in spool.health()[1]
        assert spool.counters()["spool_queue_records"] <= 200
        assert spool.counters()["spool_queue_overflows"] > 0
        ballast.unlink()
        mark = await spool.flush()
        assert spool.health()[0]
        await spool.stop(5.0)
        return mark.sequence

    last = asyncio.run(main())
    found = list(records(small_disk / "spool"))
    ids = [record["call_id"] for record in found]
    assert ids[0] == "before"
    assert len(ids) == len(set(ids))
    assert all(f"during-{i}" in ids for i in range(1, 100, 2)), "refused calls stay while allowed ones can go"
    dropped = sum(r.count for r in spool.dropped_ranges)
    assert len(ids) + dropped == last == 501, "every number is a record or a reported loss"


@pytest.mark.kernel
def test_allowed_calls_make_room_for_refused_ones_on_a_full_disk(small_disk: Path) -> None:
    async def main() -> Spool:
        spool = Spool(settings(small_disk / "spool", segment_bytes=65536, max_bytes=64 * MEGABYTE))
        await spool.start()
        number = 0
        while not any(r.reason == DISK_SHORT for r in spool.dropped_ranges):
            for _ in range(100):
                call = allowed(f"{os.urandom(40).hex()}-{number}")
                spool.put(call)
                number += 1
            await spool.flush()
            assert number < 100_000
        for i in range(100):
            spool.put(refused(f"r-{i}"))
        await spool.flush()
        assert spool.health()[0]
        await spool.stop(5.0)
        return spool

    spool = asyncio.run(main())
    found = list(records(small_disk / "spool"))
    assert sum(str(r["call_id"]).startswith("r-") for r in found) == 100
    assert {r.kind for r in spool.dropped_ranges} == {"allowed"}
    assert len(found) + sum(r.count for r in spool.dropped_ranges) == spool.watermark.sequence


@pytest.mark.kernel
def test_a_disk_that_turns_read_only_is_reported_and_calls_go_on(small_disk: Path) -> None:
    async def main() -> None:
        spool = Spool(settings(small_disk / "spool", segment_seconds=1.0))
        await spool.start()
        spool.put(refused("before"))
        await spool.flush()
        await spool.stop(5.0)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        again = Spool(settings(small_disk / "spool"))
        await again.start()
        again.put(refused("kept"))
        assert "Read-only file system" in again.health()[1]
        assert again.counters()["spool_errors"] >= 1
        assert [r["call_id"] for r in records(small_disk / "spool")] == ["before"]
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        await again.flush()
        assert again.health()[0]
        await again.stop(5.0)

    asyncio.run(main())
    assert [r["call_id"] for r in records(small_disk / "spool")] == ["before", "kept"]


_LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from agent.records.settings import SpoolSettings
from agent.records.spool import Spool
from tests.records.decisions import refused

async def main() -> None:
    spool = Spool(SpoolSettings(Path(sys.argv[1]), commit_interval=0.001, min_free_ratio=0.0))
    await spool.start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    for n in range(12):
        for i in range(8):
            spool.put(refused(f"{n}-{i}"))
        await spool.flush()
    assert spool.counters()["spool_errors"] > 0
    assert spool.health()[0]
    await spool.stop(5.0)

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_is_left_and_another_one_begun(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _LIMITED, tmp_path / "spool"], cwd=ROOT, check=True, timeout=60)
    found = list(records(tmp_path / "spool"))
    assert [r["call_id"] for r in found] == [f"{n}-{i}" for n in range(12) for i in range(8)]
    assert [r["sequence"] for r in found] == list(range(1, 97))
    sizes = [path.stat().st_size for path in (tmp_path / "spool").glob("refused-*.seg")]
    assert len(sizes) > 1
    assert max(sizes) <= 4096
