"""A power cut at any moment: only what was synced survives, and that is all that was ever acknowledged.

The disk of these tests forgets: a file keeps the bytes that it had at its last fsync, a directory the names.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.records.reading import records
from agent.records.settings import SpoolSettings
from agent.records.spool_store import Group, SpoolStore

WHEN = 1_800_000_000.0


class ForgetfulDisk:
    """Watches the syncs of one directory, and can say what a power cut would leave of it."""

    def __init__(self, directory: Path, aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory, self._aside = directory, aside
        self._names: dict[str, int] = {}
        self._sizes: dict[int, int] = {}
        self._fdatasync, self._fsync = os.fdatasync, os.fsync
        self.after_sync: Callable[[], None] = lambda: None
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fdatasync(self, file: int) -> None:
        self._fdatasync(file)
        status = os.fstat(file)
        self._sizes[status.st_ino] = status.st_size
        self.after_sync()

    def fsync(self, file: int) -> None:
        self._fsync(file)
        status = os.fstat(file)
        if Path(f"/proc/self/fd/{file}").resolve() == self._directory:
            self._names = {}
            for path in self._directory.iterdir():
                inode = path.stat().st_ino
                self._names[path.name] = inode
                keep = self._aside / str(inode)  # and so the number is not used again
                if not keep.exists():
                    keep.hardlink_to(path)
        else:
            self._sizes[status.st_ino] = status.st_size
        self.after_sync()

    def left_by_a_power_cut(self, where: Path) -> Path:
        """A copy of what would be there after it."""
        where.mkdir(parents=True)
        for name, inode in self._names.items():
            data = (self._aside / str(inode)).read_bytes()
            (where / name).write_bytes(data[: self._sizes.get(inode, 0)])
        return where


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ForgetfulDisk:
    (tmp_path / "spool").mkdir()
    (tmp_path / "aside").mkdir()
    return ForgetfulDisk(tmp_path / "spool", tmp_path / "aside", monkeypatch)


@pytest.mark.parametrize("seed", range(6))
def test_what_was_acknowledged_survives_a_power_cut_at_any_sync(tmp_path: Path, disk: ForgetfulDisk, seed: int) -> None:
    chance = random.Random(seed)
    settings = SpoolSettings(tmp_path / "spool", segment_bytes=4096, max_bytes=30_000, min_free_ratio=0.0)
    store = SpoolStore(settings)
    cuts: list[tuple[Path, int]] = []

    def maybe_cut() -> None:
        if chance.random() < 0.2:
            # The watermark of this moment is what somebody may have been told.
            cuts.append((disk.left_by_a_power_cut(tmp_path / f"cut{len(cuts)}"), store.committed))

    store.open(0.0, WHEN)
    disk.after_sync = maybe_cut
    for step in range(80):
        noise = [b'{"n":"%s"}' % chance.randbytes(chance.randrange(400)).hex().encode() for _ in range(4)]
        store.write(Group(noise[:1], (), noise[1:]), float(step), WHEN + step)
        maybe_cut()
    disk.after_sync = lambda: None
    assert len(cuts) > 20
    for directory, acknowledged in cuts:
        again = SpoolStore(SpoolSettings(directory, segment_bytes=4096, min_free_ratio=0.0))
        again.open(0.0, WHEN)
        assert (list(again.problems), again.manifest.epoch) == ([], store.manifest.epoch)
        found = [record["sequence"] for record in records(directory)]
        assert len(found) == len(set(found))
        given_up = sum(r.count for r in again.manifest.dropped)
        assert sum(sequence <= acknowledged for sequence in found) + given_up >= acknowledged
        assert all(
            sequence in found or any(r.first <= sequence <= r.last for r in again.manifest.dropped)
            for sequence in range(1, acknowledged + 1)
        )
        assert again.committed >= acknowledged
        again.close(0.0, WHEN)
    assert store.counts.dropped > 0, "the bounds were never at work"
