"""Splits a message into start line, header rows and body, losing no byte. Knows lines, not their meaning."""

import re
from typing import Final, NamedTuple

from agent.model import ParseError
from agent.sip.grammar import CONTROL, REQUEST_LINE, STATUS_LINE, TOKEN
from agent.sip.headers import canonical_name, unfold
from agent.sip.scan import MAX_MESSAGE, refused_start_line

_LINE_BREAKS: Final = re.compile(rb"[\r\n]*+")
_LINE: Final = re.compile(rb"[^\n]*+\n?")
_FOLDED_LINE: Final = re.compile(rb"[^\n]*+(?:\n[ \t][^\n]*+)*\n?")


class Row(NamedTuple):
    """One header row. `raw` is every byte as received, folds and line end included; `value` is unfolded.

    `name` is as sent, `key` the long form in lower case. A line that is no header (no colon, no name) is a
    row too, so that nothing is lost on the way out: its name and key are b"". `offset` is its place in the
    message.
    """

    key: bytes
    name: bytes
    value: bytes
    raw: bytes
    offset: int


class Parts(NamedTuple):
    """A message in its parts: `start_line`, `blank` and every `raw` are as received, line ends included."""

    method: str
    request_uri: bytes
    status: int
    phrase: bytes
    start: int
    start_line: bytes
    rows: tuple[Row, ...]
    blank: bytes
    body_offset: int


def make_row(name: str, value: str) -> Row:
    """A row of our own, ending in CRLF.

    Raises ValueError for a name that is no token, or a value that could end the row and begin another.
    """
    name_bytes, value_bytes = name.encode("ascii", "replace"), value.encode("utf-8", "surrogateescape")
    if not TOKEN.fullmatch(name_bytes):
        raise ValueError(f"header name {name!r} is not a token")
    if CONTROL.search(value_bytes):
        raise ValueError(f"the value of {name} holds a control character")
    raw = name_bytes + b": " + value_bytes + b"\r\n"
    return Row(canonical_name(name_bytes), name_bytes, value_bytes.strip(b" \t"), raw, -1)


def split_message(raw: bytes) -> Parts:
    """Split one message. Raises ParseError where it has no usable start line or is over 65,535 bytes."""
    if len(raw) > MAX_MESSAGE:
        raise ParseError("message", f"longer than {MAX_MESSAGE} bytes", MAX_MESSAGE)
    # RFC 3261 7.5: line breaks before the start line are ignored; RFC 5626 uses them as keep-alives.
    start = _end_of(_LINE_BREAKS, raw, 0)
    end = _end_of(_LINE, raw, start)
    start_line = raw[start:end]
    text = start_line.removesuffix(b"\n").removesuffix(b"\r")
    method, request_uri, status, phrase = "", b"", 0, b""
    if request := REQUEST_LINE.fullmatch(text):
        method, request_uri = request[1].decode("ascii"), request[2]
    elif response := STATUS_LINE.fullmatch(text):
        status, phrase = int(response[1]), response[2] or b""
    else:
        raise refused_start_line(raw, start)
    rows, blank, body_offset = _split_rows(raw, end)
    return Parts(method, request_uri, status, phrase, start, start_line, rows, blank, body_offset)


def _split_rows(raw: bytes, position: int) -> tuple[tuple[Row, ...], bytes, int]:
    """The rows from `position` on, the empty line after them (b"" if none came), where the body begins."""
    rows: list[Row] = []
    while position < len(raw):
        for blank in (b"\r\n", b"\n"):
            if raw.startswith(blank, position):
                return tuple(rows), blank, position + len(blank)
        if position == len(raw) - 1 and raw.endswith(b"\r"):  # an empty line that was cut in half is no row
            return tuple(rows), b"\r", len(raw)
        end = _end_of(_FOLDED_LINE, raw, position)
        rows.append(_read_row(raw[position:end], position))
        position = end
    return tuple(rows), b"", len(raw)


def _read_row(raw: bytes, offset: int) -> Row:
    first_line_end = raw.find(b"\n")
    colon = raw.find(b":", 0, first_line_end if first_line_end >= 0 else len(raw))
    name = raw[:colon].rstrip(b" \t") if colon >= 0 else b""
    if not name or name[:1] in b" \t":
        return Row(b"", b"", unfold(raw), raw, offset)
    return Row(canonical_name(name), name, unfold(raw[colon + 1 :]), raw, offset)


def _end_of(pattern: re.Pattern[bytes], raw: bytes, position: int) -> int:
    match = pattern.match(raw, position)
    return match.end() if match else position
