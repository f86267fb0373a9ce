"""What was dropped stays known, in bounded space."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.records.manifest import (
    DAMAGED,
    QUEUE_FULL,
    RANGES_MAX,
    TOO_OLD,
    TOTAL_BYTES,
    DroppedRange,
    Manifest,
)
from agent.records.segment import Kind


def loss(first: int, last: int, kind: str = "allowed", reason: str = TOTAL_BYTES) -> DroppedRange:
    return DroppedRange(9, first, last, kind, last - first + 1, reason, 1_800_000_000.0)


def test_what_is_written_is_read() -> None:
    manifest = Manifest(9).with_dropped(loss(3, 7)).with_dropped(loss(9, 9, reason=DAMAGED))
    assert Manifest.decode(manifest.encode()) == manifest


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"format": 2}',
        b'{"format": 1, "epoch": 1.5, "next": 1, "dropped": []}',
        b'{"format": 1, "epoch": -1, "next": 1, "dropped": []}',
        b'{"format": 1, "epoch": 1, "next": 1, "dropped": [{"first": 1}]}',
        b'{"format": 1, "epoch": 1, "next": 1, "dropped": 3}',
        b"\xff",
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Manifest.decode(text)


def test_segments_dropped_oldest_first_are_one_range() -> None:
    manifest = Manifest(9).with_dropped(loss(1, 100)).with_dropped(loss(150, 200))
    assert [(r.first, r.last, r.count) for r in manifest.dropped] == [(1, 200, 151)]
    assert manifest.covers(9, Kind.ALLOWED, 150, 200)
    assert not manifest.covers(9, Kind.REFUSED, 150, 200)
    assert not manifest.covers(8, Kind.ALLOWED, 150, 200)
    assert not manifest.covers(9, Kind.ALLOWED, 150, 201)


def test_losses_between_kept_records_stay_apart() -> None:
    manifest = Manifest(9)
    for first, last in ((5, 6), (7, 9), (20, 21)):
        manifest = manifest.with_dropped(loss(first, last, reason=QUEUE_FULL))
    assert [(r.first, r.last) for r in manifest.dropped] == [(5, 9), (20, 21)]
    assert not manifest.covers(9, Kind.ALLOWED, 20, 21)


def test_a_dropped_sequence_is_never_given_again() -> None:
    assert Manifest(9, next=4).with_dropped(loss(10, 12)).next == 13


@given(st.lists(st.tuples(st.sampled_from([QUEUE_FULL, DAMAGED, TOO_OLD]), st.integers(1, 3)), max_size=1500))
def test_the_list_is_bounded_and_no_count_is_lost(losses: list[tuple[str, int]]) -> None:
    manifest, first, total = Manifest(9), 1, 0
    for reason, count in losses:
        manifest = manifest.with_dropped(loss(first, first + count - 1, reason=reason))
        first += count + 1
        total += count
    assert len(manifest.dropped) <= RANGES_MAX
    assert sum(r.count for r in manifest.dropped) == total


def test_more_losses_than_there_is_room_for_are_merged_oldest_first() -> None:
    manifest = Manifest(9)
    for first in range(1, 4 * RANGES_MAX, 2):
        manifest = manifest.with_dropped(loss(first, first, reason=QUEUE_FULL))
    assert len(manifest.dropped) == RANGES_MAX
    assert sum(r.count for r in manifest.dropped) == 2 * RANGES_MAX
    assert (manifest.dropped[0].first, manifest.dropped[-1].last) == (1, 4 * RANGES_MAX - 1)
