"""SETTINGS: what we tell a client, and what he tells us (RFC 9113 6.5)."""

from enum import IntEnum

from agent.http2 import frames
from agent.http2.errors import Code, ConnectionFault
from agent.http2.limits import LIST_BYTES, TABLE_BYTES, WINDOW_MAX, Limits

FRAME_BYTES_MAX = (1 << 24) - 1
OURS_MAX = 65_536
"""Bytes of a frame that we send, however much more a client takes: streams take turns between frames."""


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


def ours(limits: Limits) -> bytes:
    """The frame that a connection begins with."""
    return frames.settings(
        {
            Setting.HEADER_TABLE_SIZE: TABLE_BYTES,
            Setting.MAX_CONCURRENT_STREAMS: limits.streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.frame_bytes,
            Setting.MAX_HEADER_LIST_SIZE: LIST_BYTES,
        }
    )


class PeerSettings:
    """As far as they concern a server that pushes nothing and keeps no header table of its own."""

    def __init__(self) -> None:
        self.window = 65_535
        self.frame_bytes = frames.DEFAULT_LONGEST
        self.shrunk = False  # the table that he keeps for us

    def apply(self, payload: bytes) -> None:
        """Raises ConnectionFault. Unknown settings are ignored."""
        self.shrunk = False
        for setting, value in frames.settings_of(payload):
            match setting:
                case Setting.HEADER_TABLE_SIZE:
                    self.shrunk = self.shrunk or value < TABLE_BYTES
                case Setting.ENABLE_PUSH if value > 1:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
                case Setting.INITIAL_WINDOW_SIZE:
                    if value > WINDOW_MAX:
                        raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too wide")
                    self.window = value
                case Setting.MAX_FRAME_SIZE:
                    if not frames.DEFAULT_LONGEST <= value <= FRAME_BYTES_MAX:
                        raise ConnectionFault(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range")
                    self.frame_bytes = min(value, OURS_MAX)
