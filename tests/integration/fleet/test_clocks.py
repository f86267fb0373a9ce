"""Clocks that are wrong, and certificates that ended while an agent was away: it screens on, and says what it is."""

import asyncio
import time
from datetime import datetime
from pathlib import Path

import pytest

from agent.records.reading import records
from tests.controller.agents import a_policy
from tests.fakes.clocks import HOUR, Clock, off_by
from tests.integration.fleet.test_kills import anew
from tests.integration.fleet.world import HURRY, Managed, a_fleet, archived, is_all_there_once


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("t")


def ages(agent: Managed) -> list[float]:
    """How long ago the calls in its spool were, by their records."""
    return [time.time() - datetime.fromisoformat(r["time"]).timestamp() for r in records(agent.spool) if "call_id" in r]


@pytest.mark.slow
def test_an_agent_an_hour_off_is_managed_and_one_further_off_says_by_how_much_until_it_is_set(folder: Path) -> None:
    async def main() -> None:
        clock = Clock(folder / "clock")
        async with a_fleet(folder) as (controller, (agent,)):
            agent.environment |= clock.environment
            for offset, words in ((-HOUR, "1 h behind"), (HOUR, "1 h ahead of")):
                clock.set(offset)
                await agent.start()
                await agent.says("controller", "session with", f"this host's clock is {words} the controller's")
                assert await agent.calls(3) == ["allow"] * 3
                await is_all_there_once(controller, agent, least=agent.answered)
                assert all(abs(age + offset) < 120 for age in ages(agent)[-3:]), "by the clock of the host"
                await agent.kill()
            clock.set(-3 * HOUR)
            await agent.start()
            said = await agent.says("controller", "no controller since", "not yet valid", healthy=False)
            assert "this host's clock is at least 1 h 5" in said
            assert "behind the controller's" in said
            assert await agent.calls(3, "late") == ["allow"] * 3
            clock.set(0.0)  # while it runs; screening goes by the other clock
            await agent.is_managed()
            assert await agent.calls(3, "set") == ["allow"] * 3
            there = await is_all_there_once(controller, agent, least=agent.answered)
            assert len(there) == 12
            days = {row["time"][:4] for row in await archived(controller)}
            assert days == {str(datetime.now().year)}

    asyncio.run(main())


@pytest.mark.slow
def test_a_controller_whose_clock_is_off_is_told_from_one_that_is_away(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder) as (controller, (agent,)):
            await agent.start()
            for offset, words in ((HOUR, "1 h behind"), (-HOUR, "1 h ahead of")):
                await anew(controller, HURRY | off_by(offset))
                await agent.says("controller", "session with", f"this host's clock is {words} the controller's")
                await controller.operator().apply(a_policy(f"by {words}", 1_000_000))
                await agent.decides_by(f"by {words}")
            await anew(controller, HURRY | off_by(4 * HOUR))
            await agent.says("controller", "not yet valid", "clock is at least 2 h 5", "behind the controller's")
            await anew(controller, HURRY | off_by(-4 * HOUR))
            await agent.says("controller", "hangs up when it has seen this agent's certificate: its clock is wrong")
            assert await agent.calls(3) == ["allow"] * 3
            await anew(controller, HURRY)
            await agent.is_managed()
            assert len(await is_all_there_once(controller, agent, least=agent.answered)) == 3

    asyncio.run(main())


@pytest.mark.slow
def test_a_certificate_that_ended_while_the_agent_was_away_is_told_and_a_grant_puts_it_right(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder, environment=HURRY | off_by(-48 * HOUR)) as (controller, (agent,)):
            first = agent.id
            await agent.start()
            await controller.operator().apply(a_policy("of then", 1_000_000))
            await agent.decides_by("of then")
            await agent.calls(5, "before")
            await is_all_there_once(controller, agent, least=agent.answered)
            controller.kill()
            await agent.kill()
            agent.environment = dict(HURRY)  # two days later
            await agent.start()
            await agent.says("controller", "its certificate ended at", "enrol it again; it screens by what it has")
            await agent.decides_by("of then")
            assert await agent.calls(5, "alone") == ["allow"] * 5
            await anew(controller, HURRY)
            await agent.says("controller", "its certificate ended at", healthy=False)
            assert (await agent.enrol(await controller.token(agent.id))).returncode == 0
            await agent.is_managed()  # without a restart, at once
            assert agent.id == first
            assert len(await is_all_there_once(controller, agent, least=agent.answered)) == 10

    asyncio.run(main())
