"""A server's side of one connection: frames in, streams out, and back.

No I/O: `receive` takes what came, `work` handles it, `take` gives what is to be written. Faults of the peer never leave
it: they become RST_STREAM or GOAWAY, and `ended` says when there is nothing more to do. Must not know what streams are
about: `understand` reads a header list once per distinct block, `accept` says whom a stream is for.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from agent.http2 import frames
from agent.http2.errors import Code, ConnectionFault, StreamFault
from agent.http2.frames import ACK, END_HEADERS, END_STREAM, PADDED, PREFACE, Frame, FrameReader, Kind
from agent.http2.headers import BlockReader, HeaderList, OversizedListFault
from agent.http2.limits import BLOCK_BYTES, CONTINUATIONS, WINDOW_MAX, Floods, Limits
from agent.http2.outgoing import FIRST_WINDOW, Outgoing
from agent.http2.settings import PeerSettings, ours
from agent.http2.streams import NOBODY, Event, Receiver, State, Stream

SLICE: Final = 128
"""Frames handled before other connections get their turn: 64 calls, about half a millisecond."""

LEFT_MAX: Final = 1024
"""Streams remembered that we have reset: frames that were on their way are no error (RFC 9113 5.1)."""

_CODES: Final = {int(code): code for code in Code}  # an unknown one is no error (RFC 9113 7)

Read = TypeVar("Read")
Accept = Callable[[Stream, Read], Receiver]


class Connection(Generic[Read]):
    """`accept` may raise StreamFault, as may `check_trailers`; `counts` hears of floods, and of calls that their
    clients had left already."""

    def __init__(
        self,
        limits: Limits,
        understand: Callable[[HeaderList], Read],
        accept: Accept[Read],
        check_trailers: Callable[[Read], None],
        counts: "Counter[str]",
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.ended = False  # nothing more comes in; what is to be written is the last
        self.ready = False  # the peer has shown that he speaks HTTP/2
        self.pings_answered = 0
        self._limits = limits
        self._accept = accept
        self._check_trailers = check_trailers
        self._counts = counts
        self._blocks = BlockReader(understand)
        self._reader = FrameReader(limits.frame_bytes)
        self._floods = Floods(counts)
        self._peer = PeerSettings()
        self.out = Outgoing(self._peer, limits.out_bytes, self._floods.useful)
        self.out.put(ours(limits) + frames.window_update(0, limits.connection_window - FIRST_WINDOW))
        self._preface = PREFACE
        self._queue: deque[Frame] = deque()
        self._forsaken: set[int] = set()  # streams that frames in the queue reset
        self._block: tuple[int, int, list[bytes], int] | None = None  # stream, flags, parts and bytes of a header block
        self._highest = 0
        self._passed_over = range(0)  # numbers that the client has left out last
        self._left: dict[int, None] = {}
        self._last_taken: int | None = None  # said in GOAWAY: later streams are for somebody else
        self._window = limits.connection_window
        self._now = 0.0

    # -- in ---------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take what came; `work` must follow."""
        if self.ended:
            return
        try:
            if self._preface:
                data = self._after_preface(data)
            if data:
                came, resets = self._reader.read(data)
                self._queue += came
                self._forsaken |= resets
        except ConnectionFault as fault:
            self._fail(fault)

    def work(self, now: float) -> bool:
        """Handle frames that came, and send what can be sent; whether there is more of either to do."""
        self._now = now
        queue = self._queue
        try:
            for _ in range(min(SLICE, len(queue))):
                kind, flags, number, payload = queue.popleft()
                if self._block is not None and (kind != Kind.CONTINUATION or number != self._block[0]):
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame within a header block")
                handler = self._HANDLERS.get(kind)
                if not self.ready:
                    self._greeted(kind, flags)
                if handler is None:
                    self._floods.chatter("unknown frames", now)
                    continue
                try:
                    handler(self, flags, number, payload)
                except StreamFault as fault:
                    self._refuse(number, fault.code)
        except ConnectionFault as fault:
            self._fail(fault)
        if not queue:
            self._forsaken.clear()
        self.out.pump(self._all_sent)
        return self.busy

    @property
    def busy(self) -> bool:
        """Whether `work` has something to do."""
        return bool(self._queue) or (self.out.cramped and not self.out.paused)

    @property
    def held(self) -> int:
        """Bytes of frames that are not whole or not handled yet."""
        return self._reader.held + sum(len(payload) for _, _, _, payload in self._queue)

    def _after_preface(self, data: bytes) -> bytes:
        seen = data[: len(self._preface)]
        if not self._preface.startswith(seen):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface = self._preface[len(seen) :]
        return data[len(seen) :]

    def _greeted(self, kind: int, flags: int) -> None:
        if kind != Kind.SETTINGS or flags & ACK:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "settings are due first")  # RFC 9113 3.4
        self.ready = True

    # -- frames of streams ------------------------------------------------------------------------------------------

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._window -= size
        if self._window < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more than the connection's window")
        if self._window < self._limits.connection_window >> 1:
            self.out.put(frames.window_update(0, self._limits.connection_window - self._window))
            self._window = self._limits.connection_window
        if flags & PADDED:
            payload = frames.unpadded(flags, payload)
        stream = self.streams.get(number)
        if stream is None:
            self._stale(number, "DATA")
            return
        stream.window -= size
        if stream.window < 0:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, "more than the stream's window")
        ended = flags & END_STREAM != 0
        stream.move(Event.RECEIVE_END if ended else Event.RECEIVE_DATA)
        if stream.due is not None:
            stream.take_due(len(payload), ended)
        if payload:
            self._floods.useful(1)
        elif not ended:
            self._floods.chatter("empty frames", self._now)
        if size != len(payload):
            self.credit(stream, size - len(payload))
        stream.receiver.data(payload, ended)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        block = payload
        if flags & (PADDED | frames.PRIORITISED):
            block = frames.block_of(flags, number, payload)
        if flags & END_HEADERS:
            self._whole_block(flags, number, block)
        else:
            self._block = (number, flags, [block], len(block))

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _, first, parts, size = self._block
        parts.append(payload)
        size += len(payload)
        if len(parts) > CONTINUATIONS or size > BLOCK_BYTES:
            self._floods.exceeded("continuations")
        if flags & END_HEADERS:
            self._block = None
            self._whole_block(first, number, b"".join(parts))
        else:
            self._block = (number, first, parts, size)

    def _whole_block(self, flags: int, number: int, block: bytes) -> None:
        if len(block) > BLOCK_BYTES:
            self._floods.exceeded("header bytes")
        try:
            read = self._blocks.read(block)
        except OversizedListFault:
            self._counts["header bytes"] += 1
            raise
        stream = self.streams.get(number)
        if stream is not None:
            self._trailers(stream, flags, read)
        elif not number & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"stream {number} is none that a client may begin")
        elif number > self._highest:
            self._begin(number, flags, read)
        elif number in self._left:
            self._stale(number, "HEADERS")
        elif number in self._passed_over:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"stream {number} after a higher one")  # RFC 9113 5.1.1
        else:
            raise ConnectionFault(Code.STREAM_CLOSED, f"stream {number} was used before")

    def _begin(self, number: int, flags: int, read: Read) -> None:
        if number > self._highest + 2:
            self._passed_over = range(self._highest + 1, number)
        self._highest = number
        if self._last_taken is not None:
            self._remember_left(number)
            return  # beyond what GOAWAY named: the client asks somebody else
        if len(self.streams) >= self._limits.streams:
            raise StreamFault(Code.REFUSED_STREAM, "too many streams")
        self._floods.useful(1)
        stream = Stream(number, self._limits.stream_window, self._peer.window)
        stream.move(Event.RECEIVE_HEADERS)
        ended = flags & END_STREAM != 0
        if ended:
            stream.move(Event.RECEIVE_END)
        self.streams[number] = stream
        if number in self._forsaken:
            self._counts["forsaken"] += 1
        else:
            stream.receiver = self._accept(stream, read)
        if ended and stream.state is not State.CLOSED:
            self._end_body(stream)

    def _trailers(self, stream: Stream, flags: int, read: Read) -> None:
        ended = flags & END_STREAM != 0
        stream.move(Event.RECEIVE_END if ended else Event.RECEIVE_DATA)
        if not ended:
            raise StreamFault(Code.PROTOCOL_ERROR, "headers in the middle of a body")  # RFC 9113 8.1
        self._check_trailers(read)
        self._end_body(stream)

    def _end_body(self, stream: Stream) -> None:
        if stream.due is not None:
            stream.take_due(0, True)
        stream.receiver.data(b"", True)

    def _rst_stream(self, _flags: int, number: int, payload: bytes) -> None:
        code = frames.word_of(payload)
        self._named(number, "RST_STREAM")
        self._floods.reset(self._now)
        stream = self.streams.get(number)
        if stream is not None:
            receiver = stream.receiver
            stream.move(Event.RESET)
            self._forget(stream)
            receiver.reset(_CODES.get(code, Code.INTERNAL_ERROR))

    def _priority(self, _flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY of no stream")
        self._floods.chatter("priorities", self._now)
        frames.check_priority(number, payload)

    def _push_promise(self, _flags: int, _number: int, _payload: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a client does not push")

    def _stale(self, number: int, what: str) -> None:
        """For a stream that is over. What we reset ourselves may still be spoken on."""
        self._named(number, what)
        self._floods.chatter("late frames", self._now)
        if number not in self._left:
            self.out.put(frames.rst_stream(number, Code.STREAM_CLOSED))

    def _named(self, number: int, what: str) -> None:
        if number == 0 or number > self._highest or not number & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"{what} of stream {number}, which was never begun")

    def _refuse(self, number: int, code: Code) -> None:
        """End a stream for what the peer did on it. Raises ConnectionFault if that is all he does."""
        self._floods.reset(self._now)
        stream = self.streams.get(number)
        if stream is None:
            if number > self._highest or not number & 1:  # an idle one is not reset (RFC 9113 6.4)
                raise ConnectionFault(code, "a stream that was never begun")
            self._leave(number, code)
        else:
            receiver = stream.receiver
            self.reset(stream, code)
            receiver.reset(code)

    # -- frames of the connection -----------------------------------------------------------------------------------

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement that says something")
            return
        self._floods.chatter("settings", self._now)
        window = self._peer.window
        self._peer.apply(payload)
        if self._peer.shrunk:
            self.out.shrink_table()
        if self._peer.window != window:
            self._widen_all(self._peer.window - window)
        self.out.put(frames.SETTINGS_ACK)

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING has eight bytes")
        self._floods.chatter("pings", self._now)
        if flags & ACK:
            self.pings_answered += 1
        else:
            self.out.put(frames.frame(Kind.PING, ACK, 0, payload))

    def _goaway(self, _flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY has eight bytes")
        self._floods.chatter("goaways", self._now)  # the client ends the connection when he has his answers

    def _window_update(self, _flags: int, number: int, payload: bytes) -> None:
        increment = frames.increment_of(payload)
        self._floods.chatter("window updates", self._now)
        self.out.widened = True
        if not number:
            self.out.widen(increment)
            return
        self._named(number, "WINDOW_UPDATE")
        stream = self.streams.get(number)
        if stream is None:
            return  # it may have been on its way
        if not increment:
            raise StreamFault(Code.PROTOCOL_ERROR, "a window that widens by nothing")
        stream.send_window += increment
        if stream.send_window > WINDOW_MAX:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, "the window is too wide")

    def _widen_all(self, by: int) -> None:
        """RFC 9113 6.9.2: a window may become negative by this."""
        self.out.widened = True
        for stream in self.streams.values():
            stream.send_window += by
            if stream.send_window > WINDOW_MAX:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is too wide")

    # -- out --------------------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """What is to be written now."""
        return self.out.take()

    @property
    def has_unsent(self) -> bool:
        """Whether anything waits, here or for a window."""
        return bool(self.out.bytes or self.out.stuck)

    def respond(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        """All that there is to say on a stream, at once."""
        if self.out.put_whole(stream, head, body, trailers):
            self._close(stream)
        else:
            self.begin(stream, head)
            self.send(stream, body)
            self.end(stream, trailers)

    def begin(self, stream: Stream, block: bytes) -> None:
        """The head of a response."""
        self.out.put_block(stream, block, END_HEADERS)

    def send(self, stream: Stream, data: bytes) -> bool:
        """A part of the body; whether it is on its way as a whole. If not, `room` of its receiver says when it is."""
        return self.out.send(stream, data)

    def end(self, stream: Stream, block: bytes) -> None:
        """Trailers, or a response that is nothing else; behind what waits. Nothing may be sent after it."""
        if stream.waiting:
            stream.trailers = block
        else:
            self.out.put_block(stream, block, END_HEADERS | END_STREAM)
            self._close(stream)

    def reset(self, stream: Stream, code: Code) -> None:
        """End it here and now. Its receiver is not told."""
        if stream.state is not State.CLOSED:
            stream.move(Event.RESET)
            self._forget(stream)
            self._leave(stream.number, code)

    def credit(self, stream: Stream, size: int) -> None:
        """So much of a stream was taken: the client may send more, unless he has said all."""
        stream.taken += size
        if stream.taken >= self._limits.stream_window >> 1 and stream.open:
            stream.window += stream.taken
            self.out.put(frames.window_update(stream.number, stream.taken))
            stream.taken = 0

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.out.put(frames.frame(Kind.PING, 0, 0, bytes(8)))

    def leave(self, code: Code = Code.NO_ERROR, why: str = "") -> None:
        """Take no more streams. Those that were begun go on."""
        if self._last_taken is None and not self.ended:
            self._last_taken = self._highest
            self.out.put(frames.goaway(self._highest, code, why))

    def close(self) -> None:
        """The transport is gone, or about to: every stream hears of it."""
        self.ended = True
        self._accept = _nobody  # no circle stays for the collector
        self._queue.clear()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            receiver, stream.receiver = stream.receiver, NOBODY
            stream.state = State.CLOSED
            self.out.drop(stream)
            receiver.reset(Code.CANCEL)

    def _fail(self, fault: ConnectionFault) -> None:
        self._counts["faults"] += 1
        last = self._highest if self._last_taken is None else self._last_taken  # never more than before (6.8)
        self.out.put(frames.goaway(last, fault.code, fault.why))
        self.close()

    def _all_sent(self, stream: Stream) -> None:
        if stream.trailers is not None:
            self.end(stream, stream.trailers)
        else:
            stream.receiver.room()

    def _close(self, stream: Stream) -> None:
        """We have said all. A client who has not need not go on (RFC 9113 8.1)."""
        stream.move(Event.SEND_END)
        self._forget(stream)
        if stream.state is State.LOCAL_CLOSED:
            self._leave(stream.number, Code.NO_ERROR)
            stream.state = State.CLOSED

    def _leave(self, number: int, code: Code) -> None:
        self._remember_left(number)
        self.out.put(frames.rst_stream(number, code))

    def _remember_left(self, number: int) -> None:
        if len(self._left) >= LEFT_MAX:
            del self._left[next(iter(self._left))]
        self._left[number] = None

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.number, None)
        self.out.drop(stream)
        stream.receiver = NOBODY  # no circle stays for the collector

    _HANDLERS: Final[dict[int, Callable[["Connection[Any]", int, int, bytes], None]]] = {
        Kind.DATA: _data,
        Kind.HEADERS: _headers,
        Kind.PRIORITY: _priority,
        Kind.RST_STREAM: _rst_stream,
        Kind.SETTINGS: _settings,
        Kind.PUSH_PROMISE: _push_promise,
        Kind.PING: _ping,
        Kind.GOAWAY: _goaway,
        Kind.WINDOW_UPDATE: _window_update,
        Kind.CONTINUATION: _continuation,
    }


def _nobody(_stream: Stream, _read: object) -> Receiver:
    return NOBODY
