"""An INVITE made of the fields that an SBC knows of it, so that one pipeline screens both forms.

Knows SIP's grammar as far as it keeps one field from becoming another. Must not know protobuf. Nothing is escaped or
repaired: what cannot stand where it belongs is refused, as whoever can put a line break into a Call-ID could else
write header rows of his own.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from agent.model import ParseError
from agent.sip.scan import MAX_MESSAGE

CSEQ_MAX: Final = 2**31 - 1  # RFC 3261 8.1.1.5
DEFAULT_METHOD: Final = "INVITE"

# Narrower than RFC 3261 25.1 where that spares a parser's view of what ends a value, never wider.
_TOKEN: Final = re.compile(rb"[A-Za-z0-9.!%*_+`'~-]+")
_URI: Final = re.compile(rb'[^\x00-\x20\x7f<>"]+')
_PARAM: Final = re.compile(rb'[^\x00-\x20\x7f<>",;]+')
_WORD: Final = re.compile(rb"[^\x00-\x20\x7f]+")
_TEXT: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]+")
_FOLDED: Final = re.compile(rb"(?:[^\x00\r\n]|\r?\n[ \t])+")  # RFC 3261 7.3.1: a line that goes on begins with a blank


@dataclass(slots=True)
class InviteFields:
    """What is known of one request; "" and () where it is not. URIs without brackets, tags without ";tag="."""

    method: str
    request_uri: str
    call_id: str
    from_uri: str
    from_tag: str
    to_uri: str
    to_tag: str
    cseq: int
    via_branch: str
    via_sent_by: str
    asserted_identities: tuple[str, ...]
    identity: tuple[bytes, ...]
    diversion: tuple[str, ...]
    privacy: str
    priority: str
    resource_priority: str


def build_invite(fields: InviteFields, transport: str, source: str) -> bytes:
    """The request. Raises ParseError whose place is the field, "call_id" or "identity[1]"."""
    method = _checked("method", fields.method or DEFAULT_METHOD, _TOKEN)
    uri = _checked("request_uri", fields.request_uri, _URI)
    rows = [
        b"%b %b SIP/2.0" % (method, uri),
        *_via(fields, transport, source),
        *_party("from", b"From", fields.from_uri, fields.from_tag),
        *(_party("to", b"To", fields.to_uri, fields.to_tag) if fields.to_uri or fields.to_tag else ()),
        b"Call-ID: " + _checked("call_id", fields.call_id, _WORD),
        b"CSeq: %d %b" % (_cseq(fields.cseq), method),
        *_addresses("asserted_identities", b"P-Asserted-Identity", fields.asserted_identities),
        *(b"Identity: " + _matched(f"identity[{n}]", row, _FOLDED) for n, row in enumerate(fields.identity)),
        *_addresses("diversion", b"Diversion", fields.diversion),
        *_text("privacy", b"Privacy", fields.privacy),
        *_text("priority", b"Priority", fields.priority),
        *_text("resource_priority", b"Resource-Priority", fields.resource_priority),
        b"Content-Length: 0",
        b"",
        b"",
    ]
    message = b"\r\n".join(rows)
    if len(message) > MAX_MESSAGE:
        raise ParseError("", f"makes a message of more than {MAX_MESSAGE} bytes", MAX_MESSAGE)
    return message


def _via(fields: InviteFields, transport: str, source: str) -> Iterator[bytes]:
    """Tells transactions apart. Without sent-by the peer's address stands for it; without both there is no row."""
    if not fields.via_branch and not fields.via_sent_by:
        return
    host = fields.via_sent_by or (f"[{source}]" if ":" in source else source)
    value = b"SIP/2.0/" + transport.upper().encode() + b" " + _checked("via_sent_by", host, _PARAM)
    yield b"Via: " + value + _parameter("via_branch", b"branch", fields.via_branch)


def _party(field: str, name: bytes, uri: str, tag: str) -> Iterator[bytes]:
    addr_spec = _checked(f"{field}_uri", uri, _URI)
    yield name + b": <" + addr_spec + b">" + _parameter(f"{field}_tag", b"tag", tag)


def _parameter(field: str, name: bytes, value: str) -> bytes:
    return b";" + name + b"=" + _checked(field, value, _PARAM) if value else b""


def _addresses(field: str, name: bytes, values: Iterable[str]) -> Iterator[bytes]:
    """Each as addr-spec, or as a whole header value in which it stands in brackets already."""
    for n, value in enumerate(values):
        place = f"{field}[{n}]"
        yield name + b": " + (_checked(place, value, _TEXT) if "<" in value else b"<%b>" % _checked(place, value, _URI))


def _text(field: str, name: bytes, value: str) -> Iterator[bytes]:
    if value:
        yield name + b": " + _checked(field, value, _TEXT)


def _cseq(number: int) -> int:
    if number > CSEQ_MAX:
        raise ParseError("cseq", f"{number} is above {CSEQ_MAX}")
    return number


def _checked(field: str, value: str, allowed: re.Pattern[bytes]) -> bytes:
    return _matched(field, value.encode(), allowed)


def _matched(field: str, value: bytes, allowed: re.Pattern[bytes]) -> bytes:
    if not value:
        raise ParseError(field, "is missing")
    good = allowed.match(value)
    end = good.end() if good else 0
    if end != len(value):
        raise ParseError(field, f"must not hold {value[end : end + 1]!r} here", end)
    return value
