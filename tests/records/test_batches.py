"""The batches of a spool in order, beside one that writes, drops, renames and is damaged."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from agent.records.batches import UNKNOWN, BatchReader, Framed, Gap
from agent.records.manifest import QUEUE_FULL, TOTAL_BYTES, DroppedRange
from agent.records.segment import Kind, SegmentHeader, encode_batches
from agent.records.settings import SpoolSettings
from agent.records.spool_store import Group, SpoolStore
from tests.records.decisions import lines

EPOCH = 7
WHEN = 1_800_000_000.0


def segment(folder: Path, kind: Kind, groups: Sequence[tuple[int, int]], *, sealed: bool = True) -> Path:
    """One with a batch for each (first, count)."""
    first, last = groups[0][0], groups[-1][0] + groups[-1][1] - 1
    data = SegmentHeader(kind, EPOCH, first, WHEN).encode()
    for start, count in groups:
        data += b"".join(framed for _, framed in encode_batches(kind, start, lines(count, str(start), 40), WHEN))
    count = sum(number for _, number in groups)
    name = f"{kind.word}-{first:020d}" + (f"-{last:020d}-{count}.seg" if sealed else ".open")
    (folder / name).write_bytes(data)
    return folder / name


def lost(first: int, last: int, kind: str = "allowed", reason: str = TOTAL_BYTES) -> DroppedRange:
    return DroppedRange(EPOCH, first, last, kind, last - first + 1, reason, WHEN)


def read(folder: Path, through: int, dropped: Sequence[DroppedRange] = (), after: int = 0) -> list[Framed | Gap]:
    reader = BatchReader(folder, EPOCH)
    reader.seek(after)
    found = []
    while (item := reader.next(through, lambda: dropped)) is not None:
        found.append(item)
        reader.took(item)
    reader.close()
    return found


def spans(items: Sequence[Framed | Gap]) -> list[tuple[int, int]]:
    return [(item.first, item.last) for item in items]


def test_two_streams_are_one_order(tmp_path: Path) -> None:
    segment(tmp_path, Kind.REFUSED, [(1, 5), (11, 5)])
    segment(tmp_path, Kind.ALLOWED, [(6, 5), (16, 5)])
    segment(tmp_path, Kind.REFUSED, [(21, 2)], sealed=False)
    assert spans(read(tmp_path, 22)) == [(1, 5), (6, 10), (11, 15), (16, 20), (21, 22)]
    assert spans(read(tmp_path, 22, after=12)) == [(11, 15), (16, 20), (21, 22)]
    assert spans(read(tmp_path, 15)) == [(1, 5), (6, 10), (11, 15)]


def test_what_is_not_on_disk_for_certain_is_not_given(tmp_path: Path) -> None:
    segment(tmp_path, Kind.REFUSED, [(1, 5), (6, 5)], sealed=False)
    assert spans(read(tmp_path, 5)) == [(1, 5)]


def test_gaps_have_the_reason_that_fits_most_closely(tmp_path: Path) -> None:
    segment(tmp_path, Kind.REFUSED, [(11, 5), (31, 5)])
    dropped = [lost(1, 60), lost(20, 24, "refused", QUEUE_FULL)]
    found = read(tmp_path, 70, dropped)
    assert [(g.first, g.last, g.kind, g.reason) for g in found if isinstance(g, Gap)] == [
        (1, 10, "allowed", TOTAL_BYTES),
        (16, 19, "allowed", TOTAL_BYTES),
        (20, 24, "refused", QUEUE_FULL),
        (25, 30, "allowed", TOTAL_BYTES),
        (36, 60, "allowed", TOTAL_BYTES),
        (61, 70, "", UNKNOWN),
    ]
    assert sum(item.last - item.first + 1 for item in found) == 70


def test_a_flipped_bit_anywhere_costs_one_batch(tmp_path: Path) -> None:
    path = segment(tmp_path, Kind.ALLOWED, [(1, 5), (6, 5), (11, 5)])
    good = path.read_bytes()
    for place in range(0, len(good), 3):
        bad = bytearray(good)
        bad[place] ^= 4
        path.write_bytes(bytes(bad))
        found = read(tmp_path, 15)
        assert sum(item.last - item.first + 1 for item in found) == 15
        assert sum(isinstance(item, Gap) for item in found) <= 1
        assert sum(item.last - item.first + 1 for item in found if isinstance(item, Gap)) in (0, 5)


def test_a_segment_of_another_spool_is_passed_over(tmp_path: Path) -> None:
    path = segment(tmp_path, Kind.ALLOWED, [(1, 5)])
    path.write_bytes(SegmentHeader(Kind.ALLOWED, EPOCH + 1, 1, WHEN).encode() + path.read_bytes()[40:])
    segment(tmp_path, Kind.ALLOWED, [(6, 5)])
    found = read(tmp_path, 10)
    assert [type(item) for item in found] == [Gap, Framed]
    assert spans(found) == [(1, 5), (6, 10)]


def test_a_deleted_segment_is_let_go_of(tmp_path: Path) -> None:
    path = segment(tmp_path, Kind.ALLOWED, [(1, 5)])
    reader = BatchReader(tmp_path, EPOCH)
    found = reader.next(5, lambda: ())
    assert isinstance(found, Framed)
    reader.took(found)
    path.unlink()
    assert reader.next(5, lambda: ()) is None
    assert all(cursor._file < 0 for cursor in reader._cursors.values())


def test_beside_a_writer_every_number_comes_once_and_in_order(tmp_path: Path) -> None:
    """A thread writes, seals and drops; nothing is a gap that was not dropped."""
    store = SpoolStore(SpoolSettings(tmp_path, segment_bytes=4096, max_bytes=60_000, min_free_ratio=0.0))
    store.open(0.0, WHEN)
    done = threading.Event()

    def write() -> None:
        for n in range(600):
            store.write(Group(lines(3, f"r{n}", 30), (), lines(5, f"a{n}{os.urandom(8).hex()}", 30)), n / 10, WHEN)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reader = BatchReader(tmp_path, store.manifest.epoch)
    reader.seek(0)
    after = gaps = 0
    while True:
        ended = done.is_set()
        item = reader.next(min(store.committed, store.settled), lambda: store.manifest.dropped)
        if item is None:
            if ended:
                break
            continue
        assert item.first == after + 1
        if isinstance(item, Gap):
            assert item.reason == TOTAL_BYTES
            gaps += item.count
        reader.took(item)
        after = item.last
    writer.join()
    assert after == 600 * 8
    assert gaps <= store.counts.dropped
    reader.close()
    store.close(100.0, WHEN)


def test_numbers_of_a_loss_that_a_crash_could_undo_are_not_settled(tmp_path: Path) -> None:
    store = SpoolStore(SpoolSettings(tmp_path, min_free_ratio=0.0))
    store.open(0.0, WHEN)
    store.write(Group(lines(3)), 0.1, WHEN)
    assert (store.committed, store.settled) == (3, 3)
    store.write(Group(lost_refused=4), 0.2, WHEN)
    assert (store.committed, store.settled) == (7, 3), "the manifest does not say so yet"
    os.close(store._lock)  # the process dies
    again = SpoolStore(SpoolSettings(tmp_path, min_free_ratio=0.0))
    again.open(0.0, WHEN)
    assert again.settled == 3
    again.write(Group(lost_refused=4), 0.1, WHEN)
    again.write(Group(), 2.0, WHEN)
    assert (again.committed, again.settled) == (7, 7)
    again.close(3.0, WHEN)
