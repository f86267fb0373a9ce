"""QuotaService and LimitService of a controller that runs, over mTLS: who may ask, what is refused, who is answered."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from controller.config import Config
from controller.model import Role
from controller.quota import quotas
from controller.quota.model import LIFE
from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from sbcedge.fleet.v1 import fleet_pb2_grpc as fleet_grpc
from sbcedge.policy.v1 import policy_pb2
from tests.controller import agents
from tests.controller.agents import PATIENCE, Controller, Operator, PlayedAgent, a_config, a_controller
from tests.fakes.waiting import until
from tests.integration.peers import free_port


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that has just begun is not waited for: what it waits for is in the simulation."""
    monkeypatch.setattr(quotas, "LIFE", 0.0)


class Asking:
    """An agent's stream, one question at a time."""

    def __init__(self, channel: aio.Channel) -> None:
        self.call = pb_grpc.QuotaServiceStub(channel).StreamQuota()
        self.sequence = 0

    async def ask(self, *demands: pb.QuotaDemand, **changes: Any) -> pb.StreamQuotaResponse:
        self.sequence += 1
        fields: dict[str, Any] = {
            "sequence": self.sequence,
            "applied_sequence": self.sequence - 1,
            "demands": demands,
        } | changes
        async with asyncio.timeout(PATIENCE):
            await self.call.write(pb.StreamQuotaRequest(**fields))
            answer: pb.StreamQuotaResponse = await self.call.read()
            return answer


async def refusal(channel: aio.Channel, *demands: pb.QuotaDemand, **changes: Any) -> aio.AioRpcError:
    """What is answered to this. Who is cut off while he still writes has INTERNAL of grpcio, and asks again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await Asking(channel).ask(*demands, **changes)
            except asyncio.InvalidStateError:
                continue  # refused before it wrote
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.INTERNAL:
                    return error
            else:
                raise AssertionError("it is not refused")


def demand(limit: str = "all", rate: float = 50.0, **changes: Any) -> pb.QuotaDemand:
    fields: dict[str, Any] = {"limit": limit, "key": "*", "demand": rate, "rate": 100.0, "burst": 30.0}
    return pb.QuotaDemand(**(fields | {"partition": policy_pb2.PARTITION_SAFE} | changes))


def limits_of(operator: Operator, controller: Controller) -> Any:
    """A stub for limits, with the operator's token."""
    return type(operator.fleet)(fleet_grpc.LimitServiceStub(controller.channel()), operator.fleet._metadata)


def reachable(*arguments: Any) -> Config:
    """A configuration with a port that other controllers are told of."""
    config = a_config(*arguments)
    address = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
    return replace(config, listen=replace(config.listen, agents=address))


@asynccontextmanager
async def two_agents(folder: Path) -> AsyncIterator[tuple[Controller, PlayedAgent, PlayedAgent]]:
    async with a_controller(folder) as controller:
        yield controller, await controller.enrol(), await controller.enrol()


def test_agents_share_what_their_policy_says_and_an_operator_s_limit_takes_its_place(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_agents(tmp_path) as (controller, one, other):
            first, second = Asking(one.channel()), Asking(other.channel())
            async with asyncio.timeout(PATIENCE):
                while True:
                    answers = [await first.ask(demand()), await second.ask(demand())]
                    leases = [lease for answer in answers for lease in answer.leases]
                    if [lease.rate for lease in leases] == pytest.approx([47.5, 47.5], abs=0.5):
                        break
                    await asyncio.sleep(0.05)
            assert {lease.life.seconds for lease in leases} == {LIFE}
            assert answers[0].limit_epoch == 1
            assert leases[0].safe_rate == pytest.approx(10.0)
            limits = limits_of(controller.operator(), controller)
            await limits.SetFleetLimit(
                fleet.SetFleetLimitRequest(limit=fleet.FleetLimit(name="all", rate=10, partition="hold"))
            )
            async with asyncio.timeout(PATIENCE):
                while (answer := await first.ask(demand())).leases[0].rate > 6:
                    await second.ask(demand())
                    await asyncio.sleep(0.05)
            assert answer.leases[0].partition == policy_pb2.PARTITION_HOLD
            (shown,) = (await limits.ListFleetLimits(fleet.ListFleetLimitsRequest())).limits
            assert (shown.name, shown.rate, shown.partition, shown.agents) == ("all", 10, "hold", 2)
            assert shown.burst == pytest.approx(10 / 3)
            assert shown.demand == pytest.approx(100)
            assert shown.leased > 0
            assert shown.warned
            assert shown.warn_at == pytest.approx(0.8)
            await until(lambda: controller.parts.quota.counters()["quota_limits_nearly_used_up"] == 1, PATIENCE)
            never = fleet.FleetLimit(name="all", rate=10, partition="hold", warn_at=1.0)
            await limits.SetFleetLimit(fleet.SetFleetLimitRequest(limit=never))
            await until(lambda: controller.parts.quota.counters()["quota_limits_nearly_used_up"] == 0, PATIENCE)
            await limits.DeleteFleetLimit(fleet.DeleteFleetLimitRequest(name="all"))
            (shown,) = (await limits.ListFleetLimits(fleet.ListFleetLimitsRequest())).limits
            assert shown.name == "all"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"demands": [demand(limit="")]}, "demands[0].limit"),
        ({"demands": [demand(), demand(limit="x" * 129)]}, "demands[1].limit"),
        ({"demands": [demand(rate=float("nan"))]}, "demands[0].demand"),
        ({"demands": [demand(rate=-1.0)]}, "demands[0].demand"),
        ({"demands": [demand(safe_rate=float("inf"))]}, "demands[0].safe_rate"),
        ({"demands": [demand(partition=9)]}, "demands[0].partition"),
        ({"demands": [demand(), demand()]}, "demands"),
        ({"demands": [demand(limit=f"l{n}") for n in range(4097)]}, "demands"),
        ({"applied_sequence": 7}, "applied_sequence"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            refused = await refusal((await controller.enrol()).channel(), **changes)
            assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert str(refused.details()).startswith(f"{field}:")

    asyncio.run(main())


def test_only_agents_ask_for_shares_and_only_operators_set_limits(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            viewer = await controller.make_operator(Role.VIEWER)
            limits = limits_of(viewer, controller)
            await limits.ListFleetLimits(fleet.ListFleetLimitsRequest())
            with pytest.raises(aio.AioRpcError) as caught:
                await limits.SetFleetLimit(fleet.SetFleetLimitRequest(limit=fleet.FleetLimit(name="all", rate=1)))
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            stranger = await refusal(controller.channel(), demand())  # the open port serves it not at all
            assert stranger.code() is grpc.StatusCode.UNIMPLEMENTED
            agent = await controller.enrol()
            with pytest.raises(aio.AioRpcError) as caught:
                await fleet_grpc.LimitServiceStub(agent.channel()).ListFleetLimits(fleet.ListFleetLimitsRequest())
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(main())


def test_an_agent_cannot_ask_in_the_name_of_another_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_agents(tmp_path) as (_, one, other):
            answer = await Asking(one.channel()).ask(demand(), agent_id=other.id)
            assert answer.agent_id == one.id

    asyncio.run(main())


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        ({"rate": 0}, "limit.rate"),
        ({"rate": 5, "burst": 0.5}, "limit.burst"),
        ({"rate": 5, "partition": "maybe"}, "limit.partition"),
        ({"rate": 5, "name": ""}, "limit.name"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_with_its_field(tmp_path: Path, limit: dict[str, Any], field: str) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            limits = limits_of(controller.operator(), controller)
            with pytest.raises(aio.AioRpcError) as caught:
                await limits.SetFleetLimit(
                    fleet.SetFleetLimitRequest(limit=fleet.FleetLimit(**({"name": "all"} | limit)))
                )
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert str(caught.value.details()).startswith(f"{field}:")

    asyncio.run(main())


def test_a_controller_that_does_not_lead_asks_the_one_that_does(
    tmp_path: Path, postgres_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "a_config", reachable)

    async def main() -> None:
        async with (
            a_controller(tmp_path, postgres_settings, name="c1") as first,
            a_controller(tmp_path, postgres_settings, name="c2") as second,
        ):
            leads = first.parts.quota.leads()
            leader, other = (first, second) if leads else (second, first)
            agent = await other.enrol()
            asking = Asking(agent.channel())
            async with asyncio.timeout(PATIENCE):
                while not (answer := await asking.ask(demand())).leases:
                    await asyncio.sleep(0.05)
            assert answer.agent_id == agent.id
            assert leader.parts.quota.quotas.grants > 0
            assert other.parts.quota.quotas.grants == 0
            (shown,) = (await limits_of(other.operator(), other).ListFleetLimits(fleet.ListFleetLimitsRequest())).limits
            assert (shown.name, shown.agents) == ("all", 1)

    asyncio.run(main())
