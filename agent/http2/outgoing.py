"""What a connection has to say: frames that are ready, and bodies that wait for a window or for the transport.

Knows windows and turns. Must not know states of streams, nor what comes in. Control frames are always ready; bodies go
as far as the peer's windows, the bound of a turn and the transport let them, stream by stream in turns.
"""

from collections.abc import Callable
from typing import Final

from agent.http2 import frames
from agent.http2.errors import Code, ConnectionFault
from agent.http2.frames import END_HEADERS, END_STREAM, Kind
from agent.http2.limits import WINDOW_MAX
from agent.http2.settings import PeerSettings
from agent.http2.streams import Stream

FIRST_WINDOW: Final = 65_535
"""RFC 9113 6.9.2: of the connection at its beginning; nothing but WINDOW_UPDATE changes it."""

_DATA: Final = int(Kind.DATA)
_HEADERS: Final = int(Kind.HEADERS)


class Outgoing:
    """`turn_bytes` bounds what is written in one turn; `on_data` hears of every frame of a body that goes out."""

    def __init__(self, peer: PeerSettings, turn_bytes: int, on_data: Callable[[int], None]) -> None:
        self.paused = False  # the transport takes no more
        self.cramped = False  # there is more to send than went into this turn
        self.bytes = 0  # that `take` would give
        self.stuck: dict[int, Stream] = {}  # with something that waits, in the order of their turns
        self.waiting = 0  # bytes of what waits on them
        self.widened = False  # a window of the peer's, since something was tried
        self._peer = peer
        self._turn_bytes = turn_bytes
        self._on_data = on_data
        self._window = FIRST_WINDOW
        self._ready: list[bytes] = []
        self._block_prefix = b""

    @property
    def roomy(self) -> bool:
        """Whether bodies may go out in this turn."""
        return not self.paused and self.bytes < self._turn_bytes

    def take(self) -> bytes:
        """What is to be written now."""
        if not self._ready:
            return b""
        ready, self._ready, self.bytes = b"".join(self._ready), [], 0
        return ready

    def put(self, data: bytes) -> None:
        """Frames that no window holds back."""
        self._ready.append(data)
        self.bytes += len(data)

    def put_block(self, stream: Stream, block: bytes, flags: int) -> None:
        """HEADERS, whole: our blocks are small."""
        if self._block_prefix:
            block, self._block_prefix = self._block_prefix + block, b""
        self.put(frames.head(len(block), _HEADERS, flags, stream.number) + block)

    def put_whole(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> bool:
        """A whole response, if it can go out at once; else nothing of it is sent."""
        size = len(body)
        if (
            size > stream.send_window
            or size > self._window
            or size > self._peer.frame_bytes
            or self._block_prefix
            or not self.roomy
        ):
            return False
        number, build = stream.number, frames.head
        self._window -= size
        self.put(
            b"".join(
                (
                    build(len(head), _HEADERS, END_HEADERS, number), head,
                    build(size, _DATA, 0, number), body,
                    build(len(trailers), _HEADERS, END_HEADERS | END_STREAM, number), trailers,
                )
            )
        )  # fmt: skip
        return True

    def send(self, stream: Stream, data: bytes) -> bool:
        """A part of a body; whether all that waits on this stream is on its way."""
        stream.waiting = stream.waiting + data if stream.waiting else data
        self.waiting += len(data)
        if self._push(stream):
            return True
        self.stuck[stream.number] = stream
        return False

    def drop(self, stream: Stream) -> None:
        """Nobody is to have any more what waits on it."""
        self.stuck.pop(stream.number, None)
        self.waiting -= len(stream.waiting)
        stream.waiting, stream.trailers = b"", None

    def widen(self, increment: int) -> None:
        """The connection's window. Raises ConnectionFault."""
        if not increment:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a window that widens by nothing")
        self._window += increment
        if self._window > WINDOW_MAX:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the connection's window is too wide")

    def shrink_table(self) -> None:
        """The peer keeps less of a header table for us than he might: we keep none, and say so once (RFC 7541 4.2)."""
        self._block_prefix = b"\x20"

    def pump(self, done: Callable[[Stream], None]) -> None:
        """Every stream that waits gets its turn, one after another, the one that got something to the end; `done` hears
        of those on which nothing waits any more."""
        if not self.stuck or not (self.widened or self.cramped):
            return
        self.cramped = self.widened = False
        for number, stream in list(self.stuck.items()):
            if number not in self.stuck:
                continue  # it ended as another one was done
            if self._push(stream):
                del self.stuck[number]
                done(stream)
            elif self.cramped:
                self.stuck[number] = self.stuck.pop(number)
                break
            elif self._window <= 0:
                break

    def _push(self, stream: Stream) -> bool:
        """Send what the windows and this turn let go of what waits; whether nothing is left."""
        data, at, size = stream.waiting, 0, len(stream.waiting)
        while at < size:
            length = min(size - at, stream.send_window, self._window, self._peer.frame_bytes)
            if length <= 0:
                break
            if not self.roomy:
                self.cramped = True
                break
            self._ready.append(frames.head(length, _DATA, 0, stream.number))
            self.put(data if length == size else data[at : at + length])
            at += length
            stream.send_window -= length
            self._window -= length
            self._on_data(1)
        stream.waiting = data[at:] if at else data
        self.waiting -= at
        return at == size
