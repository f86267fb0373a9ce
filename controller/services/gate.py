"""The gate before every method: who asks, may he, for how long, and what he is told when it goes wrong.

An interceptor of the gRPC servers. Knows certificates and tokens as the authority judges them, and the permissions;
must not know what a method does. Servicers raise the errors of controller/errors.py and never end a call themselves.

A stream lives as long as its caller may call: when an agent is revoked, or its certificate ends, all its streams end
within a second, whatever they are doing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
from grpc import StatusCode, aio

from agent.model import ConfigError
from agent.ops.log import Log
from controller.errors import Busy, ControllerError, Denied, Unauthenticated
from controller.model import Peer
from controller.services.caller import CALLER
from controller.services.permissions import PERMISSIONS, Open, Permission, why_not
from controller.services.statuses import DETAIL_MAX, status_of, trailing_of

Context = aio.ServicerContext[Any, Any]
Handler = Any  # grpc's RpcMethodHandler: its four kinds have no type that tells them apart

UNARY_SECONDS: Final = 10.0
DEADLINES: Final[Mapping[str, float]] = {
    "/sbcedge.fleet.v1.AuditService/VerifyAudit": 120.0,  # walks the whole log
    "/sbcedge.fleet.v1.PolicyService/ApplyPolicy": 60.0,  # compiles, with lists of millions
    "/sbcedge.fleet.v1.PolicyService/DiffPolicy": 120.0,  # waits for agents that replay
}
"""Seconds that a unary method has; a client's own deadline holds besides."""

STREAMS_MAX: Final = 32
"""Streams of one caller at a time: an agent has four, an operator some terminals."""

CUT_SECONDS: Final = 0.25
"""How often live streams are held against revocations; the authority's own news are at most 0.5 s old."""

RETRY_SECONDS: Final = 5.0

BEARER: Final = "bearer "


class Judge(Protocol):
    """What the gate needs of the authority."""

    async def peer(self, certificate_pem: bytes, when: float) -> Peer:
        """Raises Unauthenticated and Denied."""
        ...

    async def login(self, token: str, when: float) -> Peer:
        """Raises Unauthenticated."""
        ...

    def is_cut(self, peer: Peer) -> bool:
        """Whether it was revoked since; from memory."""
        ...


@dataclass(slots=True)
class Tally:
    """Calls, by what became of them at the gate."""

    calls: int = 0
    strangers: int = 0  # nobody that we know
    denied: int = 0  # known, and may not
    cut: int = 0  # streams that ended because their caller may not any more
    late: int = 0  # unary calls that took too long
    failures: int = 0  # faults of ours


@dataclass(slots=True)
class _Live:
    """The streams of one caller."""

    cuts: set["asyncio.Future[ControllerError]"] = field(default_factory=set)


class Gate(aio.ServerInterceptor):
    """One for all servers of the process. `clock` is epoch seconds."""

    def __init__(self, judge: Judge, log: Log, clock: Callable[[], float]) -> None:
        self.tally = Tally()
        self._judge = judge
        self._log = log
        self._clock = clock
        self._live: dict[Peer, _Live] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """The handler of a call with the gate before it. What has no permission is not served."""
        handler = await continuation(details)
        name = details.method
        permission = PERMISSIONS.get(name)
        if handler is None or permission is None:
            return None
        serializers = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, name, permission), *serializers)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, name, permission), *serializers
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                self._upload(handler.stream_unary, name, permission), *serializers
            )
        return grpc.stream_stream_rpc_method_handler(
            self._stream(handler.stream_stream, name, permission), *serializers
        )

    async def watch(self) -> None:
        """Cut the streams of callers that may not call any more. Runs until it is cancelled."""
        while True:
            self.cut_off(self._clock())
            await asyncio.sleep(CUT_SECONDS)

    def cut_off(self, when: float) -> None:
        """One round of `watch`."""
        for peer, live in list(self._live.items()):
            why = self._why_cut(peer, when)
            if why is not None:
                for cut in live.cuts:
                    if not cut.done():
                        cut.set_result(why)

    @property
    def streams(self) -> int:
        """That are live."""
        return sum(len(live.cuts) for live in self._live.values())

    # --- the four kinds of calls are three

    def _unary(self, method: Callable[..., Awaitable[Any]], name: str, permission: Permission) -> Callable[..., Any]:
        async def answered(request: Any, context: Context) -> Any:
            async with self._told(context):
                await self._admit(name, permission, context)
                try:
                    async with asyncio.timeout(DEADLINES.get(name, UNARY_SECONDS)):
                        return await method(request, context)
                except TimeoutError:
                    self.tally.late += 1
                    await context.abort(StatusCode.DEADLINE_EXCEEDED, "it took the controller too long")

        return answered

    def _stream(
        self, method: Callable[..., AsyncIterator[Any]], name: str, permission: Permission
    ) -> Callable[..., Any]:
        async def streamed(request: Any, context: Context) -> None:
            async def pump() -> None:
                responses = method(request, context)
                async with contextlib.aclosing(responses):  # type: ignore[type-var]
                    async for response in responses:
                        await context.write(response)

            async with self._told(context):
                peer = await self._admit(name, permission, context)
                await self._while_allowed(peer, pump())

        return streamed

    def _upload(self, method: Callable[..., Awaitable[Any]], name: str, permission: Permission) -> Callable[..., Any]:
        async def uploaded(requests: Any, context: Context) -> Any:
            async with self._told(context):
                peer = await self._admit(name, permission, context)
                return await self._while_allowed(peer, method(requests, context))

        return uploaded

    # --- who, and for how long

    async def _admit(self, method: str, permission: Permission, context: Context) -> Peer | None:
        """Who asks; None where that does not matter. Raises Unauthenticated and Denied."""
        self.tally.calls += 1
        if permission is Open.ANYONE:
            return None
        try:
            peer = await self._who(context)
        except Unauthenticated:
            self.tally.strangers += 1
            raise
        except Denied:
            self.tally.denied += 1
            raise
        why = why_not(peer, permission, method)
        if why:
            self.tally.denied += 1
            raise Denied(why)
        CALLER.set(peer)
        return peer

    async def _who(self, context: Context) -> Peer:
        certificates = context.auth_context().get("x509_pem_cert", ())
        if certificates:
            return await self._judge.peer(next(iter(certificates)), self._clock())
        for key, value in context.invocation_metadata() or ():
            if key == "authorization" and str(value)[: len(BEARER)].lower() == BEARER:
                return await self._judge.login(str(value)[len(BEARER) :].strip(), self._clock())
        raise Unauthenticated("this needs a certificate or a login token")

    async def _while_allowed(self, peer: Peer | None, work: Awaitable[Any]) -> Any:
        """Do it, unless `peer` is cut off meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            with self._entered(peer) as cut:
                await asyncio.wait({task, cut}, return_when=asyncio.FIRST_COMPLETED)
                if cut.done():
                    self.tally.cut += 1
                    raise cut.result()
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # that of a stream that was cut is of no interest to anybody

    @contextlib.contextmanager
    def _entered(self, peer: Peer | None) -> Iterator["asyncio.Future[ControllerError]"]:
        cut: asyncio.Future[ControllerError] = asyncio.get_running_loop().create_future()
        if peer is None:
            yield cut
            return
        live = self._live.setdefault(peer, _Live())
        if len(live.cuts) >= STREAMS_MAX:
            raise Busy(f"{STREAMS_MAX} streams of {peer} are open already", RETRY_SECONDS)
        live.cuts.add(cut)
        try:
            yield cut
        finally:
            live.cuts.discard(cut)
            if not live.cuts and self._live.get(peer) is live:
                del self._live[peer]

    def _why_cut(self, peer: Peer, when: float) -> ControllerError | None:
        if self._judge.is_cut(peer):
            return Denied(f"{peer} has been revoked")
        if peer.not_after is not None and peer.not_after <= when:
            return Unauthenticated("the certificate has ended")
        return None

    # --- what is told

    @contextlib.asynccontextmanager
    async def _told(self, context: Context) -> AsyncIterator[None]:
        """Ends the call with the status of what was raised inside."""
        try:
            yield
        except (ControllerError, ConfigError) as error:
            code, problem = status_of(error)
            await context.abort(code, problem.message, trailing_of(error, problem))
        except aio.AbortError:
            raise
        except Exception as error:  # a fault of ours ends this call, and nothing else
            self.tally.failures += 1
            self._log.fault(error, "service")
            await context.abort(StatusCode.INTERNAL, f"a fault of the controller: {type(error).__name__}"[:DETAIL_MAX])

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        tally = self.tally
        return {
            "gate_calls": tally.calls,
            "gate_strangers": tally.strangers,
            "gate_denied": tally.denied,
            "gate_cut_streams": tally.cut,
            "gate_late_calls": tally.late,
            "gate_failures": tally.failures,
            "gate_streams_in_flight": self.streams,
        }
