"""Sets of millions of telephone numbers: 1.25 MB of bits for whole blocks, two bytes for a single number.

A `NumberSet` is immutable and canonical: equal sets have equal bytes. A block of a thousand numbers that is
there as a whole is one bit; other +1 numbers are packed suffixes (agent.numbers.index); numbers of other
countries are an ascending array. The arrays may be views of a mapped file. For a few hundred numbers use
agent.numbers.patterns.

Opens nothing: it is built of pieces (agent.numbers.ranges), or stands on arrays that somebody else holds.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from agent.model import Number, NumberKind
from agent.numbers.index import BITMAP_BYTES, BLOCK, number_index
from agent.numbers.packing import (
    block_runs,
    count_bits,
    full_blocks,
    join,
    pack,
    set_blocks,
    unpack,
    view,
    without_repetition,
)
from agent.numbers.ranges import NANP_FIRST, NANP_LAST, Piece, nanp_range


class Sections(NamedTuple):
    """The arrays of a set, native byte order: bitmap "B", offsets "I", suffixes "H" (see agent.numbers.index),
    and `others`, "Q": E.164 integers outside +1, ascending. Canonical: no single number lies in a set block,
    and no block is there as a thousand single numbers.
    """

    bitmap: memoryview
    offsets: memoryview
    suffixes: memoryview
    others: memoryview


class Counts(NamedTuple):
    """How much is in a set: whole blocks of a thousand, single +1 numbers, numbers of other countries."""

    blocks: int
    exact: int
    others: int


_EMPTY: Final = Sections(memoryview(b""), view(array("I")), view(array("H")), view(array("Q")))


class NumberSet:
    """An immutable set of telephone numbers; see the module.

    `contains(national)` answers for a +1 number as an integer of ten digits, the fast way; `in` takes a
    `Number`.
    """

    __slots__ = ("_index", "_sections", "contains")

    contains: Callable[[int], bool]

    def __init__(self, sections: Sections = _EMPTY) -> None:
        """Stand on arrays that are canonical. Raises ValueError when they do not fit each other."""
        self._sections = sections
        self._index = number_index(sections.bitmap, sections.offsets, sections.suffixes)
        self.contains = self._index.contains

    @classmethod
    def build(cls, pieces: Iterable[Piece]) -> "NumberSet":
        """The set of all numbers of some pieces, in any order, overlapping or not."""
        collector = Collector()
        for piece in pieces:
            collector.add(piece)
        return collector.finish()

    @classmethod
    def build_from_ints(cls, nationals: Iterable[int], block_ranges: Iterable[tuple[int, int]] = ()) -> "NumberSet":
        """The set of +1 numbers as ten-digit integers, and of blocks as (first, stop) of seven digits each.

        For millions of numbers at once. Raises ValueError for an integer that is no national number.
        """
        collector = Collector()
        for first, stop in block_ranges:
            if not 0 <= first <= stop <= BITMAP_BYTES * 8:
                raise ValueError(f"no range of blocks: {first} to {stop}")
            collector.add_blocks(first, stop)
        numbers = sorted(nationals)
        if numbers and not 0 <= numbers[0] <= numbers[-1] <= NANP_LAST - NANP_FIRST:
            raise ValueError("a national number has ten digits")
        return cls(_canonical(collector.bitmap, numbers, ()))

    @property
    def sections(self) -> Sections:
        """The arrays that the set stands on."""
        return self._sections

    @property
    def counts(self) -> Counts:
        """How many blocks, single numbers and foreign numbers are in it."""
        sections = self._sections
        return Counts(count_bits(sections.bitmap), len(sections.suffixes), len(sections.others))

    def __len__(self) -> int:
        counts = self.counts
        return counts.blocks * BLOCK + counts.exact + counts.others

    def __bool__(self) -> bool:
        sections = self._sections
        return bool(len(sections.suffixes) or len(sections.others) or count_bits(sections.bitmap))

    def __contains__(self, number: object) -> bool:
        """Whether a Number whose country is known is in the set; a dialled code or an ambiguous one never is."""
        if not isinstance(number, Number):
            return False
        if number.national >= 0:
            return self.contains(number.national)
        return number.kind is NumberKind.FOREIGN and self._has_other(int(number.digits))

    def contains_e164(self, digits: str) -> bool:
        """Whether E.164 digits without "+" ("12015550123") are in the set; False for what is no such text."""
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 15):
            return False
        number = int(digits)
        return self.contains(number - NANP_FIRST) if NANP_FIRST <= number <= NANP_LAST else self._has_other(number)

    def _has_other(self, number: int) -> bool:
        others = self._sections.others
        position = bisect_left(others, number)
        return position < len(others) and others[position] == number

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NumberSet):
            return NotImplemented
        return all(
            mine.nbytes == theirs.nbytes and mine.tobytes() == theirs.tobytes()
            for mine, theirs in zip(self._sections, other._sections, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # megabytes; nobody should want it as a key

    def __repr__(self) -> str:
        return "NumberSet({} blocks, {} numbers, {} others)".format(*self.counts)

    def pieces(self) -> Iterator[Piece]:
        """The set as pieces: the blocks, then the single numbers, then other countries, each ascending."""
        for first, stop in block_runs(self._sections.bitmap):
            yield nanp_range(first * BLOCK, stop * BLOCK - 1)
        yield from join(map(NANP_FIRST.__add__, self.exact()))
        yield from join(self._sections.others)

    def exact(self) -> Iterator[int]:
        """The single +1 numbers (those that are not in whole blocks) as national integers, ascending."""
        return unpack(self._sections.offsets, self._sections.suffixes)

    def __or__(self, other: "NumberSet") -> "NumberSet":
        """Union."""
        bits = _bits(self) | _bits(other)
        return NumberSet(
            _canonical(
                _bitmap(bits), chain(self.exact(), other.exact()), chain(self._sections.others, other._sections.others)
            )
        )

    def __sub__(self, other: "NumberSet") -> "NumberSet":
        """What is in this set and not in the other; a block that loses numbers falls apart into the rest."""
        bits = _bits(self) & ~_bits(other)
        bitmap = _bitmap(bits)
        broken: dict[int, set[int]] = {}
        for number in other.exact():
            block = number // BLOCK
            if bitmap and bitmap[block >> 3] >> (block & 7) & 1:
                broken.setdefault(block, set()).add(number)
        for block in broken:
            bitmap[block >> 3] &= ~(1 << (block & 7))
        rest = (
            number
            for block, gone in broken.items()
            for number in range(block * BLOCK, (block + 1) * BLOCK)
            if number not in gone
        )
        kept = (number for number in self.exact() if not other.contains(number))
        others = (number for number in self._sections.others if not other.contains_e164(str(number)))
        return NumberSet(_canonical(bitmap, chain(rest, kept), others))

    def release(self) -> None:
        """Let go of the arrays, so that a mapped file can be closed; every later look-up raises ValueError."""
        self._index.release()
        self._sections = _EMPTY


class Collector:
    """Takes pieces in any order; keeps whole blocks as bits and everything else as single numbers."""

    def __init__(self) -> None:
        self.bitmap = bytearray()
        self.nationals = array("Q")
        self.others = array("Q")

    def add(self, piece: Piece) -> None:
        """Add all numbers of a piece."""
        if not piece.is_nanp:
            self.others.extend(range(piece.first, piece.last + 1))
            return
        first, stop = piece.first - NANP_FIRST, piece.last - NANP_FIRST + 1
        first_block, stop_block = -(-first // BLOCK), stop // BLOCK
        if first_block >= stop_block:
            self.nationals.extend(range(first, stop))
            return
        self.nationals.extend(range(first, first_block * BLOCK))
        self.nationals.extend(range(stop_block * BLOCK, stop))
        self.add_blocks(first_block, stop_block)

    def add_blocks(self, first: int, stop: int) -> None:
        """Add the blocks `first` to `stop - 1`."""
        if not self.bitmap:
            self.bitmap = bytearray(BITMAP_BYTES)
        set_blocks(self.bitmap, first, stop)

    def finish(self) -> NumberSet:
        """The set of everything that was added."""
        return NumberSet(_canonical(self.bitmap, self.nationals, self.others))


def _bits(numbers: NumberSet) -> int:
    return int.from_bytes(numbers.sections.bitmap, "little")


def _bitmap(bits: int) -> bytearray:
    return bytearray(bits.to_bytes(BITMAP_BYTES, "little")) if bits else bytearray()


def _canonical(bitmap: bytearray, nationals: Iterable[int], others: Iterable[int]) -> Sections:
    """Sections of blocks and numbers: each number once, none inside a block, and complete blocks as bits."""
    numbers = without_repetition(sorted(nationals))
    if bitmap:
        numbers = [n for n in numbers if not bitmap[n // 8000] >> (n // BLOCK & 7) & 1]
    if complete := full_blocks(numbers):
        bitmap = bitmap or bytearray(BITMAP_BYTES)
        for block in complete:
            set_blocks(bitmap, block, block + 1)
        whole = frozenset(complete)
        numbers = [n for n in numbers if n // BLOCK not in whole]
    packed = pack(numbers)
    foreign = array("Q", without_repetition(sorted(others)))
    return Sections(
        view(bytes(bitmap)) if bitmap.count(0) != len(bitmap) else memoryview(b""),
        view(packed.offsets),
        view(packed.suffixes),
        view(foreign),
    )
