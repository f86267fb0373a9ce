"""From ranges of numbers to the arrays of agent.numbers.index: bit runs, grouped suffixes, and back.

Works on national numbers as integers and on bytes; knows neither what the numbers are for nor where they
come from. Written so that the work per number is done inside C functions of the standard library: five
million numbers are packed in a few seconds without a compiled part.
"""

import re
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import sub
from typing import Final, NamedTuple

from agent.numbers.index import BLOCK, GROUP, GROUPS
from agent.numbers.ranges import Piece

_BIT_RUNS: Final = re.compile(rb"\xff+|[^\x00\xff]")


def view(values: "array[int] | bytes | bytearray") -> memoryview:
    """A read-only view of an array, in the array's own format."""
    return memoryview(values).toreadonly()


def set_blocks(bitmap: bytearray, first: int, stop: int) -> None:
    """Set the bits `first` to `stop - 1`."""
    while first < stop and first & 7:
        bitmap[first >> 3] |= 1 << (first & 7)
        first += 1
    while first < stop and stop & 7:
        stop -= 1
        bitmap[stop >> 3] |= 1 << (stop & 7)
    bitmap[first >> 3 : stop >> 3] = b"\xff" * ((stop - first) >> 3)


def block_runs(bitmap: bytes | bytearray | memoryview) -> Iterator[tuple[int, int]]:
    """The runs of set bits as (first, stop), ascending and as long as they can be."""
    start = end = 0
    for first, stop in _byte_runs(bitmap):
        if first != end and end:
            yield start, end
        if first != end or not end:
            start = first
        end = stop
    if end:
        yield start, end


def _byte_runs(bitmap: bytes | bytearray | memoryview) -> Iterator[tuple[int, int]]:
    """Runs of set bits, cut at byte ends."""
    for match in _BIT_RUNS.finditer(bitmap):
        if bitmap[match.start()] == 0xFF:
            yield match.start() * 8, match.end() * 8
            continue
        base, bits = match.start() * 8, bitmap[match.start()]
        for bit in range(8):
            if bits >> bit & 1:
                yield base + bit, base + bit + 1


def count_bits(bitmap: bytes | bytearray | memoryview) -> int:
    """How many bits are set."""
    return int.from_bytes(bitmap, "little").bit_count()


class Packed(NamedTuple):
    """The two arrays of single numbers; both empty when there are none."""

    offsets: "array[int]"
    suffixes: "array[int]"


def pack(nationals: Sequence[int]) -> Packed:
    """Pack ascending national numbers without repetition."""
    if not nationals:
        return Packed(array("I"), array("H"))
    offsets = array("I")
    end = 0
    for group, size in Counter(map(GROUP.__rfloordiv__, nationals)).items():  # ascending, as the numbers are
        offsets += array("I", [end]) * (group + 1 - len(offsets))
        end += size
    offsets += array("I", [end]) * (GROUPS + 1 - len(offsets))
    return Packed(offsets, array("H", map(GROUP.__rmod__, nationals)))


def unpack(offsets: memoryview, suffixes: memoryview) -> Iterator[int]:
    """The national numbers of packed arrays, ascending."""
    start = 0
    while start < len(suffixes):
        group = bisect_right(offsets, start) - 1  # over all groups that are empty
        stop = offsets[group + 1]
        yield from map((group * GROUP).__add__, suffixes[start:stop].tolist())
        start = stop


def without_repetition(ascending: list[int]) -> list[int]:
    """The distinct numbers of an ascending list."""
    if 0 not in map(sub, islice(ascending, 1, None), ascending):
        return ascending
    return [number for number, _ in groupby(ascending)]


def full_blocks(nationals: list[int]) -> list[int]:
    """The blocks of which all thousand numbers are in an ascending list without repetition."""
    spans = map(sub, islice(nationals, BLOCK - 1, None), nationals)
    return [n // BLOCK for n, span in zip(nationals, spans, strict=False) if span == BLOCK - 1 and n % BLOCK == 0]


def join(numbers: Iterable[int]) -> Iterator[Piece]:
    """Ascending distinct E.164 integers as the fewest pieces."""
    first = last = -1
    for number in numbers:
        if first >= 0 and number != last + 1:
            yield Piece(first, last)
            first = number
        elif first < 0:
            first = number
        last = number
    if first >= 0:
        yield Piece(first, last)
