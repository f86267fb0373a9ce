"""Shares of the fleet's limits, over the wire: QuotaService, and how one controller asks another. Thin."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from grpc import aio

from controller.errors import StoreUnavailable
from controller.model import PeerKind
from controller.quota.desk import QuotaDesk
from controller.quota.model import Answer, Question
from controller.services.caller import caller
from controller.services.gate import Context
from controller.services.peers import Peers
from controller.services.quota_wire import answer_from, answer_to, question_from, question_to
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc

ASK_SECONDS: Final = 0.05
"""Between two questions of an agent, at least: four times as often as any has reason to."""

RELAY_SECONDS: Final = 1.0
"""That the leader has for an answer."""

WAITING_MAX: Final = 20_000
"""Questions on the way to the leader; one of each agent here."""


class QuotaService(pb_grpc.QuotaServiceServicer):
    """`clock` is monotonic seconds."""

    def __init__(self, desk: QuotaDesk, clock: Callable[[], float]) -> None:
        self._desk = desk
        self._clock = clock

    async def StreamQuota(
        self, request_iterator: AsyncIterator[pb.StreamQuotaRequest], context: Context
    ) -> AsyncIterator[pb.StreamQuotaResponse]:
        peer = caller()
        passed_on = peer.kind is PeerKind.CONTROLLER
        not_before = 0.0
        async for request in request_iterator:
            question = question_from(request, request.agent_id if passed_on else peer.name)
            if not passed_on:
                await asyncio.sleep(max(0.0, not_before - self._clock()))
                not_before = self._clock() + ASK_SECONDS
            yield answer_to(await self._desk.ask(question, passed_on=passed_on))


class QuotaRelay:
    """Asks the controller that leads: the questions of all agents here go over one stream."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._address = ""
        self._call: Any = None
        self._channel: aio.Channel | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[tuple[str, int], asyncio.Future[Answer]] = {}
        self._opening = asyncio.Lock()
        self._writing = asyncio.Lock()

    async def ask(self, address: str, question: Question) -> Answer:
        """See `controller.quota.desk.Relay`."""
        key = (question.agent, question.sequence)
        if len(self._waiting) >= WAITING_MAX:
            raise StoreUnavailable("too many questions wait for the controller that leads")
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[key] = waiting
        call: Any = None
        try:
            async with asyncio.timeout(RELAY_SECONDS):
                call = await self._opened(address)
                async with self._writing:
                    await call.write(question_to(question))
                return await waiting
        except (TimeoutError, aio.AioRpcError, asyncio.InvalidStateError) as error:
            if call is self._call:  # and not one that somebody else has opened meanwhile
                await self.close()
            raise StoreUnavailable(f"the controller at {address} does not answer") from error
        finally:
            if self._waiting.get(key) is waiting:
                del self._waiting[key]

    async def close(self) -> None:
        """Those who wait get nothing."""
        call, channel, reader = self._call, self._channel, self._reader
        self._call = self._channel = self._reader = None
        self._address = ""
        if call is not None:
            call.cancel()
        if reader is not None:
            reader.cancel()
        if channel is not None:
            await channel.close()

    async def _opened(self, address: str) -> Any:
        async with self._opening:
            if self._call is None or self._address != address:
                await self.close()
                self._channel = await self._peers.channel(address)
                self._call = pb_grpc.QuotaServiceStub(self._channel).StreamQuota()
                self._address = address
                self._reader = asyncio.create_task(self._read(self._call), name="quota relay")
            return self._call

    async def _read(self, call: Any) -> None:
        with contextlib.suppress(aio.AioRpcError):
            while (message := await call.read()) is not aio.EOF:
                answer = answer_from(message)
                waiting = self._waiting.get((answer.agent, answer.sequence))
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        if self._call is call:
            self._call = None  # the next question opens another one
