"""A fleet of real processes: a controller, agents with certificates, and what the archive holds of their calls."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from agent.records.reading import records
from controller.store import StoreSettings
from sbcedge.admin.v1 import admin_pb2
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.conftest import ROOT
from tests.controller.agents import PlayedAgent, Reached
from tests.fakes.agent_process import AgentProcess, start_agent
from tests.fakes.calls import invite
from tests.fakes.controller_process import ControllerProcess

PATIENCE = 60.0
"""Seconds; a machine that does much else is slow."""

FAST = "[ingest]\ncommit_seconds = 0.05\nretry_seconds = 1.0\n[archive]\nmin_free_ratio = 0.0\n"
"""Of a controller that is asked for what it has just got."""

HURRY = {"SBC_TEST_HURRY": "1"}
"""Of processes that soon find out that the other side has gone, and soon ask again."""

CONFIG = """\
[policy]
file = "{folder}/policy.toml"
[hook]
socket = "{folder}/hook.sock"
[metrics]
listen = ""
[admin]
socket = "{folder}/admin.sock"
[shutdown]
grace = 2
[controller]
address = "ADDRESS"
directory = "{folder}/control"
[records]
directory = "SPOOL"
min_free_ratio = 0.0
commit_interval = 0.005
"""

Place = tuple[str, int]
"""Where a record is in a spool: epoch and sequence."""


class Managed:
    """One agent: a folder that outlives its processes."""

    def __init__(self, folder: Path, controller: Reached, *, way: str = "", records: str = "", spool: str = "") -> None:
        self.folder = folder
        self.controller = controller
        self.id = ""
        self.spool = Path(spool or folder / "spool")
        self.running: AgentProcess | None = None
        self.environment: dict[str, str] = {}
        """Of its next start; see tests/fakes/hooked.py."""
        self._way = way
        self._more = records
        self._calls = self.answered = 0
        folder.mkdir()

    async def enrol(self, token: str = "") -> "subprocess.CompletedProcess[str]":
        """By the command, as an operator does it."""
        token = token or await self.controller.token(self.id)
        (self.folder / "token").write_text(token)
        authority = ssl.PEM_cert_to_DER_cert(self.controller.roots.decode())
        command = [
            *(sys.executable, "-m", "agent.cli.main", "enroll", "--json"),
            *("--controller", self.controller.open_address, "--token-file", str(self.folder / "token")),
            *("--dir", str(self.folder / "control"), "--authority-sha256", hashlib.sha256(authority).hexdigest()),
        ]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | self.environment,
        )
        if not done.returncode:
            self.id = json.loads(done.stdout)["agent_id"]
        return done

    async def start(self, *, ready: bool = True) -> AgentProcess:
        """Run it."""
        assert self.running is None
        (self.folder / "notify.sock").unlink(missing_ok=True)
        config = CONFIG.replace("ADDRESS", self._way or self.controller.address).replace("SPOOL", str(self.spool))
        policy = 'name = "of the file"\n'
        self.running = start_agent(self.folder, config + self._more, policy, self.environment)
        if ready:
            await asyncio.to_thread(self.running.logged, "ready")
        return self.running

    async def kill(self) -> None:
        """SIGKILL, if it has not ended yet."""
        if self.running is not None:
            process, self.running = self.running, None
            await asyncio.to_thread(process.__exit__, None, None, None)

    async def ends(self) -> int:
        """Its exit code."""
        assert self.running is not None
        code = await asyncio.to_thread(self.running.ends)
        await self.kill()
        return code

    async def calls(self, count: int, name: str = "call", *, calling: str = "", step: float = 0.0) -> list[str]:
        """Ask so many calls, with "{number}" each of another caller; the decisions of those that were answered."""
        said = await asyncio.to_thread(self._ask, count, name, calling, step)
        self.answered += len(said)
        return said

    def _ask(self, count: int, name: str, calling: str, step: float) -> list[str]:
        said = []
        assert self.running is not None
        with self.running.hook() as ask, contextlib.suppress(grpc.RpcError):
            for _ in range(count):
                self._calls += 1
                call = {"call_id": f"{name}-{self._calls}@{self.folder.name}.example.net"}
                if calling:
                    call["calling"] = calling.format(number=self._calls)
                response = ask(invite(**call))  # type: ignore[arg-type]
                said.append("allow" if response.decision == 1 else "refuse")
                time.sleep(step)
        return said

    async def status(self) -> admin_pb2.Status:
        assert self.running is not None
        return await asyncio.to_thread(self.running.status)

    async def component(self, name: str) -> tuple[bool, str]:
        """Whether this part of it is well, and its words."""
        found = next(c for c in (await self.status()).components if c.component == name)
        return found.healthy, found.detail

    async def counter(self, name: str) -> int:
        return int((await self.status()).counters[name])

    async def says(self, name: str, *words: str, healthy: bool | None = None) -> str:
        """What this part says, as soon as all these words are in it."""
        detail = ""

        async def found() -> bool:
            nonlocal detail
            well, detail = await self.component(name)
            return all(word in detail for word in words) and healthy in (None, well)

        await until(found, lambda: f"{words} (well: {healthy}) in what {name} says: {detail}")
        return detail

    async def is_managed(self) -> None:
        """There is a session and nothing wrong with it."""
        await self.says("controller", "session with", healthy=True)

    async def decides_by(self, name: str) -> None:
        """The policy of this name is in force."""
        await until(lambda: self._has_policy(name), lambda: f"the policy {name}")

    async def _has_policy(self, name: str) -> bool:
        return (await self.status()).policy_name == name

    def held(self) -> dict[Place, str]:
        """Calls in its spool, with their places."""
        return {(r["epoch"], r["sequence"]): r["call_id"] for r in records(self.spool) if "call_id" in r}


async def until(holds: Callable[[], Any], what: Callable[[], str], patience: float = PATIENCE) -> None:
    """Wait for it, with an end to the patience."""
    deadline = time.monotonic() + patience
    while not await holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:g} s in vain for {what()}")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def an_agent(
    folder: Path, controller: Reached, *, environment: Mapping[str, str] = HURRY, **settings: Any
) -> AsyncIterator[Managed]:
    """Enrolled, not yet started; its process is gone afterwards."""
    agent = Managed(folder, controller, **settings)
    agent.environment = dict(environment)
    done = await agent.enrol()
    assert done.returncode == 0, done.stderr
    try:
        yield agent
    finally:
        await agent.kill()
        if agent.running is None and folder.exists():
            shutil.rmtree(folder / "control", ignore_errors=True)  # a private key


@asynccontextmanager
async def a_fleet(
    folder: Path,
    count: int = 1,
    *,
    more: str = FAST,
    environment: Mapping[str, str] = HURRY,
    store: StoreSettings | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[ControllerProcess, list[Managed]]]:
    """A controller that runs, and agents that do not yet, all of them with this environment."""
    (folder / "c").mkdir(exist_ok=True)
    made = ControllerProcess(folder / "c", store, more=more)
    made.environment = dict(environment)
    with made as controller:
        async with contextlib.AsyncExitStack() as stack:
            agents = [
                await stack.enter_async_context(
                    an_agent(folder / f"a{n}", controller, environment=environment, **settings)
                )
                for n in range(count)
            ]
            try:
                yield controller, agents
            finally:
                await controller.close()


async def archived(controller: Reached, agent_id: str = "") -> list[dict[str, Any]]:
    """Every call that the controller has, by what it answers to an operator."""
    request = fleet.QueryRecordsRequest(agent_id=agent_id, limit=100_000)
    getattr(request, "from").FromSeconds(1)
    request.until.FromSeconds(int(time.time()) + 10 * 86_400)
    channel = controller.channel()
    try:
        from sbcedge.fleet.v1 import fleet_pb2_grpc

        call = fleet_pb2_grpc.RecordServiceStub(channel).QueryRecords(
            request, metadata=(("authorization", f"Bearer {controller.admin}"),), timeout=PATIENCE
        )
        return [json.loads(line) async for page in call for line in page.json]
    finally:
        controller.channels.remove(channel)
        await channel.close()


async def is_all_there_once(
    controller: Reached, agent: Managed, *, kept: bool = True, least: int = 1
) -> dict[Place, str]:
    """What is in the spool of an agent is in the archive, once; and with `kept` nothing else is. What there is.

    `least` records are waited for: the answer to a call is there before its record.
    """
    there: Counter[Place] = Counter()
    names: dict[Place, str] = {}

    async def complete() -> bool:
        with contextlib.suppress(aio.AioRpcError):
            rows = await archived(controller, agent.id)
            there.clear()
            there.update((row["epoch"], row["sequence"]) for row in rows)
            names.update({(row["epoch"], row["sequence"]): row["call_id"] for row in rows})
        return there.keys() >= agent.held().keys() and len(there) >= least

    await until(complete, lambda: f"{len(agent.held())} records of {agent.id} in the archive, it has {len(there)}")
    assert [place for place, times in there.items() if times > 1] == [], "places that are there twice"
    assert [name for name, times in Counter(names.values()).items() if times > 1] == [], "calls that are there twice"
    held = agent.held()
    assert {place: names[place] for place in held} == held
    assert not kept or held == names
    return names


def credentials_of(agent: Managed) -> tuple[bytes, bytes]:
    """Key and certificate of an agent, for whoever plays it beside it."""
    text = (agent.folder / "control" / "identity.pem").read_bytes()
    key, mark, chain = text.partition(b"-----BEGIN CERTIFICATE-----")
    return key, mark + chain


def played(agent: Managed) -> PlayedAgent:
    """This agent by hand."""
    key, chain = credentials_of(agent)
    kept = json.loads((agent.folder / "control" / "fleet.json").read_text())
    return PlayedAgent(agent.controller, agent.id, kept["instance_uid"], key, chain, None)  # type: ignore[arg-type]
