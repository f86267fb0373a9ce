"""kill -9 of the real daemons before every step of what they make durable: what counted stays, and is there once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from grpc import aio

from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import a_policy
from tests.fakes.controller_process import ControllerProcess
from tests.fakes.hooked import AGENT_STEPS, INGEST_STEPS, OFFER_STEPS, ROLLOUT_STEPS
from tests.integration.fleet.world import HURRY, Managed, a_fleet, is_all_there_once, until

SMALL = "segment_bytes = 4096\n"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("f")


def dying(step: str, occurrence: int, folder: Path) -> dict[str, str]:
    return {**HURRY, "SBC_TEST_DIES": f"{step}:{occurrence}", "SBC_TEST_DEATH": str(folder / "death")}


def died_of(folder: Path) -> str:
    """The step at which the last one died; it must have."""
    step = (folder / "death").read_text()
    (folder / "death").unlink()
    return step


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_agent_that_dies_before_any_step_of_a_record_loses_and_repeats_nothing(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder, records=SMALL) as (controller, (agent,)):
            for n, step in enumerate(AGENT_STEPS):
                agent.environment = dying(step, 1 + n % 2, folder)
                await agent.start(ready=False)
                await dies(agent, step)
                assert died_of(folder) == step
            agent.environment = dict(HURRY)
            await agent.start()
            await agent.calls(20, "last")
            await until(lambda: last_is_there(agent), lambda: "the last calls in the spool")
            there = await is_all_there_once(controller, agent)
            assert sum(name.startswith("last-") for name in there.values()) == 20
            assert len({epoch for epoch, _ in there}) == 1
            assert (await agent.component("spool"))[0]

    asyncio.run(main())


async def last_is_there(agent: Managed) -> bool:
    return sum(name.startswith("last-") for name in agent.held().values()) == 20


async def dies(agent: Managed, name: str) -> None:
    """Calls until it does."""
    assert agent.running is not None
    process = agent.running.process

    async def gone() -> bool:
        if (agent.folder / "hook.sock").exists():
            await agent.calls(20, name.replace(" ", "-"))
        return process.poll() is not None

    await until(gone, lambda: f"the end of the agent before {name}")
    assert process.returncode == -9
    await agent.kill()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_controller_that_dies_before_any_step_of_a_record_loses_and_repeats_nothing(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder, records=SMALL) as (controller, (agent,)):
            await agent.start()
            for n, step in enumerate(INGEST_STEPS):
                await anew(controller, dying(step, 1 if step == "folder" else 1 + n % 3, folder))

                async def gone() -> bool:
                    await agent.calls(5, "call", step=0.01)
                    return controller.has_ended()

                await until(gone, lambda: f"the end of the controller before {step}")  # noqa: B023
                assert died_of(folder) == step
            await anew(controller, HURRY)
            await agent.calls(20, "last")
            await until(lambda: last_is_there(agent), lambda: "the last calls in the spool")
            there = await is_all_there_once(controller, agent)
            assert sum(name.startswith("last-") for name in there.values()) == 20
            assert not list((folder / "c" / "archive").rglob("*.tmp")), "what dying controllers left is swept"

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_agent_that_dies_before_any_step_of_an_offer_takes_it_all_the_same(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder) as (controller, (agent,)):
            operator = controller.operator()
            for n, step in enumerate(OFFER_STEPS, 1):
                name = f"p{n}"
                agent.environment = dying(step, 1, folder)
                await agent.start(ready=False)
                await operator.apply(a_policy(name))
                process = agent.running
                assert process is not None
                await asyncio.to_thread(process.process.wait, 60)
                assert died_of(folder) == step
                await agent.kill()
                agent.environment = dict(HURRY)
                await agent.start()
                before = (await agent.status()).policy_name
                assert before in (name, f"p{n - 1}", "of the file"), "whole, this one or the one before"
                ended = await operator.rollout_ends(n)
                assert (ended.state, dict(ended.phases)) == ("done", {"confirmed": 1}), (step, ended)
                await agent.decides_by(name)
                assert await agent.calls(1) == ["allow"]
                await agent.kill()

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_controller_that_dies_before_any_step_of_a_rollout_ends_it_all_the_same(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder, 2) as (controller, agents):
            for agent in agents:
                await agent.start()
            for step in ROLLOUT_STEPS:
                await anew(controller, dying(step, 1, folder))
                with suppress(aio.AioRpcError):  # it may die before it has answered
                    await controller.operator().apply(a_policy(step), (0.5, 1.0))
                await until(ended(controller), lambda: f"the end of the controller before {step}")  # noqa: B023
                assert died_of(folder) == step
                await anew(controller, HURRY)
                operator = controller.operator()
                policies = (await operator.policy.ListPolicies(fleet.ListPoliciesRequest())).policies
                latest = {policy.name: policy.generation for policy in policies}.get(step)
                assert (latest is None) or step != "policy", "it was never said to be there"
                if latest is None:  # the operator has an error, and tries again
                    latest = (await operator.apply(a_policy(step), (0.5, 1.0))).policy.generation
                rollout = await operator.rollout_ends(latest)
                assert rollout.state == "done", (step, rollout)  # who is not back yet gets it then
                for agent in agents:
                    await agent.decides_by(step)
            verified = await controller.operator().audit.VerifyAudit(fleet.VerifyAuditRequest())
            assert verified.intact

    asyncio.run(main())


async def anew(controller: ControllerProcess, environment: Mapping[str, str]) -> None:
    """Start it again, like this."""
    controller.kill()
    await controller.close()
    controller.environment = dict(environment)
    await asyncio.to_thread(controller.start)


def ended(controller: ControllerProcess) -> Callable[[], Awaitable[bool]]:
    """Whether it has."""

    async def gone() -> bool:
        return controller.has_ended()

    return gone
