"""Policies on their way to agents over real connections, on both databases."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from sbcedge.policy.v1 import policy_pb2
from tests.controller.agents import PATIENCE, Controller, PlayedSession, a_controller, a_policy
from tests.fakes.waiting import until


async def some_agents(stack: AsyncExitStack, controller: Controller, count: int) -> list[PlayedSession]:
    """With open sessions."""
    agents = [await controller.enrol() for _ in range(count)]
    return [await stack.enter_async_context(agent.session()) for agent in agents]


async def reject(session: PlayedSession, offer: pb.ConfigOffer) -> None:
    problem = pb.Problem(code=3, message="no", fields=[pb.FieldViolation(field="limits[0].rate", description="is odd")])
    await session.says(offer, "RECEIVED")
    await session.says(offer, "REJECTED", problem=problem)


def test_a_policy_gets_to_every_agent_canary_first(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller, AsyncExitStack() as stack:
            sessions = await some_agents(stack, controller, 5)
            for session in sessions:
                session.lives()
                await session.is_well()
            operator = controller.operator()
            applied = await operator.apply(a_policy())
            assert applied.policy.generation == 1
            done = await operator.rollout_ends()
            assert (done.state, dict(done.phases)) == ("done", {"confirmed": 5})
            for session in sessions:
                (offer,) = [m.offer for m in session.heard if m.WhichOneof("message") == "offer"]
                policy = policy_pb2.Policy.FromString(offer.policy)
                assert (policy.name, policy.generation, offer.sha256) == ("trial", 0, applied.policy.sha256)
            listed = await operator.fleet.ListAgents(fleet.ListAgentsRequest())
            assert {a.offer_phase for a in listed.agents} == {"confirmed"}
            assert all(a.connected and a.active_generation in (0, 1) for a in listed.agents)

    asyncio.run(main())


def test_a_rejection_stops_at_the_canary_and_takes_it_back(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller, AsyncExitStack() as stack:
            sessions = await some_agents(stack, controller, 4)
            for session in sessions:
                session.lives(lambda s, offer: reject(s, offer) if offer.generation == 2 else s.takes(offer))
            operator = controller.operator()
            await operator.apply(a_policy("good"))
            assert (await operator.rollout_ends()).state == "done"
            await operator.apply(a_policy("bad"))
            ended = await operator.rollout_ends(2)
            assert ended.state == "rolled-back"
            assert "limits[0].rate: is odd" in ended.why
            assert len(ended.problems) == 1
            await until(lambda: all(s.active[0] == 3 for s in sessions), PATIENCE)
            history = (await operator.policy.ListPolicies(fleet.ListPoliciesRequest())).policies
            back, refused, good = history
            assert (back.rolled_back_to, back.sha256, back.author) == (1, good.sha256, "controller:c1")
            assert (refused.rollout_state, good.rollout_state) == ("rolled-back", "done")
            offered = [m.offer.generation for s in sessions for m in s.heard if m.WhichOneof("message") == "offer"]
            assert offered.count(2) == 1  # nobody but the canary ever saw it

    asyncio.run(main())


def test_a_policy_that_refuses_everything_is_taken_back_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller, AsyncExitStack() as stack:
            sessions = await some_agents(stack, controller, 3)

            async def traffic(session: PlayedSession) -> None:
                while True:
                    await session.is_well(100, 100 if session.active[0] == 2 else 2)
                    await asyncio.sleep(0.1)

            for session in sessions:
                session.lives()
                session.keeps(traffic(session))
            operator = controller.operator()
            await operator.apply(a_policy("good"))
            assert (await operator.rollout_ends()).state == "done"
            await operator.apply(a_policy("refuses everything"), soak=1.0)
            ended = await operator.rollout_ends(2)
            assert ended.state == "rolled-back"
            assert "1.00 of" in ended.why
            await until(lambda: all(s.active[0] == 3 for s in sessions), PATIENCE)

    asyncio.run(main())


def test_who_enrols_later_gets_what_the_others_have(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            operator = controller.operator()
            await operator.apply(a_policy())
            assert (await operator.rollout_ends()).state == "done"
            agent = await controller.enrol()
            async with agent.session() as session:
                assert (await session.hears("offer")).generation == 1

    asyncio.run(main())


def test_who_was_away_gets_it_when_it_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            here, away = await controller.enrol(), await controller.enrol()
            operator = controller.operator()
            async with here.session() as session:
                session.lives()
                await operator.apply(a_policy())
                assert (await operator.rollout_ends()).state == "done"
            async with away.session() as session:
                offer = await session.hears("offer")
                await session.takes(offer)
                await operator.sees(lambda agents: all(a.offer_phase == "confirmed" for a in agents))
            async with away.session(active_generation=1, active_sha256=offer.sha256) as session:
                session.lives()
                await operator.apply(a_policy("next"))
                await operator.sees(lambda agents: any(a.offered_generation == 2 for a in agents))
                first, *others = [m.WhichOneof("message") == "offer" and m.offer.generation for m in session.heard]
                assert not first
                assert 1 not in others  # it has that

    asyncio.run(main())


def test_an_operator_halts_and_takes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller, AsyncExitStack() as stack:
            (session,) = await some_agents(stack, controller, 1)
            operator = controller.operator()
            session.lives(lambda s, o: s.says(o, "RECEIVED") if o.generation == 2 else s.takes(o))
            await operator.apply(a_policy("one"))
            await operator.rollout_ends()
            await operator.apply(a_policy("two"))
            request = fleet.HaltRolloutRequest(generation=2, reason="calls of a hospital fail", roll_back=True)
            halted = (await operator.rollout.HaltRollout(request)).rollout
            assert (halted.state, halted.why) == ("rolled-back", "calls of a hospital fail")
            await until(lambda: session.active[0] == 3, PATIENCE)

    asyncio.run(main())


@pytest.mark.parametrize("settled", [True, False])
def test_a_newer_policy_takes_the_place_of_one_that_is_on_its_way(tmp_path: Path, settled: bool) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller, AsyncExitStack() as stack:
            (session,) = await some_agents(stack, controller, 1)
            operator = controller.operator()
            if settled:
                session.lives(lambda s, o: s.says(o, "RECEIVED") if o.generation == 2 else s.takes(o))
                await operator.apply(a_policy("one"))
                await operator.rollout_ends()
            else:
                session.lives(lambda s, o: s.says(o, "RECEIVED") if o.generation == 1 else s.takes(o))
            stuck = (await operator.apply(a_policy("stuck"))).policy.generation
            newer = (await operator.apply(a_policy("newer"))).policy.generation
            assert (await operator.rollout_ends(newer)).state == "done"
            halted = (await operator.rollout.GetRollout(fleet.GetRolloutRequest(generation=stuck))).rollout
            assert (halted.state, halted.why) == ("halted", f"superseded by generation {newer}")

    asyncio.run(main())
