"""The hook's gRPC servers: the Unix socket for this host, TCP for clients with a certificate.

Knows who may ask and when to stop; what is answered is the desk's. Every way to fail ends a call with an error, and the
contract has clients let pass whatever was not answered.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final, cast

import grpc
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from agent.documents import finite
from agent.ingress.hook import wire
from agent.ingress.hook.clients import LOCAL, Crowd, names_of
from agent.ingress.hook.desk import Desk
from agent.ingress.hook.exchange import DRAINING, Context, EventExchange, Exchange, ScreenExchange
from agent.ingress.hook.settings import HookSettings
from agent.ingress.hook.socket_file import SocketFile
from agent.model import ConfigError, ParseError
from agent.service import Service
from agent.settings import host_and_port

SERVICE: Final = "sbcedge.screening.v1.ScreeningService"
LOCAL_SERVICES: Final = (SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
MESSAGE_MAX: Final = 1 << 20  # bytes: 1,024 requests of 1 kB, or sixteen of the longest SIP messages
HANDSHAKE_SECONDS: Final = 10
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


def server_options(settings: HookSettings) -> list[tuple[str, int]]:
    """gRPC's bounds and keep-alive. Connections have no greatest age: it would cut streams with calls in flight."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_MAX),
        ("grpc.max_concurrent_streams", 2 * settings.max_in_flight),  # beyond the bound: to be told so, not to hang
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),  # else a minute (grpc 1.85), whatever the line above says
        ("grpc.keepalive_permit_without_calls", 1),
        # The default of five minutes answers clients that ping each minute with GOAWAY.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
        ("grpc.so_reuseport", 0),  # nobody else gets to listen beside us
    ]


@dataclass(slots=True)
class Refusals:
    """RPCs that were not answered, by reason."""

    strangers: int = 0  # a certificate that is not on the list
    late: int = 0  # nobody waited for the answer any more


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
        self._servers: list[aio.Server] = []
        self._health = health.HealthServicer()
        self._exchanges: set[Exchange] = set()
        self._streams = 0
        self._stopping = False  # soon
        self._closed = False  # to new calls

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises ConfigError naming the setting, or OSError; then nothing is left behind."""
        try:
            await self._start_local()
            if self._settings.listen:
                await self._start_tcp()
        except BaseException:
            await self.stop(0.0)
            raise
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Take no new calls, answer what is in flight within `grace` seconds, then close. May be called again."""
        self._stopping = True
        await self._health.enter_graceful_shutdown()
        clock = asyncio.get_running_loop().time
        deadline = clock() + grace
        await self._end_streams(clock, clock() + grace * DRAIN_SHARE)
        while self._crowd.in_flight and clock() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        # Every call has its answer, or the grace is over. What is left are watchers of our health, who never end; and
        # grpcio crashes if a server is stopped twice, so this cannot be done with the whole grace any earlier.
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

    async def _start_local(self) -> None:
        server = self._server(self._admit_local)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(LOCAL_SERVICES, server)
        bound = self._socket.prepare()
        try:
            server.add_insecure_port(f"unix:{bound}")
            self._servers.append(server)
            await server.start()
            self._socket.publish(bound)
        except RuntimeError as error:  # grpc's word for every failure to bind
            raise ConfigError("hook.socket", f"cannot listen on {self._settings.socket}: {error}") from None
        finally:
            self._socket.discard(bound)

    async def _start_tcp(self) -> None:
        settings = self._settings
        host, _ = host_and_port(settings.listen, "hook.listen")
        authority = _read(settings.client_ca, "client_ca")
        pair = (_read(settings.key, "key"), _read(settings.certificate, "certificate"))
        credentials = grpc.ssl_server_credentials([pair], root_certificates=authority, require_client_auth=True)
        server = self._server(self._admit_certified)
        try:
            port = server.add_secure_port(settings.listen, credentials)
        except RuntimeError:
            reason = f"cannot listen on {settings.listen} with this certificate and key"
            raise ConfigError("hook.listen", reason) from None
        self._servers.append(server)
        await server.start()
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _server(self, admit: "Admit") -> aio.Server:
        """A server of the contract, in bytes: `wire` reads and writes them."""
        server = aio.server(options=server_options(self._settings))
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Screen": grpc.unary_unary_rpc_method_handler(_admitted(admit, self._screen)),
            "ScreenStream": grpc.stream_stream_rpc_method_handler(_admitted(admit, self._screen_stream)),
            "ReportEvents": grpc.stream_unary_rpc_method_handler(_admitted(admit, self._report_events)),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_registered_method_handlers(SERVICE, handlers)
        return server

    # -- who may ask ------------------------------------------------------------------------------------------------

    async def _admit_local(self, context: Context) -> None:
        await self._enter(LOCAL, context)

    async def _admit_certified(self, context: Context) -> None:
        names = names_of(context.auth_context())
        client = next((name for name in names if name in self._allowed), None)
        if client is None:
            self.refusals.strangers += 1
            code = StatusCode.PERMISSION_DENIED if names else StatusCode.UNAUTHENTICATED
            await context.abort(code, "this certificate is not on the list of clients")
        else:
            await self._enter(client, context)

    async def _enter(self, client: str, context: Context) -> None:
        if self._closed:
            await context.abort(StatusCode.UNAVAILABLE, DRAINING)
        if not self._crowd.enter(client):
            most = self._settings.max_in_flight
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, f"{most} calls of this client are in flight already")
        context.add_done_callback(cast("Any", lambda _context: self._crowd.leave(client)))

    # -- what is asked ----------------------------------------------------------------------------------------------

    async def _screen(self, data: bytes, context: Context) -> bytes:
        if context.time_remaining() == 0:  # the call went on without us: it must not consume of any limit now
            self.refusals.late += 1
            await context.abort(StatusCode.DEADLINE_EXCEEDED, "the answer would come too late")
        try:
            request = wire.read_request(data, time.time())
        except ParseError as error:
            self._desk.unreadable_messages += 1
            await context.abort(StatusCode.INVALID_ARGUMENT, f"{error.place}: {error.reason}")
        response = await self._desk.answer(request, _patience(context))
        if request.fault:
            await context.abort(StatusCode.INVALID_ARGUMENT, request.fault)
        return response

    async def _screen_stream(self, _requests: object, context: Context) -> None:
        exchange = ScreenExchange(self._desk, context, time.time, _stated_patience(context))
        with self._listed(exchange):
            await exchange.run()

    async def _report_events(self, _requests: object, context: Context) -> bytes:
        exchange = EventExchange(self._desk, context)
        with self._listed(exchange):
            return await exchange.run()

    @contextmanager
    def _listed(self, exchange: Exchange) -> Iterator[None]:
        """While it runs, `stop` knows of this stream."""
        self._streams += 1
        self._exchanges.add(exchange)
        try:
            yield
        finally:
            self._exchanges.discard(exchange)

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
        }


def _patience(context: Context) -> float:
    """Seconds that the client of a unary call waits, less what the answer needs to get there."""
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, whatever its type says
    return inf if remaining is None else max(0.0, remaining * PATIENCE_SHARE)


def _stated_patience(context: Context) -> float:
    """What a stream's client says in its metadata; no bound of its own where it says nothing that can be read."""
    for key, value in context.invocation_metadata() or ():
        if key == PATIENCE_KEY:
            try:
                millis = finite(float(value), PATIENCE_KEY)
            except ValueError:  # ConfigError is one
                return inf
            return max(0.0, millis * 1e-3)
    return inf


Admit = Callable[[Context], Awaitable[None]]
Handler = Callable[[Any, Context], Awaitable[Any]]


def _admitted(admit: Admit, handler: Handler) -> Handler:
    """The handler for clients that `admit` lets in; it ends the call of the others."""

    async def admitted(request: Any, context: Context) -> Any:
        await admit(context)
        return await handler(request, context)

    return admitted


def _read(path: Path | None, field: str) -> bytes:
    assert path is not None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"hook.{field}", f"{path} cannot be read: {error.strerror}") from None
