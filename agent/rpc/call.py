"""One call: between a stream of HTTP/2 and whoever answers it.

Knows gRPC's order of things: headers, messages, a status. Must not know sockets; the link hands over what it needs of
the event loop. A call whose client is gone tells its conversation so, once, and is silent from then on.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from agent.http2.connection import Connection
from agent.http2.errors import Code
from agent.http2.limits import Allowance
from agent.http2.streams import Stream
from agent.rpc.messages import MessageReader, framed
from agent.rpc.request import Request
from agent.rpc.status import HEAD, RpcError, Status, trailers, trailers_only

AT_ONCE: Final = 64
"""Kept messages handed over before others have their turn."""

_TRAILERS_OK: Final = trailers(Status.OK)


class Conversation(Protocol):
    """Whoever answers a call. RpcError ends it with that status, any other exception with INTERNAL and a report."""

    def message(self, data: bytes) -> None:
        """The client said this."""
        ...

    def said_all(self) -> None:
        """The client says no more."""
        ...

    def room(self) -> None:
        """What was sent is on its way: `send` takes more."""
        ...

    def over(self) -> None:
        """The call has ended, by whomever: nothing can be sent. Called once, always."""
        ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Host(Protocol):
    """What a call needs of the link that it is on."""

    message_bytes: int
    held: Allowance
    kept: int  # bytes of answers that wait outside of the connection

    def time(self) -> float:
        """Monotonic seconds, now."""
        ...

    def soon(self, action: Callable[[], None]) -> None:
        """Do it at the end of this turn, or in a turn of its own."""
        ...

    def flush(self) -> None:
        """Something was said: have it written at the end of this turn, or in one that comes for it."""
        ...

    def next_turn(self, action: Callable[[], None]) -> None:
        """Do it when others had their turn."""
        ...

    def at(self, when: float, action: Callable[[], None]) -> Timer: ...

    def failed(self, error: Exception) -> None:
        """Hear of a fault of ours."""
        ...


class Call:
    """`request` says what is asked; `who` is the client as whoever let him in knows him."""

    __slots__ = (
        "_connection", "_conversation", "_deadline", "_head_sent", "_held", "_holding", "_inbox", "_kept", "_messages",
        "_over", "_releasing", "_said_all", "_stream", "_timer", "host", "request",
    )  # fmt: skip

    def __init__(
        self, host: Host, connection: Connection[Request], stream: Stream, request: Request, began: float
    ) -> None:
        self.host = host
        self.request = request
        self._connection = connection
        self._stream = stream
        self._deadline = inf if request.timeout == inf else began + request.timeout
        self._messages = MessageReader(host.message_bytes, request.encoding)
        self._conversation: Conversation | None = None
        self._inbox: deque[bytes] | None = None  # messages that came while the conversation held
        self._held = 0
        self._kept = 0
        self._holding = False
        self._releasing = False
        self._said_all = False
        self._head_sent = False
        self._over = False
        self._timer: Timer | None = None

    # -- for the conversation ---------------------------------------------------------------------------------------

    @property
    def time_left(self) -> float:
        """Seconds until the client's deadline, 0 when it went by, inf without one."""
        return inf if self._deadline == inf else max(0.0, self._deadline - self.host.time())

    @property
    def is_over(self) -> bool:
        return self._over

    @property
    def writable(self) -> bool:
        """Whether everything sent so far is on its way."""
        return not self._over and not self._stream.waiting

    def wait(self) -> None:
        """The answer takes time: from now on the deadline ends the call by itself."""
        if self._timer is None and self._deadline != inf and not self._over:
            self._timer = self.host.at(self._deadline, self._expire)

    def send(self, message: bytes) -> bool:
        """One message; whether it is on its way. If not, `room` says when it is, and nothing should be sent before."""
        if self._over:
            return False
        if not self._head_sent:
            self._head_sent = True
            self._connection.begin(self._stream, HEAD)
        sent = self._connection.send(self._stream, framed(message))
        self.host.flush()
        return sent

    def keep(self, size: int) -> None:
        """So many bytes are kept for the client until he has room: they count as those do that he leaves unread."""
        if size != self._kept and not self._over:
            self.host.kept += size - self._kept
            self._kept = size

    def respond(self, message: bytes) -> None:
        """One message, and a good end."""
        if not self._over:
            self._connection.respond(self._stream, HEAD, framed(message), _TRAILERS_OK)
            self._end()

    def finish(self, status: Status = Status.OK, why: str = "") -> None:
        """End the call, behind all that was sent."""
        if self._over:
            return
        if self._head_sent or status is Status.OK:
            if not self._head_sent:
                self._connection.begin(self._stream, HEAD)
            self._connection.end(self._stream, trailers(status, why))
        else:
            self._connection.end(self._stream, trailers_only(status, why))
        self._end()

    def fail(self, error: Exception) -> None:
        """End the call for what its conversation raised. What is wrong with us is nothing for a client."""
        if isinstance(error, RpcError):
            self.finish(error.status, error.why)
        else:
            self.host.failed(error)
            self.finish(Status.INTERNAL, "this call failed")

    def hold(self) -> None:
        """Keep what comes, so that flow control slows the client down."""
        self._holding = True

    def release(self) -> None:
        """Hand over what was kept, as long as it is not held again; of much, a part in each turn."""
        self._holding = False
        if self._inbox and not self._releasing:
            self._hand_over()
        if self._said_all and not self._inbox and not self._holding and not self._over:
            self._tell_said_all()

    def _hand_over(self) -> None:
        self._releasing = True
        for _ in range(AT_ONCE):
            if self._holding or self._over or not self._inbox:
                break
            message = self._inbox.popleft()
            self._give_back(len(message))
            self._deliver(message)
        self._releasing = False
        if self._inbox and not self._holding:
            self._holding = True
            self.host.next_turn(self.release)

    # -- for the stream ---------------------------------------------------------------------------------------------

    def begin(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def data(self, payload: bytes, ended: bool) -> None:
        """Implements Receiver. What comes behind our last word is nobody's, and not credited."""
        if payload and not self._over:
            self._take(payload)
        if ended and not self._over:
            self._said_all = True
            if self._messages.held:
                self.finish(Status.INTERNAL, "the last message is not whole")
            elif not self._inbox and not self._holding:
                self._tell_said_all()

    def reset(self, code: Code) -> None:  # noqa: ARG002  whoever cancelled, nobody waits any more
        """Implements Receiver."""
        if not self._over:
            self._end()

    def room(self) -> None:
        """Implements Receiver."""
        if self._conversation is not None and not self._over:
            self._guarded(self._conversation.room)

    def _take(self, payload: bytes) -> None:
        reader = self._messages
        before = reader.held
        try:
            messages = reader.read(payload)
        except RpcError as error:
            self.finish(error.status, error.why)
            return
        self._connection.credit(self._stream, len(payload))
        if (kept := reader.held - before) and not self._keep(kept):
            return
        for message in messages:
            if self._over:
                return
            if self._holding or self._inbox:
                self._store(message)
            else:
                self._deliver(message)

    def _store(self, message: bytes) -> None:
        # What is not taken is not credited: the window closes behind some messages.
        self._connection.credit(self._stream, -len(message))
        if self._keep(len(message)):
            if self._inbox is None:
                self._inbox = deque()
            self._inbox.append(message)

    def _keep(self, size: int) -> bool:
        """Whether so many bytes more may be kept; else the call is over."""
        if size < 0:
            self.host.held.give(-size)
        elif not self.host.held.take(size):
            self.finish(Status.RESOURCE_EXHAUSTED, "too many bytes of calls that are not whole")
            return False
        self._held += size
        return True

    def _give_back(self, size: int) -> None:
        self.host.held.give(size)
        self._held -= size
        self._connection.credit(self._stream, size)

    def _deliver(self, message: bytes) -> None:
        assert self._conversation is not None
        try:
            self._conversation.message(message)
        except Exception as error:
            self.fail(error)

    def _tell_said_all(self) -> None:
        assert self._conversation is not None
        self._said_all = False  # it is told once
        self._guarded(self._conversation.said_all)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a fault of ours ends this call and no other
            self.fail(error)

    def _expire(self) -> None:
        self._timer = None
        self.finish(Status.DEADLINE_EXCEEDED, "the deadline went by")

    def _end(self) -> None:
        if self._kept:
            self.keep(0)
        self._over = True
        self.host.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held:
            self.host.held.give(self._held)
            self._held = 0
        self._inbox = None
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.over()
