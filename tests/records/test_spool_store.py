"""The store: sequences, bounds, damage and recovery, with the clock in the test's hand."""

import errno
import os
from pathlib import Path

import pytest

from agent.records import spool_store
from agent.records.manifest import (
    DAMAGED,
    DISK_SHORT,
    NOT_WRITTEN,
    QUEUE_FULL,
    TOO_OLD,
    TOTAL_BYTES,
    DroppedRange,
    Manifest,
)
from agent.records.naming import MANIFEST
from agent.records.reading import records
from agent.records.settings import SpoolSettings
from agent.records.spool_store import Group, SpoolStore
from tests.records.decisions import batches, lines, segments

WHEN = 1_800_000_000.0
SMALL = 4096


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def settings(directory: Path, **changed: float) -> SpoolSettings:
    values: dict[str, float] = {"segment_bytes": SMALL, "max_bytes": 1 << 20, "min_free_ratio": 0.0, **changed}
    return SpoolSettings(directory, **values)  # type: ignore[arg-type]


def opened(directory: Path, now: float = 0.0, when: float = WHEN, **changed: float) -> SpoolStore:
    store = SpoolStore(settings(directory, **changed))
    store.open(now, when)
    return store


def call_ids(directory: Path) -> list[str]:
    return [record["call_id"] for record in records(directory)]


def sequences(directory: Path) -> list[int]:
    return [record["sequence"] for record in records(directory)]


def ranges(store: SpoolStore) -> list[tuple[int, int, str, int, str]]:
    return [(r.first, r.last, r.kind, r.count, r.reason) for r in store.manifest.dropped]


def filled(store: SpoolStore, words: str, now: float = 0.0, *, allowed: bool = True) -> None:
    """One segment of incompressible records for each letter."""
    for word in words:
        noise = [b'{"call_id":"%c","noise":"%s"}' % (ord(word), os.urandom(SMALL).hex().encode())]
        store.write(Group(allowed=noise) if allowed else Group(refused=noise), now, WHEN)


# --- sequence and watermark


def test_a_group_is_numbered_refused_first_and_read_back_in_order(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(lines(2, "r"), [b'{"attempts":1}'], lines(3, "a")), 0.0, WHEN)
    assert store.committed == 6
    found = list(records(spool))
    assert [(r["sequence"], r["kind"], r.get("call_id")) for r in found] == [
        (1, "refused", "r-0"),
        (2, "refused", "r-1"),
        (3, "rollup", None),
        (4, "allowed", "a-0"),
        (5, "allowed", "a-1"),
        (6, "allowed", "a-2"),
    ]
    assert {r["epoch"] for r in found} == {f"{store.manifest.epoch:016x}"}


def test_allowed_calls_have_segments_of_their_own(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(lines(1, "r"), [b"{}"], lines(1, "a")), 0.0, WHEN)
    assert len(segments(spool, "refused")) == len(segments(spool, "allowed")) == 1


def test_the_sequence_goes_on_after_a_restart_in_the_same_epoch(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(allowed=lines(5)), 0.0, WHEN)
    epoch = store.manifest.epoch
    store.close(1.0, WHEN)
    again = opened(spool)
    assert (again.manifest.epoch, again.committed) == (epoch, 5)
    again.write(Group(refused=lines(1)), 0.0, WHEN)
    assert sequences(spool) == [1, 2, 3, 4, 5, 6]


def test_the_sequence_goes_on_after_a_crash(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(allowed=lines(5)), 0.0, WHEN)
    os.close(store._lock)  # what the kernel does when a process dies
    again = opened(spool)
    again.write(Group(allowed=lines(2, "later")), 0.0, WHEN)
    assert sequences(spool) == [1, 2, 3, 4, 5, 6, 7]


def test_without_its_manifest_the_spool_keeps_epoch_and_sequence(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(allowed=lines(5)), 0.0, WHEN)
    store.close(0.0, WHEN)
    (spool / MANIFEST).write_bytes(b"{")
    again = opened(spool)
    assert (again.manifest.epoch, again.committed) == (store.manifest.epoch, 5)
    assert (spool / f"{MANIFEST}.corrupt").read_bytes() == b"{"


def test_two_empty_spools_have_different_epochs(tmp_path: Path) -> None:
    assert opened(tmp_path / "a").manifest.epoch != opened(tmp_path / "b").manifest.epoch


def test_only_one_process_writes_to_a_spool(spool: Path) -> None:
    store = opened(spool)
    with pytest.raises(OSError, match="another process writes to this spool"):
        opened(spool)
    store.close(0.0, WHEN)
    opened(spool).close(0.0, WHEN)


def test_nobody_else_may_read_call_records(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(lines(1), (), lines(1)), 0.0, WHEN)
    assert spool.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o007 for path in segments(spool)} == {0}


def test_opening_and_closing_leaves_no_empty_segments(spool: Path) -> None:
    for _ in range(3):
        opened(spool).close(0.0, WHEN)
    assert segments(spool) == []


# --- rotation and bounds


def test_segments_rotate_by_bytes(spool: Path) -> None:
    store = opened(spool)
    filled(store, "abc")
    assert [path.suffix for path in segments(spool, "allowed")] == [".seg"] * 3
    assert call_ids(spool) == ["a", "b", "c"]


def test_segments_rotate_by_age_also_when_nothing_comes(spool: Path) -> None:
    store = opened(spool, segment_seconds=60.0)
    store.write(Group(allowed=lines(1)), 10.0, WHEN)
    store.write(Group(), 69.0, WHEN)
    assert [path.suffix for path in segments(spool)] == [".open"]
    store.write(Group(), 71.0, WHEN)
    assert [path.suffix for path in segments(spool)] == [".seg"]


def test_over_the_bound_the_oldest_allowed_go_first_and_are_reported(spool: Path) -> None:
    store = opened(spool, max_bytes=6 * SMALL)  # five segments of a little more than SMALL
    filled(store, "r", allowed=False)
    filled(store, "abcdefgh")
    store.keep_house(1.0, WHEN)
    assert call_ids(spool) == ["r", "e", "f", "g", "h"]
    assert ranges(store) == [(2, 5, "allowed", 4, TOTAL_BYTES)]
    assert store.counts.dropped == 4
    assert store.counts.bytes <= 6 * SMALL


def test_refused_go_when_no_allowed_are_left(spool: Path) -> None:
    store = opened(spool, max_bytes=6 * SMALL)
    filled(store, "a")
    filled(store, "rstuvw", allowed=False)
    store.keep_house(1.0, WHEN)
    assert call_ids(spool) == ["s", "t", "u", "v", "w"]
    assert ranges(store) == [(1, 1, "allowed", 1, TOTAL_BYTES), (2, 2, "refused", 1, TOTAL_BYTES)]


def test_dropped_ranges_survive_a_restart(spool: Path) -> None:
    store = opened(spool, max_bytes=2 * SMALL)
    filled(store, "abcd")
    store.keep_house(1.0, WHEN)
    store.close(1.0, WHEN)
    again = opened(spool)
    assert ranges(again) == ranges(store) != []
    assert again.committed == 4


def test_a_drop_that_a_crash_interrupted_is_finished_by_the_next_start(spool: Path) -> None:
    store = opened(spool)
    filled(store, "ab")
    store.close(0.0, WHEN)
    epoch = store.manifest.epoch
    said = store.manifest.with_dropped(DroppedRange(epoch, 1, 1, "allowed", 1, TOTAL_BYTES, WHEN))
    (spool / MANIFEST).write_bytes(said.encode())
    opened(spool)
    assert call_ids(spool) == ["b"]


def test_what_is_too_old_goes_whatever_it_is(spool: Path) -> None:
    store = opened(spool, max_age_seconds=100.0, segment_seconds=10.0)
    store.write(Group(lines(1, "old"), (), lines(1, "old")), 0.0, WHEN)
    store.write(Group(lines(1, "new"), (), lines(1, "new")), 50.0, WHEN)
    store.keep_house(101.0, WHEN)
    assert call_ids(spool) == ["new-0", "new-0"]
    assert {r[4] for r in ranges(store)} == {TOO_OLD}


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_an_hour_deletes_and_duplicates_nothing(spool: Path, jump: float) -> None:
    store = opened(spool, max_age_seconds=1800.0, segment_seconds=10.0)
    store.write(Group(lines(2, "r"), (), lines(2, "a")), 0.0, WHEN)
    store.write(Group(lines(2, "s"), (), lines(2, "b")), 11.0, WHEN + jump)
    store.keep_house(12.0, WHEN + jump)
    store.write(Group(lines(2, "t"), (), lines(2, "c")), 23.0, WHEN)
    store.keep_house(24.0, WHEN)
    assert sequences(spool) == list(range(1, 13))
    assert ranges(store) == []
    store.close(24.0, WHEN)


def test_a_clock_set_back_before_a_restart_deletes_nothing(spool: Path) -> None:
    store = opened(spool, max_age_seconds=600.0)
    store.write(Group(allowed=lines(2)), 0.0, WHEN)
    store.close(0.0, WHEN)
    again = opened(spool, when=WHEN - 3600.0, max_age_seconds=600.0)
    again.keep_house(599.0, WHEN - 3600.0)
    assert sequences(spool) == [1, 2]
    again.keep_house(601.0, WHEN - 3600.0)
    assert sequences(spool) == []


def test_age_counts_on_over_a_restart(spool: Path) -> None:
    store = opened(spool, max_age_seconds=600.0)
    store.write(Group(allowed=lines(2)), 0.0, WHEN)
    store.close(0.0, WHEN)
    again = opened(spool, when=WHEN + 500.0, max_age_seconds=600.0)
    assert sequences(spool) == [1, 2]
    again.keep_house(101.0, WHEN + 601.0)
    assert sequences(spool) == []


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The share of the disk that is free, as the test sets it."""
    ratio = [0.5]
    monkeypatch.setattr(spool_store, "free_ratio", lambda _directory: ratio[0])
    return ratio


def test_when_the_disk_is_short_allowed_calls_go_and_come_no_more(spool: Path, free: list[float]) -> None:
    store = opened(spool, min_free_ratio=0.1)
    filled(store, "ab")
    filled(store, "r", allowed=False)
    free[0] = 0.05
    store.keep_house(1.0, WHEN)
    store.keep_house(2.0, WHEN)
    assert store.disk_short
    store.write(Group(lines(1, "s"), (), lines(3, "c")), 2.5, WHEN)
    assert call_ids(spool) == ["r", "s-0"]
    assert ranges(store) == [(1, 2, "allowed", 2, DISK_SHORT), (5, 7, "allowed", 3, NOT_WRITTEN)]
    assert store.committed == 7
    free[0] = 0.5
    store.keep_house(3.0, WHEN)
    store.write(Group(allowed=lines(1, "d")), 3.5, WHEN)
    assert call_ids(spool) == ["r", "s-0", "d-0"]


def test_what_a_full_queue_cost_has_numbers_and_a_reason(spool: Path) -> None:
    store = opened(spool)
    store.write(Group(refused=lines(1), lost_refused=2, lost_allowed=40), 0.0, WHEN)
    assert ranges(store) == [(1, 2, "refused", 2, QUEUE_FULL), (3, 42, "allowed", 40, QUEUE_FULL)]
    assert sequences(spool) == [43]
    store.write(Group(lost_allowed=1), 0.0, WHEN)
    assert store.committed == 44


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
