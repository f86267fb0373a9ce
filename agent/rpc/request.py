"""What the headers of a request say: which method, how long its client waits, and his metadata.

A pure reading of a header list; what is malformed by HTTP is a `fault`, what is only not gRPC has an HTTP status.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from math import inf
from typing import Final

from agent.http2.headers import HeaderList

# RFC 9113 8.2.1, narrower for names: they are tokens, in lower case.
_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_NEEDED: Final = frozenset({b":method", b":scheme", b":path"})
_HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_OURS: Final = frozenset({b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"})
_GRPC: Final = re.compile(rb"application/grpc(?:$|[+;])")


@dataclass(frozen=True, slots=True)
class Request:
    """`timeout` in seconds, inf where none is said; `metadata` in the order that it came in, -bin values decoded."""

    path: bytes = b""
    timeout: float = inf
    encoding: bytes = b"identity"
    metadata: tuple[tuple[str, bytes], ...] = ()
    fault: str = ""  # malformed: ends the stream
    http_status: int = 200  # else: what somebody who does not speak gRPC is told
    unreadable: str = ""  # a header of gRPC's that says nothing


def read_request(headers: HeaderList) -> Request:
    """Never raises."""
    fields: dict[bytes, bytes] = {}
    metadata: list[tuple[str, bytes]] = []
    fault = unreadable = ""
    in_pseudo = True
    for name, value in headers:
        if name[:1] == b":":
            if not in_pseudo or name in fields or name not in _PSEUDO:
                fault = "pseudo-headers are to be known, once, and before all others"
            fields[name] = value
            continue
        in_pseudo = False
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            fault = "a header that must not be sent"
        elif name in _HOP_BY_HOP or (name == b"te" and value != b"trailers"):
            fault = "a header of HTTP/1"
        elif name in _OURS:
            fields.setdefault(name, value)
        else:
            try:
                metadata.append((name.decode("ascii"), _binary(value) if name.endswith(b"-bin") else value))
            except binascii.Error:
                unreadable = f"{name.decode('ascii')} is no base64"
    if not fault and (not fields.keys() >= _NEEDED or not fields[b":path"]):
        fault = "a request without method, scheme or path"
    if fault:
        return Request(fault=fault)
    timeout = _timeout(fields.get(b"grpc-timeout"))
    if timeout is None:
        timeout, unreadable = inf, "grpc-timeout is no time"
    return Request(
        fields[b":path"],
        timeout,
        fields.get(b"grpc-encoding", b"identity"),
        tuple(metadata),
        http_status=_http_status(fields),
        unreadable=unreadable,
    )


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
