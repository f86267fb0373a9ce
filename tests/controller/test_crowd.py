"""A fleet that comes, and comes back, at once: 500 agents with their own certificates and connections."""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from grpc import aio

from agent.control.backoff import Backoff
from controller.store import StoreSettings
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PlayedAgent, a_policy
from tests.fakes.controller_process import ControllerProcess

AGENTS = 500
AT_ONCE = 50
"""Enrolments, which are no part of what is tested."""


async def comes_back(agent: PlayedAgent, stack: AsyncExitStack) -> int:
    """As an agent does it, with its back-off. How many attempts failed."""
    backoff, failed = Backoff(random.random), 0
    while True:
        await asyncio.sleep(backoff.failed(None, time.monotonic()))
        try:
            await stack.enter_async_context(agent.session("boot-1"))
            return failed
        except (aio.AioRpcError, AssertionError, asyncio.InvalidStateError, TimeoutError):
            failed += 1


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
                await asyncio.to_thread(controller.kill)
                for session in sessions:
                    session.call.cancel()
            await controller.close()
            await asyncio.to_thread(controller.start)
            async with AsyncExitStack() as stack:
                began = time.monotonic()
                failures = await asyncio.gather(*(comes_back(agent, stack) for agent in agents))
                took = time.monotonic() - began
                print(f"after a kill all are back in {took:.1f} s; {sum(failures)} attempts failed")
                assert sum(failures) < AGENTS, "no storm: at most one attempt of each fails, on average"
                await controller.operator().sees(lambda seen: sum(a.connected for a in seen) == AGENTS)
            await controller.close()

    asyncio.run(main())
