"""The controller as a process: the first start, signals, kill -9 in the middle of a rollout, a frozen process."""

import asyncio
import json
import random
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any

import pytest
from grpc import StatusCode, aio

from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PATIENCE, PlayedAgent, PlayedSession, Reached, a_policy
from tests.fakes.controller_process import ControllerProcess


def test_the_first_start_makes_everything_and_the_next_one_finds_it(tmp_path: Path) -> None:
    async def main() -> None:
        with ControllerProcess(tmp_path) as controller:
            assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600
            assert not any("sbcl_" in json.dumps(line) for line in controller.lines)  # no secret in the journal
            agent = await controller.enrol()
            async with agent.session() as session:
                controller.signal(SIGTERM)
                assert (await session.hears("goodbye")).problem.message == "the controller stops"
                assert await asyncio.to_thread(controller.ends) == 0
            await controller.close()
            assert [line["event"] for line in controller.lines][-2:] == ["draining", "stopped"]
            assert controller.lines[-1]["faults"] == 0
            controller.start()
            async with agent.session():
                listed = await controller.operator().fleet.ListAgents(fleet.ListAgentsRequest())
                assert [a.id for a in listed.agents] == [agent.id]
            await controller.close()

    asyncio.run(main())


def test_two_processes_on_one_file_are_one_too_many(tmp_path: Path) -> None:
    with ControllerProcess(tmp_path):
        second = ControllerProcess(tmp_path, name="c2")
        second.start(ready=False)
        assert second.ends() == 1
        assert second.lines[-1]["event"] in ("does not start", "stopped")


def test_a_port_that_is_taken_is_named_and_the_process_ends(tmp_path: Path) -> None:
    with ControllerProcess(tmp_path) as controller:
        folder = tmp_path / "other"
        folder.mkdir()
        second = ControllerProcess(folder)
        second.listens_on(controller.address)
        second.start(ready=False)
        assert second.ends() == 78
        assert "listen.agents" in next(line["error"] for line in second.lines if line["event"] == "does not start")


def test_metrics_and_health_tell_of_every_part(tmp_path: Path) -> None:
    with ControllerProcess(tmp_path) as controller:
        ready = controller.lines[-1]
        where = ready["components"]["metrics"]
        page = urllib.request.urlopen(where, timeout=PATIENCE).read().decode()
        for part in ("store", "authority", "rollout", "sessions", "grpc", "metrics"):
            assert f'sbc_edge_controller_component_healthy{{component="{part}"}} 1.0' in page
        assert "# TYPE sbc_edge_controller_sessions_in_flight gauge" in page
        assert "sbc_edge_controller_gate_calls_total 0.0" in page
        assert "process_resident_memory_bytes" in page


@asynccontextmanager
async def living(agents: list[PlayedAgent], refuse: set[int] | None = None) -> AsyncIterator[dict[str, PlayedSession]]:
    """Agents that come back whenever their session ends, remember what they have, and refuse some generations."""
    sessions: dict[str, PlayedSession] = {}

    async def behave(session: PlayedSession, offer: pb.ConfigOffer) -> None:
        if offer.generation in (refuse or ()):
            await session.says(offer, "RECEIVED")
            await session.says(offer, "REJECTED", problem=pb.Problem(code=3, message="not that"))
        else:
            await session.takes(offer)

    async def live(agent: PlayedAgent, number: int) -> None:
        active, boot = (0, b""), f"boot-{number}"
        while True:
            with suppress(aio.AioRpcError, AssertionError, asyncio.InvalidStateError):
                async with agent.session(boot, active_generation=active[0], active_sha256=active[1]) as session:
                    session.active = active
                    sessions[agent.id] = session
                    reading = session.lives(behave)
                    while not reading.done():
                        active = session.active
                        await session.is_well(10, 0)
                        await asyncio.wait({reading}, timeout=0.1)
            await asyncio.sleep(random.uniform(0.02, 0.1))

    tasks = [asyncio.create_task(live(agent, n)) for n, agent in enumerate(agents)]
    try:
        yield sessions
    finally:
        died = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not died, f"agents that should live for ever: {died}"


async def asked(controller: Reached, generation: int) -> fleet.Rollout:
    """The rollout, as soon as somebody answers."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(aio.AioRpcError):
                request = fleet.GetRolloutRequest(generation=generation)
                shown: Any = await controller.operator().rollout.GetRollout(request, timeout=2.0)
                return shown.rollout  # type: ignore[no-any-return]
            await asyncio.sleep(0.1)


async def reaches(controller: Reached, generation: int, *states: str) -> fleet.Rollout:
    async with asyncio.timeout(3 * PATIENCE):
        while (shown := await asked(controller, generation)).state not in states:
            await asyncio.sleep(0.05)
    return shown


@pytest.mark.slow
def test_killed_in_every_step_of_a_rollout_it_goes_on_where_it_was(
    tmp_path: Path, store_settings: StoreSettings
) -> None:
    async def main() -> None:
        with ControllerProcess(tmp_path, store_settings) as controller:
            agents = [await controller.enrol() for _ in range(6)]
            async with living(agents) as sessions:
                operator = controller.operator()
                await operator.sees(lambda seen: sum(a.connected for a in seen) == len(agents))
                await operator.apply(a_policy(), (0.01, 0.5, 1.0), soak=0.3)
                for step in range(3):
                    shown = await reaches(controller, 1, "running", "done")
                    while shown.state == "running" and shown.step < step:
                        shown = await asked(controller, 1)
                    await asyncio.to_thread(controller.kill)
                    await controller.close()
                    await asyncio.to_thread(controller.start)
                ended = await reaches(controller, 1, "done", "rolled-back", "halted")
                assert ended.state == "done", ended
                # Those that were not back yet were passed by, and have it as soon as they are.
                async with asyncio.timeout(PATIENCE):
                    while dict((await asked(controller, 1)).phases) != {"confirmed": 6}:
                        await asyncio.sleep(0.05)
                assert {s.active[0] for s in sessions.values()} == {1}
                verified = await controller.operator().audit.VerifyAudit(fleet.VerifyAuditRequest())
                assert verified.intact
            await controller.close()

    asyncio.run(main())


@pytest.mark.slow
def test_killed_when_a_rollout_has_gone_wrong_it_takes_the_fleet_back_all_the_same(
    tmp_path: Path, store_settings: StoreSettings
) -> None:
    async def main() -> None:
        with ControllerProcess(tmp_path, store_settings) as controller:
            agents = [await controller.enrol() for _ in range(4)]
            async with living(agents, refuse={2}) as sessions:
                await controller.operator().sees(lambda seen: sum(a.connected for a in seen) == len(agents))
                await controller.operator().apply(a_policy("good"))
                assert (await reaches(controller, 1, "done", "halted")).state == "done"
                await controller.operator().apply(a_policy("bad"))
                await asyncio.to_thread(controller.kill)
                await controller.close()
                await asyncio.to_thread(controller.start)
                assert (await reaches(controller, 2, "rolled-back", "halted", "done")).state == "rolled-back"
                await asyncio.to_thread(controller.kill)
                await controller.close()
                await asyncio.to_thread(controller.start)
                assert (await reaches(controller, 3, "done", "halted")).state == "done"
                history = await controller.operator().policy.ListPolicies(fleet.ListPoliciesRequest())
                assert [p.rolled_back_to for p in history.policies] == [1, 0, 0]  # once, not twice
                assert {s.active[0] for s in sessions.values()} == {3}
            await controller.close()

    asyncio.run(main())


def test_a_controller_that_is_frozen_goes_on_when_it_thaws(tmp_path: Path) -> None:
    async def main() -> None:
        with ControllerProcess(tmp_path) as controller:
            agent, operator = await controller.enrol(), controller.operator()
            async with agent.session() as session:
                session.lives()
                controller.signal(SIGSTOP)
                with pytest.raises(aio.AioRpcError) as raised:
                    await operator.fleet.ListAgents(fleet.ListAgentsRequest(), timeout=0.5)
                assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
                controller.signal(SIGCONT)
                await operator.apply(a_policy())
                assert (await operator.rollout_ends()).state == "done"
            await controller.close()

    asyncio.run(main())
