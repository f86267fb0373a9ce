"""One stream: its state as a table (RFC 9113 5.1), its windows, and what waits to be sent on it.

Knows nothing of frames and headers; moving what waits is the connection's.
"""

from enum import Enum, auto
from typing import Final, Protocol

from agent.http2.errors import Code, StreamFault


class State(Enum):
    """As this side sees it. Streams of ours there are none: a server that does not push begins nothing."""

    IDLE = auto()
    OPEN = auto()
    REMOTE_CLOSED = auto()  # the client has said all
    LOCAL_CLOSED = auto()  # we have
    CLOSED = auto()


class Event(Enum):
    RECEIVE_HEADERS = auto()
    RECEIVE_DATA = auto()
    RECEIVE_END = auto()
    SEND_END = auto()
    RESET = auto()  # by either side


TABLE: Final[dict[tuple[State, Event], State]] = {
    (State.IDLE, Event.RECEIVE_HEADERS): State.OPEN,
    (State.OPEN, Event.RECEIVE_DATA): State.OPEN,
    (State.OPEN, Event.RECEIVE_END): State.REMOTE_CLOSED,
    (State.OPEN, Event.SEND_END): State.LOCAL_CLOSED,
    (State.OPEN, Event.RESET): State.CLOSED,
    (State.REMOTE_CLOSED, Event.SEND_END): State.CLOSED,
    (State.REMOTE_CLOSED, Event.RESET): State.CLOSED,
    (State.LOCAL_CLOSED, Event.RECEIVE_DATA): State.LOCAL_CLOSED,
    (State.LOCAL_CLOSED, Event.RECEIVE_END): State.CLOSED,
    (State.LOCAL_CLOSED, Event.RESET): State.CLOSED,
}
"""What is not listed must not happen: by the peer it is an error of type STREAM_CLOSED, by us a fault."""


class Receiver(Protocol):
    """Whoever a stream is for."""

    def data(self, payload: bytes, ended: bool) -> None:
        """A part of the body came. Its room in the window is to be given back by `Connection.credit`."""
        ...

    def reset(self, code: Code) -> None:
        """The stream is over, and not by `respond`, `end` or `reset`: nothing can be said on it any more."""
        ...

    def room(self) -> None:
        """All that was to be sent is on its way."""
        ...


class Nobody:
    """The receiver of a stream whose client has left before we looked at it."""

    def data(self, payload: bytes, ended: bool) -> None:
        pass

    def reset(self, code: Code) -> None:
        pass

    def room(self) -> None:
        pass


NOBODY: Final = Nobody()


class Stream:
    """`window` is what the peer may still send, `send_window` what we may, `taken` what was not credited yet."""

    __slots__ = ("due", "number", "receiver", "send_window", "state", "taken", "trailers", "waiting", "window")

    def __init__(self, number: int, window: int, send_window: int) -> None:
        self.number = number
        self.state = State.IDLE
        self.window = window
        self.send_window = send_window
        self.taken = 0
        self.due: int | None = None  # bytes of the body that are still to come, where its length was told
        self.waiting = b""  # body that waits for a window, or for the transport
        self.trailers: bytes | None = None  # what ends the stream once that is out
        self.receiver: Receiver = NOBODY

    def move(self, event: Event) -> None:
        """Raises StreamFault for what the table does not list."""
        try:
            self.state = TABLE[self.state, event]
        except KeyError:
            raise StreamFault(Code.STREAM_CLOSED, f"{event.name} in state {self.state.name}") from None

    def take_due(self, size: int, ended: bool) -> None:
        """Hold a part of the body against the length that was told (RFC 9113 8.1.1). Raises StreamFault."""
        assert self.due is not None
        self.due -= size
        if self.due < 0 or (ended and self.due):
            raise StreamFault(Code.PROTOCOL_ERROR, "a body of another length than its header says")

    @property
    def open(self) -> bool:
        """Whether the client may still say something."""
        return self.state is State.OPEN or self.state is State.LOCAL_CLOSED

    @property
    def writable(self) -> bool:
        """Whether what is sent now would go out before anything else of this stream."""
        return not self.waiting and self.state is not State.CLOSED
