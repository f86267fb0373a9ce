"""The format of segments: whatever happens to the bytes, what is whole is read and what is not is noticed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.records.segment import (
    BATCH_HEADER,
    BATCH_RECORDS,
    BATCH_TEXT,
    SEGMENT_HEADER,
    Batch,
    Damage,
    Kind,
    SegmentHeader,
    encode_batches,
    read_batches,
    read_segment_header,
)

HEADER = SegmentHeader(Kind.REFUSED, 0xFEDC_BA98_7654_3210, 41, 1_800_000_000.25)


def segment(*groups: list[bytes], first: int = 41) -> tuple[bytes, list[int]]:
    """A segment of one batch for each group, and where each of them ends."""
    data, ends = HEADER.encode(), []
    for group in groups:
        for count, batch in encode_batches(Kind.ALLOWED, first, group, 1.5):
            data += batch
            first += count
            ends.append(len(data))
    return data, ends


def whole(data: bytes) -> list[Batch]:
    return [part for part in read_batches(data) if isinstance(part, Batch)]


def damaged(data: bytes) -> list[Damage]:
    return [part for part in read_batches(data) if isinstance(part, Damage)]


texts = st.lists(
    st.dictionaries(st.text(max_size=8), st.text(max_size=60), max_size=4).map(lambda d: json.dumps(d).encode()),
    min_size=1,
    max_size=12,
)
groups = st.lists(texts, min_size=1, max_size=4)


@given(groups)
def test_what_is_written_is_read_in_order_with_its_sequence(written: list[list[bytes]]) -> None:
    data, _ = segment(*written)
    read = whole(data)
    assert damaged(data) == []
    assert read_segment_header(data) == HEADER
    assert [line for batch in read for line in batch.lines()] == [line for group in written for line in group]
    assert [batch.first for batch in read] == [41 + sum(map(len, written[:i])) for i in range(len(written))]
    assert all(batch.last == batch.first + batch.count - 1 and batch.written == 1.5 for batch in read)


@given(groups, st.data())
def test_a_segment_cut_anywhere_gives_the_batches_before_the_cut_and_a_torn_end(
    written: list[list[bytes]], data: st.DataObject
) -> None:
    raw, ends = segment(*written)
    cut = data.draw(st.integers(SEGMENT_HEADER, len(raw)))
    parts = list(read_batches(raw[:cut]))
    complete = [end for end in ends if end <= cut]
    assert [part.end for part in parts if isinstance(part, Batch)] == complete
    torn = [part for part in parts if isinstance(part, Damage)]
    boundary = complete[-1] if complete else SEGMENT_HEADER
    assert [(part.offset, part.end, part.torn) for part in torn] == ([(boundary, cut, True)] if cut > boundary else [])


@given(groups, st.data())
def test_a_flipped_bit_is_noticed_and_costs_one_batch_at_the_most(
    written: list[list[bytes]], data: st.DataObject
) -> None:
    raw, ends = segment(*written)
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    flipped = bytearray(raw)
    flipped[bit // 8] ^= 1 << bit % 8
    hurt = bytes(flipped)
    if bit // 8 < SEGMENT_HEADER:
        with pytest.raises(ValueError, match=r"."):
            read_segment_header(hurt)
        assert [batch.end for batch in whole(hurt)] == ends
        return
    starts = [SEGMENT_HEADER, *ends[:-1]]
    hit = next(i for i, end in enumerate(ends) if bit // 8 < end)
    found = damaged(hurt)
    assert [(part.offset, part.end, part.torn) for part in found] == [(starts[hit], ends[hit], False)]
    assert [batch.end for batch in whole(hurt)] == [end for i, end in enumerate(ends) if i != hit]


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error_and_every_byte_is_accounted_for(raw: bytes) -> None:
    for data in (raw, HEADER.encode() + raw):
        offset = 0
        for part in read_batches(data, 0):
            assert part.offset == offset
            offset = part.end
        assert offset == len(data)


def test_damage_says_which_records_are_lost_when_their_header_still_tells() -> None:
    raw, ends = segment([b"{}"] * 3, [b"[1]"] * 5, [b"{}"])
    hurt = bytearray(raw)
    hurt[ends[1] - 1] ^= 0xFF
    (damage,) = damaged(bytes(hurt))
    assert (damage.kind, damage.first, damage.count) == (Kind.ALLOWED, 44, 5)
    assert str(damage) == f"bytes {ends[0]} to {ends[1]}: a damaged batch, 5 records from 44 lost"


def test_zeros_behind_the_last_batch_are_the_end_of_a_power_cut() -> None:
    raw, ends = segment([b"{}"])
    (damage,) = damaged(raw + bytes(500))
    assert damage.torn
    assert (damage.offset, damage.end) == (ends[0], ends[0] + 500)


def test_bytes_of_something_else_behind_the_last_batch_are_damage() -> None:
    raw, ends = segment([b"{}"])
    (damage,) = damaged(raw + b"log line\n" * 20)
    assert not damage.torn
    assert damage.offset == ends[0]


def test_batches_are_bounded_in_records_and_in_text() -> None:
    many = list(encode_batches(Kind.REFUSED, 1, [b"{}"] * (2 * BATCH_RECORDS + 1), 0.0))
    assert [count for count, _ in many] == [BATCH_RECORDS, BATCH_RECORDS, 1]
    long = b'"' + b"a" * (BATCH_TEXT // 2) + b'"'
    assert [count for count, _ in encode_batches(Kind.REFUSED, 1, [long, long, long], 0.0)] == [1, 1, 1]


def test_nothing_to_write_makes_no_batch() -> None:
    assert list(encode_batches(Kind.REFUSED, 1, [], 0.0)) == []


def test_records_are_deflated_where_that_is_shorter() -> None:
    line = json.dumps({"called": "13035550199", "why": "no rule objects"}).encode()
    ((_, data),) = encode_batches(Kind.REFUSED, 1, [line] * 100, 0.0)
    assert len(data) < 10 * len(line)
    ((_, data),) = encode_batches(Kind.REFUSED, 1, [b"7"], 0.0)
    assert len(data) == BATCH_HEADER + 1


def test_a_batch_whose_payload_is_not_what_it_says_is_an_error_and_not_a_wrong_record() -> None:
    batch = Batch(Kind.ALLOWED, 1, 2, 0.0, 44, 90, 0, b"{}")
    with pytest.raises(ValueError, match="2 records stated, 1 found"):
        batch.lines()
    with pytest.raises(ValueError, match="byte 44"):
        Batch(Kind.ALLOWED, 1, 1, 0.0, 44, 90, 1, b"no deflate stream").lines()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "0 bytes, shorter"),
        (b"GIF89a" + bytes(60), "not a segment"),
        (HEADER.encode()[:11] + b"\x01" + HEADER.encode()[12:], "damaged"),
    ],
)
def test_what_is_no_segment_is_refused_in_words(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_segment_header(raw)
