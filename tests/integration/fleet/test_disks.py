"""Small disks that are really full, an agent's and a controller's: calls go on, what was answered for stays."""

import asyncio
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from controller.store import StoreSettings
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import Operator, a_policy
from tests.controller.stores import opened
from tests.fakes.controller_process import ControllerProcess
from tests.fakes.disks import fill, small_disk
from tests.integration.fleet.world import FAST, Managed, a_fleet, an_agent, archived, is_all_there_once, until

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NOISY = "sip:+12015550100@a.example.net;user=phone"
QUIET = "sip:+1201556{number:04d}@a.example.net;user=phone"
POLICY = """
name = "one call a caller"

[[trunks]]
id = "peer"
sources = ["192.0.2.0/24"]

[[limits]]
name = "callers"
scope = "calling"
rate = 1
window_seconds = 86400
burst = 1
"""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("d")


def leave(ballast: Path, size: int) -> None:
    """So many bytes of the disk, by a file that takes the rest."""
    fill(ballast)
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - size)


async def traffic(agent: Managed, rounds: int, noisy: int) -> list[str]:
    """Callers that call once, and one that calls again and again: `noisy` of its calls for one of theirs."""
    said = []
    for _ in range(rounds):
        said += await agent.calls(noisy, "noisy", calling=NOISY)
        said += await agent.calls(20, "quiet", calling=QUIET)
    return said


@pytest.mark.parametrize("noisy", [5, 80])
def test_an_agent_whose_disk_is_full_screens_on_gives_up_old_allowed_calls_and_says_which(
    folder: Path, noisy: int
) -> None:
    async def main() -> None:
        with small_disk(folder / "disk", 2) as disk:
            async with a_fleet(folder, 0) as (controller, _):
                small = "segment_bytes = 16384\n"
                async with an_agent(disk / "a", controller, records=small) as agent:
                    await agent_fills_up(folder, controller, agent, disk, noisy)

    asyncio.run(main())


async def agent_fills_up(folder: Path, controller: ControllerProcess, agent: Managed, disk: Path, noisy: int) -> None:
    await agent.start()
    await controller.operator().apply(POLICY)
    await agent.decides_by("one call a caller")
    controller.kill()
    await controller.close()
    leave(disk / "ballast", 160_000)

    said: list[str] = []

    async def gives_up() -> bool:
        said.extend(await traffic(agent, 4, noisy))
        return await agent.counter("spool_dropped_records") > 0

    await until(gives_up, lambda: f"dropped records after {len(said)} calls")
    said.extend(await traffic(agent, 4, noisy))
    assert len(said) == agent.answered, "every call was answered"
    await asyncio.to_thread(controller.start)
    await agent.is_managed()

    await agent.says("upload", " 0 to come", healthy=True)
    await is_all_there_once(controller, agent, kept=False)
    rows = await archived(controller, agent.id)
    assert sum(row["action"] != "allow" for row in rows) == said.count("refuse"), "none of those was given up"
    assert rows
    await agent.kill()
    controller.kill()
    await controller.close()
    async with opened(StoreSettings(folder / "c" / "state.db")) as store:
        lost = await store.records.dropped(agent.id)
    assert {one.kind for one in lost} == {"allowed"}
    assert sum(one.count for one in lost) == len(said) - len(rows), "those that are not there, and no others, are told"
    allowed = [row["sequence"] for row in rows if row["action"] == "allow"]
    assert max(one.last for one in lost) < min(allowed), "the oldest have gone"


async def applies_until_full(operator: Operator) -> None:
    """There may be room in pages that the database has."""
    for n in range(20):
        await operator.apply(a_policy(f"too much {n}") + "# x" * 20_000)


def test_a_controller_whose_disk_is_full_keeps_its_state_says_come_again_and_goes_on(folder: Path) -> None:
    async def main() -> None:
        with small_disk(folder / "c", 8) as disk:
            async with a_fleet(folder, more=FAST) as (controller, (agent,)):
                await agent.start()
                operator = controller.operator()
                await operator.apply(a_policy("before", 1_000_000))
                await agent.decides_by("before")
                await operator.rollout_ends()
                await agent.calls(50, "before")
                await is_all_there_once(controller, agent, least=50)
                fill(disk / "ballast")
                await agent.calls(300, "during")
                said = await agent.says("upload", "come again", healthy=False)
                assert "300 to come" in said
                with pytest.raises(aio.AioRpcError) as refused:
                    await applies_until_full(operator)
                assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
                latest = (await operator.policy.ListPolicies(fleet.ListPoliciesRequest())).policies[0]
                assert len(await archived(controller, agent.id)) == 50, "what it has it shows"
                (disk / "ballast").unlink()
                there = await is_all_there_once(controller, agent, least=350)
                assert len(there) == 350
                applied = await operator.apply(a_policy("after", 1_000_000))
                assert applied.policy.generation == latest.generation + 1
                await agent.decides_by("after")
                assert not list((disk / "archive").rglob("*.tmp"))
                assert (await operator.audit.VerifyAudit(fleet.VerifyAuditRequest())).intact

    asyncio.run(main())
