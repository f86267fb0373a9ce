"""Agents as real processes under the real controller: what an operator does, and what comes of it."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.conftest import ROOT
from tests.controller.agents import PATIENCE, Controller, Operator, a_controller, a_policy
from tests.fakes.agent_process import CONFIG, AgentProcess, start_agent
from tests.fakes.calls import invite
from tests.fakes.waiting import until


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("w")


async def enrolled(controller: Controller, folder: Path) -> str:
    """By the command; its output."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(await controller.token())
    command = [
        *(sys.executable, "-m", "agent.cli.main", "enroll", "--json", "--controller", controller.server.open_address),
        *("--token-file", str(folder / "token"), "--dir", str(folder / "control")),
        *("--authority-sha256", controller.parts.authority.sha256),
    ]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    agent_id: str = json.loads(done.stdout)["agent_id"]
    return agent_id


@asynccontextmanager
async def running(controller: Controller, folder: Path) -> AsyncIterator[AgentProcess]:
    """With a session."""
    config = CONFIG + f'[controller]\naddress = "{controller.server.address}"\ndirectory = "{{folder}}/control"\n'
    (folder / "notify.sock").unlink(missing_ok=True)
    with start_agent(folder, config=config, policy='name = "of the file"') as agent:
        await asyncio.to_thread(agent.logged, "session")
        yield agent


async def command(operator: Operator, agent_id: str, word: str, argument: str = "", seconds: float = 0.0) -> list[Any]:
    request = fleet.RunCommandRequest(agent_id=agent_id, command=word, argument=argument, duration=_span(seconds))
    said: list[Any] = []
    async for response in operator.fleet.RunCommand(request):
        said += map(json.loads, response.json)
    return said


def _span(seconds: float) -> Duration:
    span = Duration()
    span.FromNanoseconds(int(seconds * 1e9))
    return span


async def calls(agent: AgentProcess, count: int, name: str = "call") -> list[int]:
    """Decisions."""

    def ask_them() -> list[int]:
        with agent.hook() as ask:
            return [ask(invite(call_id=f"{name}-{n}@a.example.net")).decision for n in range(count)]

    return await asyncio.to_thread(ask_them)


def test_a_policy_is_applied_from_afar_and_a_worse_one_comes_back_by_itself(folder: Path) -> None:
    async def main() -> None:
        async with a_controller(folder / "c") as controller:
            agent_id = await enrolled(controller, folder / "a")
            async with running(controller, folder / "a") as agent:
                operator = controller.operator()
                await operator.apply(a_policy("first", 100_000), soak=0.3)
                assert (await operator.rollout_ends()).state == "done"
                await calls(agent, 60)
                await operator.apply(a_policy("worse", 1), soak=3600.0)

                def is_in_force() -> bool:
                    return agent.status().policy_name == "worse"

                async with asyncio.timeout(PATIENCE):
                    while not await asyncio.to_thread(is_in_force):
                        await asyncio.sleep(0.05)
                await calls(agent, 60, "second")
                ended = await operator.rollout_ends(2)
                assert ended.state == "rolled-back"
                assert "refused share" in ended.why
                await operator.sees(lambda agents: agents[0].active_generation == 3)
                status = await asyncio.to_thread(agent.status)
                assert status.policy_name == "first"
                shown = (await operator.fleet.ListAgents(fleet.ListAgentsRequest())).agents[0]
                assert (shown.id, shown.connected) == (agent_id, True)

    asyncio.run(main())


def test_status_explain_tail_diagnostics_and_drain_from_afar(folder: Path) -> None:
    async def main() -> None:
        async with a_controller(folder / "c") as controller:
            agent_id = await enrolled(controller, folder / "a")
            async with running(controller, folder / "a") as agent:
                operator = controller.operator()
                tail = asyncio.create_task(command(operator, agent_id, "tail", seconds=3.0))
                await asyncio.to_thread(agent.logged, "command of the controller")
                await calls(agent, 3)
                (status,) = await command(operator, agent_id, "status")
                assert status["counters"]["attempts"] == "3"
                found: list[Any] = []
                async with asyncio.timeout(PATIENCE):
                    while not found:  # until the group is on disk
                        found = await command(operator, agent_id, "explain", "call-1@a.example.net")
                assert found[0]["call_id"] == "call-1@a.example.net"
                (diagnostics,) = await command(operator, agent_id, "diagnostics")
                assert "PRIVATE" not in json.dumps(diagnostics)
                assert diagnostics["config"]["controller"]["address"] == controller.server.address
                assert [one["call_id"] for one in await tail] == [f"call-{n}@a.example.net" for n in range(3)]
                assert await command(operator, agent_id, "drain") == []
                assert await asyncio.to_thread(agent.ends) == 0

    asyncio.run(main())


def test_a_diff_has_agents_replay_what_they_recorded(folder: Path) -> None:
    async def main() -> None:
        async with a_controller(folder / "c") as controller:
            agent_id = await enrolled(controller, folder / "a")
            async with running(controller, folder / "a") as agent:
                operator = controller.operator()
                await operator.apply(a_policy("first", 100), soak=0.3)
                await operator.rollout_ends()
                await calls(agent, 20)
                request = fleet.DiffPolicyRequest(to_toml=a_policy("tight", 1), replay=_span(60.0))
                async with asyncio.timeout(PATIENCE):
                    while (diff := await operator.policy.DiffPolicy(request)).replayed < 20:
                        await asyncio.sleep(0.1)
                assert dict(diff.problems) == {}
                assert {one.agent_id for one in diff.changed} == {agent_id}
                assert 15 <= len(diff.changed) < 20
                assert {one.before for one in diff.changed} == {"allow"}
                status = await asyncio.to_thread(agent.status)
                assert status.policy_name == "first"
                assert status.counters["attempts"] == 20

    asyncio.run(main())


def test_a_revoked_agent_goes_on_screening_and_says_why(folder: Path) -> None:
    async def main() -> None:
        async with a_controller(folder / "c") as controller:
            agent_id = await enrolled(controller, folder / "a")
            async with running(controller, folder / "a") as agent:
                operator = controller.operator()
                await operator.fleet.RevokeAgent(fleet.RevokeAgentRequest(id=agent_id, reason="stolen"))
                line = await asyncio.to_thread(agent.logged, "no controller; screening goes on")
                assert "PERMISSION_DENIED" in line["error"] or "revoked" in line["error"]
                assert line["again_in"] >= 3600
                assert len(await calls(agent, 1)) == 1
                assert not (await asyncio.to_thread(agent.component, "controller")).healthy

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_copies_of_a_machine_are_found_out_and_the_first_one_stays(folder: Path) -> None:
    """Who is thrown out comes back after half a minute; of several that take turns the later ones are banned."""

    async def main() -> None:
        async with a_controller(folder / "c") as controller, AsyncExitStack() as stack:
            await enrolled(controller, folder / "a")
            names = ("a", "copy1", "copy2", "copy3")
            for copy in names[1:]:
                shutil.copytree(folder / "a", folder / copy)
            agents = [await stack.enter_async_context(running(controller, folder / name)) for name in names]
            banned: list[str] = []

            def listen(agent: AgentProcess) -> None:
                with contextlib.suppress(AssertionError):  # it has ended, with the test
                    while agent.logged("no controller; screening goes on")["again_in"] < 3600:
                        pass
                    banned.append(agent.folder.name)

            listeners = [asyncio.create_task(asyncio.to_thread(listen, agent)) for agent in agents]
            await until(lambda: bool(banned), 200.0)
            assert "a" not in banned
            for agent in agents:
                assert len(await calls(agent, 1)) == 1
                agent.process.kill()
            await asyncio.gather(*listeners)

    asyncio.run(main())
