"""How generations get to the agents. Thin: the conductor takes the steps; here it is asked and told."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

from collections.abc import AsyncIterator, Callable
from typing import Final

from controller.errors import Conflict, Invalid
from controller.fleet.publishing import Publisher, plan_of
from controller.model import RolloutState, Topic
from controller.services.caller import act
from controller.services.fleet_wire import plan_from, rollout_to
from controller.services.gate import Context
from controller.services.policy import generation_from
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

WAIT_SECONDS: Final = 30.0
REASON_MAX: Final = 500


class RolloutService(pb_grpc.RolloutServiceServicer):
    """`clock` is epoch seconds."""

    def __init__(self, store: Store, publisher: Publisher, clock: Callable[[], float]) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock

    async def StartRollout(self, request: pb.StartRolloutRequest, context: Context) -> pb.StartRolloutResponse:
        generation = generation_from(request.generation)
        if not generation:
            raise Invalid("generation", "is missing")
        plan = plan_from(request.plan) if request.HasField("plan") else plan_of((), None, 0.0)
        if not await self._publisher.has_its_lists(generation):
            raise Conflict(f"the lists of generation {generation} are not kept any more: roll back to it instead")
        rollout = await self._store.rollouts.start(generation, plan, self._clock(), act("rollout.start"))
        return pb.StartRolloutResponse(rollout=await self._shown(rollout.generation))

    async def GetRollout(self, request: pb.GetRolloutRequest, context: Context) -> pb.GetRolloutResponse:
        return pb.GetRolloutResponse(rollout=await self._shown(generation_from(request.generation)))

    async def WatchRollout(
        self, request: pb.WatchRolloutRequest, context: Context
    ) -> AsyncIterator[pb.WatchRolloutResponse]:
        """Sends it when it changed, until it has ended."""
        generation = generation_from(request.generation) or (await self._store.rollouts.get()).generation
        last: pb.Rollout | None = None
        while True:
            seen = await self._store.changes.seen()
            shown = await self._shown(generation)
            if shown != last:
                yield pb.WatchRolloutResponse(rollout=shown)
                last = shown
            if shown.state != RolloutState.RUNNING.value:
                return
            only = {topic: seen[topic] if topic is Topic.ROLLOUTS else 1 << 62 for topic in Topic}
            await self._store.changes.wait(only, WAIT_SECONDS)

    async def HaltRollout(self, request: pb.HaltRolloutRequest, context: Context) -> pb.HaltRolloutResponse:
        if len(request.reason) > REASON_MAX:
            raise Invalid("reason", f"is longer than {REASON_MAX} characters")
        generation = generation_from(request.generation) or (await self._store.rollouts.get()).generation
        if request.roll_back and not await self._publisher.settled():
            raise Conflict("there is no generation before it to go back to")
        state = RolloutState.ROLLED_BACK if request.roll_back else RolloutState.HALTED
        why = request.reason or "halted by an operator"
        await self._store.rollouts.halt(generation, state, why, self._clock(), act("rollout.halt"))
        return pb.HaltRolloutResponse(rollout=await self._shown(generation))

    async def _shown(self, generation: int) -> pb.Rollout:
        rollout = await self._store.rollouts.get(generation)
        return rollout_to(rollout, await self._store.rollouts.offers(rollout.generation))
