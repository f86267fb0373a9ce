"""What a controller bears: agents that come back at once, a policy on its way to 100 of them, memory of idle ones.

    python -m tests.benchmarks.fleet

Prints one JSON object. Agents are clients in this process, each with its own certificate and connection; the controller
is another process, on SQLite.

sessions      sessions a second, of 500 agents that connect at once: handshake, hello, welcome
handshakes    the peer: the same 500 connections without a session
apply         seconds from `policy apply` to the confirmation of 100 agents, all at once and without soaking
bare_apply    the peer: 100 calls of the smallest method one after the other
idle          kilobytes of the controller's memory for one idle agent
agents        idle agents for which one core is enough: they report their health as often as they are told by default
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from grpc import aio

from controller.fleet.settings import FleetSettings
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PlayedAgent, a_policy
from tests.fakes.controller_process import ControllerProcess

CROWD = 500
FEW = 100
ENROLLING = 32
REPORTS = 10
IDLE = 0.05
"""Part of the processor that says that nothing is being done."""


def resident_kb(pid: int) -> float:
    """Of a process, kilobytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4.0


def processor(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def settled(pid: int) -> float:
    """The same when it has done what it has to do."""
    before = -1.0
    while (spent := processor(pid)) > before + IDLE:
        before = spent
        await asyncio.sleep(1)
    return spent


async def enrol(controller: ControllerProcess, count: int) -> list[PlayedAgent]:
    """Agents with certificates."""
    operator, channel, places = controller.operator(), controller.channel(), asyncio.Semaphore(ENROLLING)

    async def one() -> PlayedAgent:
        async with places:
            made = await operator.access.CreateEnrollmentToken(fleet.CreateEnrollmentTokenRequest())
            return await PlayedAgent.enrolled(controller, made.token, channel=channel)

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def handshakes(agents: list[PlayedAgent]) -> float:
    """Seconds until all are connected, with nothing said."""
    began = time.monotonic()
    channels = [agent.channel() for agent in agents]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    took = time.monotonic() - began
    await asyncio.gather(*(channel.close() for channel in channels))
    return took


async def measure(folder: Path) -> dict[str, float]:
    with ControllerProcess(folder, more="") as controller:
        agents = await enrol(controller, CROWD)
        bare = await handshakes(agents)
        empty = resident_kb(controller.pid)
        async with AsyncExitStack() as stack:
            began = time.monotonic()
            sessions = await asyncio.gather(*(stack.enter_async_context(agent.session()) for agent in agents))
            took = time.monotonic() - began
            operator = controller.operator()
            await operator.sees(lambda seen: sum(a.connected for a in seen) == CROWD)
            await asyncio.sleep(2)
            full = resident_kb(controller.pid)
            spent = processor(controller.pid)
            for _ in range(REPORTS):
                await asyncio.gather(*(session.is_well() for session in sessions))
            report = (await settled(controller.pid) - spent) / (REPORTS * CROWD)
        await operator.sees(lambda seen: not any(a.connected for a in seen))
        for agent in agents[FEW:]:
            await operator.fleet.RevokeAgent(fleet.RevokeAgentRequest(id=agent.id, reason="of no use"))
        async with AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(agent.session()) for agent in agents[:FEW]]
            for session in sessions:
                session.lives()
                await session.is_well()
            began = time.monotonic()
            await operator.apply(a_policy(), (1.0,))
            ended = await operator.rollout_ends()
            applied = time.monotonic() - began
            assert dict(ended.phases) == {"confirmed": FEW}, ended
            smallest = await calls(operator.fleet, FEW)
        await controller.close()
    return {
        "sessions": CROWD / took,
        "handshakes": CROWD / bare,
        "apply": applied,
        "bare_apply": smallest,
        "idle": (full - empty) / CROWD,
        "agents": FleetSettings().health / report,
    }


async def calls(stub: object, count: int) -> float:
    """Seconds for so many questions of an operator, one after the other."""
    began = time.monotonic()
    for _ in range(count):
        try:
            await stub.GetAgent(fleet.GetAgentRequest(id="agent-none"))  # type: ignore[attr-defined]
        except aio.AioRpcError:
            continue
    return time.monotonic() - began


def run() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        return asyncio.run(measure(Path(folder)))


if __name__ == "__main__":
    json.dump(run(), sys.stdout)
