"""Generations of the policy. Thin: the publisher validates and stores."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

from typing import Final

from agent.model import ConfigError
from controller.errors import Conflict, Invalid
from controller.fleet.orders import Orders, Replayed
from controller.fleet.publishing import Publisher, plan_of
from controller.model import RolloutPlan
from controller.services.caller import act
from controller.services.fleet_wire import changed_to, field_problems, plan_from, policy_to, seconds
from controller.services.gate import Context
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

HISTORY: Final = 50
HISTORY_MAX: Final = 1000
REPLAY_MAX: Final = 86_400.0


class PolicyService(pb_grpc.PolicyServiceServicer):
    """A policy that is wrong is an answer with its problems, and no error: it is what was asked for."""

    def __init__(self, store: Store, publisher: Publisher, orders: Orders) -> None:
        self._store = store
        self._publisher = publisher
        self._orders = orders

    async def ApplyPolicy(self, request: pb.ApplyPolicyRequest, context: Context) -> pb.ApplyPolicyResponse:
        plan = plan_from(request.plan) if request.HasField("plan") else plan_of((), None, 0.0)
        try:
            if request.dry_run:
                checked = await self._publisher.check(request.toml)
                return pb.ApplyPolicyResponse(policy=pb.PolicyInfo(name=checked.name))
            policy = await self._publisher.apply(request.toml, request.comment, plan, request.expected_generation, act)
        except ConfigError as error:
            return pb.ApplyPolicyResponse(problems=field_problems(error))
        return pb.ApplyPolicyResponse(policy=policy_to(policy.info))

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> pb.GetPolicyResponse:
        policy = await self._store.policies.get(generation_from(request.generation))
        return pb.GetPolicyResponse(policy=policy_to(policy.info), toml=policy.toml)

    async def ListPolicies(self, request: pb.ListPoliciesRequest, context: Context) -> pb.ListPoliciesResponse:
        infos = await self._store.policies.history(min(request.limit or HISTORY, HISTORY_MAX))
        return pb.ListPoliciesResponse(policies=[policy_to(info) for info in infos])

    async def DiffPolicy(self, request: pb.DiffPolicyRequest, context: Context) -> pb.DiffPolicyResponse:
        checked = await self._publisher.check(request.to_toml)
        diff = await self._publisher.diff(generation_from(request.from_generation), checked)
        found = Replayed()
        if request.HasField("replay"):
            window = seconds(request.replay, "replay")
            if not 0 < window <= REPLAY_MAX:
                raise Invalid("replay", f"must be up to {REPLAY_MAX:g} s")
            found = await self._orders.replay(checked.document, window)
        return pb.DiffPolicyResponse(
            diff=diff,
            replayed=found.calls,
            changed=changed_to(found.changed),
            problems=found.problems,
            left_out=found.left_out,
        )

    async def RollbackPolicy(self, request: pb.RollbackPolicyRequest, context: Context) -> pb.RollbackPolicyResponse:
        generation = generation_from(request.generation)
        if not generation:
            raise Invalid("generation", "is missing")
        plan: RolloutPlan | None = plan_from(request.plan) if request.HasField("plan") else None
        latest = (await self._store.policies.get()).info
        if latest.generation == generation:
            raise Conflict(f"generation {generation} is the latest: there is nothing to go back from")
        policy = await self._publisher.roll_back(generation, request.comment, plan, act, latest.generation)
        return pb.RollbackPolicyResponse(policy=policy_to(policy.info))


def generation_from(value: int) -> int:
    """Raises Invalid for what no store has room for."""
    if value >= 1 << 63:
        raise Invalid("generation", "is larger than any that was given")
    return value
