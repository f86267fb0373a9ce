"""Agents, as operators see them. Thin: the store knows, the sessions do."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

from controller.errors import Invalid
from controller.fleet.commands import check_role, order_of, replay_of, upgrade_of
from controller.fleet.messages import Order
from controller.fleet.orders import REPLAY_SECONDS, Orders
from controller.fleet.upgrading import ORDER_SECONDS
from controller.model import PeerKind
from controller.services.caller import act, caller
from controller.services.fleet_wire import agent_to, seconds
from controller.services.gate import Context
from controller.services.peers import policy_of
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

INTERVAL_MIN: Final = 0.2
INTERVAL_MAX: Final = 3600.0
REASON_MAX: Final = 500


class FleetService(pb_grpc.FleetServiceServicer):
    """`clock` is epoch seconds."""

    def __init__(self, store: Store, orders: Orders, clock: Callable[[], float]) -> None:
        self._store = store
        self._orders = orders
        self._clock = clock

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        return pb.ListAgentsResponse(agents=await self._agents())

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.GetAgentResponse:
        agent = await self._store.agents.get(_given(request.id, "id"), self._clock())
        counters = agent.health.counters if agent.health is not None else {}
        return pb.GetAgentResponse(agent=agent_to(agent), counters=counters)

    async def WatchAgents(
        self, request: pb.WatchAgentsRequest, context: Context
    ) -> AsyncIterator[pb.WatchAgentsResponse]:
        interval = seconds(request.interval, "interval") if request.HasField("interval") else 1.0
        if not INTERVAL_MIN <= interval <= INTERVAL_MAX:
            raise Invalid("interval", f"must be from {INTERVAL_MIN:g} to {INTERVAL_MAX:g} s")
        last: pb.WatchAgentsResponse | None = None
        while True:
            response = pb.WatchAgentsResponse(agents=await self._agents())
            if response != last:
                yield response
                last = response
            await asyncio.sleep(interval)

    async def RevokeAgent(self, request: pb.RevokeAgentRequest, context: Context) -> pb.RevokeAgentResponse:
        if len(request.reason) > REASON_MAX:
            raise Invalid("reason", f"is longer than {REASON_MAX} characters")
        await self._store.agents.revoke(_given(request.id, "id"), request.reason, self._clock(), act("agent.revoke"))
        return pb.RevokeAgentResponse()

    async def RunCommand(self, request: pb.RunCommandRequest, context: Context) -> AsyncIterator[pb.RunCommandResponse]:
        peer, agent_id = caller(), _given(request.agent_id, "agent_id")
        order, passed_on = self._order(request), peer.kind is PeerKind.CONTROLLER
        if not passed_on:
            check_role(peer, request.command)
            await self._store.agents.get(agent_id, self._clock())
            done = act("agent.command", agent=agent_id, command=request.command, argument=request.argument)
            await self._store.audit.append(done, self._clock())
        async with aclosing(self._orders.give(agent_id, order, passed_on=passed_on)) as pieces:
            async for piece in pieces:
                yield pb.RunCommandResponse(json=piece)

    def _order(self, request: pb.RunCommandRequest) -> Order:
        duration = seconds(request.duration, "duration") if request.HasField("duration") else 0.0
        if request.command == "replay" and caller().kind is PeerKind.CONTROLLER:
            return replay_of(policy_of(request.argument), duration, REPLAY_SECONDS, self._clock())
        if request.command == "upgrade" and caller().kind is PeerKind.CONTROLLER:
            version, _, key = request.argument.partition(" ")
            return upgrade_of(version, key, duration, ORDER_SECONDS, self._clock())
        return order_of(request.command, request.argument, duration, self._clock())

    async def _agents(self) -> list[pb.Agent]:
        return [agent_to(agent) for agent in await self._store.agents.all(self._clock())]


def _given(value: str, field: str) -> str:
    if not value:
        raise Invalid(field, "is missing")
    return value
