"""The redirect server over UDP: batches of datagrams in, batches of answers out, and a timer for what is sent again.

A thin shell around the responder; knows sockets and the event loop, and nothing of SIP.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent.gate import GateKeeper
from agent.ingress.datagrams import MAX_BATCH, AddressTexts, Datagram, read_address, recv_batch, send_batch, with_port
from agent.ingress.redirect.responder import Responder
from agent.ingress.redirect.settings import Listen, RedirectSettings
from agent.policy.trunks import Trunk
from agent.service import Service
from agent.sip.transactions import T1, datagram_transactions

if TYPE_CHECKING:
    from agent.native._gate import Gate

# How often to look whether the last ACK has come when the server stops.
LOOK_SECONDS: Final = 0.01

# Datagrams served in one turn of the event loop through the gate, to the next full batch: some half millisecond.
AT_ONCE: Final = 2 * MAX_BATCH

# asm-generic/socket.h; linux/sock_diag.h: SO_MEMINFO gives nine counts, the last of them the datagrams that found no
# room.
SO_MEMINFO: Final = 55
SO_RCVBUFFORCE: Final = 33
_MEMINFO: Final = struct.Struct("=9I")


class UdpEndpoint:
    """One UDP socket. `clock` is monotonic seconds, `wall` seconds since the epoch."""

    transport: Final = "udp"

    def __init__(
        self,
        service: Service,
        listen: Listen,
        settings: RedirectSettings,
        clock: Callable[[], float],
        wall: Callable[[], float],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.address = listen
        self.transactions = datagram_transactions(settings.transactions)
        self.responder: Responder[bytes] | None = None
        self.received = 0
        self.unsent = 0  # answers that the kernel would not take
        self.socket_errors = 0
        self.receive_buffer = 0  # bytes that the kernel granted
        self._service = service
        self._receive_buffer = settings.receive_buffer
        self._clock = clock
        self._wall = wall
        self._on_failure = on_failure
        self._texts = AddressTexts()
        self._gates: GateKeeper | None = None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_drops = 0

    async def start(self) -> None:
        """Bind and begin. Raises OSError if the address cannot be had."""
        sock = bound_socket(self.address, socket.SOCK_DGRAM)
        self.receive_buffer = grow_receive_buffer(sock, self._receive_buffer)
        self._socket = sock
        self.address = Listen(*sock.getsockname()[:2])
        self.responder = Responder(
            self._service, self.transactions, self.transport, self.address, with_port, self._send, self._on_failure
        )
        self._gates = GateKeeper(self._service, self._sender, self.responder.passing, serves_sessions=False)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable, sock.fileno(), self.responder)

    async def stop(self, grace: float) -> None:
        """Go on answering until every answer is acknowledged, or for `grace` seconds; then let go of the socket."""
        sock = self._socket
        if sock is None:
            return
        ends = self._clock() + grace
        while self._unfinished and self._clock() < ends:
            await asyncio.sleep(LOOK_SECONDS)
        asyncio.get_running_loop().remove_reader(sock.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._last_drops = self.kernel_drops()
        self._socket = None
        sock.close()

    def complaint(self) -> str:
        """What the operator should know about this socket; "" if nothing."""
        if not self._socket or self.receive_buffer >= self._receive_buffer:
            return ""
        return (
            f"the receive buffer has {self.receive_buffer} bytes instead of {self._receive_buffer} "
            "(raise net.core.rmem_max)"
        )

    def kernel_drops(self) -> int:
        """Datagrams that came faster than they were read, as the kernel counts them."""
        if self._socket is None:
            return self._last_drops
        try:
            counts = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size)
            return int(_MEMINFO.unpack(counts)[-1])
        except (OSError, struct.error):
            return 0

    @property
    def _unfinished(self) -> bool:
        return bool(self.transactions.waiting or (self.responder is not None and self.responder.waiting))

    def _send(self, payload: bytes, address: bytes) -> None:
        """One answer that had to wait."""
        if self._socket is not None:
            self.unsent += send_batch(self._socket.fileno(), [(payload, address)])
            if self._timer is None:
                self._arm(self._clock())

    def _readable(self, fd: int, responder: Responder[bytes]) -> None:
        """A batch or two; what is left is for the next turn of the loop, so that nobody else waits long."""
        assert self._gates is not None
        gate = self._gates.gate
        now = self._clock()
        try:
            received = self._respond(fd, responder, now) if gate is None else self._serve(gate, fd, responder, now)
        except OSError:
            self.socket_errors += 1
            return
        self.received += received
        if self._timer is None:
            self._arm(now)

    def _respond(self, fd: int, responder: Responder[bytes], now: float) -> int:
        """A batch without a gate; how many datagrams it had. Raises OSError."""
        received = recv_batch(fd, MAX_BATCH)
        when = self._wall()
        receive, texts = responder.receive, self._texts
        replies: list[Datagram] = []
        for raw, address in received:
            reply = receive(raw, texts(address), address, now, when)
            if reply is not None:
                replies.append(reply)
        if replies:
            self.unsent += send_batch(fd, replies)
        return len(received)

    def _serve(self, gate: "Gate", fd: int, responder: Responder[bytes], now: float) -> int:
        """A batch through the gate, which leaves to the responder what is not for it. Raises OSError."""
        try:
            received, unsent, *counts = gate.serve(
                fd, AT_ONCE, self.transactions, self._receive, responder.ask, self._wall()
            )
        finally:  # whatever happens: what was decided is counted and recorded
            passed, trunks = gate.take()
            if passed:
                self._service.let_pass(passed, trunks, (self._clock() - now) / len(passed))
        self.unsent += unsent
        responder.add_counts(*counts)
        return received

    def _receive(self, raw: bytes, address: bytes) -> Datagram | None:
        """One datagram that is not for the gate."""
        assert self.responder is not None
        return self.responder.receive(raw, self._texts(address), address, self._clock(), self._wall())

    def _sender(self, address: bytes) -> tuple[str, Trunk | None]:
        """Who sends from an address, whatever the port."""
        host, _ = read_address(address)
        return host, self._service.policy.addresses.sender(host)

    def _arm(self, now: float) -> None:
        """Have the timer run, if there is anything to wait for. Never longer than the first interval of Timer G:
        so a transaction that begins while the timer runs is not overlooked."""
        deadline = self.transactions.next_deadline()
        if deadline is not None:
            delay = min(max(deadline - now, 0.0), T1)
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._socket is None:
            return
        now = self._clock()
        copies = self.transactions.due(now)
        if copies:
            self.unsent += send_batch(self._socket.fileno(), copies)
        self._arm(now)


def grow_receive_buffer(sock: socket.socket, size: int) -> int:
    """Ask for so many bytes; how many there are. Past net.core.rmem_max only with CAP_NET_ADMIN."""
    for option in (SO_RCVBUFFORCE, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, size)
            break
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel reports twice what it was asked for


def bound_socket(listen: Listen, kind: socket.SocketKind) -> socket.socket:
    """A socket that does not block, bound to a numeric address. IPv6 sockets take IPv6 alone: an address that carries
    an IPv4 one would be another sender to every table. Raises OSError that names the address."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((listen.host, listen.port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot bind {listen.host} port {listen.port}: {error.strerror}") from None
    return sock
