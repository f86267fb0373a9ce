"""Header names and the separators inside header values. Knows nothing of any particular header.

The reading rules, for whoever reads a message a second way (`scan`) and must come to the same result:

* A line ends at LF; one CR directly before it belongs to the line end. A bare CR is content. The last line may lack
  its end. CRLFs and LFs before the start line are skipped. The header section ends at the first empty line.
* A line that starts with SP or HTAB continues the row above it. Directly below the start line there is no row: such
  lines are skipped. A row's name ends at the first ":" of its first line; a row without one there (or with nothing
  but blanks before it) is skipped together with its continuations. Names lose trailing SP and HTAB.
* A value is its lines, each stripped of SP and HTAB at both ends, joined by one SP, and stripped again.
* Separators count outside "..." and outside <...> only. In "..." a backslash hides the next byte. A quote or angle
  bracket that is never closed hides everything up to the end of the value.
* Address: the first "<" outside quotes opens the addr-spec, the next ">" closes it, blanks at its ends are dropped.
  Without "<" the addr-spec ends at the first ";", SP or HTAB. An unclosed quote or "<" there makes both the address
  and its parameters unreadable (empty). Parameters: what follows the addr-spec, split at ";", first piece ignored.
* Parameter: name before the first "=", value after it, both stripped; the first of a name counts, without "=" it is
  empty. A value is kept as sent (quotes included).
* Via: the first row, up to its first comma, split at ";". The first piece is `protocol/version/transport sent-by`:
  after the second "/" skip blanks, the transport runs to the next blank, the rest without any SP or HTAB is sent-by.
* CSeq: 1*DIGIT, blanks, token, nothing else; otherwise number and method are absent. A number above 2**32-1 reads as 0.
* Content-Length: 1*DIGIT and at most 2**32-1, otherwise absent (-1).
"""

from typing import Final, NamedTuple

from agent.sip.grammar import DIGITS, QUOTED_PAIR, QUOTED_STRING, UNTIL_COMMA, UNTIL_SEMICOLON

# RFC 3261 20 for i f t v m l c e s k; RFC 8224 for y; o u: RFC 6665; r: RFC 3515; b: RFC 3892; x: RFC 4028;
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

# CSeq (RFC 3261 8.1.1.5 even says 2**31), Expires, Retry-After and Content-Length are 32-bit in every stack.
MAX_SCALAR: Final = 2**32 - 1
_MAX_SCALAR_DIGITS: Final = 10


class Param(NamedTuple):
    """One `;name=value`. `value` is None without "=", and is kept as sent: quotes, escapes and case included."""

    name: bytes
    value: bytes | None


def canonical_name(name: bytes) -> bytes:
    """The long form in lower case, by which header names are compared: b"L" -> b"content-length"."""
    lower = name.lower()
    return COMPACT_FORMS.get(lower, lower)


def read_scalar(digits: bytes) -> int:
    """The value of 1*DIGIT up to 2**32-1, else -1. Leading zeros do not count (RFC 4475 3.1.1.1)."""
    if not DIGITS.fullmatch(digits):
        return -1
    significant = digits.lstrip(b"0")
    if len(significant) > _MAX_SCALAR_DIGITS:
        return -1
    number = int(significant or b"0")
    return number if number <= MAX_SCALAR else -1


def split_commas(value: bytes) -> list[bytes]:
    """The elements of a list header, stripped; empty ones are kept so that they can be complained about."""
    elements = []
    position = 0
    while True:
        end = UNTIL_COMMA.match(value, position).end()  # type: ignore[union-attr]  # matches the empty run
        if value[end:end + 1] != b",":  # the end, or a quote or bracket that is never closed
            elements.append(value[position:].strip(b" \t"))
            return elements
        elements.append(value[position:end].strip(b" \t"))
        position = end + 1


def first_element(value: bytes) -> bytes:
    """`split_commas(value)[0]` without reading the rest."""
    end = UNTIL_COMMA.match(value).end()  # type: ignore[union-attr]  # matches the empty run
    return (value[:end] if value[end:end + 1] == b"," else value).strip(b" \t")


def split_semicolons(value: bytes) -> list[bytes]:
    """The pieces between semicolons, stripped, empty ones kept; the first is what stands before any parameter."""
    pieces = []
    position = 0
    while True:
        end = UNTIL_SEMICOLON.match(value, position).end()  # type: ignore[union-attr]  # matches the empty run
        if value[end:end + 1] != b";":
            pieces.append(value[position:].strip(b" \t"))
            return pieces
        pieces.append(value[position:end].strip(b" \t"))
        position = end + 1


def split_params(rest: bytes) -> tuple[Param, ...]:
    """The parameters in `rest`, the part of a value that begins at its first ";" (or with junk that is skipped)."""
    return tuple(read_param(piece) for piece in split_semicolons(rest)[1:])


def read_param(piece: bytes) -> Param:
    """One piece between semicolons as a parameter, without any check of its grammar."""
    name, equals, value = piece.partition(b"=")
    return Param(name.strip(b" \t"), value.strip(b" \t") if equals else None)


def find_param(params: tuple[Param, ...], name: bytes) -> Param | None:
    """The first parameter of that lower-case name; names are case-insensitive (RFC 3261 7.3.1)."""
    for param in params:
        if param.name.lower() == name:
            return param
    return None


def unquote(text: bytes) -> bytes:
    """The content of a quoted-string with its quoted pairs resolved; anything else as it is."""
    if QUOTED_STRING.fullmatch(text):
        return QUOTED_PAIR.sub(rb"\1", text[1:-1])
    return text


def quote(text: bytes) -> bytes:
    """`text` as a quoted-string. CR and LF cannot be quoted (quoted-pair excludes them): ValueError."""
    if b"\r" in text or b"\n" in text:
        raise ValueError("a quoted-string cannot hold a line break")
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
