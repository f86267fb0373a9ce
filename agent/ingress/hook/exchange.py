"""One stream of a client: reads messages, has them answered, and writes what there is to answer.

Knows gRPC's aio context and the bounds of memory; must not know what is in a message. Reading and writing are two
tasks with a bounded heap of responses between them: while one message of responses is on its way, those that become
ready gather for the next. A client that does not read is not read from either, as HTTP/2 flow control then holds him
back, and nobody else notices.

The reading task is never cancelled: a read whose awaiter is cancelled loses its memory in grpcio (grpc issue 43360; one
that fails because the client cancelled still does, some 100 bytes). It ends by itself, as a read returns when its call
is over, and after that it must not touch the context: grpcio has freed the call by then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, Final, Protocol

import grpc
from grpc import aio

from agent.ingress.hook import wire
from agent.ingress.hook.desk import Desk
from agent.model import ParseError

Context = aio.ServicerContext[Any, Any]

HEAP_MAX_BYTES: Final = 1 << 20
"""Responses of one stream that wait for their client: as much as one message may bring us."""

SLICE: Final = 64
"""Requests answered before other clients get their turn: some half millisecond."""

DRAINING: Final = "this agent is being stopped; calls without an answer are to be let pass"


class Exchange(Protocol):
    """What a server needs to know of its streams to end them in peace."""

    messages: int

    def finish(self) -> None: ...


class ScreenExchange:
    """One ScreenStream."""

    def __init__(self, desk: Desk, context: Context, clock: Callable[[], float], patience: float = inf) -> None:
        self.messages = 0
        self._desk = desk
        self._patience = patience
        self._waiting: set[asyncio.Task[None]] = set()  # answers that a certificate is fetched for
        self._context = context
        self._clock = clock
        self._heap: list[bytes] = []
        self._heap_bytes = 0
        self._gone = False  # the call is over: the context is not ours any more
        self._read_all = False
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._news = asyncio.Event()  # for the writer: a response, or the end
        self._room = asyncio.Event()  # for the reader

    async def run(self) -> None:
        """Until the client has ended his side and has all his responses, or is gone, or said something unreadable."""
        self._reader = asyncio.create_task(self._read())
        try:
            await self._write()
            if self._status is not None:
                await self._context.abort(*self._status)
        finally:
            self._gone = True
            self._room.set()

    def finish(self) -> None:
        """Read no more; the client gets what is answered, and the news that there is no more to come."""
        self._end(grpc.StatusCode.UNAVAILABLE, DRAINING)

    def _end(self, code: grpc.StatusCode | None = None, why: str = "") -> None:
        if code is not None and not self._read_all:
            self._status = code, why
        self._read_all = True
        self._news.set()

    async def _read(self) -> None:
        try:
            while not self._read_all and (data := await next_message(self._context)) is not None and not self._gone:
                self.messages += 1
                if self._desk.gate_for(data) is not None:
                    await self._answer_by_gate(data)
                else:
                    await self._answer(wire.read_requests(data, self._clock()))
        except ParseError as error:
            self._desk.unreadable_messages += 1
            self._end(grpc.StatusCode.INVALID_ARGUMENT, f"{error.place}: {error.reason}")
        finally:
            self._end()

    async def _answer_by_gate(self, data: bytes) -> None:
        """As `_answer`, for a message that the compiled hot path can take: unless the policy changes meanwhile."""
        now = self._clock()
        while data and await self._have_room():
            gate = self._desk.gate_for(data)
            if gate is None:
                await self._answer(wire.read_requests(data, now))
                break
            responses, end = self._desk.answer_by(gate, data, now)
            self._put([responses])
            data = data[end:]
            if data:
                await asyncio.sleep(0)

    async def _have_room(self) -> bool:
        """Wait until the heap is within its bound; False if nobody waits for answers any more, so that nothing is
        counted or consumed for them."""
        while self._heap_bytes >= HEAP_MAX_BYTES and not self._gone:
            self._room.clear()
            await self._room.wait()
        return not self._gone

    async def _answer(self, requests: Sequence[wire.AnyRequest]) -> None:
        for start in range(0, len(requests), SLICE):
            if start:
                await asyncio.sleep(0)
            if not await self._have_room():
                return
            self._put(self._desk.answer_all(requests[start : start + SLICE], self._patience, self._later))

    def _put(self, responses: list[bytes]) -> None:
        self._heap += responses
        self._heap_bytes += sum(map(len, responses))
        self._news.set()

    def _later(self, response: Awaitable[bytes]) -> None:
        """Have an answer that must wait sent when it is there. The identity stage bounds how many wait."""

        async def arrive() -> None:
            try:
                self._put([await response])
            finally:
                self._waiting.discard(task)
                self._news.set()

        task = asyncio.create_task(arrive())
        self._waiting.add(task)

    async def _write(self) -> None:
        while True:
            if self._heap:
                await self._context.write(self._take())
                self._room.set()
            elif self._read_all and not self._waiting:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def _take(self) -> bytes:
        """What is ready, as one message, or as much of it as may go into one."""
        if self._heap_bytes <= wire.RESPONSES_MAX_BYTES:
            message, self._heap, self._heap_bytes = b"".join(self._heap), [], 0
            return message
        size = count = 0
        for response in self._heap:
            size += len(response)
            if count and size > wire.RESPONSES_MAX_BYTES:
                break
            count += 1
        message = b"".join(self._heap[:count])
        del self._heap[:count]
        self._heap_bytes -= len(message)
        return message


class EventExchange:
    """One ReportEvents."""

    def __init__(self, desk: Desk, context: Context) -> None:
        self.messages = 0
        self._desk = desk
        self._context = context
        self._accepted = self._ignored = 0
        self._gone = False
        self._read_all = asyncio.Event()
        self._fault = ""

    async def run(self) -> bytes:
        """The ReportEventsResponse, when the client has said all."""
        self._reader = asyncio.create_task(self._read())
        try:
            await self._read_all.wait()
            if self._fault:
                await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, self._fault)
            return wire.events_taken(self._accepted, self._ignored)
        finally:
            self._gone = True

    def finish(self) -> None:
        """Read no more; the client hears how much was taken."""
        self._read_all.set()

    async def _read(self) -> None:
        try:
            while (data := await next_message(self._context)) is not None and not self._gone:
                self.messages += 1
                await self._take(wire.read_events(data))
        except ParseError as error:
            self._desk.unreadable_messages += 1
            self._fault = f"{error.place}: {error.reason}"
        finally:
            self._read_all.set()

    async def _take(self, events: list[wire.Told | None]) -> None:
        for n, told in enumerate(events, 1):
            taken = self._desk.take(told)
            self._accepted += taken
            self._ignored += not taken
            if n % SLICE == 0:
                await asyncio.sleep(0)


async def next_message(context: Context) -> bytes | None:
    """The next message; None when there is none to come: the client is done, or the call is over in any way."""
    try:
        data = await context.read()
    except aio.BaseError:
        return None
    return data if isinstance(data, bytes) else None
