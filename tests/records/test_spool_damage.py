"""The store after a crash, on a disk that fails, and with damage in its files."""

import errno
import os
from pathlib import Path

import pytest

from agent.records.manifest import (
    DAMAGED,
    DISK_SHORT,
    Manifest,
)
from agent.records.naming import MANIFEST
from agent.records.reading import records
from agent.records.spool_store import Group, SpoolStore
from tests.records.decisions import batches, lines, segments
from tests.records.stores import SMALL, WHEN, call_ids, filled, opened, ranges, sequences, settings

# --- damage


def hurt(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_a_torn_end_is_cut_and_no_alarm(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(allowed=lines(5)), 0.0, WHEN)
    store.write(Group(allowed=lines(5, "y")), 0.0, WHEN)
    os.close(store._lock)
    (path,) = segments(spool)
    path.write_bytes(path.read_bytes()[:-3])
    again = opened(spool)
    assert sequences(spool) == [1, 2, 3, 4, 5]
    assert (again.committed, again.counts.corrupt, list(again.problems)) == (5, 0, [])


def test_an_open_segment_without_a_whole_header_is_removed(spool: Path) -> None:
    spool.mkdir()
    (spool / "refused-00000000000000000009.open").write_bytes(b"SBCS")
    store = opened(spool)
    assert segments(spool) == []
    assert store.counts.corrupt == 0


def test_a_damaged_segment_is_set_aside_and_what_is_whole_of_it_kept(spool: Path) -> None:
    store = opened(spool)
    for word in "xyz":
        store.write(Group(allowed=lines(4, word)), 0.0, WHEN)
    store.close(0.0, WHEN)
    (path,) = segments(spool)
    second = batches(path)[1]
    hurt(path, second.end - 1)
    before = path.read_bytes()
    again = opened(spool)
    assert again.counts.corrupt == 1
    assert list(again.problems) == [
        f"{path.name}: bytes {second.offset} to {second.end}: a damaged batch, 4 records from 5 lost"
    ]
    assert sequences(spool) == [1, 2, 3, 4, 9, 10, 11, 12]
    assert ranges(again) == [(5, 8, "allowed", 4, DAMAGED)]
    assert path.with_name(path.name + ".corrupt").read_bytes() == before
    assert again.committed == 12


def test_damage_is_found_in_the_newest_segment_of_a_crash_too(spool: Path) -> None:
    store = opened(spool)
    for word in "xy":
        store.write(Group(refused=lines(4, word)), 0.0, WHEN)
    os.close(store._lock)
    (path,) = segments(spool)
    hurt(path, batches(path)[1].offset + 8)  # in the header: not even the count is left
    again = opened(spool)
    assert sequences(spool) == [1, 2, 3, 4]
    ((first, last, kind, count, reason),) = ranges(again)
    assert (first, kind, count, reason) == (5, "refused", 0, DAMAGED)
    assert last >= 8
    again.write(Group(refused=lines(1, "z")), 0.0, WHEN)
    assert sequences(spool)[-1] > 8, "a number that may have been handed on is not given twice"


def test_a_damaged_segment_header_costs_no_record(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(allowed=lines(4)), 0.0, WHEN)
    store.close(0.0, WHEN)
    (path,) = segments(spool)
    hurt(path, 20)
    again = opened(spool)
    assert sequences(spool) == [1, 2, 3, 4]
    assert again.counts.corrupt == 1
    assert {record["epoch"] for record in records(spool)} == {f"{again.manifest.epoch:016x}"}


def test_a_segment_of_nothing_but_damage_is_set_aside_whole(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(allowed=lines(4)), 0.0, WHEN)
    store.close(0.0, WHEN)
    (path,) = segments(spool)
    path.write_bytes(b"\xff" * 300)
    again = opened(spool)
    assert sequences(spool) == []
    assert ranges(again)[0][:2] == (1, 4)
    assert again.committed == 4
    assert [p.suffix for p in spool.glob("allowed-*")] == [".corrupt"]


def test_repairing_twice_is_repairing_once(spool: Path) -> None:
    store = opened(spool)
    for word in "xyz":
        store.write(Group(allowed=lines(4, word)), 0.0, WHEN)
    store.close(0.0, WHEN)
    (path,) = segments(spool)
    original = bytearray(path.read_bytes())
    original[batches(path)[1].end - 1] ^= 1
    path.write_bytes(original)
    opened(spool).close(0.0, WHEN)
    path.write_bytes(original)  # as if the crash had come before the old file was gone
    again = opened(spool)
    again.keep_house(1.0, WHEN)
    again.keep_house(2.0, WHEN)
    assert sequences(spool) == [1, 2, 3, 4, 9, 10, 11, 12]


def test_what_a_crash_left_of_a_replacement_is_removed(spool: Path) -> None:
    spool.mkdir()
    (spool / f".{MANIFEST}.0badcafe.tmp").write_bytes(b"{")
    opened(spool)
    assert sorted(path.name for path in spool.iterdir()) == ["lock", MANIFEST]


def test_files_of_others_are_left_alone(spool: Path) -> None:
    spool.mkdir()
    for name in ("notes.txt", "allowed-7.seg", "refused-00000000000000000009.tmp"):
        (spool / name).write_text("mine")
    store = opened(spool, max_bytes=2 * SMALL)
    filled(store, "abcdef")
    store.keep_house(1.0, WHEN)
    assert sorted(p.name for p in spool.iterdir() if p.read_bytes() == b"mine") == [
        "allowed-7.seg",
        "notes.txt",
        "refused-00000000000000000009.tmp",
    ]


# --- a disk that fails


class FailingDisk:
    """Fails the next so many syncs or writes, as the kernel does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sync_errors: list[int] = []
        self.write_errors: list[int] = []
        self.cut_errors: list[int] = []
        self._sync, self._write, self._cut = os.fdatasync, os.write, os.ftruncate
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)
        monkeypatch.setattr(os, "write", self.write)

    def fdatasync(self, file: int) -> None:
        if self.sync_errors and (code := self.sync_errors.pop(0)):
            raise OSError(code, os.strerror(code))
        self._sync(file)

    def ftruncate(self, file: int, size: int) -> None:
        if self.cut_errors and (code := self.cut_errors.pop(0)):
            raise OSError(code, os.strerror(code))
        self._cut(file, size)

    def write(self, file: int, data: memoryview) -> int:
        if self.write_errors and (code := self.write_errors.pop(0)):
            if len(data) > 1:
                self._write(file, data[: len(data) // 2])
            raise OSError(code, os.strerror(code))
        return self._write(file, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FailingDisk:
    return FailingDisk(monkeypatch)


def test_after_a_failed_sync_the_group_is_written_again_elsewhere_and_is_there_once(
    spool: Path, disk: FailingDisk
) -> None:
    store = opened(spool)
    store.write(Group(refused=lines(2, "x")), 0.0, WHEN)
    disk.sync_errors = [errno.EIO]
    with pytest.raises(OSError, match="Input/output"):
        store.write(Group(refused=lines(2, "y")), 0.0, WHEN)
    assert store.committed == 2
    assert store.pending
    store.write(Group(), 1.0, WHEN)
    assert store.committed == 4
    assert call_ids(spool) == ["x-0", "x-1", "y-0", "y-1"]
    assert len(segments(spool)) == 2


def test_what_could_not_be_cut_back_after_a_failure_is_shown_once(spool: Path, disk: FailingDisk) -> None:
    store = opened(spool)
    store.write(Group(refused=lines(2, "x")), 0.0, WHEN)
    disk.sync_errors = [errno.EIO]
    disk.cut_errors = [errno.EIO]
    with pytest.raises(OSError, match="Input/output"):
        store.write(Group(refused=lines(2, "y")), 0.0, WHEN)
    store.write(Group(), 1.0, WHEN)
    assert [len(batches(path)) for path in segments(spool)] == [2, 1]
    assert sequences(spool) == [1, 2, 3, 4]
    store.close(1.0, WHEN)
    opened(spool)
    assert sequences(spool) == [1, 2, 3, 4]


def test_a_group_that_was_half_written_leaves_no_trace(spool: Path, disk: FailingDisk) -> None:
    store = opened(spool)
    store.write(Group(refused=lines(2, "x")), 0.0, WHEN)
    disk.write_errors = [errno.EIO]
    with pytest.raises(OSError, match="Input/output"):
        store.write(Group(refused=lines(50, "y")), 0.0, WHEN)
    assert sequences(spool) == [1, 2]
    store.write(Group(refused=lines(1, "z")), 1.0, WHEN)
    assert sequences(spool) == list(range(1, 54))
    store.close(1.0, WHEN)
    assert opened(spool).counts.corrupt == 0


def test_a_full_disk_makes_room_of_allowed_calls_and_the_write_goes_through(spool: Path, disk: FailingDisk) -> None:
    store = opened(spool)
    filled(store, "abc")
    disk.write_errors = [errno.ENOSPC, errno.ENOSPC]
    store.write(Group(refused=lines(1, "r")), 0.0, WHEN)
    assert call_ids(spool) == ["c", "r-0"]
    assert ranges(store) == [(1, 2, "allowed", 2, DISK_SHORT)]


def test_a_full_disk_without_allowed_calls_keeps_everything(spool: Path, disk: FailingDisk) -> None:
    store = opened(spool)
    filled(store, "rs", allowed=False)
    disk.write_errors = [errno.ENOSPC]
    with pytest.raises(OSError, match="No space"):
        store.write(Group(refused=lines(1, "t")), 0.0, WHEN)
    store.write(Group(), 1.0, WHEN)
    assert call_ids(spool) == ["r", "s", "t-0"]
    assert ranges(store) == []


def test_a_new_segment_that_cannot_be_made_leaves_nothing_behind(spool: Path, disk: FailingDisk) -> None:
    store = opened(spool)
    disk.write_errors = [errno.EIO]
    with pytest.raises(OSError, match="Input/output"):
        store.write(Group(refused=lines(1)), 0.0, WHEN)
    assert segments(spool) == []
    store.write(Group(), 1.0, WHEN)
    assert sequences(spool) == [1]


def test_an_unreadable_segment_at_start_is_named_and_the_rest_works(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(spool)
    filled(store, "ab")
    store.close(0.0, WHEN)
    bad = segments(spool)[0]
    original = Path.open

    def failing(self: Path, *arguments: object, **named: object) -> object:
        if self.name == bad.name:
            raise OSError(errno.EIO, "Input/output error", str(self))
        return original(self, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", failing)
    again = opened(spool)
    assert list(again.problems) == [f"{bad.name}: Input/output error"]
    again.write(Group(refused=lines(1, "r")), 0.0, WHEN)
    assert call_ids(spool)[-2:] == ["b", "r-0"]


def test_a_directory_that_cannot_be_is_an_error_and_the_next_try_succeeds(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SpoolStore(settings(tmp_path / "file" / "spool"))
    with pytest.raises(OSError, match=r"."):
        store.open(0.0, WHEN)
    assert not store.is_open
    (tmp_path / "file").unlink()
    store.open(0.0, WHEN)
    assert store.is_open


def test_a_manifest_is_never_behind_what_was_committed_before_it(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(allowed=lines(3)), 0.0, WHEN)
    store.close(0.0, WHEN)
    assert Manifest.decode((spool / MANIFEST).read_bytes()).next == 4
