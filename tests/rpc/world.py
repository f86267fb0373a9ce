"""A server of an echo on a Unix socket, and a client of it that is made of frames."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from grpc import aio
from hpack import Decoder

from agent.http2 import frames
from agent.http2.frames import END_HEADERS, END_STREAM, Frame, FrameReader, Kind
from agent.http2.headers import HeaderList, block
from agent.http2.limits import WINDOW_MAX, Limits
from agent.http2.outgoing import FIRST_WINDOW
from agent.rpc.call import Call
from agent.rpc.messages import framed
from agent.rpc.peers import Peer
from agent.rpc.server import Method, RpcServer
from agent.rpc.unary import Unary

PATIENCE = 20.0
MESSAGE_MAX = 1 << 20


class Echo:
    """A stream that says back what it hears, and keeps to the rules of flow control."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.heard: list[bytes] = []
        self.is_over = False
        call.wait()

    def message(self, data: bytes) -> None:
        self.heard.append(data)
        if not self.call.send(data):
            self.call.hold()

    def said_all(self) -> None:
        self.call.finish()

    def room(self) -> None:
        self.call.release()

    def over(self) -> None:
        self.is_over = True


class World:
    """`answer` is what the unary method does."""

    def __init__(self, folder: Path, limits: Limits | None = None, most: int = 64) -> None:
        self.path = folder / "s"
        self.counts: Counter[str] = Counter()
        self.faults: list[Exception] = []
        self.calls: list[Call] = []
        self.echoes: list[Echo] = []
        self.answer: Callable[[Call, bytes], bytes | Awaitable[bytes]] = lambda _call, data: data
        methods: dict[bytes, Method] = {b"/x/Say": self._say, b"/x/Echo": self._echo}
        self.server = RpcServer(methods, limits or Limits(), MESSAGE_MAX, most, self.counts, self.faults.append)

    def _say(self, call: Call, _peer: Peer) -> Unary:
        self.calls.append(call)
        return Unary(call, self._current)

    def _current(self, call: Call, data: bytes) -> bytes | Awaitable[bytes]:
        return self.answer(call, data)

    def _echo(self, call: Call, _peer: Peer) -> Echo:
        self.echoes.append(Echo(call))
        return self.echoes[-1]

    def channel(self, **options: Any) -> aio.Channel:
        return aio.insecure_channel(f"unix:{self.path}", options=[("grpc.use_local_subchannel_pool", 1)], **options)


@asynccontextmanager
async def a_world(folder: Path, limits: Limits | None = None, most: int = 64) -> AsyncIterator[World]:
    world = World(folder, limits, most)
    world.server.listen_local(world.path)
    try:
        yield world
    finally:
        await world.server.stop(0.1)


class RawClient:
    """Says any frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = FrameReader(1 << 24)
        self._ready: list[Frame] = []
        self._decoder = Decoder()

    def say(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def next(self) -> Frame | None:
        """The next frame; None when the connection is closed."""
        while not self._ready:
            data = await asyncio.wait_for(self.reader.read(1 << 16), PATIENCE)
            if not data:
                return None
            self._ready += self._frames.read(data)[0]
        return self._ready.pop(0)

    async def until(self, kind: Kind, number: int = 0) -> bytes:
        """The payload of the next such frame."""
        while (frame := await self.next()) is not None:
            if frame[0] == kind and frame[2] == number:
                return frame[3]
        raise AssertionError(f"closed before {kind.name} of {number}")

    async def ended(self, number: int) -> dict[bytes, bytes]:
        """All headers of a response, when it has ended."""
        headers: dict[bytes, bytes] = {}
        while (frame := await self.next()) is not None:
            kind, flags, n, payload = frame
            if kind == Kind.HEADERS:
                pairs = self._decoder.decode(payload, raw=True)
                if n == number:
                    headers.update(pairs)
                    if flags & END_STREAM:
                        return headers
        raise AssertionError("closed before the end")

    async def closed(self) -> list[Frame]:
        """What comes until the connection is closed."""
        rest = []
        with suppress(ConnectionError):
            while (frame := await self.next()) is not None:
                rest.append(frame)
        return rest


@asynccontextmanager
async def a_raw_client(path: Path, greet: bool = True) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_unix_connection(path)
    client = RawClient(reader, writer)
    if greet:
        client.say(frames.PREFACE, frames.settings({}), frames.window_update(0, WINDOW_MAX - FIRST_WINDOW))
    try:
        yield client
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(path: bytes = b"/x/Say", *more: tuple[bytes, bytes], **changes: bytes) -> HeaderList:
    """Headers; `method` and `content_type` can be others."""
    return [
        (b":method", changes.get("method", b"POST")),
        (b":scheme", b"http"),
        (b":path", path),
        (b"content-type", changes.get("content_type", b"application/grpc")),
        (b"te", b"trailers"),
        *more,
    ]


def asked(number: int, headers: HeaderList, message: bytes | None = b"", ended: bool = True) -> bytes:
    """A whole request, or one without message."""
    said = frames.frame(Kind.HEADERS, END_HEADERS, number, block(headers))
    body = b"" if message is None else framed(message)
    return said + frames.frame(Kind.DATA, END_STREAM if ended else 0, number, body)
