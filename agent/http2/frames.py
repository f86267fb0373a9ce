"""Frames: how bytes become them, and they bytes (RFC 9113 4.1, 6).

Knows layouts and lengths. Must not know what a frame means, nor that there are streams beyond their number.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

from agent.http2.errors import Code, ConnectionFault, StreamFault

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
DEFAULT_LONGEST: Final = 16_384
"""Bytes of a payload that every peer takes (RFC 9113 4.2)."""

# Length (24 bits) and kind in one word, flags, stream. The highest bit of the stream is reserved and ignored.
_HEAD: Final = Struct(">IBI")
_STREAM_BITS: Final = 0x7FFF_FFFF
_WORD: Final = Struct(">I")
_SETTING: Final = Struct(">HI")
_TWO_WORDS: Final = Struct(">II")


class Kind(IntEnum):
    """Types of frames. Those that we do not know are ignored (RFC 9113 4.1)."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

Frame = tuple[int, int, int, bytes]
"""(kind, flags, stream, payload): the kind as it came, which need not be one of Kind."""

SETTINGS_MAX: Final = 64
"""In one frame; some ten are defined."""

_RST_STREAM: Final = int(Kind.RST_STREAM)


class FrameReader:
    """Splits what comes in. `longest` bounds a payload; more than one frame of it is never kept."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = bytearray()
        self._need = HEAD_BYTES

    @property
    def held(self) -> int:
        """Bytes of a frame that is not whole."""
        return len(self._rest)

    def read(self, data: bytes) -> tuple[list[Frame], frozenset[int]]:
        """The frames that are whole now, and which streams some of them reset.

        Raises ConnectionFault for a payload that is too long: what came before it is lost with the connection.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:  # drop by drop, nothing is copied twice
                return [], frozenset()
            data = bytes(self._rest)
            self._rest.clear()
        frames, at = [], 0
        resets: set[int] = set()
        end, head, self._need = len(data), _HEAD.unpack_from, HEAD_BYTES
        while end - at >= HEAD_BYTES:
            word, flags, stream = head(data, at)
            length = word >> 8
            if length > self._longest:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes, at most {self._longest} go")
            stop = at + HEAD_BYTES + length
            if stop > end:
                self._need = stop - at
                break
            kind, stream = word & 0xFF, stream & _STREAM_BITS
            frames.append((kind, flags, stream, data[at + HEAD_BYTES : stop]))
            if kind == _RST_STREAM:
                resets.add(stream)
            at = stop
        if at < end:
            self._rest += data[at:] if at else data
        return frames, frozenset(resets)


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without its padding (RFC 9113 6.1). Raises ConnectionFault."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame without a pad length")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than there is payload")
    return payload[1 : len(payload) - padding]


def block_of(flags: int, stream: int, payload: bytes) -> bytes:
    """The fragment of a header block in HEADERS: neither padding nor priority, which says nothing any more.

    Raises ConnectionFault: with a block unread, the peer's header table is lost.
    """
    block = unpadded(flags, payload)
    if not flags & PRIORITISED:
        return block
    try:
        check_priority(stream, block[:5])
    except StreamFault as fault:
        raise ConnectionFault(fault.code, fault.why) from None
    return block[5:]


def check_priority(stream: int, payload: bytes) -> None:
    """PRIORITY is obsolete, and its form is checked all the same (RFC 9113 5.3.1, 6.3)."""
    if len(payload) != 5:
        raise StreamFault(Code.FRAME_SIZE_ERROR, "a priority has five bytes")
    if word_of(payload[:4]) & _STREAM_BITS == stream:
        raise StreamFault(Code.PROTOCOL_ERROR, "a stream cannot depend on itself")


def word_of(payload: bytes) -> int:
    """The number of RST_STREAM or WINDOW_UPDATE. Raises ConnectionFault unless it has four bytes."""
    if len(payload) != 4:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "four bytes are due")
    return int(_WORD.unpack(payload)[0])


def increment_of(payload: bytes) -> int:
    """By how much WINDOW_UPDATE widens; 0 is wrong, and by whose fault depends on the stream."""
    return word_of(payload) & _STREAM_BITS


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """(identifier, value) pairs in their order. Raises ConnectionFault."""
    if len(payload) > SETTINGS_MAX * 6:
        raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"more than {SETTINGS_MAX} settings")
    if len(payload) % 6:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "settings have six bytes each")
    return list(_SETTING.iter_unpack(payload))


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """What stands before a payload."""
    return _HEAD.pack(length << 8 | kind, flags, stream)


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(pairs: dict[int, int]) -> bytes:
    return frame(Kind.SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in pairs.items()))


def window_update(stream: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream, _WORD.pack(increment))


def rst_stream(stream: int, code: Code) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(last: int, code: Code, why: str = "") -> bytes:
    return frame(Kind.GOAWAY, 0, 0, _TWO_WORDS.pack(last, code) + why.encode())


SETTINGS_ACK: Final = frame(Kind.SETTINGS, ACK, 0)
