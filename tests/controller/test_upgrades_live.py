"""Another version of the agent on its way to a fleet, over real connections: hosts that take it, refuse it, go back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from grpc.aio import AioRpcError

from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PATIENCE, Controller, Operator, PlayedAgent, PlayedSession, a_controller
from tests.fakes.waiting import until

ABLE = ["policy.v1", "command.v1", "upgrade.v1"]
OLD, NEW = "0.1.0", "0.2.0"


class PlayedHost:
    """An agent whose host puts in force what it is asked for: the agent starts again, as another version.

    `does`: what becomes of a version at the hosts that are asked for it, one after the other; then CONFIRMED. `trouble`:
    of an agent of a version.
    """

    def __init__(self, agent: PlayedAgent, does: dict[str, list[str]], trouble: dict[str, str], able: bool) -> None:
        self.agent = agent
        self.version = OLD
        self.asked: list[str] = []
        self._does = does
        self._trouble = trouble
        self._capabilities = ABLE if able else ABLE[:2]
        self._last: pb.UpgradeState | None = None
        self._boot = 0

    async def lives(self) -> None:
        """Session after session."""
        while True:
            self._boot += 1
            async with self.agent.session(
                f"boot-{self._boot}", capabilities=self._capabilities, version=self.version
            ) as session:
                restarts = asyncio.Event()
                session.lives(None, partial(self._command, restarts))
                session.keeps(self._reports(session))
                await restarts.wait()

    async def _command(self, restarts: asyncio.Event, session: PlayedSession, command: pb.Command) -> None:
        wanted = command.upgrade
        self.asked.append(wanted.version)
        await session.send(command_result=pb.CommandResult(id=command.id, last=True))
        coming = self._does.get(wanted.version, [])
        phase = coming.pop(0) if coming else "CONFIRMED"
        self._last = pb.UpgradeState(
            id=wanted.id,
            version=wanted.version,
            phase=f"OFFER_PHASE_{phase}",
            why="no room" if phase != "CONFIRMED" else "",
        )
        if phase == "CONFIRMED":
            self.version = wanted.version
            restarts.set()

    async def _reports(self, session: PlayedSession) -> None:
        while True:
            report = pb.HealthReport(upgrade=self._last)
            report.at.GetCurrentTime()
            if (detail := self._trouble.get(self.version)) is not None:
                report.components.add(component="hook", healthy=False, detail=detail)
            await session.send(health=report)
            await asyncio.sleep(0.05)


class Hosts:
    """Some of them."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.operator: Operator = controller.operator()
        self.all: list[PlayedHost] = []

    @asynccontextmanager
    async def live(self, *more: dict[str, Any], size: int = 3) -> AsyncIterator[None]:
        """One for each of `more`, then others up to `size`."""
        for n in range(size):
            said = more[n] if n < len(more) else {}
            agent = await self.controller.enrol()
            self.all.append(PlayedHost(agent, said.get("does", {}), said.get("trouble", {}), said.get("able", True)))
        tasks = [asyncio.create_task(host.lives()) for host in self.all]
        try:
            await self.operator.sees(lambda agents: sum(a.connected for a in agents) == size)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def start(self, version: str = NEW, steps: tuple[float, ...] = ()) -> Any:
        plan = fleet.RolloutPlan(steps=steps)
        plan.soak.FromNanoseconds(0)
        return (await self.operator.upgrade.StartUpgrade(fleet.StartUpgradeRequest(version=version, plan=plan))).upgrade

    async def ends(self, number: int = 1) -> Any:
        async with asyncio.timeout(PATIENCE):
            while (shown := await self.shown()).rollout.generation < number:
                await asyncio.sleep(0.05)
            while (shown := await self.shown(number)).rollout.state == "running":
                await asyncio.sleep(0.05)
        return shown

    async def shown(self, number: int = 0) -> Any:
        return (await self.operator.upgrade.GetUpgrade(fleet.GetUpgradeRequest(upgrade=number))).upgrade

    def versions(self) -> list[str]:
        return [host.version for host in self.all]


def with_hosts(folder: Path, store: StoreSettings | None, work: Any, *more: dict[str, Any], size: int = 3) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts = Hosts(await stack.enter_async_context(a_controller(folder, store)))
            await stack.enter_async_context(hosts.live(*more, size=size))
            await work(hosts)

    asyncio.run(main())


def test_a_version_gets_to_every_host_canary_first(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start()
        ended = await hosts.ends()
        assert (ended.rollout.state, dict(ended.rollout.phases)) == ("done", {"confirmed": 4})
        assert hosts.versions() == [NEW] * 4
        assert [host.asked for host in hosts.all] == [[NEW]] * 4  # once
        assert not ended.passed_by
        assert ended.version == NEW
        assert ended.author.startswith("admin-")

    with_hosts(tmp_path, store_settings, work, size=4)


def test_a_host_that_goes_back_stops_it_and_the_others_go_back_too(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start(steps=(0.5, 1.0))
        ended = await hosts.ends()
        assert ended.rollout.state == "rolled-back"
        assert "no room" in ended.rollout.why
        back = await hosts.ends(2)
        assert (back.rollout.state, back.takes_back) == ("done", 1)
        assert hosts.versions() == [OLD] * 4

    third = {"does": {NEW: ["CONFIRMED", "CONFIRMED", "ROLLED_BACK"]}}
    with_hosts(tmp_path, None, work, third, third, third, third, size=4)


def test_hosts_that_are_not_well_under_it_are_taken_back(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start()
        ended = await hosts.ends()
        assert ended.rollout.state == "rolled-back"
        assert "hook: port taken" in ended.rollout.why
        await hosts.ends(2)
        assert hosts.versions() == [OLD] * 3
        assert sum(len(host.asked) for host in hosts.all) == 2  # the canary, there and back

    ill = {"trouble": {NEW: "port taken"}}
    with_hosts(tmp_path, None, work, ill, ill, ill)


def test_a_host_that_only_refuses_halts_it_and_nobody_goes_back(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start(steps=(1.0,))
        ended = await hosts.ends()
        assert ended.rollout.state == "halted"
        assert [(p.problem) for p in ended.rollout.problems] == ["no room"]
        await until(lambda: hosts.versions().count(NEW) == 2, PATIENCE)
        assert (await hosts.shown()).rollout.generation == 1

    last = {"does": {NEW: ["CONFIRMED", "CONFIRMED", "REJECTED"]}}
    with_hosts(tmp_path, None, work, last, last, last)


def test_agents_that_take_no_upgrades_are_named_and_not_waited_for(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start()
        ended = await hosts.ends()
        assert ended.rollout.state == "done"
        assert [(p.agent_id, OLD in p.problem) for p in ended.passed_by] == [(hosts.all[0].agent.id, True)]
        assert hosts.versions() == [OLD, NEW, NEW]
        assert not hosts.all[0].asked

    with_hosts(tmp_path, None, work, {"able": False})


def test_without_anybody_who_takes_it_an_upgrade_does_not_begin(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        with pytest.raises(AioRpcError, match="no agent takes upgrades"):
            await hosts.start()

    with_hosts(tmp_path, None, work, {"able": False}, size=1)


@pytest.mark.parametrize("version", ["", "-x", "1 2", "../x", "1:2", "9" * 100])
def test_what_is_no_version_is_refused(tmp_path: Path, version: str) -> None:
    async def work(hosts: Hosts) -> None:
        with pytest.raises(AioRpcError, match="is none of a package"):
            await hosts.start(version)

    with_hosts(tmp_path, None, work, size=1)


def test_an_operator_takes_it_back(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start()
        with pytest.raises(AioRpcError, match="is running"):
            await hosts.start("0.3.0")
        halt = fleet.HaltUpgradeRequest(reason="the night shift asks for it", roll_back=True)
        await until(lambda: NEW in hosts.versions(), PATIENCE)
        halted = (await hosts.operator.upgrade.HaltUpgrade(halt)).upgrade
        assert (halted.rollout.state, halted.rollout.why) == ("rolled-back", "the night shift asks for it")
        await until(lambda: hosts.versions() == [OLD] * 2, PATIENCE)
        entries = await hosts.controller.parts.store.audit.entries()
        assert {"upgrade.start", "upgrade.halt"} <= {entry.action for entry in entries}

    slow = {"does": {NEW: ["CONFIRMED", "APPLIED"]}}
    with_hosts(tmp_path, None, work, slow, slow, size=2)
