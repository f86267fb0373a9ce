"""One TCP or TLS connection of the redirect server: a stream in, answers out, and every way to be a burden bounded.

Knows the framer, the responder and one transport; who may connect is for the stream server. Times are seconds of the
clock that is handed in.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from enum import Enum

from agent.ingress.redirect.responder import Responder
from agent.ingress.redirect.settings import RedirectSettings
from agent.model import ParseError
from agent.sip.framer import Framer


class Cut(Enum):
    """Why we ended a connection."""

    HALF_OPEN = "half_open"  # no whole message in time, or too many such connections
    SLOW = "slow"  # one message took too long
    IDLE = "idle"
    UNREADABLE = "unreadable"  # the end of a message cannot be told, so neither can the start of the next
    UNREAD = "unread"  # the peer does not read its answers


class Connection(asyncio.Protocol):
    """`number` tells it from all others; `proven` once it has brought a whole message.

    `on_end` is called once, whoever ends it.
    """

    def __init__(
        self,
        number: int,
        sock: socket.socket,
        source: tuple[str, int],
        responder: Responder[int],
        settings: RedirectSettings,
        clock: Callable[[], float],
        wall: Callable[[], float],
        on_end: Callable[["Connection", Cut | None], None],
    ) -> None:
        self.number = number
        self.source = source
        self.proven = False
        self._socket: socket.socket | None = sock  # until there is a transport: the TLS handshake comes first
        self._responder = responder
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._on_end = on_end
        self._framer = Framer()
        self._pings = 0
        self._transport: asyncio.Transport | None = None
        self._opened = self._active = clock()
        self._begun: float | None = None  # when the message began that is being read
        self._closing: float | None = None  # since when it is left open only for answers that are not sent yet
        self._ended = False

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket = None
        transport.set_write_buffer_limits(high=self._settings.max_unsent // 2)
        if self._ended:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._ended or self._closing is not None:
            return
        now = self._clock()
        try:
            messages = self._framer.feed(data)
        except ParseError:  # cannot happen before the connection is cut
            messages = []
        if messages:
            self.proven = True
            self._active = now
            self._begun = None
            self._answer(messages, now)
        if self._framer.pings > self._pings:  # RFC 5626 4.4.1: a double CRLF wants one
            self._active = now
            self.write(b"\r\n" * (self._framer.pings - self._pings))
            self._pings = self._framer.pings
        if self._framer.error is not None:
            self.cut(Cut.UNREADABLE)
        elif not self._framer.pending:
            self._begun = None
        elif self._begun is None:
            self._begun = now

    def pause_writing(self) -> None:
        """The peer does not keep up: take nothing more from it until it does."""
        if self._transport is not None and not self._ended:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._ended:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio passes it by name or place
        self._end(Cut.UNREADABLE if self._closing is not None else None)

    def overdue(self, now: float) -> Cut | None:
        """Which of its times is up."""
        settings = self._settings
        if self._closing is not None:
            return Cut.UNREAD if now - self._closing > settings.message_seconds else None
        if not self.proven and now - self._opened > settings.first_message_seconds:
            return Cut.HALF_OPEN
        if self._begun is not None and now - self._begun > settings.message_seconds:
            return Cut.SLOW
        if now - self._active > settings.idle_seconds:
            return Cut.IDLE
        return None

    def cut(self, why: Cut) -> None:
        """End it at once. What the peer has not read is lost; but answers to what came before the unreadable are
        still sent, and until they are (or are overdue) the connection counts as open."""
        if why is Cut.UNREADABLE and self._transport is not None:
            self._closing = self._clock()
            self._transport.close()
            return
        self._end(why)
        self._abort()

    def close(self) -> None:
        """End it in order: what is written is sent."""
        self._end(None)
        if self._transport is not None:
            self._transport.close()
        else:
            self._abort()

    def abort(self) -> None:
        """End it whatever is unsent."""
        self._end(None)
        self._abort()

    def _answer(self, messages: list[bytes], now: float) -> None:
        when = self._wall()
        for raw in messages:
            reply = self._responder.receive(raw, self.source, self.number, now, when)
            if reply is not None:
                self.write(reply[0])
            if self._ended:
                return

    def write(self, data: bytes) -> None:
        """Send it, unless the connection has ended; a peer that does not read is cut."""
        if self._transport is None or self._ended:
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._settings.max_unsent:
            self.cut(Cut.UNREAD)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        elif self._socket is not None:
            # The socket belongs to asyncio, which has not handed it over yet: it finds the end, and closes it.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _end(self, why: Cut | None) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(self, why)
