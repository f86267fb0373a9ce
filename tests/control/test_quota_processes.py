"""Shares among real processes: a controller, agents with certificates of their own, and what befalls both."""

import asyncio
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path
from typing import Self

import pytest

from agent.control.credentials import CredentialFiles, assemble
from agent.control.messages import Issued
from tests.conftest import ROOT
from tests.control.quota_agent import OF
from tests.controller.agents import PlayedAgent, a_controller
from tests.fakes import agent_process
from tests.fakes.agent_process import AgentProcess, start_agent
from tests.fakes.calls import invite
from tests.fakes.waiting import until
from tests.integration.peers import free_port

CONFIG = """\
[controller]
name = "c1"
[listen]
agents = "127.0.0.1:{port}"
open = "127.0.0.1:0"
[metrics]
listen = ""
"""
AGENTS = 4
LOAD = 1.5
PATIENCE = 45.0  # the machine may have much else to do


@contextmanager
def process(*command: object, output: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """One that is gone afterwards."""
    with output.open("ab") as lines:
        started = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


class World:
    """A controller and its agents, as processes that can be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port(socket.SOCK_STREAM)
        self._stack = ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        asyncio.run(self._enrol())
        (self.folder / "controller.toml").write_text(CONFIG.format(port=self.port))
        self.start_controller()
        for n in range(AGENTS):
            self.start_agent(n)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_controller(self) -> None:
        config, state = self.folder / "controller.toml", self.folder / "state"
        command = ("-m", "controller.cli.main", "run", "--config", config, "--directory", state)
        self._start("controller", *command)

    def start_agent(self, n: int) -> None:
        rate = LOAD * OF.rate / AGENTS
        script = Path(__file__).with_name("quota_agent.py")
        address = f"127.0.0.1:{self.port}"
        self._start(
            f"agent-{n}", "-m", "tests.control." + script.stem, address, self._directory(n), rate, self._file(n)
        )

    def signal(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    def passed(self) -> list[float]:
        """The moments of all calls that passed, in order."""
        moments: list[float] = []
        for n in range(AGENTS):
            data = self._file(n).read_bytes() if self._file(n).exists() else b""
            moments += struct.unpack(f"{len(data) // 8}d", data[: len(data) // 8 * 8])
        return sorted(moments)

    def use(self, seconds: float) -> float:
        """Part of the limit that passes, from now on."""
        start = time.monotonic()
        time.sleep(seconds)  # calls pass meanwhile: there is nothing to wait for but time
        return sum(start <= moment < start + seconds for moment in self.passed()) / (OF.rate * seconds)

    def uses(self, least: float, most: float) -> None:
        """Wait until a second's use of the limit is as expected."""
        deadline, seen = time.monotonic() + PATIENCE, []
        while time.monotonic() < deadline:
            seen.append(round(self.use(1.0), 3))
            if least <= seen[-1] <= most:
                return
        logs = {path.name: path.read_text()[-2000:] for path in self.folder.glob("*.log")}
        raise AssertionError(f"waited in vain for {least} to {most}: {seen}; {logs}")

    def _start(self, name: str, *command: object) -> None:
        self._processes[name] = self._stack.enter_context(process(*command, output=self.folder / f"{name}.log"))

    def _directory(self, n: int) -> Path:
        return self.folder / f"agent-{n}"

    def _file(self, n: int) -> Path:
        return self.folder / f"passed-{n}"

    async def _enrol(self) -> None:
        async with a_controller(self.folder / "state") as controller:
            for n in range(AGENTS):
                agent = await controller.enrol()
                keep_identity(agent, self._directory(n))


def keep_identity(agent: PlayedAgent, directory: Path) -> None:
    """Put the identity of an agent where an agent looks for it."""
    given = agent.credentials
    issued = Issued(tuple(given.certificate_chain), tuple(given.trust_bundle), dict(given.artifact_keys))
    CredentialFiles(directory).save(assemble(agent.id, agent.instance_uid, agent.key, issued))


def worst_excess(moments: list[float]) -> float:
    """The most, over all windows, that passed beyond rate times window: must be at most the burst."""
    worst, lowest = -inf, inf
    for n, moment in enumerate(moments):
        lowest = min(lowest, n - OF.rate * moment)
        worst = max(worst, n + 1 - OF.rate * moment - lowest)
    return worst


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_processes_keep_the_limit_through_kills_stops_and_restarts(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.uses(0.88, 1.05)
        world.signal("controller", signal.SIGSTOP)
        world.uses(0.05, 0.25)  # what was set apart
        world.signal("controller", signal.SIGCONT)
        world.uses(0.88, 1.05)
        world.signal("agent-1", signal.SIGKILL)
        world.start_agent(1)
        world.uses(0.88, 1.05)
        world.signal("agent-2", signal.SIGSTOP)
        world.use(4.0)
        world.signal("agent-2", signal.SIGCONT)
        world.uses(0.88, 1.05)
        world.signal("controller", signal.SIGKILL)
        world.uses(0.05, 0.25)
        world.signal("agent-3", signal.SIGKILL)
        world.start_agent(3)  # it has its safe rate from the disk
        world.use(2.0)
        world.start_controller()
        world.uses(0.88, 1.05)
        moments = world.passed()
    assert len(moments) > 3000
    assert worst_excess(moments) <= OF.burst


FLEET_POLICY = """
[[trunks]]
id = "peer"
sources = ["192.0.2.0/24"]

[[limits]]
name = "all"
scope = "global"
rate = 20
fleet = "safe"
"""


def test_a_managed_agent_counts_by_its_share_and_tells_how_large_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "state") as controller:
            agent = await controller.enrol()
            (folder := tmp_path / "agent").mkdir()
            keep_identity(agent, folder / "control")
            link = f'[controller]\naddress = "{controller.server.address}"\ndirectory = "{{folder}}/control"\n'
            with await asyncio.to_thread(start_agent, folder, agent_process.CONFIG + link) as running:
                await asyncio.to_thread(running.logged, "ready")
                await controller.operator().apply(FLEET_POLICY)
                said = ""
                async with asyncio.timeout(PATIENCE):
                    while "leased 18.98 per s, burst 6.333, of the fleet" not in said:
                        said = await asyncio.to_thread(screened, running, 20)
                detail = (await asyncio.to_thread(running.component, "quota")).detail
                assert detail.startswith("1 of 1 keys leased, term 1")
                await until((folder / "control" / "quota.json").exists)

    asyncio.run(main())


def screened(running: AgentProcess, calls: int) -> str:
    """What the agent says to so many calls at once, all of it as text."""
    with running.hook() as ask:
        return "\n".join(str(ask(invite())) for _ in range(calls))
