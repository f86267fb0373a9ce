"""Is this ten-digit number in there, and where? The look-up under number sets and do-not-originate lists.

Three arrays, made to be used straight out of a mapped file:

    bitmap     10**7 bits, one per thousand numbers (the first seven digits): bit i % 8 of byte i // 8
    offsets    10**6 + 1 u32, one per first six digits: where its suffixes start; the last one is their number
    suffixes   u16, the last four digits, ascending within their first six digits

2.3 million numbers are 8.6 MB, and a look-up touches three places in memory. `bitmap` may be empty (no
blocks), `offsets` may be empty (no single numbers). The compiled twin has the same methods and the same
errors.
"""

from bisect import bisect_left
from typing import Final, Protocol

from agent import native

BLOCK: Final = 1000  # numbers that share seven digits
BLOCKS: Final = 10**7
BITMAP_BYTES: Final = BLOCKS // 8
GROUP: Final = 10**4  # numbers that share six digits
GROUPS: Final = 10**6
NUMBERS: Final = 10**10

ABSENT: Final = -1
IN_BLOCK: Final = -2


class NumberIndex(Protocol):
    """What both twins do. Takes national numbers as integers; outside 0 to 10**10 - 1 none is inside."""

    def locate(self, national: int, /) -> int:
        """The position of a single number in `suffixes`, else IN_BLOCK (its block is listed) or ABSENT."""
        ...

    def contains(self, national: int, /) -> bool:
        """Whether `locate` finds it."""
        ...

    def release(self) -> None:
        """Let go of the memory, so that a mapped file can be closed. Later look-ups raise ValueError."""
        ...


class NumberIndexPy:
    """The Python twin. Raises ValueError when the arrays do not fit each other."""

    __slots__ = ("_bitmap", "_offsets", "_suffixes")

    def __init__(self, bitmap: memoryview, offsets: memoryview, suffixes: memoryview) -> None:
        _check_sizes(bitmap, offsets, suffixes)
        if len(offsets):
            starts = offsets.tolist()
            # Sorting what is sorted is one comparison per element, in C; a loop costs 20 times as much.
            if starts[0] != 0 or starts[-1] != len(suffixes) or sorted(starts) != starts:
                raise ValueError("the offsets do not ascend from 0 to the number of suffixes")
        self._bitmap: memoryview | None = bitmap
        self._offsets = offsets
        self._suffixes = suffixes

    def locate(self, national: int, /) -> int:
        """See NumberIndex."""
        if self._bitmap is None:
            raise ValueError("the index was released")
        if not 0 <= national < NUMBERS:
            return ABSENT
        if self._offsets:
            group, suffix = divmod(national, GROUP)
            end = self._offsets[group + 1]
            position = bisect_left(self._suffixes, suffix, self._offsets[group], end)
            if position < end and self._suffixes[position] == suffix:
                return position
        block = national // BLOCK
        return IN_BLOCK if self._bitmap and self._bitmap[block >> 3] >> (block & 7) & 1 else ABSENT

    def contains(self, national: int, /) -> bool:
        """See NumberIndex."""
        return self.locate(national) != ABSENT

    def release(self) -> None:
        """See NumberIndex."""
        self._bitmap = None
        self._offsets = self._suffixes = memoryview(b"")


def _check_sizes(bitmap: memoryview, offsets: memoryview, suffixes: memoryview) -> None:
    if bitmap.nbytes not in {0, BITMAP_BYTES}:
        raise ValueError(f"the bitmap has {bitmap.nbytes} bytes, not {BITMAP_BYTES}")
    if offsets.nbytes not in {0, 4 * (GROUPS + 1)}:
        raise ValueError(f"the offsets have {offsets.nbytes} bytes, not {4 * (GROUPS + 1)}")
    if suffixes.nbytes % 2:
        raise ValueError("the suffixes are not whole u16")
    if suffixes.nbytes and not offsets.nbytes:
        raise ValueError("there are suffixes without offsets")


def number_index(bitmap: memoryview, offsets: memoryview, suffixes: memoryview) -> NumberIndex:
    """The compiled index where there is one, else the Python one. `offsets` is of format "I", `suffixes` "H".

    Raises ValueError when the arrays do not fit each other.
    """
    if native.numbers is not None:
        index: NumberIndex = native.numbers.NumberIndex(bitmap, offsets, suffixes)
        return index
    return NumberIndexPy(bitmap, offsets, suffixes)
