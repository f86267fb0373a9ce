"""One client's connection on asyncio: reads, has the connection work, and writes once per turn of the event loop.

Knows transports. What is asked is the calls', what goes over the wire is agent.http2's. A client that does not read is
not written to beyond what the transport keeps, and when even answers to PING would gather, he is not read from either;
what waits for him is weighed by the server every turn.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from agent.http2.connection import Connection
from agent.http2.errors import Code, StreamFault
from agent.http2.limits import Allowance
from agent.http2.streams import NOBODY, Receiver, Stream
from agent.rpc.call import Call, Timer
from agent.rpc.peers import Peer, certified_peer
from agent.rpc.request import Request, read_request
from agent.rpc.status import no_grpc

if TYPE_CHECKING:
    from agent.rpc.server import RpcServer

HIGH_WATER: Final = 128 << 10
"""Bytes that a transport keeps for a client before it is paused."""

EARLY_BYTES: Final = 32 << 10
"""Written before the end of a turn: a client can work on these while we do on the rest."""

HANDSHAKE_SECONDS: Final = 10.0
KEEPALIVE_SECONDS: Final = 60.0
PONG_SECONDS: Final = 20.0


class Link(asyncio.Protocol):
    """`peer` is None until TLS has said who it is."""

    def __init__(self, server: "RpcServer", peer: Peer | None) -> None:
        self.peer = peer
        self.held = Allowance(server.limits.held_bytes, server.held)
        self.message_bytes = server.message_bytes
        self.kept = 0
        self.weight = 0  # `unread`, as the server heard it last
        self._server = server
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._connection: Connection[Request] = Connection(
            server.limits, read_request, self._accept, check_trailers, server.counts
        )
        self._transport: asyncio.Transport | None = None
        self._due: list[Callable[[], None]] = []
        self._in_turn = False
        self._turn_comes = False
        self._reading = True
        self._turn_began = self._began = self._heard = self._loop.time()
        self._pinged = 0.0

    # -- asyncio ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.peer = certified_peer(tls)
            if tls.selected_alpn_protocol() != "h2":
                self._server.counts["no_http2"] += 1
                self._transport.abort()
                return
        self._turn()

    def data_received(self, data: bytes) -> None:
        self._heard = self._turn_began = self._loop.time()
        self._pinged = 0.0
        self._connection.receive(data)
        self._turn()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  it is lost for whatever reason
        self._connection.close()
        self._transport = None
        self._due.clear()
        self._server.lost(self)

    def pause_writing(self) -> None:
        self._connection.out.paused = True

    def resume_writing(self) -> None:
        self._connection.out.paused = False
        self._come_again()

    # -- Host of calls ----------------------------------------------------------------------------------------------

    def soon(self, action: Callable[[], None]) -> None:
        """Implements Host."""
        if self._transport is None:
            return  # nobody is there to be told anything
        self._due.append(action)
        if not self._in_turn:
            self._come_again()

    def flush(self) -> None:
        """Implements Host."""
        if not self._in_turn:
            self._come_again()
        elif self._connection.out.bytes >= EARLY_BYTES:
            self._write()

    def next_turn(self, action: Callable[[], None]) -> None:
        """Implements Host."""
        self._loop.call_soon(self._act, action)

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Implements Host."""
        return self._loop.call_at(when, self._act, action)

    def failed(self, error: Exception) -> None:
        """Implements Host."""
        self._server.on_failure(error)

    # -- for the server ---------------------------------------------------------------------------------------------

    def look_after(self, now: float) -> None:
        """Once a second: who says nothing is asked, who does not answer is let go."""
        if self._transport is None:
            return
        if not self._connection.ready:
            if now - self._began > HANDSHAKE_SECONDS:
                self._server.counts["silent"] += 1
                self._transport.abort()
        elif self._pinged:
            if now - self._pinged > PONG_SECONDS:
                self._server.counts["silent"] += 1
                self._transport.abort()
        elif now - self._heard > KEEPALIVE_SECONDS:
            self._pinged = now
            self._connection.ping()
            self._come_again()

    @property
    def unsent(self) -> bool:
        """Whether answers are on their way that the client has room for."""
        return self._transport is not None and (
            self._connection.has_unsent or self._transport.get_write_buffer_size() > 0
        )

    @property
    def unread(self) -> int:
        """Bytes of answers that this client could have and has not taken: what we keep of them."""
        transport, out = self._transport, self._connection.out
        if transport is None or transport.is_closing():
            return 0
        return out.bytes + out.waiting + self.kept + transport.get_write_buffer_size()

    def leave(self) -> None:
        """Take no more calls on this connection, and say so."""
        self._connection.leave()
        self._come_again()

    def close(self) -> None:
        """End what is left of calls, write what is to be written, and go."""
        if self._transport is not None:
            self._connection.leave()
            self._connection.close()
            self._turn()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- turns ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Handle what there is, at most a slice of it, and write what came of it at once."""
        self._turn_comes = False
        transport, connection = self._transport, self._connection
        if transport is None:
            return
        self._in_turn = True
        try:
            connection.work(self._turn_began)
        except Exception as error:  # a fault of ours: this client's calls pass, nobody else's are touched
            self.failed(error)
            transport.abort()
            return
        while self._due:
            due, self._due = self._due, []
            for action in due:
                self._guarded(action)
        self._in_turn = False
        self._write()
        if connection.ended:
            transport.close()
            return
        self._server.weigh(self)
        if connection.busy:
            self._come_again()
        self._read_or_not(not connection.busy and connection.out.bytes < self._server.limits.out_bytes)

    def _write(self) -> None:
        if not self._connection.out.paused and self._transport is not None and (out := self._connection.take()):
            self._transport.write(out)

    def _read_or_not(self, reading: bool) -> None:
        if reading is not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _come_again(self) -> None:
        if not self._turn_comes and self._transport is not None:
            self._turn_comes = True
            self._loop.call_soon(self._turn)

    def _act(self, action: Callable[[], None]) -> None:
        self._in_turn = True  # what it says is written below
        self._guarded(action)
        self._turn()

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a fault of ours must not end the turn, nor the others' calls
            self.failed(error)

    # -- calls ------------------------------------------------------------------------------------------------------

    def _accept(self, stream: Stream, request: Request) -> Receiver:
        """Implements Accept. Raises StreamFault."""
        check_request(stream, request)
        if request.http_status != 200:
            self._connection.end(stream, no_grpc(request.http_status))
            return NOBODY
        call = Call(self, self._connection, stream, request, self._turn_began)
        try:
            call.begin(self._server.conversation(call, self.peer or Peer()))
        except Exception as error:  # whoever must not ask; or a fault of ours, which ends this call alone
            call.fail(error)
        return call


def check_request(stream: Stream, request: Request) -> None:
    """Raises StreamFault for what is no request (RFC 9113 8.1.1), or not one of the length that it tells."""
    if request.fault:
        raise StreamFault(Code.PROTOCOL_ERROR, request.fault)
    stream.due = request.length


def check_trailers(request: Request) -> None:
    """Raises StreamFault for what must not stand behind a body."""
    if request.trailer_fault:
        raise StreamFault(Code.PROTOCOL_ERROR, request.trailer_fault)
