"""Small sets of numbers as people write them: exact numbers, prefixes, ranges. For inventories and allow-lists.

A `NumberSet` answers for millions of numbers and costs megabytes; this one answers for a few thousand and costs
what they cost. Both read the same text forms (`agent.numbers.ranges`).
"""

from bisect import bisect_right
from collections.abc import Iterable

from agent.model import Number, NumberKind
from agent.numbers.ranges import NANP_FIRST, Piece, parse_numbers


class NumberPatterns:
    """An immutable set of E.164 numbers, kept as sorted ranges that neither touch nor overlap."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        firsts: list[int] = []
        lasts: list[int] = []
        for first, last in sorted(pieces):
            if lasts and first <= lasts[-1] + 1:
                lasts[-1] = max(lasts[-1], last)
            else:
                firsts.append(first)
                lasts.append(last)
        self._firsts, self._lasts = firsts, lasts

    @classmethod
    def parse(cls, texts: Iterable[str], field: str) -> "NumberPatterns":
        """Read the text forms of `agent.numbers.ranges`. Raises ConfigError, whose field is `field[index]`."""
        return cls(parse_numbers(texts, field))

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __or__(self, other: "NumberPatterns") -> "NumberPatterns":
        if not other:
            return self
        return NumberPatterns(map(Piece, self._firsts + other._firsts, self._lasts + other._lasts)) if self else other

    def __contains__(self, number: Number) -> bool:
        """Whether a number whose country is known is in the set; a dialled code or an ambiguous one never is."""
        if not self._firsts:
            return False
        if number.national >= 0:
            value = NANP_FIRST + number.national
        elif number.kind is NumberKind.FOREIGN:
            value = int(number.digits)
        else:
            return False
        at = bisect_right(self._firsts, value) - 1
        return at >= 0 and value <= self._lasts[at]

    def pieces(self) -> Iterable[Piece]:
        """The ranges, ascending; both ends belong to them."""
        return map(Piece, self._firsts, self._lasts)

    def single(self) -> str | None:
        """The digits of the only number in the set; None when it holds none, or more."""
        return str(self._firsts[0]) if self._firsts and self._firsts == self._lasts and len(self._firsts) == 1 else None
