"""The full parse of one SIP message: start line, every header row with its bytes, body, and what is wrong.

Judges but does not refuse: ParseError is for bytes without a usable start line, everything else that RFC 3261
would answer with 400 becomes a Defect and reading goes on. `facts` gives the same fields as `agent.sip.scan`,
read the long way; `agent.sip.headers` states the rules that both follow. Knows nothing of transactions and of
policy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.sip.address import Address, parse_address, read_address, read_tag
from agent.sip.defects import Defect, find_defects, read_cseq
from agent.sip.headers import MAX_LENGTH, WHITE_SPACE, canonical_name, read_number, split_addresses
from agent.sip.rows import Row, make_row, split_message
from agent.sip.via import read_top_via

__all__ = ["Defect", "Facts", "Message", "Row", "facts", "make_row", "parse"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message. A request has `method` and `request_uri`; a response has `status` (else 0) and `phrase`.

    `start_line` and `blank` hold their line ends. `body` is what Content-Length says, or what came if less;
    `body_offset` counts from the start of `raw`. `defects` are in the order of their kind, not of their
    place.
    """

    raw: bytes
    method: str
    request_uri: bytes
    status: int
    phrase: bytes
    start_line: bytes
    rows: tuple[Row, ...]
    blank: bytes
    body: bytes
    body_offset: int
    defects: tuple[Defect, ...]

    def header(self, name: str) -> list[bytes]:
        """The unfolded value of every row of that name, long or compact form, in order."""
        key = canonical_name(name.encode("ascii"))
        return [row.value for row in self.rows if row.key == key]

    def first(self, name: str) -> bytes:
        """The value of the first row of that name, b"" if there is none."""
        key = canonical_name(name.encode("ascii"))
        return next((row.value for row in self.rows if row.key == key), b"")

    def addresses(self, name: str) -> list[Address]:
        """Every address in the rows of that list header, by the grammar. Raises ParseError at the first bad
        one.

        Not for From and To, which are single values: `parse_address(message.first("From"))`.
        """
        return [parse_address(element) for value in self.header(name) for element in split_addresses(value)]

    def with_rows(self, rows: Iterable[Row]) -> "Message":
        """The same message with other rows; `raw` and `defects` still describe what was received."""
        return replace(self, rows=tuple(rows))

    def serialise(self) -> bytes:
        """The message as bytes. Rows go out byte for byte as they came; what never came is added.

        Line breaks before the start line and bytes beyond Content-Length are left out; a row or header
        section that a truncated message did not end gets its CRLF.
        """
        parts = [_ended(self.start_line), *(_ended(row.raw) for row in self.rows)]
        return b"".join([*parts, _ended(self.blank), self.body])


def _ended(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line.removesuffix(b"\r") + b"\r\n"


def parse(raw: bytes, stream: bool = False) -> Message:
    """Read one message: a datagram, or (`stream`) one message that the framer has cut out of a stream.

    In a datagram Content-Length may be absent and surplus bytes are dropped; in a stream both are defects
    (RFC 3261 18.3). Raises ParseError, place "start-line" or "message", under the same conditions as `scan`.
    """
    parts = split_message(raw)
    length = _content_length(parts.rows)
    body = raw[parts.body_offset :]
    defects = find_defects(parts, body, stream)
    if 0 <= length < len(body):
        body = body[:length]
    return Message(
        raw,
        parts.method,
        parts.request_uri,
        parts.status,
        parts.phrase,
        parts.start_line,
        parts.rows,
        parts.blank,
        body,
        parts.body_offset,
        defects,
    )


def _content_length(rows: Iterable[Row]) -> int:
    """The first Content-Length; -1 if there is none or it is not 1*DIGIT."""
    value = next((row.value for row in rows if row.key == b"content-length"), b"")
    return min(read_number(value, MAX_LENGTH), MAX_LENGTH)


@dataclass(frozen=True, slots=True)
class Facts:
    """The fields of `agent.model.Scan`, taken from the full parse."""

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


def facts(message: Message) -> Facts:
    """What screening reads, from a full parse: equal to `scan(message.raw)` in every field."""
    branch, sent_by = read_top_via(message.first("Via"))
    cseq, cseq_method = read_cseq(message.first("CSeq"))
    from_uri, from_params = read_address(message.first("From"))
    to_uri, to_params = read_address(message.first("To"))
    return Facts(
        raw=message.raw,
        method=message.method,
        status=message.status,
        request_uri=message.request_uri,
        branch=branch,
        sent_by=sent_by,
        call_id=message.first("Call-ID"),
        cseq=cseq,
        cseq_method=cseq_method,
        from_uri=from_uri,
        from_tag=read_tag(from_params),
        to_uri=to_uri,
        to_tag=read_tag(to_params),
        asserted=_addr_specs(message.header("P-Asserted-Identity")),
        identity=tuple(_as_received(row) for row in message.rows if row.key == b"identity"),
        diversion=_addr_specs(message.header("Diversion")),
        privacy=b",".join(message.header("Privacy")),
        priority=b",".join(message.header("Priority")),
        resource_priority=b",".join(message.header("Resource-Priority")),
        content_length=_content_length(message.rows),
        body_offset=message.body_offset,
    )


def _addr_specs(values: list[bytes]) -> tuple[bytes, ...]:
    found = (read_address(element)[0] for value in values for element in split_addresses(value) if element)
    return tuple(uri for uri in found if uri)


def _as_received(row: Row) -> bytes:
    """An Identity value with its folds untouched: what was signed over is what is shown (RFC 8224)."""
    return row.raw.partition(b":")[2].strip(WHITE_SPACE)
