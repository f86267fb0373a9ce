"""The store: sequences and bounds, with the clock in the test's hand."""

import os
from pathlib import Path

import pytest

from agent.records import spool_store
from agent.records.manifest import (
    DISK_SHORT,
    NOT_WRITTEN,
    QUEUE_FULL,
    TOO_OLD,
    TOTAL_BYTES,
    DroppedRange,
)
from agent.records.naming import MANIFEST
from agent.records.reading import records
from agent.records.spool_store import Group
from tests.records.decisions import lines, segments
from tests.records.stores import SMALL, WHEN, call_ids, filled, opened, ranges, sequences

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
