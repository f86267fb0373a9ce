"""Messages of gRPC within the body of a stream: a flag, a length, and as many bytes.

Knows nothing of calls. Everything is bounded by `most`, what is unpacked as well.
"""

import zlib
from collections.abc import Mapping
from struct import Struct
from typing import Final

from agent.rpc.status import RpcError, Status

_PREFIX: Final = Struct(">BI")
PREFIX_BYTES: Final = 5

UNPACKERS: Final[Mapping[bytes, int]] = {b"gzip": 31, b"deflate": zlib.MAX_WBITS}
"""Encodings that we read beside identity, by zlib's window bits."""


def framed(message: bytes) -> bytes:
    """A message as it stands in a body."""
    return _PREFIX.pack(0, len(message)) + message


class MessageReader:
    """Finds the messages of one call."""

    __slots__ = ("_encoding", "_most", "_need", "_rest")

    def __init__(self, most: int, encoding: bytes) -> None:
        self._most = most
        self._encoding = encoding
        self._rest = bytearray()
        self._need = PREFIX_BYTES

    @property
    def held(self) -> int:
        """Bytes of a message that is not whole."""
        return len(self._rest)

    def read(self, payload: bytes) -> list[bytes]:
        """Messages that are whole now. Raises RpcError: the call cannot go on."""
        if self._rest:
            self._rest += payload
            if len(self._rest) < self._need:
                return []
            payload = bytes(self._rest)
            self._rest.clear()
        messages, at, end = [], 0, len(payload)
        self._need = PREFIX_BYTES
        while end - at >= PREFIX_BYTES:
            flag, size = _PREFIX.unpack_from(payload, at)
            if size > self._most:
                why = f"a message of {size} bytes, at most {self._most} are taken"
                raise RpcError(Status.RESOURCE_EXHAUSTED, why)
            stop = at + PREFIX_BYTES + size
            if stop > end:
                self._need = stop - at
                break
            message = payload[at + PREFIX_BYTES : stop]
            messages.append(self._unpacked(flag, message) if flag else message)
            at = stop
        if at < end:
            self._rest += payload[at:] if at else payload
        return messages

    def _unpacked(self, flag: int, message: bytes) -> bytes:
        bits = UNPACKERS.get(self._encoding)
        if flag != 1 or bits is None:
            raise RpcError(Status.INTERNAL, f"a message with the flag {flag} and the encoding {self._encoding!r}")
        unpacker = zlib.decompressobj(bits)
        try:
            whole = unpacker.decompress(message, self._most + 1)
        except zlib.error:
            raise RpcError(Status.INTERNAL, "a message that cannot be unpacked") from None
        if len(whole) > self._most:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"a message that unpacks to more than {self._most} bytes")
        if not unpacker.eof:
            raise RpcError(Status.INTERNAL, "a packed message that ends too early")
        return whole
