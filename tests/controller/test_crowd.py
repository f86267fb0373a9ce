"""A fleet that comes back at once: 500 agents with their own certificates and connections."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from controller.store import StoreSettings
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PlayedAgent, a_policy
from tests.fakes.controller_process import ControllerProcess

AGENTS = 500
AT_ONCE = 50
"""Enrolments, which are no part of what is tested."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_500_agents_come_back_at_once_and_all_get_what_is_new(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def main() -> None:
        with ControllerProcess(tmp_path, store_settings) as controller:
            places = asyncio.Semaphore(AT_ONCE)
            operator = controller.operator()
            channel = controller.channel()

            async def enrol() -> PlayedAgent:
                async with places:
                    made = await operator.access.CreateEnrollmentToken(fleet.CreateEnrollmentTokenRequest())
                    return await PlayedAgent.enrolled(controller, made.token, channel=channel)

            agents = await asyncio.gather(*(enrol() for _ in range(AGENTS)))
            async with AsyncExitStack() as stack:
                began = time.monotonic()
                sessions = await asyncio.gather(*(stack.enter_async_context(agent.session()) for agent in agents))
                took = time.monotonic() - began
                print(f"\n{AGENTS} agents have a session after {took:.1f} s ({AGENTS / took:.0f} a second)")
                for session in sessions:
                    session.lives()
                    await session.is_well()
                await operator.sees(lambda seen: sum(a.connected for a in seen) == AGENTS)
                began = time.monotonic()
                await operator.apply(a_policy(), (1.0,))
                ended = await operator.rollout_ends()
                print(f"a policy is confirmed by all after {time.monotonic() - began:.1f} s")
                assert (ended.state, dict(ended.phases)) == ("done", {"confirmed": AGENTS})
            await controller.close()

    asyncio.run(main())
