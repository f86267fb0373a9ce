"""What the headers of a request say: which method, how long its client waits, and his metadata.

A pure reading of a header list; what is malformed by HTTP is a `fault`, what is only not gRPC has an HTTP status.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from agent.http2.headers import HeaderList

# RFC 9113 8.2.1, narrower for names: they are tokens, in lower case.
_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_NEEDED: Final = frozenset({b":method", b":scheme", b":path"})
_HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_OURS: Final = frozenset(
    {b"content-type", b"content-length", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
)
_GRPC: Final = re.compile(rb"application/grpc(?:$|[+;])")


@dataclass(frozen=True, slots=True)
class Request:
    """`timeout` in seconds, inf where none is said; `metadata` in the order that it came in, -bin values decoded."""

    path: bytes = b""
    timeout: float = inf
    encoding: bytes = b"identity"
    metadata: tuple[tuple[str, bytes], ...] = ()
    fault: str = ""  # malformed: ends the stream
    trailer_fault: str = ""  # the same of what stands behind a body
    length: int | None = None  # of the body, if it is told
    http_status: int = 200  # else: what somebody who does not speak gRPC is told
    unreadable: str = ""  # a header of gRPC's that says nothing


def read_request(headers: HeaderList) -> Request:
    """Never raises."""
    fields: dict[bytes, bytes] = {}
    metadata: list[tuple[str, bytes]] = []
    fault = unreadable = ""
    in_pseudo = True
    for name, value in headers:
        fault = fault or _fault_of(name, value)
        if name[:1] == b":":
            if not in_pseudo or name in fields or name not in _PSEUDO:
                fault = "pseudo-headers are to be known, once, and before all others"
            fields[name] = value
            continue
        in_pseudo = False
        if name in _OURS:
            if fields.setdefault(name, value) != value and name == b"content-length":
                fault = "two lengths of one body"
        elif not fault:
            try:
                metadata.append((name.decode("ascii"), _binary(value) if name.endswith(b"-bin") else value))
            except binascii.Error:
                unreadable = f"{name.decode('ascii')} is no base64"
    trailer_fault = fault or ("a pseudo-header behind a body" if fields.keys() & _PSEUDO else "")
    if fault := fault or _missing(fields):
        return Request(fault=fault, trailer_fault=trailer_fault)
    timeout = _timeout(fields.get(b"grpc-timeout"))
    if timeout is None:
        timeout, unreadable = inf, "grpc-timeout is no time"
    return Request(
        fields.get(b":path", b""),
        timeout,
        fields.get(b"grpc-encoding", b"identity"),
        tuple(metadata),
        trailer_fault=trailer_fault,
        length=int(fields[b"content-length"]) if b"content-length" in fields else None,
        http_status=_http_status(fields),
        unreadable=unreadable,
    )


def _fault_of(name: bytes, value: bytes) -> str:
    """What is wrong with a header by itself (RFC 9113 8.2), "" if nothing."""
    if _BAD_VALUE.search(value) or not (name[:1] == b":" or _NAME.fullmatch(name)):
        return "a header that must not be sent"
    if name in _HOP_BY_HOP or (name == b"te" and value != b"trailers"):
        return "a header of HTTP/1"
    if name == b"content-length" and not _LENGTH.fullmatch(value):
        return "content-length is no number"
    return ""


def _missing(fields: Mapping[bytes, bytes]) -> str:
    """What keeps it from being a request (RFC 9113 8.3.1, 8.5), "" if nothing."""
    if fields.get(b":method") == b"CONNECT":
        alone = b":authority" in fields and not fields.keys() & {b":scheme", b":path"}
        return "" if alone else "CONNECT has an authority, and neither scheme nor path"
    if not fields.keys() >= _NEEDED or not fields[b":path"]:
        return "a request without method, scheme or path"
    return ""


def _http_status(fields: dict[bytes, bytes]) -> int:
    if fields[b":method"] != b"POST":
        return 405
    return 200 if _GRPC.match(fields.get(b"content-type", b"")) else 415


def _timeout(value: bytes | None) -> float | None:
    if value is None:
        return inf
    found = _TIMEOUT.fullmatch(value)
    return int(found[1]) * _UNITS[found[2]] if found else None


def _binary(value: bytes) -> bytes:
    """Base64 with or without its padding; several values in one header are joined by commas. Raises binascii.Error."""
    return b",".join(base64.b64decode(part + b"=" * (-len(part) % 4), validate=True) for part in value.split(b","))
