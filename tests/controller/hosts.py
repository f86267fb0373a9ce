"""Hosts of agents whose version changes: played, over real connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PATIENCE, Controller, Operator, PlayedAgent, PlayedSession

ABLE = ["policy.v1", "command.v1", "upgrade.v1"]
OLD, NEW = "0.1.0", "0.2.0"


class PlayedHost:
    """An agent whose host puts in force what it is asked for: the agent starts again, as another version.

    `does`: what becomes of a version at the hosts that are asked for it, one after the other; then CONFIRMED.
    `trouble`: of an agent of a version.
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
