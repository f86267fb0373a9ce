"""A PASSporT (RFC 8225): a token taken apart, its JOSE header and its claims read. Knows no call and no certificate.

Full form only: SHAKEN has no other (RFC 8588 3), and neither have div and rph (RFC 8946 3, RFC 9027 6). Reading
proves nothing; what it keeps is what a signature is verified over, as received.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from agent.identity.claims import SUPPORTED, Claims, read_claims
from agent.identity.jws import read_object, read_signature, split
from agent.identity.recent import Recent
from agent.identity.rows import MAX_ROW
from agent.model import ParseError

_PLACE: Final = "PASSporT header"

# Bytes. A signer's header is the same for every call; a longer one is read each time, so that nobody fills memory.
_MAX_CACHED_HEADER: Final = 1024


class Header(NamedTuple):
    """A JOSE header with alg ES256 and typ passport. `ppt` is "" for a PASSporT without a type."""

    ppt: str
    x5u: str
    members: Mapping[str, Any]


class Passport(NamedTuple):
    """A PASSporT of a supported type, in good form. `header` and `payload` hold everything that it says."""

    ppt: str
    x5u: str
    claims: Claims
    header: Mapping[str, Any]
    payload: Mapping[str, Any]
    signed: bytes
    signature: bytes


class PassportReader:
    """Reads PASSporTs and remembers their headers: thousands of calls share the few headers of each signer."""

    __slots__ = ("_headers", "_lenient")

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient
        self._headers: Recent[bytes, Header] = Recent()

    def read(self, token: bytes) -> Passport:
        """Take a token apart. Raises ParseError for a malformed or an unsupported one."""
        if len(token) > MAX_ROW:
            raise ParseError("token", f"longer than {MAX_ROW} bytes")
        encoded_header, encoded_payload, encoded_signature, signed = split(token)
        if not encoded_header and not encoded_payload:
            raise ParseError("token", "compact form, which SHAKEN does not use (RFC 8588 3)")
        header = self._headers.get(encoded_header)
        if header is None:
            header = read_header(encoded_header)
            if len(encoded_header) <= _MAX_CACHED_HEADER:
                self._headers.put(encoded_header, header)
        ppt, x5u, members = header
        if ppt not in SUPPORTED:
            raise ParseError(_PLACE, "ppt of a type that is not supported" if ppt else "no ppt")
        payload = read_object(encoded_payload, "PASSporT payload")
        signature = read_signature(encoded_signature)
        claims = read_claims(ppt, payload, lenient=self._lenient)
        return Passport(ppt, x5u, claims, members, payload, signed, signature)


def read_passport(token: bytes, *, lenient: bool = False) -> Passport:
    """One PASSporT by itself. Raises ParseError."""
    return PassportReader(lenient=lenient).read(token)


def read_header(encoded: bytes) -> Header:
    """The JOSE header (RFC 8225 4). Raises ParseError naming what is wrong with it."""
    members = read_object(encoded, _PLACE)
    if members.get("alg") != "ES256":  # RFC 8225 4.2; also keeps out "none" and keyed hashes (RFC 8725 3.1)
        raise ParseError(_PLACE, "alg is not ES256")
    if members.get("typ") != "passport":
        raise ParseError(_PLACE, "typ is not passport")
    if "crit" in members:  # RFC 7515 4.1.11: extensions that must be understood; we understand none
        raise ParseError(_PLACE, "crit names extensions that are not supported")
    ppt, x5u = members.get("ppt", ""), members.get("x5u")
    if type(ppt) is not str:
        raise ParseError(_PLACE, "ppt is not a string")
    if type(x5u) is not str:
        raise ParseError(_PLACE, "x5u is not a string" if "x5u" in members else "no x5u")
    return Header(ppt, x5u, members)
