"""Limits of the whole fleet, for operators: what they set, and how it stands. Thin."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from grpc import aio

from controller.errors import Invalid
from controller.model import WARN_AT, FleetLimit, Partition, PeerKind
from controller.quota.desk import QuotaDesk
from controller.quota.model import LimitView, Rate
from controller.services.caller import act, caller
from controller.services.gate import Context
from controller.services.peers import Peers
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

LEADER_SECONDS: Final = 2.0

BURST_PART: Final = 1 / 3
"""Of the rate, where no burst is given; as in policies."""


class LimitService(pb_grpc.LimitServiceServicer):
    """How a limit stands only the controller knows that leads; another one asks it. `clock` is epoch seconds."""

    def __init__(self, store: Store, desk: QuotaDesk, peers: Peers, clock: Callable[[], float]) -> None:
        self._store = store
        self._desk = desk
        self._peers = peers
        self._clock = clock

    async def ListFleetLimits(self, request: pb.ListFleetLimitsRequest, context: Context) -> pb.ListFleetLimitsResponse:
        """Those that operators have set, and those that policies alone have, as far as agents ask for them."""
        views = self._desk.views()
        if views is None and self._desk.leader and caller().kind is not PeerKind.CONTROLLER:
            with contextlib.suppress(aio.AioRpcError):
                async with await self._peers.channel(self._desk.leader) as channel:
                    stub = pb_grpc.LimitServiceStub(channel)
                    response: pb.ListFleetLimitsResponse = await stub.ListFleetLimits(request, timeout=LEADER_SECONDS)
                    return response
        return pb.ListFleetLimitsResponse(limits=_merged(await self._store.limits.all(), views or ()))

    async def SetFleetLimit(self, request: pb.SetFleetLimitRequest, context: Context) -> pb.SetFleetLimitResponse:
        """Agents have their shares of it within two leases."""
        limit = _limit_from(request.limit, caller().name)
        made = await self._store.limits.put(limit, self._clock(), act("limit.set"))
        rate = Rate(made.rate, made.burst, made.partition)
        return pb.SetFleetLimitResponse(limit=_limit_to(made.name, rate, made.warn_at))

    async def DeleteFleetLimit(
        self, request: pb.DeleteFleetLimitRequest, context: Context
    ) -> pb.DeleteFleetLimitResponse:
        """The agents' policies say again what it is."""
        await self._store.limits.delete(request.name, self._clock(), act("limit.delete"))
        return pb.DeleteFleetLimitResponse()


def _limit_from(message: pb.FleetLimit, author: str) -> FleetLimit:
    """Raises Invalid. The store looks at the numbers."""
    if message.burst and message.burst < 1:
        raise Invalid("limit.burst", "must be at least 1, or absent: a third of the rate")
    try:
        partition = Partition(message.partition or Partition.SAFE)
    except ValueError:
        raise Invalid("limit.partition", "must be one of " + ", ".join(f'"{p.value}"' for p in Partition)) from None
    burst = message.burst or max(1.0, message.rate * BURST_PART)
    warn_at = message.warn_at if message.HasField("warn_at") else WARN_AT
    return FleetLimit(message.name, message.rate, burst, partition, author, warn_at=warn_at)


def _merged(limits: Sequence[FleetLimit], views: Sequence[LimitView]) -> list[pb.FleetLimit]:
    """By name; what is leased as far as it is known."""
    rates = {view.name: view.limit for view in views}
    rates |= {limit.name: Rate(limit.rate, limit.burst, limit.partition) for limit in limits}
    by_name = {view.name: view for view in views}
    shares: dict[str, float] = {limit.name: limit.warn_at for limit in limits}
    return [_limit_to(name, rate, shares.get(name, WARN_AT), by_name.get(name)) for name, rate in sorted(rates.items())]


def _limit_to(name: str, limit: Rate, warn_at: float, view: LimitView | None = None) -> pb.FleetLimit:
    message = pb.FleetLimit(name=name, rate=limit.rate, burst=limit.burst, partition=limit.partition.value)
    message.warn_at = warn_at
    if view is not None:
        message.warned = view.warned
        message.leased, message.demand, message.agents = view.leased, view.demand, view.agents
    return message
