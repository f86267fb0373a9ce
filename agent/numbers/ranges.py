"""Ranges of numbers as text: what people and lists write, and the pieces that sets of numbers are built of.

    +12015550123   2015550123   201-555-0123   (201) 555-0123     one number; ten digits are a +1 number
    +1201*   201555*   2015550*   2015550123*                     a prefix of 3, 6, 7 or 10 digits
    2015550100-2015550199                                         both ends belong to it
    +442079460123   +442079460100-+442079460199                   another country's: numbers and short ranges

Opens nothing: readers take strings. Errors name the place that the caller gives.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from agent.model import ConfigError

NANP_FIRST: Final = 10**10  # +1 000 000 0000, as an E.164 integer
NANP_LAST: Final = 2 * 10**10 - 1
PREFIX_LENGTHS: Final = frozenset({3, 6, 7, 10})
# Foreign numbers are kept one by one, so a foreign range is spelled out; this bounds what one line may cost.
MAX_FOREIGN_RANGE: Final = 10_000
MAX_TEXT: Final = 64

_SEPARATORS: Final = {ord(c): None for c in "-.() "}
_NANP: Final = re.compile(r"(?:\+?1)?([0-9]{10})", re.ASCII)  # after a "+", the 1 must be there
_PREFIX: Final = re.compile(r"(?:\+?1)?([2-9][0-9]{2,9})", re.ASCII)
_FOREIGN: Final = re.compile(r"\+([2-9][0-9]{6,14})", re.ASCII)
_CHARACTERS: Final = re.compile(r"[0-9+*.() -]+", re.ASCII)
# A dash separates digits in 201-555-0123 and makes a range between two whole numbers: only the second has
# spaces around it, or nothing but digits on either side.
_RANGE: Final = re.compile(r"(\+?[0-9]{7,15})-(\+?[0-9]{7,15})|(\S.*?)(?: - | ?\.\. ?| to )(.*\S)", re.ASCII)


class Piece(NamedTuple):
    """An inclusive range of E.164 numbers as integers, all or none of them +1: (12015550100, 12015550199)."""

    first: int
    last: int

    @property
    def is_nanp(self) -> bool:
        """Whether these are +1 numbers (all are, or none is)."""
        return NANP_FIRST <= self.first <= NANP_LAST

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"+{self.first}" if self.first == self.last else f"+{self.first}-+{self.last}"


def nanp_range(first: int, last: int) -> Piece:
    """The piece of national numbers `first` to `last`, both included (2015550100, 2015550199)."""
    return Piece(NANP_FIRST + first, NANP_FIRST + last)


def _number(text: str) -> int:
    """One whole number as an E.164 integer. Raises ValueError with the reason."""
    digits = text.translate(_SEPARATORS)
    if match := _NANP.fullmatch(digits):
        return NANP_FIRST + int(match[1])
    if match := _FOREIGN.fullmatch(digits):
        return int(match[1])
    raise ValueError("neither ten digits, nor +1 and ten digits, nor + and another country's number")


def parse_prefix(text: str) -> Piece:
    """All numbers that start with 3, 6, 7 or 10 digits, after an optional 1 or +1: "201-555", "+1201*".

    Raises ValueError with the reason.
    """
    digits = text.removesuffix("*").translate(_SEPARATORS)
    match = _PREFIX.fullmatch(digits)
    if match is None or len(match[1]) not in PREFIX_LENGTHS:
        raise ValueError("a prefix has 3, 6, 7 or 10 digits after an optional +1")
    free = 10 ** (10 - len(match[1]))
    first = int(match[1]) * free
    return nanp_range(first, first + free - 1)


def parse_range(first_text: str, last_text: str) -> Piece:
    """The range between two whole numbers, both included. Raises ValueError with the reason."""
    piece = Piece(_number(first_text), _number(last_text))
    if piece.last < piece.first:
        raise ValueError("the range ends before it starts")
    if piece.is_nanp != Piece(piece.last, piece.last).is_nanp:
        raise ValueError("the range starts and ends in different countries")
    if not piece.is_nanp and piece.size > MAX_FOREIGN_RANGE:
        raise ValueError(f"a range outside +1 may hold {MAX_FOREIGN_RANGE} numbers")
    return piece


def parse_piece(text: str) -> Piece:
    """One text form of the module's table. Raises ValueError with the reason, not naming the text."""
    text = text.strip(" ")
    if not text:
        raise ValueError("empty")
    if len(text) > MAX_TEXT:
        raise ValueError(f"longer than {MAX_TEXT} characters")
    if text.endswith("*"):
        return parse_prefix(text)
    if match := _RANGE.fullmatch(text):
        return parse_range(match[1] or match[3], match[2] or match[4])
    if not _CHARACTERS.fullmatch(text):
        raise ValueError("a number is written with the digits 0-9 and + - . ( )")
    number = _number(text)
    return Piece(number, number)


def parse_numbers(texts: Iterable[str], field: str) -> list[Piece]:
    """The pieces of several texts, in order. Raises ConfigError, whose field is `field[index]`."""
    pieces = []
    for index, text in enumerate(texts):
        try:
            pieces.append(parse_piece(text))
        except ValueError as error:
            raise ConfigError(f"{field}[{index}]", f"{text[:MAX_TEXT]!r}: {error}") from None
    return pieces
