"""One pass over a SIP message that takes out what screening needs, and nothing else.

Knows start lines, header names and the plain form of each value; builds no table of headers, and judges
nothing but the start line: whatever else is malformed reads as absent, because a message must be screened
before anybody may complain about it. Must not know what the fields are used for. Values that are not plain
go to the readers of the full parse (`agent.sip.message`), which gives the same fields for every message; so
does the compiled twin in agent/native/sip.c. The reading rules stand in `agent.sip.headers`.
"""

import re
from collections.abc import Callable
from typing import Final

from agent import native
from agent.model import ParseError, Scan
from agent.sip.address import read_address, read_tag
from agent.sip.grammar import CSEQ, REQUEST_LINE, STATUS_LINE, TOKEN, TOKEN_CHARS
from agent.sip.headers import MAX_LENGTH, MAX_SCALAR, WHITE_SPACE, read_number, split_addresses, unfold
from agent.sip.via import read_top_via

MAX_MESSAGE: Final = 65_535
"""Bytes. RFC 3261 18.1.1: what a receiver must handle over UDP; no transport of ours carries more."""

_LINE_BREAKS: Final = re.compile(rb"[\r\n]*+")
_NOT_WHITE: Final = re.compile(rb"\S*+")
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")

# Every row that screening reads, with its folds. A row is found by the line break before it: so the search
# is one memchr per line, and a line that starts with white space is never taken for a row.
_ROWS: Final = re.compile(
    rb"\n(via|v|call-id|i|from|f|to|t|cseq|content-length|l|identity|y|p-asserted-identity|diversion|privacy"
    rb"|priority|resource-priority)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*)",
    re.IGNORECASE,
)

_VIA, _CALL_ID, _FROM, _TO, _CSEQ, _LENGTH = range(6)  # the first row counts
_IDENTITY, _ASSERTED, _DIVERSION, _PRIVACY, _PRIORITY, _RESOURCE = range(6, 12)  # every row counts
_KINDS: Final[dict[bytes, int]] = {
    b"via": _VIA, b"v": _VIA,
    b"call-id": _CALL_ID, b"i": _CALL_ID,
    b"from": _FROM, b"f": _FROM,
    b"to": _TO, b"t": _TO,
    b"cseq": _CSEQ,
    b"content-length": _LENGTH, b"l": _LENGTH,
    b"identity": _IDENTITY, b"y": _IDENTITY,
    b"p-asserted-identity": _ASSERTED,
    b"diversion": _DIVERSION,
    b"privacy": _PRIVACY,
    b"priority": _PRIORITY,
    b"resource-priority": _RESOURCE,
}  # fmt: skip
_USUAL_CASE: Final = (b"Via", b"Call-ID", b"From", b"To", b"CSeq", b"Content-Length", b"Identity",
                      b"P-Asserted-Identity")  # fmt: skip
_KINDS_AS_SENT: Final = _KINDS | {name: _KINDS[name.lower()] for name in _USUAL_CASE}

# The plain forms, which nearly every message uses, in one match each. They match less than the readers of the
# full parse accept, and never read differently from them.
_PLAIN_ADDRESS: Final = re.compile(
    rb'[ \t]*+(?:"[^"\\\r\n]*+"[ \t]*+|[^"<;,\r\n]*+)<([^>\s]*+)>(?:;(?i:tag)=([^;,"\s]*+))?\r?'
)
_PLAIN_VIA: Final = re.compile(
    rb'[ \t]*+[^/;,"\s]++/[^/;,"\s]++/[^/;,"\s]++[ \t]++([^;,"\s]++)'
    rb'(?:;(?!branch)[^;,"\s]*+)*;branch=([^;,"\s]*+)(?:[;,][^"]*+|\r?)',
    re.IGNORECASE,
)
_PLAIN_CSEQ: Final = re.compile(rb"[ \t]*+([0-9]{1,9}) ([" + TOKEN_CHARS + rb"]++)\r?")
_PLAIN_LENGTH: Final = re.compile(rb"[ \t]*+([0-9]{1,9})\r?")


class PythonScan:
    """The fields of `agent.model.Scan`, read by Python."""

    __slots__ = (
        "asserted", "body_offset", "branch", "call_id", "content_length", "cseq", "cseq_method", "diversion",
        "from_tag", "from_uri", "identity", "method", "priority", "privacy", "raw", "request_uri",
        "resource_priority", "sent_by", "status", "to_tag", "to_uri",
    )  # fmt: skip

    raw: bytes
    method: str
    status: int
    request_uri: bytes
    branch: bytes
    sent_by: bytes
    call_id: bytes
    cseq: int
    cseq_method: str
    from_uri: bytes
    from_tag: bytes
    to_uri: bytes
    to_tag: bytes
    asserted: tuple[bytes, ...]
    identity: tuple[bytes, ...]
    diversion: tuple[bytes, ...]
    privacy: bytes
    priority: bytes
    resource_priority: bytes
    content_length: int
    body_offset: int


def scan_py(raw: bytes) -> PythonScan:
    """Take the screening fields out of one message; `raw` is kept as it is, the very object.

    Fields: `method` "" and `request_uri` b"" for a response, `status` 0 for a request. `branch` and
    `sent_by` ("192.0.2.1:5060") are of the topmost Via. `from_uri`, `to_uri`, `asserted` and `diversion` are
    addr-specs without brackets. `identity` has one value per row, folds untouched. `cseq` is 0 and
    `content_length` is -1 where absent or unreadable. `body_offset` is the index of the first byte after the
    blank line. Absent text is b"" or "". Where a header that has one value comes twice, the first row counts.

    Raises ParseError if there is no usable start line (RFC 3261 7.1, 7.2) or the message is over 65,535
    bytes.
    """
    if type(raw) is not bytes:
        raise TypeError(f"a message is bytes, not {type(raw).__name__}")
    if len(raw) > MAX_MESSAGE:
        raise ParseError("message", "longer than 65535 bytes", MAX_MESSAGE)
    it = PythonScan()
    it.raw = raw
    headers = _read_start_line(raw, it)
    blank = _BLANK_LINE.search(raw, headers)
    if blank:
        it.body_offset = blank.end()
        rows = _ROWS.findall(raw, headers, blank.start())
    else:
        it.body_offset = len(raw)
        rows = _ROWS.findall(raw, headers)
    _read_rows(rows, it)
    return it


def _read_start_line(raw: bytes, it: PythonScan) -> int:
    """Read the start line; return the index of the line feed that ends it, or the end of the message."""
    # RFC 3261 7.5: line breaks before the start line are ignored; RFC 5626 uses them as keep-alives.
    start = _end_of(_LINE_BREAKS, raw)
    end = raw.find(b"\n", start)
    if end < 0:
        end = len(raw)
    line = raw[start:end].removesuffix(b"\r")
    request = REQUEST_LINE.fullmatch(line)
    if request:
        method, it.request_uri = request.groups()
        it.method = method.decode("ascii")
        it.status = 0
        return end
    response = STATUS_LINE.fullmatch(line)
    if not response:
        raise refused_start_line(raw, start)
    it.method = ""
    it.request_uri = b""
    it.status = int(response[1])
    return end


def refused_start_line(raw: bytes, start: int) -> ParseError:
    """What is wrong with the line that begins at `start`: neither Request-Line nor Status-Line."""
    line = raw[start:].partition(b"\n")[0].removesuffix(b"\r")
    if not line:
        reason, at = "no start line", 0
    elif line[:4].upper() == b"SIP/":
        reason, at = _wrong_in_status_line(line)
    else:
        reason, at = _wrong_in_request_line(line)
    return ParseError("start-line", reason, start + at)


def _wrong_in_status_line(line: bytes) -> tuple[str, int]:
    if line[4:8] not in (b"2.0 ", b"2.0"):
        return "version is not SIP/2.0", 4
    code = line[8:11]
    if len(code) < 3 or not code.isdigit() or line[11:12] not in (b"", b" "):
        return "status code is not three digits", min(8, len(line))
    return "status code is not within 100..699", 8


def _wrong_in_request_line(line: bytes) -> tuple[str, int]:
    at = _end_of(TOKEN, line)
    if at == 0 or line[at : at + 1] != b" ":
        return "method is not a token followed by one space", at
    uri_at = at + 1
    at = _end_of(_NOT_WHITE, line, uri_at)
    if at == uri_at:
        return "no Request-URI after one space", at
    if line[uri_at : uri_at + 1] == b"<":
        return "Request-URI is enclosed in angle brackets", uri_at
    if line[at : at + 1] != b" ":
        return "no space and SIP version after the Request-URI", at
    version = line[at + 1 :]
    if version[:7].upper() == b"SIP/2.0" and not version[7:].strip(b" \t"):
        return "whitespace after the SIP version", at + 8
    if b" " in version or not version:
        return "whitespace in the Request-URI", at
    return "version is not SIP/2.0", at + 1


def _read_rows(rows: list[tuple[bytes, bytes]], it: PythonScan) -> None:
    single: dict[int, bytes] = {}
    several: dict[int, list[bytes]] = {}
    for name, value in rows:
        kind = _KINDS_AS_SENT.get(name)
        if kind is None:
            kind = _KINDS[name.lower()]
        if kind < _IDENTITY:
            single.setdefault(kind, value)
        else:
            several.setdefault(kind, []).append(value)
    it.call_id = unfold(single.get(_CALL_ID, b""))
    it.branch, it.sent_by = _read_via(single.get(_VIA, b""))
    it.cseq, it.cseq_method = _read_cseq(single.get(_CSEQ, b""))
    it.from_uri, it.from_tag = _read_party(single.get(_FROM, b""))
    it.to_uri, it.to_tag = _read_party(single.get(_TO, b""))
    it.content_length = _read_length(single.get(_LENGTH, b""))
    it.asserted = _read_addresses(several.get(_ASSERTED))
    it.identity = tuple([value.strip(WHITE_SPACE) for value in several.get(_IDENTITY, ())])
    it.diversion = _read_addresses(several.get(_DIVERSION))
    it.privacy = _join(several.get(_PRIVACY))
    it.priority = _join(several.get(_PRIORITY))
    it.resource_priority = _join(several.get(_RESOURCE))


def _read_length(value: bytes) -> int:
    plain = _PLAIN_LENGTH.fullmatch(value)
    if plain:
        return int(plain[1])
    return min(read_number(value.strip(WHITE_SPACE), MAX_LENGTH), MAX_LENGTH)


def _read_cseq(value: bytes) -> tuple[int, str]:
    plain = _PLAIN_CSEQ.fullmatch(value)
    if plain:
        return int(plain[1]), plain[2].decode("ascii")
    match = CSEQ.fullmatch(unfold(value))
    if not match:
        return 0, ""
    number = read_number(match[1], MAX_SCALAR)
    return (number if number <= MAX_SCALAR else 0), match[2].decode("ascii")


def _read_party(value: bytes) -> tuple[bytes, bytes]:
    """The addr-spec and the tag of a From or To value."""
    plain = _PLAIN_ADDRESS.fullmatch(value)
    if plain:
        uri, tag = plain.groups(b"")
        return uri, tag
    uri, parameters = read_address(unfold(value))
    return uri, read_tag(parameters)


def _read_via(value: bytes) -> tuple[bytes, bytes]:
    """The branch and the sent-by of the first value of a Via row."""
    plain = _PLAIN_VIA.fullmatch(value)
    if plain:
        sent_by, branch = plain.groups()
        return branch, sent_by
    return read_top_via(unfold(value))


def _read_addresses(rows: list[bytes] | None) -> tuple[bytes, ...]:
    """The addr-spec of every readable value in rows of comma-joined addresses."""
    if rows is None:
        return ()
    if len(rows) == 1:
        plain = _PLAIN_ADDRESS.fullmatch(rows[0])
        if plain and plain[1]:
            return (plain[1],)
    return tuple([
        uri
        for row in rows
        for value in split_addresses(unfold(row))
        if value and (uri := read_address(value)[0])
    ])  # fmt: skip


def _join(rows: list[bytes] | None) -> bytes:
    return b",".join([unfold(row) for row in rows]) if rows else b""


def _end_of(pattern: re.Pattern[bytes], text: bytes, start: int = 0) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start


scan: Callable[[bytes], Scan] = native.sip.scan if native.sip is not None else scan_py
"""The compiled twin if this machine has it and SBC_EDGE_PURE is not 1, else `scan_py`. Both do the same."""
