"""The redirect server over TCP and TLS: who may connect, for how long, and how many at once.

Accepts by itself rather than by asyncio's server, so that a connection is counted from the moment it is there and not
only after its TLS handshake. Knows nothing of SIP.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from agent.ingress.redirect.connection import Connection, Cut
from agent.ingress.redirect.responder import Responder
from agent.ingress.redirect.settings import Listen, RedirectSettings
from agent.ingress.redirect.udp import LOOK_SECONDS, bound_socket
from agent.model import ConfigError
from agent.service import Service
from agent.sip.transactions import ServerTransactions
from agent.tls import server_context

# Connections that the kernel holds for us; it answers floods of half-made ones with SYN cookies by itself.
BACKLOG: Final = 1024
# Accepted in one turn of the event loop.
ACCEPT_AT_ONCE: Final = 64
# After the process ran out of file descriptors, how long until it is tried again.
ACCEPT_PAUSE_SECONDS: Final = 0.5
# How often times are looked at, at most; more often where one of them is shorter than four of these.
SWEEP_SECONDS: Final = 1.0
# How long a peer may take over the end of TLS.
SHUTDOWN_SECONDS: Final = 5.0


class StreamEndpoint:
    """One listening socket for TCP, or for TLS with a context. Times are seconds of `clock`."""

    def __init__(
        self,
        service: Service,
        listen: Listen,
        settings: RedirectSettings,
        clock: Callable[[], float],
        wall: Callable[[], float],
        on_failure: Callable[[Exception], None],
        *,
        tls: bool = False,
    ) -> None:
        self.transport: Final = "tls" if tls else "tcp"
        self.address = listen
        self.transactions: ServerTransactions[int] = ServerTransactions(settings.transactions)
        self.responder: Responder[int] | None = None
        self.accepted = 0
        self.refused = 0  # for want of room, in all or for one address
        self.handshakes_failed = 0
        self.accept_errors = 0
        self.cut = dict.fromkeys(Cut, 0)
        self._service = service
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._on_failure = on_failure
        self._context: ssl.SSLContext | None = None
        self._socket: socket.socket | None = None
        self._connections: dict[Connection, None] = {}  # in the order they came
        self._half_open: dict[Connection, None] = {}
        self._by_source: dict[str, int] = {}
        self._by_number: dict[int, Connection] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._accept_timer: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many are open, handshakes included."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen. Raises OSError if the address cannot be had, ConfigError if a certificate cannot be used."""
        if self.transport == "tls":
            self._context = tls_context(self._settings)
        sock = bound_socket(self.address, socket.SOCK_STREAM)
        sock.listen(BACKLOG)
        self._socket = sock
        self.address = Listen(*sock.getsockname()[:2])
        self.responder = Responder(
            self._service,
            self.transactions,
            self.transport,
            self.address,
            lambda back, _port: back,
            self._send,
            self._on_failure,
        )
        self._resume_accepting()
        self._sweep()

    async def stop(self, grace: float) -> None:
        """Accept nothing more, send what is unsent within `grace` seconds, and close every connection."""
        if self._socket is None:
            return
        for timer in (self._sweep_timer, self._accept_timer):
            if timer is not None:
                timer.cancel()
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        ends = self._clock() + grace
        while self._clock() < ends and (
            (self.responder is not None and self.responder.waiting)
            or any(connection.unsent for connection in self._connections)
        ):
            await asyncio.sleep(LOOK_SECONDS)
        for connection in list(self._connections):
            (connection.abort if connection.unsent else connection.close)()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _send(self, payload: bytes, number: int) -> None:
        """One answer that had to wait, if its connection is still there."""
        if (connection := self._by_number.get(number)) is not None:
            connection.write(payload)

    def _resume_accepting(self) -> None:
        self._accept_timer = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept, self._socket)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of file descriptors or memory: the kernel keeps the connection for later
                self.accept_errors += 1
                loop.remove_reader(listener.fileno())
                self._accept_timer = loop.call_later(ACCEPT_PAUSE_SECONDS, self._resume_accepting)
                return
            source = (str(address[0]), int(address[1]))
            if self.responder is None or not self._has_room(source[0]):
                self.refused += 1
                sock.close()
                continue
            sock.setblocking(False)
            self._admit(sock, source, self.responder)

    def _has_room(self, host: str) -> bool:
        """Whether one more may connect; the oldest connection that has not brought a message makes room."""
        settings = self._settings
        if self._by_source.get(host, 0) >= settings.max_connections_per_source:
            return False
        full = len(self._connections) >= settings.max_connections
        if self._half_open and (full or len(self._half_open) >= settings.max_half_open):
            oldest = next(iter(self._half_open))
            if oldest.proven:
                del self._half_open[oldest]
                return self._has_room(host)
            oldest.cut(Cut.HALF_OPEN)
            return True
        return not full

    def _admit(self, sock: socket.socket, source: tuple[str, int], responder: Responder[int]) -> None:
        self.accepted += 1
        number = self.accepted
        connection = Connection(number, sock, source, responder, self._settings, self._clock, self._wall, self._ended)
        self._connections[connection] = self._half_open[connection] = None
        self._by_number[number] = connection
        self._by_source[source[0]] = self._by_source.get(source[0], 0) + 1
        opening = asyncio.get_running_loop().create_task(self._open(connection, sock))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: Connection, sock: socket.socket) -> None:
        """Hand the socket to asyncio, with the TLS handshake if there is one."""
        loop = asyncio.get_running_loop()
        tls = self._context is not None
        try:
            with contextlib.suppress(OSError):  # answers are small and must not wait for each other
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._settings.first_message_seconds if tls else None,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS if tls else None,
            )
        except (OSError, ssl.SSLError):  # time-outs of the handshake are ConnectionError
            self.handshakes_failed += 1
            connection.abort()

    def _ended(self, connection: Connection, why: Cut | None) -> None:
        if why is not None:
            self.cut[why] += 1
        self._connections.pop(connection, None)
        self._by_number.pop(connection.number, None)
        self._half_open.pop(connection, None)
        host = connection.source[0]
        left = self._by_source.get(host, 0) - 1
        if left > 0:
            self._by_source[host] = left
        else:
            self._by_source.pop(host, None)

    def _sweep(self) -> None:
        """Cut what is overdue, and have the transactions' timers fire."""
        now = self._clock()
        for connection in [one for one in self._half_open if one.proven]:
            del self._half_open[connection]
        for connection in list(self._connections):
            why = connection.overdue(now)
            if why is not None:
                connection.cut(why)
        self.transactions.due(now)
        settings = self._settings
        shortest = min(settings.first_message_seconds, settings.message_seconds, settings.idle_seconds)
        delay = min(SWEEP_SECONDS, shortest / 4)
        self._sweep_timer = asyncio.get_running_loop().call_later(delay, self._sweep)


def tls_context(settings: RedirectSettings) -> ssl.SSLContext:
    """TLS 1.2 or later with our certificate; a client's is asked for where `client_ca` says whose to trust.

    Raises ConfigError that names the file that cannot be used.
    """
    if settings.certificate is None or settings.key is None:
        raise ConfigError("certificate", "TLS needs it")
    return server_context(settings.certificate, settings.key, settings.client_ca)
