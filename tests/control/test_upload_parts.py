"""The uploader's mark and flow: what survives a torn write, what a copy is found out by, what may be on its way."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.errors import ControllerError
from agent.control.upload_flow import PIECE_MAX, TOO_LARGE, Flow, Piece, pieces
from agent.control.upload_mark import NAME, Mark, MarkFile
from agent.records.batches import Framed, Gap
from agent.records.segment import Batch, Kind, encode_batches, read_batches


def framed(lines: list[bytes], first: int = 1) -> Framed:
    data = b"".join(data for _, data in encode_batches(Kind.ALLOWED, first, lines, 0.0))
    (batch,) = read_batches(data, 0)
    assert isinstance(batch, Batch)
    return Framed(batch, data)


def test_a_mark_is_read_back_and_is_sure_after_the_first_save(tmp_path: Path) -> None:
    marks = MarkFile(tmp_path)
    fresh = marks.load(7)
    assert (fresh.spool_epoch, fresh.epoch, fresh.sure) == (7, 7, False)
    saved = marks.save(replace(fresh, acked=3, intent=9))
    assert saved.sure
    assert MarkFile(tmp_path).load(7) == saved
    assert MarkFile(tmp_path).load(8) == Mark(8, 8), "that of another spool is none"


def test_any_torn_or_flipped_write_leaves_the_mark_before_or_none_and_it_is_not_sure(tmp_path: Path) -> None:
    marks = MarkFile(tmp_path)
    mark = marks.save(replace(marks.load(7), intent=10))
    marks.save(replace(mark, intent=20))
    path = tmp_path / NAME
    good = path.read_bytes()
    for place in (*range(60), *range(512, 572)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        found = MarkFile(tmp_path).load(7)
        assert not found.sure
        assert found.intent in (10, 20)
    for end in range(0, len(good), 7):
        path.write_bytes(good[:end])
        assert not MarkFile(tmp_path).load(7).sure


@given(st.binary(max_size=1200))
def test_arbitrary_bytes_are_no_mark(noise: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).write_bytes(noise)
        assert MarkFile(Path(folder)).load(7) == Mark(7, 7)


def test_a_window_bounds_what_is_on_its_way_and_one_message_always_may_be() -> None:
    flow = Flow(10, 100)
    assert flow.may_send(1000)
    flow.sent(Piece(11, 5, bytes(60)), 1.0)
    assert flow.may_send(40)
    assert not flow.may_send(41)
    flow.sent(Gap(16, 20, "", ""), 2.0)
    assert flow.waiting(5.0) == 4.0
    flow.answered(15, 200, 6.0)
    assert (flow.bytes, flow.waiting(7.0)) == (0, 1.0)
    flow.answered(20, 200, 8.0)
    assert flow.waiting(99.0) == 0.0


@pytest.mark.parametrize("committed", [9, 16, 1 << 40])
def test_an_answer_that_cannot_be_is_refused(committed: int) -> None:
    flow = Flow(10, 100)
    flow.sent(Piece(11, 5, b"x"), 1.0)
    with pytest.raises(ControllerError):
        flow.answered(committed, 100, 2.0)


def test_a_batch_is_sent_as_it_is_or_without_what_is_there() -> None:
    whole = framed([b'{"n":%d}' % n for n in range(1, 11)])
    assert list(pieces(whole, 0)) == [Piece(1, 10, whole.data)]
    (piece,) = pieces(whole, 4)
    assert isinstance(piece, Piece)
    assert (piece.first, piece.count) == (5, 6)
    (batch,) = read_batches(piece.data, 0)
    assert isinstance(batch, Batch)
    assert batch.lines() == [b'{"n":%d}' % n for n in range(5, 11)]


@given(st.lists(st.sampled_from([10, 400_000, PIECE_MAX + 9000]), min_size=1, max_size=5), st.integers(0, 4))
def test_pieces_cover_a_batch_without_a_hole_and_each_fits(sizes: list[int], after: int) -> None:
    import random

    from agent.records.segment import _encode_batch

    chance = random.Random(1)
    lines = [chance.randbytes(size).replace(b"\n", b"x") for size in sizes]
    data = _encode_batch(Kind.REFUSED, 1, lines, 0.0)
    (batch,) = read_batches(data, 0)
    assert isinstance(batch, Batch)
    position = min(after, len(sizes) - 1)
    for piece in pieces(Framed(batch, data), position):
        assert piece.first == position + 1
        if isinstance(piece, Piece):
            assert len(piece.data) <= PIECE_MAX
        else:
            assert piece.reason == TOO_LARGE
            assert sizes[piece.first - 1] > PIECE_MAX
        position = piece.last
    assert position == len(sizes)
