"""Listens on a Unix socket or on TCP with TLS, and gives each client a link.

Knows sockets and bounds on connections. What is asked, and who may ask, is told by `begin`.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from agent.http2.limits import Allowance, Limits
from agent.rpc.call import Call, Conversation
from agent.rpc.link import HANDSHAKE_SECONDS, Link
from agent.rpc.messages import UNPACKERS
from agent.rpc.peers import Peer, local_peer
from agent.rpc.status import RpcError, Status

HELD_BYTES: Final = 64 << 20
"""Of messages of all clients that are not whole or not taken yet."""

UNREAD_BYTES: Final = 40 << 20
"""Of answers that wait for all clients. Beyond it the connection for which most waits ends: clients that read have next
to nothing here. A turn may add some megabytes before it is weighed."""

ACCEPTED_AT_ONCE: Final = 64
TRY_AGAIN_SECONDS: Final = 0.5
"""After the kernel has refused us a connection, for want of descriptors above all."""
SWEEP_SECONDS: Final = 1.0

Method = Callable[[Call, Peer], Conversation]
"""Begins a call of a method: the conversation, or RpcError for who must not."""

ENCODINGS_READ: Final = frozenset({b"identity", *UNPACKERS})


class RpcServer:
    """`methods` by their path; `counts` are shared by all servers of one component."""

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        limits: Limits,
        message_bytes: int,
        max_connections: int,
        counts: "Counter[str]",
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.limits = limits
        self.message_bytes = message_bytes
        self.counts = counts
        self.on_failure = on_failure
        self.held = Allowance(HELD_BYTES)
        self.unread = 0  # bytes of answers that wait for clients
        self._methods = methods
        self._max_connections = max_connections
        self._links: set[Link] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        return len(self._links)

    # -- life -------------------------------------------------------------------------------------------------------

    def listen_local(self, path: Path) -> None:
        """Raises OSError."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(str(path))
        except BaseException:
            sock.close()
            raise
        self._listen(sock)

    def listen_tls(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """The port. Raises OSError. `host` is an address."""
        self._tls = context
        sock = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=self._max_connections
        )
        self._listen(sock)
        return int(sock.getsockname()[1])

    def _listen(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.listen(self._max_connections)
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)
        self._sweep()

    def stop_listening(self) -> None:
        """Nobody new gets in."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()

    async def stop(self, seconds: float) -> None:
        """Say good-bye to every client and let the last bytes go out, for so many seconds."""
        self.stop_listening()
        for opening in tuple(self._opening):
            opening.cancel()
        for link in tuple(self._links):
            link.close()
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while self._links and clock() < deadline:
            await asyncio.sleep(0.001)
        for link in tuple(self._links):
            link.abort()
        while self._links or self._opening:
            await asyncio.sleep(0)

    @property
    def unsent(self) -> bool:
        """Whether answers are on their way."""
        return any(link.unsent for link in self._links)

    # -- connections ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self.counts["accept_errors"] += 1
                loop.remove_reader(self._socket)
                self._again = loop.call_later(TRY_AGAIN_SECONDS, self._accept_again)
                return
            if len(self._links) + len(self._opening) >= self._max_connections:
                self.counts["connections_refused"] += 1
                sock.close()
                continue
            sock.setblocking(False)
            opening = loop.create_task(self._open(sock))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def _accept_again(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    async def _open(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._tls is None:
                link = Link(self, local_peer(sock))
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # answers must not wait for each other
                link = Link(self, None)
            self._links.add(link)
            try:
                await loop.connect_accepted_socket(
                    lambda: link,
                    sock,
                    ssl=self._tls,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
                    ssl_shutdown_timeout=HANDSHAKE_SECONDS if self._tls else None,
                )
            except BaseException:
                self._links.discard(link)
                raise
        except (OSError, ssl.SSLError):  # a handshake that takes too long is a ConnectionError
            self.counts["handshakes_failed"] += 1
            with contextlib.suppress(OSError):
                sock.close()

    def lost(self, link: Link) -> None:
        """A client is gone."""
        self._reckon(link)
        self._links.discard(link)

    def weigh(self, link: Link) -> None:
        """Hear how much waits for a client. Who leaves too much unread, by himself or among all, loses his connection:
        his streams end, his calls pass."""
        self._reckon(link)
        if link.weight > self.limits.unread_bytes:
            self._cut(link)
        elif self.unread > UNREAD_BYTES:
            for each in self._links:
                self._reckon(each)  # some have read since
            while self.unread > UNREAD_BYTES:
                self._cut(max(self._links, key=lambda each: each.weight))

    def _reckon(self, link: Link) -> None:
        unread = link.unread
        self.unread += unread - link.weight
        link.weight = unread

    def _cut(self, link: Link) -> None:
        self.counts["unread"] += 1
        link.abort()
        self._reckon(link)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for link in tuple(self._links):
            link.look_after(now)
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep)

    # -- calls ------------------------------------------------------------------------------------------------------

    def conversation(self, call: Call, peer: Peer) -> Conversation:
        """Who answers this call. Raises RpcError."""
        request = call.request
        method = self._methods.get(request.path)
        if method is None:
            raise RpcError(Status.UNIMPLEMENTED, "there is no such method here")
        if request.encoding not in ENCODINGS_READ:
            raise RpcError(Status.UNIMPLEMENTED, "messages packed like this cannot be read")
        if request.unreadable:
            raise RpcError(Status.INTERNAL, request.unreadable)
        return method(call, peer)


def path_of(service: str, method: str) -> bytes:
    """As a request names it."""
    return f"/{service}/{method}".encode()
