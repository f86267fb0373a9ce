"""The admin service on its Unix socket: what the operator of this host asks the running agent.

Knows the contract and who may ask: whoever can open the socket, held against his user and groups call by call. What is
asked is done elsewhere.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from agent.http2.limits import Limits
from agent.model import ConfigError
from agent.ops.metrics import IN_FLIGHT
from agent.ops.policy_keeper import PolicyKeeper
from agent.ops.readings import Readings
from agent.ops.settings import AdminSettings
from agent.ops.wire import field_errors, status_message
from agent.policy.policy import Policy
from agent.rpc import counts, health, local
from agent.rpc.call import Call, Conversation, Timer
from agent.rpc.peers import Peer
from agent.rpc.server import Method, RpcServer, path_of
from agent.rpc.socket_file import SocketFile
from agent.rpc.status import RpcError, Status
from agent.rpc.unary import Unary
from sbcedge.admin.v1 import admin_pb2 as pb

SERVICE: Final = "sbcedge.admin.v1.AdminService"

ASKERS_MAX: Final = 32
"""Requests at once, watchers too; a team has its terminals open."""

MESSAGE_MAX: Final = 17 << 20
"""Bytes of a request: a policy as large as the file may be, and its wrapping."""

LIMITS: Final = Limits(streams=2 * ASKERS_MAX, held_bytes=MESSAGE_MAX, unread_bytes=2 * MESSAGE_MAX)
"""Records of one call are as many bytes as a policy, at most, and may wait for their reader beside other answers."""

OWNER_MODE: Final = 0o600
GROUP_MODE: Final = 0o660

INTERVAL_MIN: Final = 0.1
INTERVAL_MAX: Final = 3600.0

POLL_SECONDS: Final = 0.005
GOODBYE_SECONDS: Final = 0.1
"""For GOAWAY to go out and the last bytes with it."""

STOPPING: Final = "this agent is being stopped"

Find = Callable[[str], Awaitable[Sequence[str]]]
Asked = TypeVar("Asked", bound=Message)


async def finds_nothing(_call_id: str) -> Sequence[str]:
    """`Find` of an agent that keeps no records. Raises LookupError, saying so."""
    raise LookupError("this agent keeps no records: agent.toml has no section [records]")


class AdminService:
    """Answers; raises RpcError. `drain` begins the end of the process and returns at once; `find` gives records as
    JSON."""

    def __init__(
        self, readings: Readings, keeper: PolicyKeeper, drain: Callable[[], None], find: Find = finds_nothing
    ) -> None:
        self._readings = readings
        self._keeper = keeper
        self._drain = drain
        self._find = find

    async def get_status(self, _request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(status=status_message(self._readings))

    def look(self) -> pb.WatchStatusResponse:
        """One of those that make up a watch."""
        return pb.WatchStatusResponse(status=status_message(self._readings))

    async def explain(self, request: pb.ExplainRequest) -> pb.ExplainResponse:
        if not request.call_id:
            raise RpcError(Status.INVALID_ARGUMENT, "call_id: is missing")
        try:
            return pb.ExplainResponse(records=await self._find(request.call_id))
        except LookupError as error:
            raise RpcError(Status.FAILED_PRECONDITION, str(error.args[0])) from None

    async def apply_policy(self, request: pb.ApplyPolicyRequest) -> pb.ApplyPolicyResponse:
        try:
            policy = await self._apply(request.toml)
        except ConfigError as error:
            generation = self._readings.service.policy.generation
            return pb.ApplyPolicyResponse(applied=False, generation=generation, errors=field_errors(error))
        return pb.ApplyPolicyResponse(applied=True, generation=policy.generation)

    def _apply(self, text: str) -> Awaitable[Policy]:
        return self._keeper.apply(text) if text else self._keeper.reload()

    async def drain(self, _request: pb.DrainRequest) -> pb.DrainResponse:
        in_flight = sum(n for name, n in self._readings.counters().items() if name.endswith(IN_FLIGHT))
        self._drain()
        return pb.DrainResponse(in_flight=in_flight)


class StatusWatch:
    """Shows the status every interval. Whoever does not read misses looks, and has the latest when he does."""

    def __init__(self, call: Call, look: Callable[[], Message], on_over: "Callable[[StatusWatch], None]") -> None:
        self._call = call
        self._look = look
        self._on_over = on_over
        self._interval = 0.0
        self._timer: Timer | None = None
        call.wait()

    def message(self, data: bytes) -> None:
        """Implements Conversation."""
        if self._interval:
            raise RpcError(Status.UNIMPLEMENTED, "one message is asked for, and more came")
        request = _read(pb.WatchStatusRequest, data)
        interval = request.interval.ToNanoseconds() / 1e9 if request.HasField("interval") else 1.0
        if not INTERVAL_MIN <= interval <= INTERVAL_MAX:
            why = f"interval: must be from {INTERVAL_MIN:g} to {INTERVAL_MAX:g} s"
            raise RpcError(Status.INVALID_ARGUMENT, why)
        self._interval = interval
        self._show()

    def end(self) -> None:
        """A last look, and no more."""
        self._show()
        self._call.finish()

    def said_all(self) -> None:
        """Implements Conversation."""
        if not self._interval:
            raise RpcError(Status.UNIMPLEMENTED, "one message is asked for, and none came")

    def room(self) -> None:
        """Implements Conversation."""

    def over(self) -> None:
        """Implements Conversation."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_over(self)

    def _show(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._call.host.at(self._call.host.time() + self._interval, self._show)
        try:
            if self._call.writable:
                self._call.send(self._look().SerializeToString())
        except Exception as error:
            self._call.fail(error)


class AdminServer:
    """Serves an AdminService on the socket of the settings."""

    name: Final = "admin"

    def __init__(
        self,
        settings: AdminSettings,
        service: AdminService,
        on_failure: Callable[[Exception], None] = lambda _error: None,
    ) -> None:
        self.address = str(settings.socket)
        self._settings = settings
        self._service = service
        self._socket = SocketFile(
            settings.socket, GROUP_MODE if settings.group else OWNER_MODE, settings.group, "admin"
        )
        self._users = local.LocalUsers(frozenset(), -1)
        self._health = health.Health()
        self._counts: Counter[str] = Counter()
        self._on_failure = on_failure
        self._server: RpcServer | None = None
        self._watches: set[StatusWatch] = set()
        self._askers = 0
        self._stopping = False

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises ConfigError for a group or user that is not there or a name that is taken, and OSError."""
        server = RpcServer(self._methods(), LIMITS, MESSAGE_MAX, 2 * ASKERS_MAX, self._counts, self._on_failure)
        try:
            self._users = local.listen(server, self._socket, self._settings.users)
        except BaseException:
            await server.stop(0.0)
            raise
        self._server = server
        self._health.set(("", SERVICE), serving=True)

    async def stop(self, grace: float) -> None:
        """Take nothing new; requests have `grace` seconds. The socket is gone then. May be called again."""
        self._stopping = True
        self._health.end()
        for watch in tuple(self._watches):
            watch.end()
        clock = asyncio.get_running_loop().time
        deadline = clock() + grace
        while self._server is not None and (self._askers or self._server.unsent) and clock() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        server, self._server = self._server, None
        if server is not None:
            await server.stop(min(grace, GOODBYE_SECONDS))
            self._socket.remove()

    # -- what is asked ----------------------------------------------------------------------------------------------

    def _methods(self) -> dict[bytes, Method]:
        service = self._service
        return {
            path_of(SERVICE, "GetStatus"): partial(self._unary, pb.GetStatusRequest, service.get_status),
            path_of(SERVICE, "WatchStatus"): self._watch,
            path_of(SERVICE, "Explain"): partial(self._unary, pb.ExplainRequest, service.explain),
            path_of(SERVICE, "ApplyPolicy"): partial(self._unary, pb.ApplyPolicyRequest, service.apply_policy),
            path_of(SERVICE, "Drain"): partial(self._unary, pb.DrainRequest, service.drain),
            **{
                path: partial(self._about_us, begin) for path, begin in local.about_us(self._health, (SERVICE,)).items()
            },
        }

    def _about_us(self, begin: local.Begin, call: Call, peer: Peer) -> Conversation:
        self._admit(peer)
        return begin(call)

    def _unary(self, kind: type[Asked], answer: Callable[[Asked], Awaitable[Message]], call: Call, peer: Peer) -> Unary:
        self._enter(peer)

        async def answered(data: bytes) -> bytes:
            return (await answer(_read(kind, data))).SerializeToString()

        return Unary(call, lambda _call, data: answered(data), self._leave)

    def _watch(self, call: Call, peer: Peer) -> StatusWatch:
        self._enter(peer)
        watch = StatusWatch(call, self._service.look, self._unwatched)
        self._watches.add(watch)
        return watch

    def _unwatched(self, watch: StatusWatch) -> None:
        self._watches.discard(watch)
        self._leave()

    # -- who may ask ------------------------------------------------------------------------------------------------

    def _admit(self, peer: Peer) -> None:
        """Raises RpcError for who must not ask."""
        if not self._users.admits(peer):
            self._counts["strangers"] += 1
            raise RpcError(Status.PERMISSION_DENIED, f"user {peer.uid} must not ask here")

    def _enter(self, peer: Peer) -> None:
        """Take one request, for which `_leave` must follow. Raises RpcError."""
        self._admit(peer)
        if self._stopping:
            raise RpcError(Status.UNAVAILABLE, STOPPING)
        if self._askers >= ASKERS_MAX:
            self._counts["turned_away"] += 1
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"{ASKERS_MAX} ask already")
        self._askers += 1
        self._counts["requests"] += 1

    def _leave(self) -> None:
        self._askers -= 1

    # -- how it is --------------------------------------------------------------------------------------------------

    def health(self) -> tuple[bool, str]:
        """Whether it listens, and where."""
        return (True, self.address) if self._server is not None else (False, "does not listen")

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        return {
            **{f"admin_{what}": self._counts[what] for what in ("requests", "strangers", "turned_away")},
            **counts.counters(self.name, self._counts),
        }


def _read(kind: type[Asked], data: bytes) -> Asked:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise RpcError(Status.INTERNAL, f"this is no {kind.DESCRIPTOR.full_name}") from None
