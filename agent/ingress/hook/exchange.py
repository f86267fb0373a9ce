"""One stream of a client: takes messages, has them answered, and sends what there is to answer.

Knows calls and the bounds of memory; must not know what is in a message. Responses gather in a bounded heap until the
end of the turn, so that what came together is answered together, and for as long as the client has no room for them. A
client that does not read is not read from either: his messages are held, flow control stops him, nobody else notices.

Long messages are answered in slices, with other clients' turns between them.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from math import inf
from typing import Final, Protocol

from agent.ingress.hook import wire
from agent.ingress.hook.desk import Desk
from agent.model import ParseError
from agent.rpc.call import Call
from agent.rpc.status import Status

HEAP_MAX_BYTES: Final = 1 << 20
"""Responses of one stream that wait for their client: as much as one message may bring us."""

EARLY_BYTES: Final = 32 << 10
"""Responses sent before the end of the turn: a client can work on these while we do on the rest."""

SLICE: Final = 64
"""Requests answered before other clients get their turn: some half millisecond."""

DRAINING: Final = "this agent is being stopped; calls without an answer are to be let pass"


class Exchange(Protocol):
    """What a server needs to know of its streams to end them in peace."""

    messages: int

    def finish(self) -> None: ...


class _Sliced(ABC):
    """Does the work that a message makes, slice by slice. `slices` yields where others may have their turn."""

    def __init__(self, desk: Desk, call: Call, on_over: Callable[[Exchange], None]) -> None:
        self.messages = 0
        self._desk = desk
        self._call = call
        self._on_over = on_over
        self._work: Iterator[None] | None = None
        self._read_all = False
        self._fault: tuple[Status, str] | None = None
        call.wait()

    @abstractmethod
    def finish(self) -> None:
        """End the stream in peace."""

    @abstractmethod
    def slices(self, data: bytes) -> Iterator[None]:
        """The work that a message makes."""

    def has_room(self) -> bool:
        return True

    @abstractmethod
    def settle(self) -> None:
        """Send what is there to be sent, and end the call when that was all."""

    def message(self, data: bytes) -> None:
        """Implements Conversation."""
        if self._read_all:
            return
        self.messages += 1
        self._work = self.slices(data)
        self._go_on()

    def said_all(self) -> None:
        """Implements Conversation."""
        self.end()

    def room(self) -> None:
        """Implements Conversation."""
        self.settle()

    def over(self) -> None:
        """Implements Conversation."""
        self._work = None
        self._on_over(self)

    def end(self, code: Status | None = None, why: str = "") -> None:
        """Take no more messages; with a code, the client hears it behind his last response."""
        if code is not None and not self._read_all:
            self._fault = code, why
        self._read_all = True
        self._call.host.soon(self.settle)

    def _go_on(self) -> None:
        """The next slice, unless nobody waits for it any more: nothing is counted or consumed for who is gone."""
        if self._work is None:
            return
        if not self.has_room():
            self._call.hold()
            return  # until `settle` has made some
        try:
            next(self._work)
        except StopIteration:
            self._work = None
            self._call.release()
        except ParseError as error:
            self._work = None
            self._desk.unreadable_messages += 1
            self.end(Status.INVALID_ARGUMENT, f"{error.place}: {error.reason}")
        else:
            self._call.hold()
            self._call.host.next_turn(self._go_on)


class ScreenExchange(_Sliced):
    """One ScreenStream."""

    def __init__(
        self,
        desk: Desk,
        call: Call,
        clock: Callable[[], float],
        patience: float = inf,
        on_over: Callable[[Exchange], None] = lambda _exchange: None,
    ) -> None:
        super().__init__(desk, call, on_over)
        self._clock = clock
        self._patience = patience
        self._waiting: set[asyncio.Task[None]] = set()  # answers that a certificate is fetched for
        self._heap: list[bytes] = []
        self._heap_bytes = 0
        self._blocked = False
        self._settles = False  # at the end of this turn

    def finish(self) -> None:
        """Read no more; the client gets what is answered, and the news that there is no more to come."""
        self.end(Status.UNAVAILABLE, DRAINING)

    def slices(self, data: bytes) -> Iterator[None]:
        """By the compiled hot path as long as there is one that can take this: the policy may change meanwhile."""
        now = self._clock()
        while data:
            gate = self._desk.gate_for(data)
            if gate is None:
                yield from self._by_python(wire.read_requests(data, now))
                return
            responses, end = self._desk.answer_by(gate, data, now)
            self._put(responses)
            data = data[end:]
            if data:
                yield

    def _by_python(self, requests: Sequence[wire.AnyRequest]) -> Iterator[None]:
        for start in range(0, len(requests), SLICE):
            if start:
                yield
            for response in self._desk.answer_all(requests[start : start + SLICE], self._patience, self._later):
                self._put(response)

    def has_room(self) -> bool:
        self._blocked = self._heap_bytes >= HEAP_MAX_BYTES
        return not self._blocked

    def settle(self) -> None:
        """Send as long as the client has room."""
        self._settles = False
        call = self._call
        while self._heap and call.writable:
            call.send(self._take())
        call.keep(self._heap_bytes)
        if self._blocked and self.has_room():
            call.host.next_turn(self._go_on)
        if self._read_all and not (self._heap or self._waiting or self._work is not None):
            call.finish(*(self._fault or (Status.OK, "")))

    def _put(self, response: bytes) -> None:
        if self._call.is_over:
            return
        self._heap.append(response)
        self._heap_bytes += len(response)
        if self._heap_bytes >= EARLY_BYTES:
            self.settle()
        elif not self._settles:
            self._settles = True
            self._call.host.soon(self.settle)

    def _later(self, response: Awaitable[bytes]) -> None:
        """Have an answer that must wait sent when it is there. The identity stage bounds how many wait."""

        async def arrive() -> None:
            try:
                self._put(await response)
            finally:
                self._waiting.discard(task)
                self._call.host.soon(self.settle)

        task = asyncio.create_task(arrive())
        self._waiting.add(task)

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


class EventExchange(_Sliced):
    """One ReportEvents."""

    def __init__(self, desk: Desk, call: Call, on_over: Callable[[Exchange], None] = lambda _exchange: None) -> None:
        super().__init__(desk, call, on_over)
        self._accepted = self._ignored = 0

    def finish(self) -> None:
        """Read no more; the client hears how much was taken."""
        self.end()

    def slices(self, data: bytes) -> Iterator[None]:
        for n, told in enumerate(wire.read_events(data), 1):
            taken = self._desk.take(told)
            self._accepted += taken
            self._ignored += not taken
            if n % SLICE == 0:
                yield

    def settle(self) -> None:
        if not self._read_all or self._work is not None or self._call.is_over:
            return
        if self._fault is None:
            self._call.respond(wire.events_taken(self._accepted, self._ignored))
        else:
            self._call.finish(*self._fault)
