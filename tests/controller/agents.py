"""A controller in this process, with real certificates on loopback, and clients that play agents and operators."""

import asyncio
import contextlib
import socket
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc import aio

from agent.ops.log import LineWriter, Log
from controller.bootstrap import make_admin
from controller.config import Config, read_config
from controller.daemon import Parts, build_parts, open_state
from controller.model import Act, Role
from controller.services.server import FleetServer
from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from sbcedge.fleet.v1 import fleet_pb2_grpc as fleet_grpc

PATIENCE = 20.0
"""Seconds that a test waits for what should come at once."""

CONFIG = """\
[controller]
name = "{name}"
[listen]
agents = "127.0.0.1:{port}"
open = "127.0.0.1:0"
[fleet]
health = 0.2
[metrics]
listen = ""
"""

POLICY = """\
name = "{name}"

[[trunks]]
id = "peer"
sources = ["192.0.2.0/24"]

[[limits]]
name = "rate-per-trunk"
scope = "trunk"
rate = {rate}
"""

# Of its own connection: gRPC would else share one among all channels of a process.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]


def a_policy(name: str = "trial", rate: int = 10) -> str:
    return POLICY.format(name=name, rate=rate)


class Reached:
    """A controller, as those see it who only reach its ports."""

    address: str
    open_address: str
    roots: bytes
    admin: str  # login token

    def __init__(self) -> None:
        self.channels: list[aio.Channel] = []

    def channel(self, *, port: str = "open", key: bytes | None = None, chain: bytes | None = None) -> aio.Channel:
        """Of its own, closed at the end."""
        address = self.address if port == "agents" else self.open_address
        credentials = grpc.ssl_channel_credentials(self.roots, key, chain)
        channel = aio.secure_channel(address, credentials, options=OPTIONS)
        self.channels.append(channel)
        return channel

    async def close(self) -> None:
        """All channels."""
        channels, self.channels = self.channels, []
        await asyncio.gather(*(channel.close() for channel in channels))

    def operator(self, token: str = "") -> "Operator":
        return Operator(self.channel(), token or self.admin)

    async def token(self, agent_id: str = "") -> str:
        """For an agent to enrol with."""
        request = fleet.CreateEnrollmentTokenRequest(agent_id=agent_id)
        return str((await self.operator().access.CreateEnrollmentToken(request)).token)

    async def enrol(self, **changes: Any) -> "PlayedAgent":
        """A new agent, with a certificate."""
        return await PlayedAgent.enrolled(self, await self.token(), **changes)


class Controller(Reached):
    """One that runs in this process."""

    def __init__(self, parts: Parts, admin: str) -> None:
        super().__init__()
        self.parts = parts
        self.admin = admin

    @property
    def server(self) -> FleetServer:
        return next(part for part in self.parts.running if isinstance(part, FleetServer))

    @property
    def address(self) -> str:  # type: ignore[override]
        return self.server.address

    @property
    def open_address(self) -> str:  # type: ignore[override]
        return self.server.open_address

    @property
    def roots(self) -> bytes:  # type: ignore[override]
        return b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in self.parts.authority.trust_bundle)

    async def make_operator(self, role: Role, name: str = "") -> "Operator":
        """One with this role."""
        act = Act("operator:admin", "operator.create")
        _, token = await self.parts.authority.create_operator(act, name or role.word, role, None, self.parts.clock())
        return self.operator(token)

    async def token(self, agent_id: str = "") -> str:
        """Without asking."""
        act = Act("operator:admin", "token.create")
        _, secret = await self.parts.authority.create_token(act, None, "", agent_id, self.parts.clock())
        return secret


class Operator:
    """Asks with a login token."""

    def __init__(self, channel: aio.Channel, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        self.fleet = _Asking(fleet_grpc.FleetServiceStub(channel), self._metadata)
        self.access = _Asking(fleet_grpc.AccessServiceStub(channel), self._metadata)
        self.policy = _Asking(fleet_grpc.PolicyServiceStub(channel), self._metadata)
        self.rollout = _Asking(fleet_grpc.RolloutServiceStub(channel), self._metadata)
        self.upgrade = _Asking(fleet_grpc.UpgradeServiceStub(channel), self._metadata)
        self.audit = _Asking(fleet_grpc.AuditServiceStub(channel), self._metadata)

    async def apply(self, toml: str, steps: tuple[float, ...] = (), soak: float = 0.0, **changes: Any) -> Any:
        """A policy, with a plan for people in a hurry."""
        plan = fleet.RolloutPlan(steps=steps)
        plan.soak.FromNanoseconds(int(soak * 1e9))
        return await self.policy.ApplyPolicy(fleet.ApplyPolicyRequest(toml=toml, plan=plan, **changes))

    async def sees(self, holds: Callable[[Sequence[fleet.Agent]], bool]) -> None:
        """Wait until the agents are like this."""
        async with asyncio.timeout(PATIENCE):
            while not holds((await self.fleet.ListAgents(fleet.ListAgentsRequest())).agents):
                await asyncio.sleep(0.02)

    async def rollout_ends(self, generation: int = 0) -> Any:
        """The rollout when it has ended."""
        shown: Any = None
        async with asyncio.timeout(PATIENCE):
            async for response in self.rollout.WatchRollout(fleet.WatchRolloutRequest(generation=generation)):
                shown = response.rollout
        return shown


class _Asking:
    """A stub whose methods bring the token along."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._stub, method)
        return lambda request, timeout=PATIENCE: call(request, metadata=self._metadata, timeout=timeout)


def key_and_request() -> tuple[bytes, bytes]:
    """A new private key (PEM), and a request for a certificate of it (DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return pem, request.public_bytes(Encoding.DER)


@dataclass
class PlayedAgent:
    """An agent with an identity."""

    controller: Reached
    id: str
    instance_uid: str
    key: bytes
    chain: bytes
    credentials: pb.Credentials

    @classmethod
    async def enrolled(
        cls,
        controller: Reached,
        token: str,
        instance_uid: str = "",
        key: str = "",
        channel: aio.Channel | None = None,
    ) -> Self:
        uid = instance_uid or str(uuid.uuid4())
        private, request = key_and_request()
        stub = pb_grpc.EnrollmentServiceStub(channel or controller.channel())
        response = await stub.Enroll(
            pb.EnrollRequest(
                token=token,
                certificate_request=request,
                instance_uid=uid,
                idempotency_key=key or uid,
                hostname="sbc.example.net",
                version="0.1.0",
            ),
            timeout=PATIENCE,
        )
        credentials = response.credentials
        return cls(controller, response.agent_id, uid, private, pem_of(credentials.certificate_chain), credentials)

    def channel(self) -> aio.Channel:
        return self.controller.channel(port="agents", key=self.key, chain=self.chain)

    def copy(self) -> "PlayedAgent":
        """The same on another machine."""
        return replace(self)

    @asynccontextmanager
    async def session(
        self, boot: str = "boot-1", *, welcome: bool = True, **hello: Any
    ) -> AsyncIterator["PlayedSession"]:
        """An open session."""
        call = pb_grpc.ControlServiceStub(self.channel()).OpenSession()
        session = PlayedSession(self, call)
        fields: dict[str, Any] = {"capabilities": ["policy.v1", "command.v1"], "instance_uid": self.instance_uid}
        fields |= {"version": "0.1.0", **hello}
        try:
            with contextlib.suppress(aio.AioRpcError):  # turned away already; `ends` says how
                await session.send(hello=pb.Hello(boot_id=boot, **fields))
            if welcome:
                await session.hears("welcome")
            yield session
        finally:
            call.cancel()
            for task in session.tasks:
                task.cancel()
            for outcome in await asyncio.gather(*session.tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(
                    outcome, aio.AioRpcError | asyncio.InvalidStateError
                ):
                    raise outcome


@dataclass
class PlayedSession:
    """What an agent says and hears."""

    agent: PlayedAgent
    call: Any
    heard: list[Any] = field(default_factory=list)
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    active: tuple[int, bytes] = (0, b"")
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self, **message: Any) -> None:
        async with self.writing:  # gRPC takes one at a time
            await self.call.write(pb.OpenSessionRequest(**message))

    async def hears(self, kind: str) -> Any:
        """The next message of this kind; others before it are kept in `heard`."""
        async with asyncio.timeout(PATIENCE):
            while (message := await self.call.read()) is not aio.EOF:
                self.heard.append(message)
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)
        raise AssertionError(f"the stream ended without {kind}: {self.heard}")

    async def says(self, offer: pb.ConfigOffer, *phases: str, **changes: Any) -> None:
        """The states of an offer, one after the other."""
        for phase in phases:
            state = pb.OfferState(
                generation=offer.generation,
                sha256=offer.sha256,
                phase=f"OFFER_PHASE_{phase}",
                **changes,
            )
            await self.send(offer_state=state)

    async def is_well(self, attempts: int = 0, refusals: int = 0, trouble: Mapping[str, str] | None = None) -> None:
        """One report of health."""
        generation, sha256 = self.active
        report = pb.HealthReport(
            active_generation=generation, active_sha256=sha256, attempts=attempts, refusals=refusals
        )
        report.at.GetCurrentTime()
        report.counters["attempts"] = attempts
        for component, detail in (trouble or {}).items():
            report.components.add(component=component, healthy=False, detail=detail)
        await self.send(health=report)

    async def takes(self, offer: pb.ConfigOffer) -> None:
        """Everything goes well."""
        await self.says(offer, "RECEIVED", "VALIDATED", "APPLIED")
        self.active = (offer.generation, offer.sha256)
        await self.is_well()
        await self.says(offer, "CONFIRMED")

    def lives(
        self,
        on_offer: Callable[["PlayedSession", pb.ConfigOffer], Any] | None = None,
        on_command: Callable[["PlayedSession", pb.Command], Any] | None = None,
    ) -> "asyncio.Task[None]":
        """From now on, take (or what `on_offer` does) every offer, and do `on_command` with commands."""

        async def live() -> None:
            while (message := await self.call.read()) is not aio.EOF:
                self.heard.append(message)
                if message.WhichOneof("message") == "offer":
                    await (self.takes(message.offer) if on_offer is None else on_offer(self, message.offer))
                if message.WhichOneof("message") == "command" and on_command is not None:
                    await on_command(self, message.command)

        return self.keeps(live())

    def keeps(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Doing this as long as the session lasts."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task

    async def ends(self) -> grpc.StatusCode:
        """How it has ended, when it has."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(aio.AioRpcError):
                while (message := await self.call.read()) is not aio.EOF:
                    self.heard.append(message)
            code: grpc.StatusCode = await self.call.code()
            return code


def pem_of(chain: Iterator[bytes] | Any) -> bytes:
    return b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in chain)


def free_port() -> int:
    """One that nobody has now; nobody else should take it for a moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def a_config(folder: Path, store: StoreSettings | None = None, name: str = "c1", more: str = "") -> Config:
    config = read_config(CONFIG.format(name=name, port=free_port()) + more, folder)
    return config if store is None else replace(config, store=store)


@asynccontextmanager
async def a_controller(
    folder: Path,
    store: StoreSettings | None = None,
    *,
    name: str = "c1",
    more: str = "",
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Controller]:
    """One that runs until the end of the block. `more` is TOML to add; several share `folder` or a database."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.log").open("ab") as lines:
        log = Log(LineWriter(lines.fileno()))
        parts = build_parts(a_config(folder, store, name, more), log, clock)
        await open_state(parts)
        watch = asyncio.create_task(parts.authority.watch(clock))
        admin = await make_admin(parts.store, parts.authority, f"admin-{uuid.uuid4().hex[:8]}", clock())
        controller = Controller(parts, admin)
        started = []
        try:
            for part in parts.running:
                await part.start()
                started.append(part)
            yield controller
        finally:
            await controller.close()
            for part in [*parts.streaming, *reversed(started)]:
                if part in started:
                    started.remove(part)
                    await part.stop(1.0)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await parts.store.close()
        assert log.faults == 0, (folder / f"{name}.log").read_text()
