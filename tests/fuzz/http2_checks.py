"""What must hold of a connection whatever its client sends. The fuzzer and the ordinary tests run the same checks.

An input is a first byte of circumstances, then records: a head of four bytes (what, flags, stream, length) and as many
bytes. A record is a frame, a request of ours, bytes as they are, or something that the server, the client's end of the
transport or the clock does meanwhile. So nearly every input says something, and none has to get lengths right.
The link and the server are the real ones; the event loop and the transport are small models of theirs.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, cast

from agent.http2 import frames
from agent.http2.connection import LEFT_MAX
from agent.http2.errors import Code
from agent.http2.frames import END_HEADERS, END_STREAM, FrameReader, Kind
from agent.http2.headers import block
from agent.http2.limits import Limits
from agent.http2.settings import Setting
from agent.rpc.call import Call
from agent.rpc.link import Link
from agent.rpc.messages import framed
from agent.rpc.peers import Peer
from agent.rpc.server import RpcServer
from agent.rpc.status import RpcError, Status
from agent.rpc.unary import Unary

MESSAGE_MAX = 4096
LIMITS = Limits(
    streams=4,
    frame_bytes=16_384,
    stream_window=10_000,
    connection_window=70_000,
    held_bytes=9_000,
    out_bytes=4_000,
    unread_bytes=60_000,
)
HIGH_WATER = 8_000
TURN = 3 * LIMITS.out_bytes + 4 * 2 * MESSAGE_MAX
"""Bytes of answers that one record can bring about, beyond a bound that is looked at once a turn."""

REQUESTS = [
    block(
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b"content-type", b"application/grpc"), *more]
    )
    for path in (b"/x/Say", b"/x/Echo", b"/x/Later", b"/x/Never")
    for more in ((), ((b"grpc-timeout", b"5m"),), ((b"grpc-encoding", b"gzip"),), ((b"content-length", b"9"),))
]


class Loop:
    """As much of an event loop as a link asks for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: deque[Callable[[], None]] = deque()
        self.timers: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, act: Callable[..., None], *arguments: Any) -> None:
        self.ready.append(lambda: act(*arguments))

    def call_at(self, when: float, act: Callable[..., None], *arguments: Any) -> "Handle":
        handle = Handle(when, lambda: act(*arguments))
        self.timers.append(handle)
        return handle

    def run(self) -> None:
        """Until nobody has anything to do."""
        for timer in [each for each in self.timers if each.when <= self.now]:
            self.timers.remove(timer)
            if timer.act is not None:
                self.ready.append(timer.act)
        for _ in range(10_000):
            if not self.ready:
                return
            self.ready.popleft()()
        raise AssertionError("the link never comes to rest")


class Handle:
    def __init__(self, when: float, act: Callable[[], None]) -> None:
        self.when = when
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        self.act = None


class Transport:
    """Takes what is written, and holds it against the rules for what a server may send."""

    def __init__(self, link: Link, loop: Loop) -> None:
        self.unread = 0
        self.read_from = True
        self.closing = False
        self._link = link
        self._loop = loop
        self._frames = FrameReader(1 << 24)
        self._over: set[int] = set()
        self._last = 1 << 31
        self._failed = False

    def get_extra_info(self, _name: str) -> None:
        return None

    def set_write_buffer_limits(self, _high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.read_from = False

    def resume_reading(self) -> None:
        self.read_from = True

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self._loop.call_soon(self._link.connection_lost, None)

    abort = close

    def write(self, data: bytes) -> None:
        for kind, flags, number, payload in self._frames.read(data)[0]:
            self._seen(kind, flags, number, payload)
        assert not self._frames.held, "half a frame was written"
        self.unread += len(data)
        if self.unread > HIGH_WATER:
            self._link.pause_writing()

    def drained(self) -> None:
        """The client has read everything."""
        if self.unread > HIGH_WATER and not self.closing:
            self.unread = 0
            self._link.resume_writing()
        self.unread = 0

    def _seen(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        assert not self._failed, "a frame behind GOAWAY with an error"
        if kind in (Kind.DATA, Kind.HEADERS):
            assert number not in self._over, f"{Kind(kind).name} on stream {number}, which is over"
        if kind in (Kind.DATA, Kind.HEADERS) and flags & END_STREAM:
            self._over.add(number)
        elif kind == Kind.RST_STREAM:
            assert number, "a reset of the connection"
            self._over.add(number)
        elif kind == Kind.GOAWAY:
            last, code = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
            assert last <= self._last, "GOAWAY takes more streams than the one before"
            self._last, self._failed = last, code != Code.NO_ERROR


class Echo:
    """Says back what it hears, or keeps it for later; what begins with "!" it does not want to hear."""

    def __init__(self, call: Call, *, later: bool) -> None:
        self.overs = 0
        self._call = call
        self._later = later
        self._kept: list[bytes] = []
        call.wait()

    def message(self, data: bytes) -> None:
        if data[:1] == b"!":
            raise RpcError(Status.ABORTED, "as was asked")
        if self._later:
            self._kept.append(data)
            self._call.keep(sum(map(len, self._kept)))
            self._call.hold()
        elif not self._call.send(data):
            self._call.hold()

    def now(self) -> None:
        """Say what was kept."""
        while self._kept and self._call.writable:
            self._call.send(self._kept.pop(0))
        self._call.keep(sum(map(len, self._kept)))
        self._call.release()

    def said_all(self) -> None:
        self._call.finish()

    def room(self) -> None:
        self._call.release()

    def over(self) -> None:
        self.overs += 1


class World:
    """A server with one client."""

    def __init__(self, circumstances: int) -> None:
        self.loop = Loop()
        self.faults: list[Exception] = []
        self.echoes: list[Echo] = []
        self.unaries = 0
        asyncio._set_running_loop(cast("asyncio.AbstractEventLoop", self.loop))
        methods = {b"/x/Say": self._say, b"/x/Echo": self._echo, b"/x/Later": self._later}
        self.server = RpcServer(methods, LIMITS, MESSAGE_MAX, 1, Counter(), self.faults.append)
        self.link = Link(self.server, Peer())
        self.server._links.add(self.link)
        self.transport = Transport(self.link, self.loop)
        self.link.connection_made(cast("asyncio.Transport", self.transport))
        # With no window from the start, whatever is answered waits: what comes then is the rarer half of all there is.
        window = {Setting.INITIAL_WINDOW_SIZE: 0} if circumstances & 4 else {}
        self.link.data_received(frames.PREFACE + frames.settings(window))

    def _say(self, call: Call, _peer: Peer) -> Unary:
        self.unaries += 1
        return Unary(call, lambda _call, data: data, self._unary_over)

    def _unary_over(self) -> None:
        self.unaries -= 1

    def _echo(self, call: Call, _peer: Peer) -> Echo:
        self.echoes.append(Echo(call, later=False))
        return self.echoes[-1]

    def _later(self, call: Call, _peer: Peer) -> Echo:
        self.echoes.append(Echo(call, later=True))
        return self.echoes[-1]

    def hear(self, data: bytes) -> None:
        """As asyncio would: nothing comes in that is not read."""
        if self.transport.read_from and not self.transport.closing:
            self.link.data_received(data)

    def meanwhile(self, what: int, by: int) -> None:
        """Something that is not the client's to say."""
        match what & 7:
            case 0:
                self.transport.drained()
            case 1:
                for echo in self.echoes:
                    if not echo.overs:
                        echo.now()
            case 2:
                self.link.leave()
            case 3:
                self.link.close()
            case 4:
                self.link.look_after(self.loop.now)
            case _:
                self.loop.now += by / 16


def records(raw: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 1
    while len(raw) - at >= 4:
        what, flags, number, length = raw[at : at + 4]
        yield what, flags, number, raw[at + 4 : at + 4 + length]
        at += 4 + length


def said(what: int, flags: int, number: int, payload: bytes) -> bytes:
    """The bytes of a record."""
    match what & 15:
        case 10:
            return payload
        case 11:
            ended = END_STREAM if flags & END_STREAM else 0
            return frames.frame(Kind.HEADERS, END_HEADERS | ended, number, REQUESTS[flags >> 4])
        case 12:
            ended = END_STREAM if flags & END_STREAM else 0
            return frames.frame(Kind.DATA, ended, number, framed(payload * (1 + (flags >> 4))))
        case 13:
            return frames.head(len(payload), what, flags, number) + payload  # a type that nobody knows
        case kind:
            return frames.head(len(payload), kind, flags, number) + payload


def check(raw: bytes) -> None:
    """Raise AssertionError, or whatever the product raises that it should not, if `raw` gets the better of us."""
    world = World(raw[0] if raw else 0)
    try:
        whole = raw[0] & 1 if raw else 0  # what comes together
        waiting = b""
        for what, flags, number, payload in records(raw):
            if what & 15 == 14:
                world.hear(waiting)
                waiting = b""
                world.meanwhile(flags, number)
            elif whole:
                waiting += said(what, flags, number, payload)
            else:
                data = said(what, flags, number, payload)
                half = len(data) // 2
                world.hear(data[:half])
                world.hear(data[half:])
            world.loop.run()
            check_bounds(world)
        world.hear(waiting)
        world.loop.run()
        check_bounds(world)
        check_end(world)
    finally:
        asyncio._set_running_loop(None)


def check_bounds(world: World) -> None:
    """Of memory, and of what is told about it."""
    link, server = world.link, world.server
    connection = link._connection
    assert not world.faults, repr(world.faults)
    assert len(connection.streams) <= LIMITS.streams
    assert len(connection._left) <= LEFT_MAX
    assert connection.held <= 2 * LIMITS.frame_bytes
    assert connection.out.waiting == sum(len(stream.waiting) for stream in connection.streams.values())
    assert connection.out.stuck.keys() == {n for n, stream in connection.streams.items() if stream.waiting}
    assert 0 <= link.held.held == server.held.held <= LIMITS.held_bytes
    assert 0 <= link.unread <= LIMITS.unread_bytes + TURN, link.unread
    if connection.ended:
        assert not connection.streams
        assert world.transport.closing, "a connection that is over stays open"


def check_end(world: World) -> None:
    """Who was refused stays refused; and nothing is left of a connection that is over."""
    if world.link._connection.ended:
        world.hear(frames.frame(Kind.PING, 0, 0, bytes(8)))
        assert world.link._connection.ended
    world.transport.abort()
    world.loop.run()
    assert (world.server.held.held, world.server.unread, world.link.kept) == (0, 0, 0)
    assert all(echo.overs == 1 for echo in world.echoes), "a conversation is over once"
    assert not world.unaries
    assert world.server.connections == 0
    assert not world.faults, repr(world.faults)
