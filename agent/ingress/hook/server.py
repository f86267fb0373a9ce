"""The hook's gRPC servers: the Unix socket for this host, TCP for clients with a certificate.

Knows who may ask and when to stop; what is answered is the desk's. Every way to fail ends a call with an error, and the
contract has clients let pass whatever was not answered.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Final, TypeVar

from agent.documents import finite
from agent.http2.limits import Limits
from agent.ingress.hook import wire
from agent.ingress.hook.clients import LOCAL, Crowd
from agent.ingress.hook.desk import Desk
from agent.ingress.hook.exchange import DRAINING, EventExchange, Exchange, ScreenExchange
from agent.ingress.hook.settings import HookSettings
from agent.model import ConfigError, ParseError
from agent.rpc import counts, health, local
from agent.rpc.call import Call, Conversation
from agent.rpc.peers import Peer
from agent.rpc.server import Method, RpcServer, path_of
from agent.rpc.socket_file import SocketFile
from agent.rpc.status import RpcError, Status
from agent.rpc.unary import Unary
from agent.service import Service
from agent.settings import host_and_port
from agent.tls import server_context

SERVICE: Final = "sbcedge.screening.v1.ScreeningService"
MESSAGE_MAX: Final = 1 << 20  # bytes: 1,024 requests of 1 kB, or sixteen of the longest SIP messages
QUIET_SECONDS: Final = 0.1
"""A stream on which nothing came for so long has nothing in flight that we could still read, and is ended."""
POLL_SECONDS: Final = 0.005
GOODBYE_SECONDS: Final = 0.1
"""For GOAWAY to go out and the last bytes with it."""
PATIENCE_KEY: Final = "sbc-edge-patience-ms"
PATIENCE_SHARE: Final = 0.8
"""Of what is left until a client's deadline: the rest is for the way back."""
DRAIN_SHARE: Final = 0.8
"""Of the grace: then streams that are never quiet are ended, too, and have the rest to send what is answered."""


@dataclass(slots=True)
class Refusals:
    """RPCs that were not answered, by reason."""

    strangers: int = 0  # a certificate that is not on the list, or a user who must not ask
    late: int = 0  # nobody waited for the answer any more


Admit = Callable[[Peer], str]
AnyExchange = TypeVar("AnyExchange", bound=Exchange)


class HookServer:
    """Both ways in. `service` decides; `on_failure` hears of faults of ours, which never reach a client."""

    name: Final = "hook"

    def __init__(
        self,
        settings: HookSettings,
        service: Service,
        on_failure: Callable[[Exception], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = ""  # of TCP, "127.0.0.1:7443", once it is bound
        self.refusals = Refusals()
        self._settings = settings
        self._service = service
        self._desk = Desk(service, on_failure, clock)
        self._crowd = Crowd(settings.max_in_flight)
        self._allowed = frozenset(settings.allowed_clients)
        self._socket = SocketFile(settings.socket, settings.mode, settings.group)
        self._users = local.LocalUsers(frozenset(), -1)
        self._servers: list[RpcServer] = []
        self._health = health.Health()
        self._counts: Counter[str] = Counter()
        self._on_failure = on_failure
        self._exchanges: set[Exchange] = set()
        self._streams = 0
        self._stopping = False  # soon
        self._closed = False  # to new calls

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises ConfigError naming the setting, or OSError; then nothing is left behind."""
        try:
            self._start_local()
            if self._settings.listen:
                self._start_tcp()
        except BaseException:
            await self.stop(0.0)
            raise
        self._health.set(("", SERVICE), serving=True)

    async def stop(self, grace: float) -> None:
        """Take no new calls, answer what is in flight within `grace` seconds, then close. May be called again."""
        self._stopping = True
        self._health.end()
        clock = asyncio.get_running_loop().time
        deadline = clock() + grace
        await self._end_streams(clock, clock() + grace * DRAIN_SHARE)
        while (self._crowd.in_flight or any(server.unsent for server in self._servers)) and clock() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        # Every call has its answer, or the grace is over. What is left are watchers of our health, who never end.
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.stop(min(grace, GOODBYE_SECONDS)) for server in servers))
        self._socket.remove()

    async def _end_streams(self, clock: Callable[[], float], deadline: float) -> None:
        """End each stream when it is quiet, and all at the deadline. Calls on their way here are taken first."""
        seen: dict[Exchange, int] = {}
        while clock() < deadline and (self._crowd.in_flight or not self._closed):
            seen = {exchange: exchange.messages for exchange in self._exchanges}
            await asyncio.sleep(min(QUIET_SECONDS, deadline - clock()))
            self._closed = True
            for exchange in self._exchanges:
                if seen.get(exchange) == exchange.messages:
                    exchange.finish()
        self._closed = True
        for exchange in self._exchanges:
            exchange.finish()

    def _start_local(self) -> None:
        server = self._server(self._admit_local, about_us=local.about_us(self._health, (SERVICE,)))
        self._servers.append(server)
        self._users = local.listen(server, self._socket, self._settings.users)

    def _start_tcp(self) -> None:
        settings = self._settings
        host, port = host_and_port(settings.listen, "hook.listen")
        for field in ("client_ca", "key", "certificate"):
            _readable(getattr(settings, field), field)
        assert settings.certificate is not None
        assert settings.key is not None
        try:
            context = server_context(settings.certificate, settings.key, settings.client_ca)
        except ConfigError as error:
            raise ConfigError(f"hook.{error.field}", error.reason) from None
        context.set_alpn_protocols(["h2"])
        server = self._server(self._admit_certified, about_us={})
        try:
            bound = server.listen_tls(host, port, context)
        except OSError as error:
            raise ConfigError("hook.listen", f"cannot listen on {settings.listen}: {error.strerror}") from None
        self._servers.append(server)
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"

    def _server(self, admit: Admit, about_us: Mapping[bytes, local.Begin]) -> RpcServer:
        """A server of the contract, in bytes: `wire` reads and writes them."""
        settings = self._settings
        methods: dict[bytes, Method] = {
            path_of(SERVICE, "Screen"): partial(self._screen, admit),
            path_of(SERVICE, "ScreenStream"): partial(self._screen_stream, admit),
            path_of(SERVICE, "ReportEvents"): partial(self._report_events, admit),
            **{path: partial(self._about_us, begin) for path, begin in about_us.items()},
        }
        limits = Limits(streams=2 * settings.max_in_flight)  # beyond the bound: to be told so, not to hang
        return RpcServer(methods, limits, MESSAGE_MAX, settings.max_connections, self._counts, self._on_failure)

    # -- who may ask ------------------------------------------------------------------------------------------------

    def _admit_local(self, peer: Peer) -> str:
        """The client's name. Raises RpcError for who must not ask."""
        if self._users.admits(peer):
            return LOCAL
        self.refusals.strangers += 1
        raise RpcError(Status.PERMISSION_DENIED, f"user {peer.uid} must not ask here")

    def _admit_certified(self, peer: Peer) -> str:
        client = next((name for name in peer.names if name in self._allowed), None)
        if client is not None:
            return client
        self.refusals.strangers += 1
        code = Status.PERMISSION_DENIED if peer.names else Status.UNAUTHENTICATED
        raise RpcError(code, "this certificate is not on the list of clients")

    def _enter(self, client: str) -> None:
        """Take one call of this client, for which `leave` must follow. Raises RpcError."""
        if self._closed:
            raise RpcError(Status.UNAVAILABLE, DRAINING)
        if not self._crowd.enter(client):
            most = self._settings.max_in_flight
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"{most} calls of this client are in flight already")

    # -- what is asked ----------------------------------------------------------------------------------------------

    def _about_us(self, begin: local.Begin, call: Call, peer: Peer) -> Conversation:
        self._admit_local(peer)
        return begin(call)

    def _screen(self, admit: Admit, call: Call, peer: Peer) -> Unary:
        client = admit(peer)
        self._enter(client)
        return Unary(call, self._answer, partial(self._crowd.leave, client))

    def _answer(self, call: Call, data: bytes) -> bytes | Awaitable[bytes]:
        left = call.time_left
        if left == 0:  # the call went on without us: it must not consume of any limit now
            self.refusals.late += 1
            raise RpcError(Status.DEADLINE_EXCEEDED, "the answer would come too late")
        try:
            request = wire.read_request(data, time.time())
        except ParseError as error:
            self._desk.unreadable_messages += 1
            raise RpcError(Status.INVALID_ARGUMENT, f"{error.place}: {error.reason}") from None
        response = self._desk.answer(request, left * PATIENCE_SHARE)
        if request.fault:
            raise RpcError(Status.INVALID_ARGUMENT, request.fault)
        return response

    def _screen_stream(self, admit: Admit, call: Call, peer: Peer) -> ScreenExchange:
        client = admit(peer)
        self._enter(client)
        return self._listed(
            ScreenExchange(self._desk, call, time.time, _stated_patience(call), partial(self._left, client))
        )

    def _report_events(self, admit: Admit, call: Call, peer: Peer) -> EventExchange:
        client = admit(peer)
        self._enter(client)
        return self._listed(EventExchange(self._desk, call, partial(self._left, client)))

    def _listed(self, exchange: AnyExchange) -> AnyExchange:
        """Until it is over, `stop` knows of this stream."""
        self._streams += 1
        self._exchanges.add(exchange)
        return exchange

    def _left(self, client: str, exchange: Exchange) -> None:
        self._exchanges.discard(exchange)
        self._crowd.leave(client)

    # -- how it is --------------------------------------------------------------------------------------------------

    def health(self) -> tuple[bool, str]:
        """Whether it listens, where, and how many ask."""
        if self._stopping or not self._servers:
            return False, "stopping" if self._stopping else "not started"
        where = " and ".join(filter(None, (f"unix:{self._settings.socket}", self.address)))
        return True, f"{where}; {self._crowd.in_flight} calls in flight, {len(self._exchanges)} of them streams"

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        desk, refusals = self._desk, self.refusals
        return {
            "hook_requests": desk.requests,
            "hook_unusable_requests": desk.unusable_requests,
            "hook_failures": desk.failures,
            "hook_events_accepted": desk.events_accepted,
            "hook_events_ignored": desk.events_ignored,
            "hook_streams": self._streams,
            "hook_strangers": refusals.strangers,
            "hook_unreadable_messages": desk.unreadable_messages,
            "hook_late_requests": refusals.late,
            "hook_turned_away": self._crowd.turned_away,
            **counts.counters(self.name, self._counts),
        }


def _stated_patience(call: Call) -> float:
    """What a stream's client says in its metadata; no bound of its own where it says nothing that can be read."""
    for key, value in call.request.metadata:
        if key == PATIENCE_KEY:
            try:
                millis = finite(float(value), PATIENCE_KEY)
            except ValueError:  # ConfigError is one
                return inf
            return max(0.0, millis * 1e-3)
    return inf


def _readable(path: Path, field: str) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"hook.{field}", f"{path} cannot be read: {error.strerror}") from None
