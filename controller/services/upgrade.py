"""How another version of the agent gets to its hosts. Thin: the conductor takes the steps; here are its words."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

from collections.abc import Callable
from typing import Final

from controller.errors import Conflict, Invalid
from controller.fleet.messages import UPGRADE
from controller.fleet.publishing import plan_of
from controller.fleet.upgrading import check_version, passed_by
from controller.model import RolloutState, Upgrade
from controller.services.caller import act, caller
from controller.services.fleet_wire import PROBLEMS_MAX, plan_from, rollout_to
from controller.services.gate import Context
from controller.services.policy import generation_from
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

REASON_MAX: Final = 500


class UpgradeService(pb_grpc.UpgradeServiceServicer):
    """`clock` is epoch seconds."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def StartUpgrade(self, request: pb.StartUpgradeRequest, context: Context) -> pb.StartUpgradeResponse:
        version = check_version(request.version)
        plan = plan_from(request.plan) if request.HasField("plan") else plan_of((), None, 0.0)
        now = self._clock()
        sessions = [agent.session for agent in await self._store.agents.all(now) if not agent.revoked]
        if not any(session is not None and UPGRADE in session.capabilities for session in sessions):
            raise Conflict("no agent takes upgrades now: `sbc-agent setup --upgrades on` on their hosts lets them")
        upgrade = await self._store.upgrades.start(version, plan, now, act("upgrade.start"), caller().name)
        return pb.StartUpgradeResponse(upgrade=await self._shown(upgrade))

    async def GetUpgrade(self, request: pb.GetUpgradeRequest, context: Context) -> pb.GetUpgradeResponse:
        upgrade = await self._store.upgrades.get(generation_from(request.upgrade))
        return pb.GetUpgradeResponse(upgrade=await self._shown(upgrade))

    async def HaltUpgrade(self, request: pb.HaltUpgradeRequest, context: Context) -> pb.HaltUpgradeResponse:
        if len(request.reason) > REASON_MAX:
            raise Invalid("reason", f"is longer than {REASON_MAX} characters")
        state = RolloutState.ROLLED_BACK if request.roll_back else RolloutState.HALTED
        why = request.reason or "halted by an operator"
        number = generation_from(request.upgrade)
        upgrade = await self._store.upgrades.halt(number, state, why, self._clock(), act("upgrade.halt"))
        return pb.HaltUpgradeResponse(upgrade=await self._shown(upgrade))

    async def _shown(self, upgrade: Upgrade) -> pb.Upgrade:
        offers = {one.offer.agent_id: one for one in await self._store.upgrades.offers(upgrade.number)}
        passed = passed_by(upgrade, offers, await self._store.agents.all(self._clock()))
        return pb.Upgrade(
            version=upgrade.version,
            rollout=rollout_to(upgrade.rollout, [one.offer for one in offers.values()]),
            passed_by=[
                pb.AgentProblem(agent_id=name, problem=why) for name, why in list(passed.items())[:PROBLEMS_MAX]
            ],
            author=upgrade.author,
            takes_back=upgrade.takes_back,
        )
