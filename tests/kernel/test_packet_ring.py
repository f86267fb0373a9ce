"""Both readers of a ring's block, on blocks that are written by hand: the compiled one and the reference."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import native
from agent.kernel.ring import NO_VLAN, OUTGOING, Packet, take_block, take_block_py

Reader = Callable[[Any, int, int], list[Packet] | None]

SIZE = 4096
HEADER = 48 + 20
READERS = [take_block_py] + ([native.packet.take_block] if native.packet is not None else [])
reader = pytest.mark.parametrize("read", READERS)


def block(packets: list[tuple[int, int, bytes, int, int]], status: int = 1, count: int | None = None) -> bytearray:
    """A block of (seconds, nanoseconds, bytes, direction, VLAN or -1)."""
    body = bytearray()
    first = 48
    for seconds, nanos, data, kind, vlan in packets:
        room = (HEADER + len(data) + 15) // 16 * 16
        flags = 0x10 if vlan >= 0 else 0
        sizes = (len(data), len(data) + 5)
        tag = 0xA000 | max(vlan, 0)
        head = struct.pack("=IIIIIIHHIIH", room, seconds, nanos, *sizes, flags, HEADER, HEADER + 14, 0, tag, 0x8100)
        address = struct.pack("=HHiHBB8x", 17, 8, 3, 1, kind, 6)
        body += (head.ljust(48, b"\0") + address + data).ljust(room, b"\0")
    number = len(packets) if count is None else count
    head = struct.pack("=IIIIIIQIIII", 3, 48, status, number, first, 48 + len(body), 7, 0, 0, 0, 0)
    return bytearray((head.ljust(first, b"\0") + body).ljust(SIZE, b"\0"))


@reader
def test_packets_come_out_as_they_were_put_in(read: Reader) -> None:
    ring = block([(1_800_000_000, 250_000_000, b"abc", 0, -1), (1_800_000_001, 999_999_999, b"x" * 500, OUTGOING, 100)])
    assert read(ring, 0, SIZE) == [
        (1_800_000_000.25, b"abc", 8, 0, NO_VLAN),
        (1_800_000_001 + 999_999_999 * 1e-9, b"x" * 500, 505, OUTGOING, 100),
    ]


@reader
def test_a_block_that_was_read_is_the_kernels_again(read: Reader) -> None:
    ring = bytearray(SIZE) + block([(1, 2, b"abc", 0, -1)])
    assert read(ring, SIZE, SIZE) == [(1 + 2e-9, b"abc", 8, 0, NO_VLAN)]
    assert read(ring, SIZE, SIZE) is None


@reader
def test_a_block_of_the_kernel_is_left_alone(read: Reader) -> None:
    ring = block([(1, 2, b"abc", 0, -1)], status=0)
    before = bytes(ring)
    assert read(ring, 0, SIZE) is None
    assert bytes(ring) == before


@reader
def test_a_block_without_packets_is_an_empty_list(read: Reader) -> None:
    assert read(block([]), 0, SIZE) == []


@reader
@pytest.mark.parametrize(("offset", "size"), [(-8, SIZE), (8, SIZE), (0, 40), (0, SIZE + 8), (4, SIZE - 8)])
def test_a_place_without_a_block_is_an_error(read: Reader, offset: int, size: int) -> None:
    with pytest.raises(ValueError, match="no block"):
        read(block([]), offset, size)


@reader
@pytest.mark.parametrize(
    ("place", "value"), [(12, 2**32 - 1), (12, 61), (16, 4090), (48 + 12, 5000), (48 + 24, 65_535)]
)
def test_a_block_that_contradicts_itself_is_an_error_and_the_kernels_again(
    read: Reader, place: int, value: int
) -> None:
    """Counts and offsets that point out of the block: of packets, of the first, of a packet's bytes."""
    ring = block([(1, 2, b"abc", 0, -1)])
    struct.pack_into("=H" if value == 65_535 else "=I", ring, place, value)
    with pytest.raises(ValueError, match="damaged"):
        read(ring, 0, SIZE)
    assert read(ring, 0, SIZE) is None


@given(st.binary(max_size=400), st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=12))
def test_both_readers_agree_on_any_block(data: bytes, damage: list[tuple[int, int]]) -> None:
    ring = block([(1, 2, data[:100], 0, -1), (3, 4, data[100:], 4, 5)])
    for place, value in damage:
        ring[place] = value

    def outcome(read: Reader) -> object:
        mine = bytearray(ring)
        try:
            return read(mine, 0, SIZE), bytes(mine)
        except ValueError as error:
            return str(error), bytes(mine)

    assert len({repr(outcome(read)) for read in READERS}) == 1


def test_the_compiled_reader_is_used_where_it_is_there() -> None:
    assert take_block is READERS[-1]
