"""Header names and the separators inside header values. Knows nothing of any particular header.

The reading rules, for whoever reads a message a second way (`scan`) and must come to the same result:

* A line ends at LF; one CR directly before it belongs to the line end. Any CR and LF before the start line
  are skipped. The header section ends at the first empty line; the last line may lack its end.
* A line that starts with SP or HTAB continues the row above it. A row's name ends at the first ":" of its
  first line, less trailing SP and HTAB. A row without one there, or with an empty name, is skipped with its
  folds.
* A value loses white space (SP, HTAB, CR, LF) at its ends; each fold, with the blanks around it, reads as one
  SP.
* Separators count outside "..." only, the comma of address lists also outside <...> only. In "..." a
  backslash hides the next byte. What is never closed hides everything up to the end of the value.
* Address: the first "<" outside quotes and before any ";" opens the addr-spec, the next ">" closes it; white
  space at its ends is dropped. Without "<" it is the first word before the first ";". Unreadable (address and
  parameters empty): a quote or "<" there that is never closed, a value that starts with a quote but has no
  "<".
* Parameter: name before the first "=", value after it, both stripped. The first of a name counts; without "="
  its value is empty. Values are kept as sent, quotes included.
* Via: the first row up to its first comma. Before its first ";" it is `name/version/transport sent-by`.
* CSeq: digits, white space, token; otherwise absent. A number above 2**32-1 reads as 0.
* Content-Length: digits, at most 2**63-1 (more reads as that); otherwise absent.
"""

import re
from typing import Final, NamedTuple

from agent.sip.grammar import (
    DIGITS,
    QUOTED_PAIR,
    QUOTED_STRING,
    TO_ESCAPE,
    UNTIL_ADDRESS_COMMA,
    UNTIL_COMMA,
    UNTIL_SEMICOLON,
)

# i f t v m l c e s k: RFC 3261 20; y: RFC 8224; o u: RFC 6665; r: RFC 3515; b: RFC 3892; x: RFC 4028;
# a j d: RFC 3841. "n" was Identity-Info and is gone (RFC 8224 13.1).
COMPACT_FORMS: Final[dict[bytes, bytes]] = {
    b"a": b"accept-contact",
    b"b": b"referred-by",
    b"c": b"content-type",
    b"d": b"request-disposition",
    b"e": b"content-encoding",
    b"f": b"from",
    b"i": b"call-id",
    b"j": b"reject-contact",
    b"k": b"supported",
    b"l": b"content-length",
    b"m": b"contact",
    b"o": b"event",
    b"r": b"refer-to",
    b"s": b"subject",
    b"t": b"to",
    b"u": b"allow-events",
    b"v": b"via",
    b"x": b"session-expires",
    b"y": b"identity",
}

WHITE_SPACE: Final = b" \t\r\n"

# CSeq, Expires, Retry-After: RFC 3261 8.1.1.5, 20.19, and RFC 4475 3.1.2.4 take 32 bits as the bound.
MAX_SCALAR: Final = 2**32 - 1
# Content-Length: more than any body that can come, and a bound on the work of reading digits.
MAX_LENGTH: Final = 2**63 - 1


class Param(NamedTuple):
    """One `;name=value`, as sent: quotes, escapes and case included. `value` is None without "="."""

    name: bytes
    value: bytes | None

    def __bytes__(self) -> bytes:
        return self.name if self.value is None else self.name + b"=" + self.value


def canonical_name(name: bytes) -> bytes:
    """The long form in lower case, by which header names are compared: b"L" -> b"content-length"."""
    lower = name.lower()
    return COMPACT_FORMS.get(lower, lower)


def unfold(text: bytes) -> bytes:
    """A header value as one line: folds read as one SP (RFC 3261 7.3.1), no white space at its ends."""
    text = text.strip(WHITE_SPACE)
    if b"\n" not in text:
        return text
    # Line by line: one regular expression over all of it would look at a long run of blanks once per blank.
    first, *others = text.split(b"\n")
    lines = [first.removesuffix(b"\r").rstrip(b" \t")]
    lines += [line.removesuffix(b"\r").strip(b" \t") for line in others[:-1]]
    lines.append(others[-1].lstrip(b" \t"))
    return b" ".join(lines)


def read_number(digits: bytes, most: int) -> int:
    """The value of 1*DIGIT, `most` + 1 if it is greater than `most`, -1 if it is not 1*DIGIT.

    Leading zeros do not count (RFC 4475 3.1.1.1); int() alone refuses, or takes its time over, long digits.
    """
    if not DIGITS.fullmatch(digits):
        return -1
    significant = digits.lstrip(b"0")
    if len(significant) > len(str(most)):
        return most + 1
    return min(int(significant or b"0"), most + 1)


def _split(value: bytes, until: re.Pattern[bytes], separator: bytes) -> list[bytes]:
    if b'"' not in value and b"<" not in value:  # nothing can hide a separator
        return [element.strip(WHITE_SPACE) for element in value.split(separator)]
    elements = []
    position = 0
    while True:
        match = until.match(value, position)
        end = match.end() if match else position
        if value[end : end + 1] != separator:  # the end, or a quote or bracket that is never closed
            elements.append(value[position:].strip(WHITE_SPACE))
            return elements
        elements.append(value[position:end].strip(WHITE_SPACE))
        position = end + 1


def split_commas(value: bytes) -> list[bytes]:
    """The elements of a list (Via, Reason, Accept ...), stripped; empty ones stay, to be complained about."""
    return _split(value, UNTIL_COMMA, b",")


def split_addresses(value: bytes) -> list[bytes]:
    """The elements of a list of addresses or of URIs in <>: commas inside <> do not separate."""
    return _split(value, UNTIL_ADDRESS_COMMA, b",")


def split_semicolons(value: bytes) -> list[bytes]:
    """The pieces between semicolons, stripped, empty ones kept; the first stands before any parameter."""
    return _split(value, UNTIL_SEMICOLON, b";")


def split_params(text: bytes) -> tuple[Param, ...]:
    """The parameters in `text`, which begins at the first ";" or with junk before it; unchecked."""
    params = []
    for piece in split_semicolons(text)[1:]:
        name, equals, value = piece.partition(b"=")
        params.append(Param(name.strip(WHITE_SPACE), value.strip(WHITE_SPACE) if equals else None))
    return tuple(params)


def read_param(text: bytes, name: bytes) -> bytes | None:
    """The value of the first parameter of that lower-case name in `;a=1;b`: b"" without "=", None if absent."""
    for piece in split_semicolons(text)[1:]:
        if piece[: len(name)].lower() == name:
            key, _, value = piece.partition(b"=")
            if len(key.rstrip(WHITE_SPACE)) == len(name):
                return value.strip(WHITE_SPACE)
    return None


def find_param(params: tuple[Param, ...], name: bytes) -> Param | None:
    """The first parameter of that lower-case name; names are case-insensitive (RFC 3261 7.3.1)."""
    return next((param for param in params if param.name.lower() == name), None)


def unquote(text: bytes) -> bytes:
    """The content of a quoted-string with its quoted pairs resolved; anything else as it is."""
    if QUOTED_STRING.fullmatch(text):
        return QUOTED_PAIR.sub(rb"\1", text[1:-1])
    return text


def quote(text: bytes) -> bytes:
    """`text` as a quoted-string. Raises ValueError for CR and LF, which quoted-pair excludes."""
    if b"\r" in text or b"\n" in text:
        raise ValueError("a quoted-string cannot hold a line break")
    return b'"' + TO_ESCAPE.sub(rb"\\\g<0>", text) + b'"'
