"""Controllers that are frozen, or killed beside another one: calls go on, limits are kept, records are there."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from controller.store import StoreSettings
from tests.controller.conftest import postgres, postgres_settings  # noqa: F401  (fixtures)
from tests.fakes.controller_process import ControllerProcess
from tests.fakes.relay import Relay
from tests.integration.fleet.traffic import LIMITED, Traffic, calling, limit_was_kept, passes, worst_excess
from tests.integration.fleet.world import FAST, HURRY, Managed, a_fleet, an_agent, is_all_there_once


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("z")


async def is_done(controller: ControllerProcess, generation: int) -> None:
    """Its rollout ends, and well; else the reason is told."""
    ended = await controller.operator().rollout_ends(generation)
    assert ended.state == "done", ended


async def ends_well(controller: ControllerProcess, agents: Sequence[Managed], traffic: Sequence[Traffic]) -> None:
    """Every answered call is in the archive, once; none was lost, and the limit was kept."""
    for agent, one in zip(agents, traffic, strict=True):
        await one.end()
        there = await is_all_there_once(controller, agent, least=len(one.answered))
        assert sorted(there.values()) == sorted(one.answered)
        assert one.unanswered == 0
    assert limit_was_kept(traffic), worst_excess(traffic)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_controller_that_is_frozen_beyond_keepalive_is_noticed_limits_fall_and_all_come_back(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder, 2) as (controller, agents):
            for agent in agents:
                await agent.start()
                await agent.is_managed()
            await controller.operator().apply(LIMITED)
            await is_done(controller, 1)  # before calls come: it refuses half of them, which would halt it
            async with calling(agents) as traffic:
                await passes(traffic, 0.8, 1.2)
                controller.signal(SIGSTOP)
                await passes(traffic, 0.01, 0.3)  # what was set apart, and no more
                for agent in agents:
                    await agent.says("controller", "no controller since", healthy=False)
                    await agent.says("quota", "nothing leased", healthy=False)
                    await agent.says("upload", "UNAVAILABLE", healthy=False)
                controller.signal(SIGCONT)
                for agent in agents:
                    await agent.is_managed()
                await passes(traffic, 0.8, 1.2)
                await ends_well(controller, agents, traffic)

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_of_two_controllers_the_other_one_takes_over_when_the_leader_is_killed_or_frozen(
    folder: Path,
    postgres_settings: StoreSettings,  # noqa: F811
) -> None:
    async def main() -> None:
        state = folder / "c"
        state.mkdir()
        pair = [ControllerProcess(state, postgres_settings, name, FAST) for name in ("c1", "c2")]
        for one in pair:
            one.environment = dict(HURRY)
        leader, other = pair
        async with AsyncExitStack() as stack:
            for one in pair:
                await asyncio.to_thread(stack.enter_context(one).admin.strip)
                stack.push_async_callback(one.close)
            way = await stack.enter_async_context(Relay([one.address for one in pair]))
            agents = [
                await stack.enter_async_context(an_agent(folder / f"a{n}", leader, way=way.address)) for n in range(3)
            ]
            for agent in agents:
                await agent.start()
                await agent.is_managed()
            await leader.operator().apply(LIMITED)
            await is_done(leader, 1)
            traffic = await stack.enter_async_context(calling(agents))
            await passes(traffic, 0.8, 1.2)
            leader.kill()
            await leader.close()
            for agent in agents:
                await agent.is_managed()
            await passes(traffic, 0.8, 1.2)
            assert limit_was_kept(traffic), worst_excess(traffic)
            await other.operator().apply(LIMITED + "# again\n")
            await is_done(other, 2)
            await asyncio.to_thread(leader.start)
            leader, other = other, leader
            leader.signal(SIGSTOP)
            for agent in agents:
                await agent.says("controller", f"session with {'c1'}", healthy=True)
            await passes(traffic, 0.8, 1.2)
            await other.operator().apply(LIMITED + "# and again\n")
            await is_done(other, 3)
            leader.signal(SIGCONT)
            await leader.operator().apply(LIMITED + "# by the one that thawed\n")
            await is_done(leader, 4)
            await ends_well(other, agents, traffic)

    asyncio.run(main())
