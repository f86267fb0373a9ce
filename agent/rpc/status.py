"""How a call ends: the status codes of gRPC, and the blocks of headers that say them.

Blocks are made once: nearly all calls end in the same one.
"""

from enum import IntEnum
from functools import lru_cache
from typing import Final

from agent.http2.headers import block


class Status(IntEnum):
    """gRPC's, by their numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """Ends a call; both parts are told to the client."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(f"{status.name}: {why}")
        self.status = status
        self.why = why


WHY_MAX: Final = 1024
"""Characters of a message: headers are bounded at the other end, too."""

ENCODINGS: Final = b"identity,deflate,gzip"
CONTENT: Final = (b"content-type", b"application/grpc")
HEAD: Final = block([(b":status", b"200"), CONTENT])
"""What stands before the messages of every response."""

_GOOD: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


def percent_encoded(text: str) -> bytes:
    """grpc-message: UTF-8, what is not printable ASCII as %XX."""
    return b"".join(bytes((c,)) if c in _GOOD else b"%%%02X" % c for c in text[:WHY_MAX].encode())


@lru_cache(maxsize=64)
def trailers(status: Status, why: str = "") -> bytes:
    """The block behind the messages."""
    return block(_fields(status, why))


@lru_cache(maxsize=64)
def trailers_only(status: Status, why: str = "") -> bytes:
    """The block of a response without messages."""
    accepted = [(b"grpc-accept-encoding", ENCODINGS)] if status is Status.UNIMPLEMENTED else []
    return block([(b":status", b"200"), CONTENT, *accepted, *_fields(status, why)])


def no_grpc(http_status: int) -> bytes:
    """The answer to what is HTTP and not gRPC."""
    return block([(b":status", b"%d" % http_status)])


def _fields(status: Status, why: str) -> list[tuple[bytes, bytes]]:
    fields = [(b"grpc-status", b"%d" % status)]
    if why:
        fields.append((b"grpc-message", percent_encoded(why)))
    return fields
