"""The TNAuthList of a certificate (RFC 8226 9): which service provider or which numbers it speaks for.

Knows the extension's DER and what it means for one list to lie inside another (RFC 9060 4). Knows no certificate and
no policy: how many codes a SHAKEN certificate must hold is judged where its chain is.
"""

import re
from dataclasses import dataclass
from typing import Final

from agent.identity.der import (
    CONSTRUCTED,
    IA5_STRING,
    INTEGER,
    SEQUENCE,
    DerError,
    Element,
    read_elements,
    read_integer,
    read_only,
    write_element,
    write_integer,
)

ENTRIES_MAX: Final = 10_000
"""Entries of one list. A delegate certificate may name numbers one by one; beyond this one would use ranges."""

CODE_MAX: Final = 32
"""Characters of a service provider code. An OCN has four; no other code in use comes near this."""

_SPC, _RANGE, _ONE = CONSTRUCTED, CONSTRUCTED + 1, CONSTRUCTED + 2
# RFC 8226 9 lets any IA5 character into a code; these go unquoted into records, logs and metrics.
_CODE: Final = re.compile(r"[!-~]+", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9#*]{1,15}", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class NumberRange:
    """`count` numbers from `start` on, all of as many digits as `start`; a single number has count 1."""

    start: str
    count: int = 1

    def contains(self, other: "NumberRange") -> bool:
        """Whether every number of `other` is one of these. Digits count: 0123 is not 123."""
        if len(self.start) != len(other.start):
            return False
        if not (self.start.isdigit() and other.start.isdigit()):  # "*67" has no successor
            return self == other
        ahead = int(other.start) - int(self.start)
        return ahead >= 0 and ahead + other.count <= self.count


@dataclass(frozen=True, slots=True)
class TnAuthList:
    """What a certificate speaks for: service provider codes, and numbers by range or one by one."""

    codes: tuple[str, ...] = ()
    numbers: tuple[NumberRange, ...] = ()

    def encompasses(self, other: "TnAuthList") -> bool:
        """Whether everything in `other` lies inside this list (RFC 9060 4).

        A code lies inside the same code. A number lies inside a code, too: which numbers a provider holds is not in
        any certificate, so the authority that issued for it must have asked (RFC 9060 5).
        """
        if not set(other.codes) <= set(self.codes):
            return False
        return bool(self.codes) or all(any(ours.contains(theirs) for ours in self.numbers) for theirs in other.numbers)

    def encode(self) -> bytes:
        """The DER of the extension's value: codes first, then numbers."""
        entries = [write_element(_SPC, write_element(IA5_STRING, code.encode("ascii"))) for code in self.codes]
        for numbers in self.numbers:
            start = write_element(IA5_STRING, numbers.start.encode("ascii"))
            if numbers.count == 1:
                entries.append(write_element(_ONE, start))
            else:
                entries.append(write_element(_RANGE, write_element(SEQUENCE, start, write_integer(numbers.count))))
        return write_element(SEQUENCE, *entries)


def read_tnauthlist(value: bytes) -> TnAuthList:
    """The list in the extension's value. Raises DerError that says what is wrong with it."""
    codes: list[str] = []
    numbers: list[NumberRange] = []
    for entry in read_elements(read_only(value, SEQUENCE), ENTRIES_MAX):
        match entry.tag:
            case 0xA0:  # _SPC
                codes.append(_code(entry))
            case 0xA1:  # _RANGE
                numbers.append(_range(entry))
            case 0xA2:  # _ONE
                numbers.append(NumberRange(_text(read_only(entry.content, IA5_STRING), _NUMBER, "number")))
            case _:
                raise DerError(f"has an entry of tag {entry.tag:#04x}, neither code, range nor number")
    if not codes and not numbers:
        raise DerError("is empty")
    return TnAuthList(tuple(codes), tuple(numbers))


def _code(entry: Element) -> str:
    content = read_only(entry.content, IA5_STRING)
    if len(content) > CODE_MAX:
        raise DerError(f"has a service provider code of more than {CODE_MAX} characters")
    return _text(content, _CODE, "service provider code")


def _range(entry: Element) -> NumberRange:
    # TelephoneNumberRange is extensible: what follows start and count is for readers that know it.
    parts = list(read_elements(read_only(entry.content, SEQUENCE), 8))
    if len(parts) < 2 or parts[0].tag != IA5_STRING or parts[1].tag != INTEGER:
        raise DerError("has a range without start and count")
    start, count = _text(parts[0].content, _DIGITS, "start of a range"), read_integer(parts[1].content)
    if not 2 <= count <= 10 ** len(start) - int(start):
        raise DerError("has a range of too few or too many numbers")
    return NumberRange(start, count)


def _text(content: bytes, grammar: re.Pattern[str], what: str) -> str:
    text = content.decode("latin-1")
    if grammar.fullmatch(text) is None:
        raise DerError(f"has a {what} that is none")
    return text
