"""JSON Web Signatures with ES256, as received: three base64url parts, two JSON objects, one raw signature.

RFC 7515 (compact serialisation), RFC 7518 3.4 (ES256: r and s, 32 bytes each, no DER). Knows no claims and no
certificates. What is signed is the bytes as they came; nothing is ever serialised again.
"""

import json
from binascii import Error as Base64Error
from binascii import a2b_base64
from json import JSONDecodeError, JSONDecoder
from math import isfinite
from typing import Any, Final, NamedTuple, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from agent.model import ParseError

MAX_DEPTH: Final = 16
"""Objects and arrays inside each other. A jCard in an rcd claim, the deepest that an RFC knows, has seven."""

SIGNATURE_BYTES: Final = 64
_SIGNATURE_CHARS: Final = 86
# The last of 86 characters carries two bits of the signature and four that must be zero (RFC 4648 3.5): otherwise
# sixteen spellings of one signature would be good.
_SIGNATURE_ENDS: Final = frozenset(b"AQgw")

# base64url to base64. Characters of the other alphabet, and padding, become what no alphabet has.
_TO_BASE64: Final = bytes.maketrans(b"-_+/=", b"+/\0\0\0")
_PADDING: Final = (b"", b"", b"==", b"=")  # of a length modulo 4; no length of 4n + 1 is base64

_ES256: Final = ECDSA(SHA256())


class Jws(NamedTuple):
    """A token taken apart. `signed` is what the signature covers, as received; `signature` is r and s."""

    header: dict[str, Any]
    payload: dict[str, Any]
    signed: bytes
    signature: bytes


def read_jws(token: bytes) -> Jws:
    """Take a JWS in compact serialisation apart. Raises ParseError, whose place names the part.

    A JSON object with the same key twice is refused: whoever keeps the first and whoever keeps the last would
    read two different tokens under one signature.
    """
    header, payload, signature, signed = split(token)
    return Jws(
        read_object(header, "JWS header"), read_object(payload, "JWS payload"), signed, read_signature(signature)
    )


def split(token: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Header, payload and signature, still encoded, and the bytes that are signed. Raises ParseError."""
    parts = token.split(b".")
    if len(parts) != 3:
        raise ParseError("token", f"{len(parts)} parts, not three")
    header, payload, signature = parts
    return header, payload, signature, token[: -len(signature) - 1] if signature else token[:-1]


def read_object(encoded: bytes, place: str) -> dict[str, Any]:
    """The JSON object in one part. Raises ParseError."""
    raw = decode(encoded, place)
    try:
        value = _read_json(raw)
    except UnicodeError:
        raise ParseError(place, "not UTF-8") from None
    except JSONDecodeError as error:
        raise ParseError(place, f"not JSON ({error.msg})", error.pos) from None
    except RecursionError:
        raise ParseError(place, f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise ParseError(place, str(error)) from None
    if type(value) is not dict:
        raise ParseError(place, "not a JSON object")
    return value


def decode(encoded: bytes, place: str) -> bytes:
    """base64url without padding (RFC 7515 2). Raises ParseError."""
    try:
        return a2b_base64(encoded.translate(_TO_BASE64) + _PADDING[len(encoded) & 3], strict_mode=True)
    except Base64Error:
        if not encoded:
            reason = "empty"
        elif b"=" in encoded:
            reason = "base64url with padding"
        else:
            reason = "not base64url"
        raise ParseError(place, reason) from None


def read_signature(encoded: bytes) -> bytes:
    """The 64 bytes of an ES256 signature. Raises ParseError."""
    if len(encoded) == _SIGNATURE_CHARS and encoded[-1] in _SIGNATURE_ENDS:
        return decode(encoded, "signature")
    signature = decode(encoded, "signature")
    if signature[:1] == b"\x30" and len(signature) > SIGNATURE_BYTES:
        raise ParseError("signature", "DER, where r and s must stand bare (RFC 7518 3.4)")
    if len(signature) != SIGNATURE_BYTES:
        raise ParseError("signature", f"{len(signature)} bytes, not {SIGNATURE_BYTES}")
    raise ParseError("signature", "bits after its end are not zero")


def verify_es256(key: EllipticCurvePublicKey, signed: bytes, signature: bytes) -> bool:
    """Whether r and s (64 bytes) are a signature of these bytes by this P-256 key."""
    try:
        key.verify(der_signature(signature), signed, _ES256)
    except InvalidSignature:
        return False
    return True


def der_signature(signature: bytes) -> bytes:
    """r and s as the DER that cryptography wants: SEQUENCE of two INTEGERs, by hand, since that takes half the time."""
    r, s = _der_integer(signature[:32]), _der_integer(signature[32:])
    return bytes((0x30, len(r) + len(s))) + r + s


def _der_integer(number: bytes) -> bytes:
    """An unsigned number of at most 32 bytes as a DER INTEGER: shortest form, sign bit clear (X.690 8.3)."""
    first = number[0]
    if first > 127:
        return b"\x02\x21\0" + number
    if first:
        return b"\x02\x20" + number
    number = number.lstrip(b"\0") or b"\0"
    if number[0] > 127:
        number = b"\0" + number
    return bytes((2, len(number))) + number


def _read_json(raw: bytes) -> Any:
    """Raises ValueError, of which JSONDecodeError and UnicodeDecodeError are two, and RecursionError."""
    value = _DECODER.decode(raw.decode())
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise RecursionError
    if b"\\u" in raw:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair") from None
    return value


def _deeper_than(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(level)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("the same key twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number beyond any float")
    return number


_DECODER: Final = JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite
)
