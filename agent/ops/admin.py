"""The admin service on its Unix socket: what the operator of this host asks the running agent.

Knows gRPC and who may ask: whoever can open the socket. What is asked is done elsewhere.
"""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import grpc
from grpc import aio

from agent.ingress.hook.socket_file import SocketFile
from agent.model import ConfigError
from agent.ops.metrics import IN_FLIGHT
from agent.ops.policy_keeper import PolicyKeeper
from agent.ops.readings import Readings
from agent.ops.settings import AdminSettings
from agent.ops.wire import field_errors, status_message
from agent.policy.policy import Policy
from sbcedge.admin.v1 import admin_pb2 as pb
from sbcedge.admin.v1 import admin_pb2_grpc

ASKERS_MAX: Final = 32
"""Requests at once, watchers too; a team has its terminals open."""

MESSAGE_MAX: Final = 17 << 20
"""Bytes of a request: a policy as large as the file may be, and its wrapping."""

OWNER_MODE: Final = 0o600
GROUP_MODE: Final = 0o660

INTERVAL_MIN: Final = 0.1
INTERVAL_MAX: Final = 3600.0

Find = Callable[[str], Awaitable[Sequence[str]]]
Context = aio.ServicerContext[Any, Any]


async def finds_nothing(_call_id: str) -> Sequence[str]:
    """`Find` of an agent that keeps no records. Raises LookupError, saying so."""
    raise LookupError("this agent keeps no records: agent.toml has no section [records]")


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Answers. `drain` begins the end of the process and returns at once; `find` gives records as JSON.

    When `ending` is set, watchers get a last look and are let go.
    """

    def __init__(
        self, readings: Readings, keeper: PolicyKeeper, drain: Callable[[], None], find: Find = finds_nothing
    ) -> None:
        self.requests = 0
        self.ending = asyncio.Event()
        self._readings = readings
        self._keeper = keeper
        self._drain = drain
        self._find = find

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        self.requests += 1
        return pb.GetStatusResponse(status=status_message(self._readings))

    async def WatchStatus(
        self, request: pb.WatchStatusRequest, context: Context
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        self.requests += 1
        interval = request.interval.ToNanoseconds() / 1e9 if request.HasField("interval") else 1.0
        if not INTERVAL_MIN <= interval <= INTERVAL_MAX:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"interval: must be from {INTERVAL_MIN:g} to {INTERVAL_MAX:g} s"
            )
        while not self.ending.is_set():
            yield pb.WatchStatusResponse(status=status_message(self._readings))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self.ending.wait()
        yield pb.WatchStatusResponse(status=status_message(self._readings))

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        self.requests += 1
        if not request.call_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "call_id: is missing")
        try:
            return pb.ExplainResponse(records=await self._find(request.call_id))
        except LookupError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error.args[0]))
        raise AssertionError  # abort raises

    async def ApplyPolicy(self, request: pb.ApplyPolicyRequest, context: Context) -> pb.ApplyPolicyResponse:
        self.requests += 1
        try:
            policy = await self._apply(request.toml)
        except ConfigError as error:
            generation = self._readings.service.policy.generation
            return pb.ApplyPolicyResponse(applied=False, generation=generation, errors=field_errors(error))
        return pb.ApplyPolicyResponse(applied=True, generation=policy.generation)

    def _apply(self, text: str) -> Awaitable[Policy]:
        return self._keeper.apply(text) if text else self._keeper.reload()

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        self.requests += 1
        in_flight = sum(n for name, n in self._readings.counters().items() if name.endswith(IN_FLIGHT))
        self._drain()
        return pb.DrainResponse(in_flight=in_flight)


class AdminServer:
    """Serves an AdminService on the socket of the settings."""

    name = "admin"

    def __init__(self, settings: AdminSettings, service: AdminService) -> None:
        self.address = str(settings.socket)
        self._socket = SocketFile(
            settings.socket, GROUP_MODE if settings.group else OWNER_MODE, settings.group, "admin"
        )
        self._service = service
        self._server: aio.Server | None = None

    def health(self) -> tuple[bool, str]:
        """Whether it listens, and where."""
        return (True, self.address) if self._server is not None else (False, "does not listen")

    def counters(self) -> Mapping[str, int]:
        """Requests."""
        return {"admin_requests": self._service.requests}

    async def start(self) -> None:
        """Listen. Raises ConfigError for a group that is not there or a name that is taken, and OSError."""
        server = aio.server(
            maximum_concurrent_rpcs=ASKERS_MAX,
            options=[("grpc.max_receive_message_length", MESSAGE_MAX), ("grpc.so_reuseport", 0)],
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._service, server)
        bound = self._socket.prepare()
        try:
            server.add_insecure_port(f"unix:{bound}")
            await server.start()
            self._socket.publish(bound)
        except RuntimeError as error:  # grpc's word for every failure to bind
            raise ConfigError("admin.socket", f"cannot listen on {self.address}: {error}") from None
        except BaseException:
            await server.stop(None)
            raise
        finally:
            self._socket.discard(bound)
        self._server = server

    async def stop(self, grace: float) -> None:
        """Take nothing new; requests have `grace` seconds. The socket is gone then. May be called again."""
        if self._server is not None:
            self._service.ending.set()
            await self._server.stop(grace)
            self._server = None
            self._socket.remove()
