"""A PASSporT (RFC 8225): a token taken apart, its JOSE header and its claims read. Knows no call and no certificate.

Full form only: SHAKEN has no other (RFC 8588 3), and neither have div and rph (RFC 8946 3, RFC 9027 6). Reading
proves nothing; what it keeps is what a signature is verified over, as received.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from agent.identity.claims import SHAKEN, SUPPORTED, Claims, read_claims, read_plain_shaken
from agent.identity.jws import decode, parse_object, read_object, read_signature, split
from agent.identity.rows import MAX_ROW
from agent.model import ParseError

_PLACE: Final = "PASSporT header"
_PAYLOAD: Final = "PASSporT payload"

# A signer's header is the same for every call. Those of all signers that an SBC sees in an hour, in 8 MB at most; one
# longer than these bytes is read each time, so that nobody fills memory.
_MAX_HEADERS: Final = 4096
_MAX_CACHED_HEADER: Final = 1024


class Header(NamedTuple):
    """A JOSE header with alg ES256 and typ passport. `ppt` is "" for a PASSporT without a type."""

    ppt: str
    x5u: str
    members: Mapping[str, Any]


class Passport(NamedTuple):
    """A PASSporT of a supported type, in good form. `signed` and `signature` are what ES256 is verified over."""

    ppt: str
    x5u: str
    claims: Claims
    header: Mapping[str, Any]
    json: bytes
    signed: bytes
    signature: bytes

    @property
    def payload(self) -> dict[str, Any]:
        """Everything that it claims; read again each time."""
        return parse_object(self.json, _PAYLOAD)


class PassportReader:
    """Reads PASSporTs and remembers their headers: thousands of calls share the few headers of each signer."""

    __slots__ = ("_cached_header", "_lenient")

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient
        self._cached_header = lru_cache(_MAX_HEADERS)(read_header)

    def read(self, token: bytes) -> Passport:
        """Take a token apart. Raises ParseError for a malformed or an unsupported one."""
        if len(token) > MAX_ROW:
            raise ParseError("token", f"longer than {MAX_ROW} bytes")
        encoded_header, encoded_payload, encoded_signature, signed = split(token)
        if not encoded_header and not encoded_payload:
            raise ParseError("token", "compact form, which SHAKEN does not use (RFC 8588 3)")
        ppt, x5u, members = self.header(encoded_header)
        if ppt not in SUPPORTED:
            raise ParseError(_PLACE, "ppt of a type that is not supported" if ppt else "no ppt")
        json = decode(encoded_payload, _PAYLOAD)
        claims = read_plain_shaken(json.decode("latin-1")) if ppt == SHAKEN else None
        if claims is None:
            claims = read_claims(ppt, parse_object(json, _PAYLOAD), lenient=self._lenient)
        return Passport(ppt, x5u, claims, members, json, signed, read_signature(encoded_signature))

    def header(self, encoded: bytes) -> Header:
        """The JOSE header. Raises ParseError."""
        return read_header(encoded) if len(encoded) > _MAX_CACHED_HEADER else self._cached_header(encoded)


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
