"""Two controllers on one database serve one fleet: what is asked of one reaches agents of the other."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc import StatusCode

from controller.errors import StaleEpoch
from controller.fleet.conductor import Conductor
from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PATIENCE, Controller, PlayedSession, a_controller, a_policy
from tests.controller.test_sessions_live import command, obey, problem_of, said
from tests.fakes.waiting import until


@asynccontextmanager
async def a_pair(folder: Path, store: StoreSettings) -> AsyncIterator[tuple[Controller, Controller]]:
    """The first one leads."""
    async with a_controller(folder, store, name="c1") as first, a_controller(folder, store, name="c2") as second:
        assert first.parts.store.leadership.term() is not None
        assert second.parts.store.leadership.term() is None
        yield first, second


def test_a_policy_that_one_applies_gets_to_the_agents_of_the_other(
    tmp_path: Path, postgres_settings: StoreSettings
) -> None:
    async def main() -> None:
        async with a_pair(tmp_path, postgres_settings) as (first, second):
            here, there = await first.enrol(), await second.enrol()
            there.controller = second
            async with here.session() as one, there.session() as other:
                one.lives()
                other.lives()
                for asked in (first, second):  # the one that leads, and the one that does not
                    generation = (
                        await asked.operator().apply(a_policy(asked.parts.store.controller_id))
                    ).policy.generation
                    assert (await asked.operator().rollout_ends(generation)).state == "done"
                    assert (one.active[0], other.active[0]) == (generation, generation)

    asyncio.run(main())


def test_an_order_is_passed_on_to_the_controller_that_has_the_agent(
    tmp_path: Path, postgres_settings: StoreSettings
) -> None:
    async def main() -> None:
        async with a_pair(tmp_path, postgres_settings) as (first, second):
            agent = await second.enrol()
            operator = first.operator()
            async with agent.session() as session:
                session.keeps(obey(session))
                assert await said(operator.fleet.RunCommand(command(agent.id, "status"))) == [{"did": "get_status"}, {}]
                drained = operator.fleet.RunCommand(command(agent.id, "drain"))
                assert await problem_of(drained) == (StatusCode.FAILED_PRECONDITION, "")
            entries = await operator.audit.ListAuditEntries(fleet.ListAuditEntriesRequest(limit=1000))
            commands = [json.loads(e.detail)["command"] for e in entries.entries if e.action == "agent.command"]
            assert commands == ["status", "drain"]  # once each, by the operator
            assert await problem_of(operator.fleet.RunCommand(command(agent.id, "status"))) == (
                StatusCode.FAILED_PRECONDITION,
                "",
            )

    asyncio.run(main())


def test_a_replay_asks_agents_of_both(tmp_path: Path, postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_pair(tmp_path, postgres_settings) as (first, second):
            agent = await second.enrol()
            operator = first.operator()

            async def replay(session: PlayedSession, order: pb.Command) -> None:
                assert order.replay_policy.policy
                await session.send(command_result=pb.CommandResult(id=order.id, json=['{"replayed": 3}'], last=True))

            async with agent.session() as session:
                session.lives(on_command=replay)
                await operator.apply(a_policy())
                await operator.rollout_ends()
                request = fleet.DiffPolicyRequest(to_toml=a_policy(rate=77))
                request.replay.FromSeconds(60)
                diff = await operator.policy.DiffPolicy(request)
                assert (diff.replayed, dict(diff.problems)) == (3, {})

    asyncio.run(main())


def test_an_agent_that_moves_leaves_nothing_behind(tmp_path: Path, postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_pair(tmp_path, postgres_settings) as (first, second):
            agent = await first.enrol()
            async with agent.session() as old:
                agent.controller = second
                async with agent.session() as new:
                    goodbye = await old.hears("goodbye")
                    assert goodbye.problem.message == "another session of this agent has begun"
                    await until(lambda: first.parts.sessions.agents() == frozenset())
                    await new.is_well()
                    await first.operator().sees(lambda seen: seen[0].connected)

    asyncio.run(main())


def test_who_is_revoked_here_is_cut_off_there_at_once(tmp_path: Path, postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_pair(tmp_path, postgres_settings) as (first, second):
            agent = await second.enrol()
            async with agent.session() as session:
                operator = first.operator()
                await operator.fleet.RevokeAgent(fleet.RevokeAgentRequest(id=agent.id, reason="stolen"))
                assert await session.ends() is StatusCode.PERMISSION_DENIED

    asyncio.run(main())


def test_when_the_leader_goes_the_other_one_finishes_the_rollout(
    tmp_path: Path, postgres_settings: StoreSettings
) -> None:
    async def main() -> None:
        async with a_pair(tmp_path, postgres_settings) as (leader, other):
            agents = [await other.enrol() for _ in range(2)]
            going_on = asyncio.Event()

            async def wait_and_take(session: PlayedSession, offer: pb.ConfigOffer) -> None:
                await session.says(offer, "RECEIVED")
                await going_on.wait()
                await session.takes(offer)

            async with agents[0].session() as one, agents[1].session() as two:
                one.lives(wait_and_take)
                two.lives(wait_and_take)
                operator = other.operator()
                await operator.apply(a_policy())
                await operator.sees(lambda seen: any(a.offer_phase == "received" for a in seen))
                term = leader.parts.store.leadership.term()
                assert term is not None
                # It still believes that it leads when it takes the next look.
                conductor = next(p for p in leader.parts.running if isinstance(p, Conductor))
                await conductor.stop(0.0)
                await leader.parts.store.leadership.stop()
                await until(lambda: other.parts.store.leadership.term() is not None, PATIENCE)
                going_on.set()
                await operator.sees(lambda seen: any(a.offer_phase == "confirmed" for a in seen))
                with contextlib.suppress(StaleEpoch):
                    await conductor.look(term)
                assert (await operator.rollout_ends()).state == "done"
                with pytest.raises(StaleEpoch):
                    await leader.parts.store.rollouts.assign(1, [agents[0].id], 0, 0.0, term)

    asyncio.run(main())
