"""URIs as they stand in SIP messages: sip, sips, tel, urn, and any other scheme taken whole.

Works on bytes and keeps every part as sent; decoding is a separate step that the reader asks for. Knows
nothing of headers and of what a number means: `agent.numbers` reads the subscriber.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

from agent.model import ParseError
from agent.sip.grammar import (
    ESCAPED,
    HOSTPORT,
    OPAQUE,
    PASSWORD,
    SCHEME,
    TELEPHONE,
    URI_HEADER,
    URI_PARAMETER,
    USER,
)
from agent.sip.headers import Param, find_param, read_number

MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Uri:
    """One URI. `scheme` is lower case; everything else is as sent, escapes included.

    sip, sips: `user` is None where there is no "@"; it holds parameters that stand inside the userinfo
    (`+12015550123;npdi`). tel: `user` is the number with its separators and `params` are its parameters.
    Other schemes: `opaque` is everything after the colon, the other parts are empty.
    """

    scheme: bytes
    user: bytes | None = None
    password: bytes | None = None
    host: bytes = b""
    port: int | None = None
    params: tuple[Param, ...] = ()
    headers: tuple[Param, ...] = ()
    opaque: bytes = b""

    @property
    def subscriber(self) -> bytes:
        """The user without parameters inside the userinfo, decoded: what may be a number. b"" if none."""
        return percent_decode((self.user or b"").partition(b";")[0])

    @property
    def user_params(self) -> tuple[Param, ...]:
        """Parameters of the number: `;npdi;rn=...;verstat=...` before the "@", or those of a tel URI."""
        if self.scheme == b"tel":
            return self.params
        pieces = (self.user or b"").split(b";")[1:]
        return tuple(_param(piece) for piece in pieces)

    def param(self, name: bytes) -> bytes | None:
        """The value of the first URI parameter of that lower-case name: b"" if empty, None if absent."""
        found = find_param(self.params, name)
        return None if found is None else found.value or b""

    def __bytes__(self) -> bytes:
        text = self.scheme + b":"
        if self.opaque:
            return text + self.opaque
        if self.scheme == b"tel":
            return text + (self.user or b"") + b"".join(b";" + bytes(p) for p in self.params)
        if self.user is not None:
            text += self.user + (b"" if self.password is None else b":" + self.password) + b"@"
        text += self.host + (b"" if self.port is None else b":%d" % self.port)
        text += b"".join(b";" + bytes(p) for p in self.params)
        return text + (b"?" + b"&".join(bytes(h) for h in self.headers) if self.headers else b"")


def percent_decode(text: bytes) -> bytes:
    """Resolve "%" HEXDIG HEXDIG; a "%" that starts no such escape stays (RFC 4475 3.1.1.5)."""
    if b"%" not in text:
        return text
    return ESCAPED.sub(lambda match: bytes((int(match[1], 16),)), text)


def parse_uri(text: bytes) -> Uri:
    """Read one URI, without brackets or blanks around it.

    Raises ParseError(place="URI") that names what is wrong and the byte within `text`.
    """
    match = SCHEME.match(text)
    if not match:
        raise ParseError("URI", "no scheme", 0)
    scheme = match[1].lower()
    if scheme in (b"sip", b"sips"):
        return _parse_sip(scheme, text, match.end())
    if scheme == b"tel":
        return _parse_tel(text, match.end())
    if not OPAQUE.fullmatch(text, match.end()):
        raise ParseError("URI", "nothing, a blank or a delimiter after the scheme", match.end())
    return Uri(scheme, opaque=text[match.end() :])


def read_hostport(text: bytes, start: int = 0) -> tuple[bytes, int | None, int]:
    """The host ("[...]" included), the port or None, and where they end. Raises ParseError(place="host")."""
    match = HOSTPORT.match(text, start)
    if not match:
        raise ParseError("host", "no host name or address", start)
    host, port = match[1], match[2]
    if host[:1] == b"[" and not _is_ipv6(host[1:-1]):
        raise ParseError("host", "not an IPv6 address", start)
    if port is None:
        return host, None, match.end()
    number = read_number(port, MAX_PORT)
    if number > MAX_PORT:
        raise ParseError("host", "port is over 65535", match.start(2))
    return host, number, match.end()


def _is_ipv6(text: bytes) -> bool:
    try:
        ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        return False
    return True


def _parse_sip(scheme: bytes, text: bytes, start: int) -> Uri:
    # The user may hold ";" "?" "/", so the "@" must be found before anything is cut (RFC 4475 3.1.1.9).
    # Behind it neither host nor parameters nor headers may hold a bare one.
    at = text.find(b"@", start)
    user = password = None
    if at >= 0:
        user, colon, secret = text[start:at].partition(b":")
        password = secret if colon else None
        if not USER.fullmatch(user):
            raise ParseError("URI", "user part is empty or holds a character that must be escaped", start)
        if password is not None and not PASSWORD.fullmatch(password):
            raise ParseError("URI", "password holds a character that must be escaped", start + len(user) + 1)
        start = at + 1
    host, port, end = read_hostport(text, start)
    params_text, question, headers_text = text[end:].partition(b"?")
    if params_text and params_text[:1] != b";":
        raise ParseError("URI", "junk after the host (an IPv6 address stands in brackets)", end)
    params = _parse_params(params_text, end)
    headers = _parse_headers(headers_text, end + len(params_text) + 1) if question else ()
    return Uri(scheme, user, password, host, port, params, headers)


def _parse_tel(text: bytes, start: int) -> Uri:
    number, semicolon, rest = text[start:].partition(b";")
    if not TELEPHONE.fullmatch(number):
        raise ParseError("URI", "not a telephone number", start)
    return Uri(b"tel", number, params=_parse_params(semicolon + rest, start + len(number)))


def _parse_params(text: bytes, offset: int) -> tuple[Param, ...]:
    """`;a=1;b`, or nothing."""
    params = []
    for piece in text.split(b";")[1:]:
        offset += 1
        if not URI_PARAMETER.fullmatch(piece):
            raise ParseError("URI", "malformed URI parameter", offset)
        params.append(_param(piece))
        offset += len(piece)
    return tuple(params)


def _parse_headers(text: bytes, offset: int) -> tuple[Param, ...]:
    headers = []
    for piece in text.split(b"&"):
        if not URI_HEADER.fullmatch(piece):
            raise ParseError("URI", "malformed URI header", offset)
        headers.append(_param(piece))
        offset += len(piece) + 1
    return tuple(headers)


def _param(piece: bytes) -> Param:
    name, equals, value = piece.partition(b"=")
    return Param(name, value if equals else None)
