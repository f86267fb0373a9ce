"""One HTTP connection of the API: uvicorn's, with every way to be a burden bounded.

uvicorn gives a client all the time it likes to send a request and to read an answer; here both have an end. Knows one
transport; who may connect is for the server, and what is asked for the application. Times are seconds of `clock`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from agent.stir.api.app import CALLER, JSON, Caller
from agent.stir.api.faults import Fault
from agent.stir.api.settings import StirApiSettings
from agent.stir.api.tally import Cut
from agent.tls import names_of

UNREAD_MAX: Final = 1 << 24
"""Bytes of a request that is answered already, or of one in progress: more is not read just to be polite. Until then it
is, or its sender would get a reset instead of the answer."""


class ApiConnection(H11Protocol):
    """`on_end` is called once, whoever ends it; until then it takes a place."""

    def __init__(
        self,
        sock: socket.socket,
        config: Config,
        state: ServerState,
        settings: StirApiSettings,
        clock: Callable[[], float],
        on_end: Callable[["ApiConnection", Cut | None], None],
    ) -> None:
        self.caller = Caller()
        super().__init__(config, state, {CALLER: self.caller})
        self._socket: socket.socket | None = sock  # until there is a transport: the TLS handshake comes first
        self._settings = settings
        self._clock = clock
        self._on_end = on_end
        self._busy = True  # a request is expected, coming or being answered, or the end is
        self._since = clock()  # when it became busy or idle
        self._received = 0  # bytes since then
        self._why: Cut | None = None
        self._ended = False

    # -- what uvicorn does, and what we make of it ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket = None
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.caller.names = names_of(tls.getpeercert())
        if self._ended:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._ended or self.transport.is_closing():
            return
        if not self._busy:
            self._turn(busy=True)
        self._received += len(data)
        if self._received > UNREAD_MAX:
            self.cut(Cut.LARGE)
            return
        super().data_received(data)
        if self._is_idle():
            self._turn(busy=False)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._end(self._why)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Who was not let in gets no more time by asking again.
        if self.caller.proven:
            self._turn(busy=not self._is_idle())

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words for it
        """What came is not HTTP: said if there is still a way to say it, and the connection ends."""
        body = Fault.UNREADABLE.body("not HTTP")
        headers = [("Content-Type", JSON), ("Content-Length", f"{len(body)}"), ("Connection", "close")]
        response = h11.Response(status_code=Fault.UNREADABLE.status, headers=headers, reason=b"Bad Request")
        try:
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # amid an answer
            self.cut(Cut.UNREADABLE)
        else:
            self.close(Cut.UNREADABLE)

    # -- how it ends ------------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> Cut | None:
        """Which of its times is up."""
        if self._busy:
            return Cut.SLOW if now - self._since > self._settings.request_seconds else None
        return Cut.IDLE if now - self._since > self._settings.idle_seconds else None

    def finish(self) -> None:
        """End it after the request that is being answered; at once if there is none."""
        if self._socket is not None:
            self.cut(None)
            return
        self.shutdown()
        if self.transport.is_closing():
            self._turn(busy=True)

    def close(self, why: Cut | None) -> None:
        """End it in order: what is written is sent, and until then it is not gone."""
        if self._socket is not None:
            self.cut(why)
            return
        self._why = why
        self._turn(busy=True)
        self.transport.close()

    def cut(self, why: Cut | None) -> None:
        """End it at once, whatever is unsent."""
        self._end(why)
        if self._socket is None:
            self.transport.abort()
        else:
            # The socket belongs to asyncio, which has not handed it over yet: it finds the end, and closes it.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _is_idle(self) -> bool:
        """Whether the last request is answered, and no byte of a next one is here. Nobody is idle before he is let in:
        he is expected to say something."""
        states = (self.conn.our_state, self.conn.their_state)
        return self.caller.proven and states == (h11.IDLE, h11.IDLE) and not self.conn.trailing_data[0]

    def _turn(self, *, busy: bool) -> None:
        self._busy = busy
        self._since = self._clock()
        self._received = 0

    def _end(self, why: Cut | None) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(self, why)
