"""What is wrong with a message that could be read: everything that RFC 3261 answers with 400, and its
relatives.

Two tables: what a header's rows must look like, and what the message as a whole must hold. A defect never
stops the reading and decides nothing; RFC 4475 names the reaction that each kind deserves.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from agent.model import ParseError
from agent.sip.address import parse_address
from agent.sip.grammar import BARE_CONTROL, CONTROL, CSEQ, SIP_DATE
from agent.sip.headers import (
    MAX_LENGTH,
    MAX_SCALAR,
    read_number,
    split_addresses,
    split_commas,
    split_semicolons,
)
from agent.sip.rows import Parts, Row
from agent.sip.uri import parse_uri
from agent.sip.via import parse_via

# A message of 65,535 bytes can be wrong 30,000 times; nobody reads more than the first few.
MAX_DEFECTS: Final = 64

MANDATORY: Final = {b"via": "Via", b"from": "From", b"to": "To", b"call-id": "Call-ID", b"cseq": "CSeq"}
"""RFC 3261 8.1.1 less Max-Forwards, which RFC 2543 peers do not send (RFC 4475 3.4.1)."""

SINGLE: Final = frozenset(
    (
        b"call-id",
        b"content-disposition",
        b"content-length",
        b"content-type",
        b"cseq",
        b"date",
        b"event",
        b"expires",
        b"from",
        b"max-forwards",
        b"mime-version",
        b"min-expires",
        b"min-se",
        b"organization",
        b"priority",
        b"refer-to",
        b"referred-by",
        b"replaces",
        b"reply-to",
        b"retry-after",
        b"server",
        b"session-expires",
        b"subject",
        b"timestamp",
        b"to",
        b"user-agent",
    )
)
"""Headers of one value: a second row is answered with 400 (RFC 4475 3.3.8), nobody knows which one counts."""

# URI schemes that a request may be sent to; any other is answered with 416 (RFC 3261 8.2.2.1).
REQUEST_SCHEMES: Final = (b"sip", b"sips", b"tel", b"urn", b"im", b"pres")

BROADCAST: Final = b"255.255.255.255"


class Defect(NamedTuple):
    """`place` is a header's long name, or "start-line", "request-uri", "headers", "body", "message"."""

    place: str
    reason: str
    offset: int


Check = Callable[[bytes], Iterator[str]]


def find_defects(parts: Parts, body: bytes, stream: bool) -> tuple[Defect, ...]:
    """Everything wrong with one message, at most MAX_DEFECTS; the last one then says that there are more."""
    found: list[Defect] = []
    for defect in _all_defects(parts, body, stream):
        if len(found) == MAX_DEFECTS - 1:
            found.append(Defect("message", "further defects are not listed", defect.offset))
            break
        found.append(defect)
    return tuple(found)


def _all_defects(parts: Parts, body: bytes, stream: bool) -> Iterator[Defect]:
    yield from _check_start(parts)
    yield from _check_presence(parts)
    for row in parts.rows:
        yield from _check_row(row)
    yield from _check_cseq_method(parts)
    if parts.status:
        yield from _check_broadcast(parts.rows)
    yield from _check_length(parts, body, stream)


def _check_start(parts: Parts) -> Iterator[Defect]:
    if parts.status:
        if CONTROL.search(parts.phrase):
            yield Defect("start-line", "control character in the reason phrase", parts.start)
        return
    offset = parts.start + len(parts.method) + 1
    try:
        uri = parse_uri(parts.request_uri)
    except ParseError as error:
        yield Defect("request-uri", error.reason, offset + error.offset)
        return
    if uri.headers:  # RFC 4475 3.1.2.11: they must never become headers of anything
        yield Defect("request-uri", "holds headers", offset + parts.request_uri.index(b"?"))
    if uri.scheme not in REQUEST_SCHEMES:
        yield Defect("request-uri", f"scheme {uri.scheme.decode('ascii')} is not known", offset)


def _check_presence(parts: Parts) -> Iterator[Defect]:
    if not parts.blank.endswith(b"\n"):
        yield Defect("headers", "no empty line ends the headers", parts.body_offset)
    seen: set[bytes] = set()
    for row in parts.rows:
        if row.key in seen and row.key in SINGLE:
            yield Defect(place_of(row), "comes more than once", row.offset)
        seen.add(row.key)
    for key, name in MANDATORY.items():
        if key not in seen:
            yield Defect(name, "is missing", parts.body_offset - len(parts.blank))


def _check_row(row: Row) -> Iterator[Defect]:
    if not row.key:
        yield Defect("headers", "a line without header name and colon", row.offset)
        return
    place = place_of(row)
    if CONTROL.search(row.value) and any(match[1] for match in BARE_CONTROL.finditer(row.value)):
        yield Defect(place, "control character", row.offset)
    check = CHECKS.get(row.key)
    if check:
        for reason in check(row.value):
            yield Defect(place, reason, row.offset)


def place_of(row: Row) -> str:
    """The header's usual spelling, so that `v`, `VIA` and `Via` are complained about in one name."""
    known = {b"call-id": "Call-ID", b"cseq": "CSeq", b"www-authenticate": "WWW-Authenticate"}
    return known.get(row.key) or row.key.decode("ascii", "backslashreplace").title()


def _check_cseq_method(parts: Parts) -> Iterator[Defect]:
    row = _first(parts.rows, b"cseq")
    if row and parts.method:
        method = read_cseq(row.value)[1]
        if method and method != parts.method:  # RFC 4475 3.1.2.17, 3.1.2.18
            yield Defect("CSeq", f"method {method} is not that of the start line", row.offset)


def _check_broadcast(rows: Iterable[Row]) -> Iterator[Defect]:
    # RFC 4475 3.3.10: whoever followed it would send the response to every host of the network.
    for row in rows:
        if row.key == b"via" and BROADCAST in row.value:
            for element in split_commas(row.value):
                if _via_host(element) == BROADCAST:
                    yield Defect("Via", "response to a broadcast address", row.offset)


def _via_host(element: bytes) -> bytes:
    try:
        return parse_via(element).host
    except ParseError:
        return b""


def _check_length(parts: Parts, body: bytes, stream: bool) -> Iterator[Defect]:
    rows = [row for row in parts.rows if row.key == b"content-length"]
    if not rows:
        if stream:
            yield Defect("Content-Length", "is missing, and a stream needs it", parts.body_offset)
        return
    lengths = [read_number(row.value, MAX_LENGTH) for row in rows]
    for length, row in zip(lengths, rows, strict=True):
        if length < 0:
            yield Defect("Content-Length", "is not a number", row.offset)
        elif length > len(body):
            yield Defect("Content-Length", f"says {length}, but {len(body)} bytes came", row.offset)
        elif length != lengths[0]:
            yield Defect("Content-Length", "contradicts the first one", row.offset)
        elif stream and length < len(body):
            surplus = f"{len(body) - length} bytes beyond Content-Length"
            yield Defect("body", surplus, parts.body_offset + length)


def _first(rows: Iterable[Row], key: bytes) -> Row | None:
    return next((row for row in rows if row.key == key), None)


def read_cseq(value: bytes) -> tuple[int, str]:
    """Number and method of an unfolded CSeq; (0, "") if it is not one, number 0 if it is over 2**32-1."""
    match = CSEQ.fullmatch(value)
    if not match:
        return 0, ""
    number = read_number(match[1], MAX_SCALAR)
    return (number if number <= MAX_SCALAR else 0), match[2].decode("ascii")


def _cseq(value: bytes) -> Iterator[str]:
    match = CSEQ.fullmatch(value)
    if not match:
        yield "is not a number and a method"
    elif read_number(match[1], MAX_SCALAR) > MAX_SCALAR:
        yield "number does not fit 32 bits"


def _scalar(most: int) -> Check:
    def check(value: bytes) -> Iterator[str]:
        number = read_number(value, most)
        if number < 0:
            yield "is not a number"
        elif number > most:
            yield f"is over {most}"

    return check


def _retry_after(value: bytes) -> Iterator[str]:
    # Retry-After = delta-seconds [ comment ] *( SEMI retry-param )
    seconds = split_semicolons(value)[0].partition(b"(")[0].strip(b" \t")
    yield from _scalar(MAX_SCALAR)(seconds)


def _session_expires(value: bytes) -> Iterator[str]:
    yield from _scalar(MAX_SCALAR)(split_semicolons(value)[0])


def _date(value: bytes) -> Iterator[str]:
    if not SIP_DATE.fullmatch(value):
        yield "is not a GMT date of RFC 1123 form"


def _call_id(value: bytes) -> Iterator[str]:
    if len(value.split()) != 1:
        yield "is not one word"


def _one_address(value: bytes) -> Iterator[str]:
    try:
        address = parse_address(value)
        address.parsed_uri()
    except ParseError as error:
        yield error.reason


def _addresses(value: bytes) -> Iterator[str]:
    for element in split_addresses(value):
        if element:
            yield from _one_address(element)
        else:
            yield "empty element in the list"


def _contact(value: bytes) -> Iterator[str]:
    if value == b"*":  # RFC 3261 10.2.2: every registration of this address
        return
    yield from _addresses(value)
    for element in split_addresses(value):
        for piece in split_semicolons(element)[1:]:
            name, equals, seconds = piece.partition(b"=")
            if equals and name.strip(b" \t").lower() == b"expires":
                yield from ("expires " + reason for reason in _scalar(MAX_SCALAR)(seconds.strip(b" \t")))


def _vias(value: bytes) -> Iterator[str]:
    for element in split_commas(value):
        if not element:
            yield "empty element in the list"
            continue
        try:
            parse_via(element)
        except ParseError as error:
            yield error.reason


CHECKS: Final[dict[bytes, Check]] = {
    b"call-id": _call_id,
    b"contact": _contact,
    b"cseq": _cseq,
    b"date": _date,
    b"diversion": _addresses,
    b"expires": _scalar(MAX_SCALAR),
    b"from": _one_address,
    b"max-forwards": _scalar(255),  # RFC 3261 20.22
    b"min-expires": _scalar(MAX_SCALAR),
    b"p-asserted-identity": _addresses,
    b"p-preferred-identity": _addresses,
    b"record-route": _addresses,
    b"refer-to": _one_address,
    b"referred-by": _one_address,
    b"reply-to": _one_address,
    b"retry-after": _retry_after,
    b"route": _addresses,
    b"session-expires": _session_expires,
    b"to": _one_address,
    b"via": _vias,
}
