"""The order of an upload: what repeats is passed over, what leaves something out is refused."""

import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.records.manifest import DroppedRange as Lost
from agent.records.segment import BATCH_RECORDS, Kind, encode_batches
from controller.errors import Conflict, Invalid
from controller.ingest.order import Order
from controller.store.records import SEQUENCE_MAX


def data(first: int, count: int) -> bytes:
    ((_, framed),) = encode_batches(
        Kind.ALLOWED, first, [json.dumps({"n": first + n}).encode() for n in range(count)], 0.0
    )
    return framed


def lost(first: int, last: int, **changed: object) -> Lost:
    values: dict[str, object] = {"kind": "allowed", "count": last - first + 1, "reason": "queue full", **changed}
    return Lost(7, first, last, when=1.0, **values)  # type: ignore[arg-type]


def numbers(order: Order, first: int, count: int) -> list[int]:
    """Which records a batch brought."""
    taken = order.batch(first, count, data(first, count))
    if taken is None:
        return []
    lines = taken.lines("a1", 7)
    assert lines.first == taken.batch.first + taken.skip
    return [json.loads(line)["n"] for line in lines.text.split(b"\n")]


def test_batches_come_one_after_the_other() -> None:
    order = Order("a1", 7, 10)
    assert numbers(order, 11, 3) == [11, 12, 13]
    assert numbers(order, 14, 1) == [14]
    assert order.next == 15


def test_what_is_there_already_is_passed_over_in_whole_or_in_part() -> None:
    order = Order("a1", 7, 10)
    assert numbers(order, 8, 3) == []
    assert numbers(order, 9, 5) == [11, 12, 13]
    assert numbers(order, 11, 3) == []
    assert order.repeated == 3 + 2 + 3


def test_a_hole_is_refused_and_moves_nothing() -> None:
    order = Order("a1", 7, 10)
    with pytest.raises(Conflict, match="12 came where 11 is next"):
        order.batch(12, 1, data(12, 1))
    with pytest.raises(Conflict, match="13 came where 11 is next"):
        order.dropped(lost(13, 14), 1.0)
    assert numbers(order, 11, 1) == [11]


def test_a_dropped_range_fills_its_place() -> None:
    order = Order("a1", 7, 0)
    noted = order.dropped(lost(1, 5), 9.0)
    assert noted is not None
    assert (noted.first, noted.last, noted.count, noted.at) == (1, 5, 5, 9.0)
    again = order.dropped(lost(3, 8), 9.0)
    assert again is not None
    assert (again.first, again.last, again.count) == (6, 8, 3)
    assert order.dropped(lost(2, 7), 9.0) is None
    assert numbers(order, 9, 1) == [9]


@pytest.mark.parametrize(
    ("range_", "field"),
    [
        (lost(5, 4), "dropped.last_sequence"),
        (lost(0, 4), "dropped.first_sequence"),
        (lost(1, SEQUENCE_MAX + 1), "dropped.first_sequence"),
        (lost(1, 2, kind="x" * 256), "dropped.kind"),
        (lost(1, 2, reason="a\0b"), "dropped.reason"),
    ],
)
def test_a_range_that_is_none_is_refused_with_its_field(range_: Lost, field: str) -> None:
    order = Order("a1", 7, 0)
    with pytest.raises(Invalid) as raised:
        order.dropped(range_, 1.0)
    assert raised.value.field == field
    assert order.next == 1


def test_every_flipped_bit_of_a_batch_is_found() -> None:
    good = data(1, 20)
    order = Order("a1", 7, 0)
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Invalid):
            order.batch(1, 20, bytes(bad))
    assert numbers(order, 1, 20) == list(range(1, 21))


@pytest.mark.parametrize("end", [0, 1, 20, 41, 42, 60, -1])
def test_a_batch_cut_short_is_refused(end: int) -> None:
    with pytest.raises(Invalid, match=r"^batch\.data"):
        Order("a1", 7, 0).batch(1, 20, data(1, 20)[:end])


def test_a_batch_that_is_not_what_its_message_says_is_refused() -> None:
    for first, count in ((2, 20), (1, 19), (1, 21)):
        with pytest.raises(Invalid, match="stated"):
            Order("a1", 7, 5).batch(first, count, data(1, 20))
    with pytest.raises(Invalid, match="follow the batch"):
        Order("a1", 7, 0).batch(1, 20, data(1, 20) + data(21, 1))


def test_a_payload_that_unpacks_to_gigabytes_is_refused_before_it_does() -> None:
    payload = zlib.compress(b"\n" * (64 << 20), 9)
    header = struct.pack(
        "<4sBBHIIQdI", b"\xf5SB\xfa", 2, 1, 0, BATCH_RECORDS, len(payload), 1, 0.0, zlib.crc32(payload)
    )
    order = Order("a1", 7, 0)
    taken = order.batch(1, BATCH_RECORDS, header + struct.pack("<I", zlib.crc32(header)) + payload)
    assert taken is not None
    with pytest.raises(ValueError, match="more than"):
        taken.lines("a1", 7)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(1, 8)), max_size=40),
    st.integers(0, 20),
)
def test_whatever_comes_each_number_is_taken_once_and_in_order(
    messages: list[tuple[bool, int, int]], committed: int
) -> None:
    order = Order("a1", 7, committed)
    taken: list[int] = []
    for is_batch, first, count in messages:
        try:
            if is_batch:
                taken += numbers(order, first, count)
            elif (gone := order.dropped(lost(first, first + count - 1), 1.0)) is not None:
                assert gone.count == gone.last - gone.first + 1
                taken += range(gone.first, gone.last + 1)
        except Conflict:
            assert first > order.next
    assert taken == list(range(committed + 1, order.next))


@given(st.binary(max_size=300), st.integers(0, 1 << 64), st.integers(0, 1 << 32))
def test_arbitrary_bytes_raise_nothing_but_invalid(noise: bytes, first: int, count: int) -> None:
    order = Order("a1", 7, 0)
    with pytest.raises(Invalid):
        order.batch(first, count, noise)
