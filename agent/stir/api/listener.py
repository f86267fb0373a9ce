"""The listening socket of the API: who may connect, how many at once, and until when. Knows nothing of what is asked.

Accepts by itself rather than by asyncio's server, so that a connection is counted from the moment it is there and not
only after its TLS handshake. Everything that needs uvicorn and starlette is imported from here on, and this only when
the API is configured: they take 24 MB.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from agent.stir.api.app import Api
from agent.stir.api.connection import ApiConnection
from agent.stir.api.settings import StirApiSettings
from agent.stir.api.tally import Cut, Tally

BACKLOG: Final = 256
# Accepted in one turn of the event loop.
ACCEPT_AT_ONCE: Final = 32
# After the process ran out of file descriptors, how long until it is tried again.
ACCEPT_PAUSE_SECONDS: Final = 0.5
# How often times are looked at, at most; more often where one of them is shorter than four of these.
SWEEP_SECONDS: Final = 1.0
# How often to look whether the last answer is out when the server stops.
LOOK_SECONDS: Final = 0.01
# How long a peer may take over the end of TLS.
SHUTDOWN_SECONDS: Final = 2.0
# Bytes of a request's head that may be incomplete; a complete one is bounded by the application.
HEAD_MAX: Final = 1 << 14
# Bytes that the kernel keeps of answers not yet read: a hundred of them. Left to itself, it keeps megabytes.
SEND_BUFFER: Final = 1 << 16
NEVER: Final = 1 << 24  # seconds; silence between requests is ended by our own clock


class Listener:
    """Serves `api` at `address`. `context` None: without TLS."""

    def __init__(
        self,
        api: Api,
        settings: StirApiSettings,
        context: ssl.SSLContext | None,
        clock: Callable[[], float],
        tally: Tally,
    ) -> None:
        self._settings = settings
        self._context = context
        self._clock = clock
        self._tally = tally
        self._config = uvicorn_config(api)
        self._state = ServerState()
        self._socket: socket.socket | None = None
        self._connections: dict[ApiConnection, None] = {}  # in the order they came
        self._opening: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._pausing: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many are open, handshakes included."""
        return len(self._connections)

    def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; the address that it is. Raises OSError if it cannot be had."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        self._socket = sock
        self._resume_accepting()
        self._sweep()
        bound = sock.getsockname()
        return bound[0], bound[1]

    async def stop(self, grace: float) -> None:
        """Accept nothing more, answer what is asked within `grace` seconds, and close every connection."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        for connection in list(self._connections):
            connection.finish()
        ends = self._clock() + grace
        while self._connections and self._clock() < ends:
            await asyncio.sleep(LOOK_SECONDS)
        for connection in list(self._connections):
            connection.cut(None)
        for timer in (self._sweeping, self._pausing):
            if timer is not None:
                timer.cancel()
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._opening, *self._state.tasks, return_exceptions=True)

    def _resume_accepting(self) -> None:
        self._pausing = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept, self._socket)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of file descriptors or memory: the kernel keeps the connection for later
                loop.remove_reader(listener.fileno())
                self._pausing = loop.call_later(ACCEPT_PAUSE_SECONDS, self._resume_accepting)
                return
            if not self._has_room():
                self._tally.refused_connections += 1
                sock.close()
                continue
            sock.setblocking(False)
            self._admit(sock)

    def _has_room(self) -> bool:
        """Whether one more may connect; the oldest connection on which nobody was let in yet makes room."""
        if len(self._connections) < self._settings.max_connections:
            return True
        stranger = next((one for one in self._connections if not one.caller.proven), None)
        if stranger is not None:
            stranger.cut(Cut.ROOM)
        return stranger is not None

    def _admit(self, sock: socket.socket) -> None:
        connection = ApiConnection(sock, self._config, self._state, self._settings, self._clock, self._ended)
        self._tally.connections += 1
        self._connections[connection] = None
        opening = asyncio.get_running_loop().create_task(self._open(connection, sock))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: ApiConnection, sock: socket.socket) -> None:
        """Hand the socket to asyncio, with the TLS handshake if there is one."""
        tls = self._context is not None
        try:
            with contextlib.suppress(OSError):  # answers are small and must not wait for each other
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._settings.request_seconds if tls else None,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS if tls else None,
            )
        except (OSError, ssl.SSLError):  # time-outs of the handshake are ConnectionError
            self._tally.handshakes_failed += 1
            connection.cut(None)

    def _ended(self, connection: ApiConnection, why: Cut | None) -> None:
        if why is not None:
            self._tally.cut[why] += 1
        self._connections.pop(connection, None)

    def _sweep(self) -> None:
        """End what is overdue."""
        now = self._clock()
        for connection in list(self._connections):
            why = connection.overdue(now)
            if why is Cut.IDLE:
                connection.close(why)
            elif why is not None:
                connection.cut(why)
        settings = self._settings
        delay = min(SWEEP_SECONDS, settings.request_seconds / 4, settings.idle_seconds / 4)
        self._sweeping = asyncio.get_running_loop().call_later(delay, self._sweep)


def uvicorn_config(api: Api) -> Config:
    """uvicorn without a log, a signal handler, trust in X-Forwarded-For, WebSockets, or anything from the environment.

    What its log would say, our counters say, and no peer can make lines of it.
    """
    config = Config(
        api,
        interface="asgi3",
        loop="none",
        lifespan="off",
        ws="none",
        workers=1,
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        forwarded_allow_ips="",
        server_header=False,
        date_header=False,
        timeout_keep_alive=NEVER,
        h11_max_incomplete_event_size=HEAD_MAX,
    )
    config.load()
    return config
