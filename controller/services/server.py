"""The gRPC servers: one for agents and whoever else has a certificate, one for enrolment and login tokens.

Knows ports, transport bounds and the life of the servers' own certificate. What is served, and to whom, is decided
elsewhere. gRPC cannot ask a client for a certificate without demanding one, so there are two ports; a stranger gets
no further than the handshake on the first, and finds little on the second.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from agent.model import ConfigError
from agent.ops.log import Log
from agent.settings import host_and_port
from controller.errors import ControllerError
from controller.services.gate import Gate
from controller.services.settings import ListenSettings

MESSAGE_MAX: Final = 1 << 20
LOOKAHEAD: Final = 128 << 10
"""Bytes of a stream that nobody has asked for yet: 500 streams fit into memory, and one agent may send 2.6 MB a second
over 50 ms of round trip, which is all records of 25,000 calls a second."""

AGE_SECONDS: Final = 3600
"""Of a connection, and gRPC adds a tenth of jitter: then it is made anew, maybe to another controller."""
AGE_GRACE_SECONDS: Final = 600
"""For its streams to end by themselves; sessions say goodbye within the hour."""
HANDSHAKE_SECONDS: Final = 20
"""500 at once take a second or two of a processor; ten thousand at once have to come again."""
OPEN_CALLS_MAX: Final = 1024
"""Calls at a time on the open port, where strangers can get, too; thirty operators with all their streams."""
GOODBYE_SECONDS: Final = 0.1
"""For GOAWAY to go out, and the last bytes with it."""
RENEW_RETRY_SECONDS: Final = 60.0


_KEPT: Final[list[Any]] = []
"""Credentials of servers, two for each that was ever started."""


class KeyedCertificate(Protocol):
    """Of the server, PEM."""

    @property
    def key_pem(self) -> bytes: ...
    @property
    def chain_pem(self) -> bytes: ...
    @property
    def not_after(self) -> float: ...


class Identities(Protocol):
    """What the servers need of the authority."""

    @property
    def trust_bundle(self) -> tuple[bytes, ...]:
        """Authorities of clients, DER."""
        ...

    async def server_identity(self, hosts: Sequence[str], when: float) -> KeyedCertificate:
        """A new certificate for these names and addresses."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A service: grpc's function that adds it, and who answers. `to_agents`: not on the open port."""

    add: Callable[[Any, Any], None]
    servicer: object
    to_agents: bool = False


def server_options(connections: int) -> list[tuple[str, int]]:
    """gRPC's bounds, keep-alive and ages."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_MAX),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        # Else gRPC lets each stream send some megabytes ahead of whoever reads it, and more the faster its network is.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Without it a ping has a minute (grpc 1.85), whatever the line above says.
        ("grpc.http2.ping_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # The default of five minutes answers clients that ping each minute with GOAWAY.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
        ("grpc.max_connection_age_ms", AGE_SECONDS * 1000),
        ("grpc.max_connection_age_grace_ms", AGE_GRACE_SECONDS * 1000),
        ("grpc.so_reuseport", 0),  # nobody else gets to listen beside us
    ]


class _Changes:
    """What gRPC asks at every handshake: the certificate, if it is another one than it was told before, else None.

    It must not be told the same again: gRPC takes each answer for a new one and replaces what other handshakes are
    using at that moment (grpc 1.85: refcounts of the handshaker factory), which ends the process when many come in.
    """

    def __init__(self, current: Callable[[], Any]) -> None:
        self._current = current
        self._told = current()

    def __call__(self) -> Any:
        current = self._current()
        if current is self._told:
            return None
        self._told = current
        return current


class FleetServer:
    """Both ports. `services` are added when it starts; `clock` is epoch seconds."""

    name: Final = "grpc"

    def __init__(
        self,
        settings: ListenSettings,
        identities: Identities,
        gate: Gate,
        services: Sequence[Served],
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self.address = ""  # for certificates, "127.0.0.1:7443", once it is bound
        self.open_address = ""  # for enrolment and login tokens
        self._settings = settings
        self._identities = identities
        self._gate = gate
        self._services = services
        self._log = log
        self._clock = clock
        self._servers: list[aio.Server] = []
        self._health = health.HealthServicer()
        self._tasks: set[asyncio.Task[None]] = set()
        self._certificate: KeyedCertificate | None = None
        self._configuration: Any = None
        self._trouble = ""

    async def start(self) -> None:
        """Listen. Raises ConfigError naming the setting, or ControllerError; then nothing is left behind."""
        await self._renew()
        try:
            self.address = await self._listen(self._settings.agents, "agents", with_certificates=True)
            self.open_address = await self._listen(self._settings.open, "open", with_certificates=False)
        except BaseException:
            await self.stop(0.0)
            raise
        self._keep(self._gate.watch(), "gate")
        self._keep(self._keep_renewing(), "server certificate")
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Take no new calls; those in flight have `grace` seconds. May be called again."""
        await self._health.enter_graceful_shutdown()
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.stop(max(grace, GOODBYE_SECONDS)) for server in servers))
        for task in self._tasks:
            task.cancel()

    def health(self) -> tuple[bool, str]:
        """Whether it listens, and where."""
        if not self._servers:
            return False, "does not listen"
        if self._trouble:
            return False, self._trouble
        return True, f"{self.address} with certificates, {self.open_address} without; {self._gate.streams} streams"

    def counters(self) -> Mapping[str, int]:
        """Those of the gate."""
        return self._gate.counters()

    async def _listen(self, address: str, field: str, *, with_certificates: bool) -> str:
        """Raises ConfigError."""
        server = aio.server(
            interceptors=[self._gate],
            options=server_options(self._settings.connections),
            maximum_concurrent_rpcs=None if with_certificates else OPEN_CALLS_MAX,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for service in self._services:
            if with_certificates or not service.to_agents:
                service.add(service.servicer, server)
        credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration, _Changes(lambda: self._configuration), with_certificates
        )
        # grpcio hands the callback to its C core without keeping what it belongs to: a handshake would call into freed
        # memory. It has to live as long as the process: connections may still come in while the server stops.
        _KEPT.append(credentials)
        host, _ = host_and_port(address, f"listen.{field}")
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:  # grpc's word for every failure to bind
            raise ConfigError(f"listen.{field}", f"cannot listen on {address}: {error}") from None
        await server.start()
        self._servers.append(server)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # --- the certificate of the servers

    async def _keep_renewing(self) -> None:
        """At half of its life, with jitter: every new connection then sees the new one."""
        while True:
            assert self._certificate is not None
            left = self._certificate.not_after - self._clock()
            await asyncio.sleep(max(1.0, left / 2 * random.uniform(0.9, 1.0)))  # noqa: S311  (to spread, not to hide)
            try:
                await self._renew()
            except (ControllerError, ConfigError) as error:
                self._trouble = f"its own certificate cannot be renewed: {error}"
                self._log.error("the servers' certificate cannot be renewed", error=str(error))
                await asyncio.sleep(RENEW_RETRY_SECONDS)
            else:
                self._trouble = ""
                self._log.info("the servers have a new certificate", not_after=self._certificate.not_after)

    async def _renew(self) -> None:
        made = await self._identities.server_identity(self._settings.hosts(), self._clock())
        bundle = b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in self._identities.trust_bundle)
        self._configuration = grpc.ssl_server_certificate_configuration([(made.key_pem, made.chain_pem)], bundle)
        self._certificate = made

    def _keep(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._trouble = f"{task.get_name()} has ended: {error}"
            self._log.fault(error, task.get_name())
