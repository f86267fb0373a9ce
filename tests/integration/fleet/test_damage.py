"""Bits that flip on an agent's disk, a list that is cut again and again, a copied machine."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.control.slots import SLOTS
from controller.store import StoreSettings
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from sbcedge.fleet.v1 import fleet_pb2_grpc as fleet_grpc
from tests.controller.agents import Reached, a_policy
from tests.controller.artifacts.lists import dno, many
from tests.controller.stores import opened
from tests.fakes.relay import Relay
from tests.integration.fleet.world import PATIENCE, Managed, a_fleet, an_agent, archived, is_all_there_once, until

OPEN = '[[trunks]]\nid = "peer"\nsources = ["192.0.2.0/24"]\n'
LISTED = f'name = "listed"\n[do_not_originate]\nmode = "enforce"\nlists = ["industry"]\n{OPEN}'
CHUNK = 256 << 10


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("b")


def caller(number: str) -> str:
    return f"sip:+1{number}@a.example.net;user=phone"


def flip(path: Path, place: float = 0.5) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 4
    path.write_bytes(data)


async def imports(controller: Reached, data: bytes) -> fleet.ImportListResponse:
    """The list "industry", by an operator."""

    def pieces() -> Iterator[fleet.ImportListRequest]:
        yield fleet.ImportListRequest(kind="dno", name="industry")
        for start in range(0, len(data), CHUNK):
            yield fleet.ImportListRequest(data=data[start : start + CHUNK])

    stub = fleet_grpc.ListServiceStub(controller.channel())
    metadata = (("authorization", f"Bearer {controller.admin}"),)
    answer: fleet.ImportListResponse = await stub.ImportList(pieces(), metadata=metadata, timeout=PATIENCE)
    return answer


async def listed(agent: Managed, number: str) -> bool:
    """Whether a call from there is refused."""
    return await agent.calls(1, calling=caller(number)) == ["refuse"]


@pytest.mark.slow
def test_bits_that_flip_in_policy_list_and_spool_cost_what_they_hit_and_are_put_right(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder, records="segment_bytes = 4096\n") as (controller, (agent,)):
            operator = controller.operator()
            await imports(controller, dno(many(3)))
            await agent.start()
            for name in ("listed", "listed-2"):
                applied = await operator.apply(LISTED.replace('"listed"', f'"{name}"'))
                await operator.rollout_ends(applied.policy.generation)
                await agent.decides_by(name)
            controller.kill()
            await controller.close()
            await agent.calls(1200, "before")
            await agent.kill()
            control = agent.folder / "control"
            newest = next(control / name for name in SLOTS if b"listed-2" in (control / name).read_bytes())
            held = agent.held()
            segments = sorted(agent.spool.glob("allowed-*.seg"))
            assert len(segments) > 2
            flip(newest)
            flip(segments[1])
            await agent.start()
            await agent.decides_by("listed")
            assert f"{newest.name}: does not have the checksum" in (await agent.component("controller"))[1]
            assert await listed(agent, many(3)[0])
            await agent.kill()
            for path in (control / "lists").iterdir():
                if not path.is_symlink():
                    flip(path)
            await agent.start()
            assert (await agent.status()).policy_name == "of the file", "nothing of what it was given is whole"
            assert await agent.calls(1) == ["allow"]
            await asyncio.to_thread(controller.start)
            await agent.decides_by("listed-2")
            await agent.is_managed()
            assert await listed(agent, many(3)[0])
            await agent.says("upload", " 0 to come", healthy=True)
            there = await is_all_there_once(controller, agent, kept=False)
            assert await agent.counter("spool_corrupt_segments") >= 1
            gone = held.keys() - there.keys()
            assert gone, "what was hit"
            await agent.kill()
            controller.kill()
            await controller.close()
            async with opened(StoreSettings(folder / "c" / "state.db")) as store:
                told = await store.records.dropped(agent.id)
            assert all(any(one.first <= n <= one.last for one in told) for _, n in gone), "and it is told"
            assert len(gone) < len(held) / 2

    asyncio.run(main())


@pytest.mark.slow
def test_a_list_that_is_cut_in_every_chunk_comes_whole_and_nothing_comes_twice(folder: Path) -> None:
    async def main() -> None:
        content = dno(many(60_000))
        assert len(content) > 5 * CHUNK
        async with (
            a_fleet(folder, 0) as (controller, _),
            Relay([controller.address]) as way,
            an_agent(folder / "a", controller, way=way.address) as agent,
        ):
            way.on_bytes = lambda carried: carried > CHUNK + 100_000
            await agent.start()
            await agent.is_managed()
            await imports(controller, content)
            before = way.attempts
            await controller.operator().apply(LISTED)
            await agent.decides_by("listed")
            assert way.attempts - before >= len(content) // CHUNK
            assert await agent.counter("controller_fetched_bytes") == len(content)
            assert await listed(agent, many(60_000)[-1])

    asyncio.run(main())


@pytest.mark.slow
def test_the_records_of_a_copied_machine_are_there_beside_those_of_the_first_one(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder) as (controller, (agent,)):
            await agent.start()
            await agent.calls(20, "both")
            await is_all_there_once(controller, agent, least=20)
            await agent.kill()
            copy = Managed(folder / "copy", controller)
            shutil.rmtree(copy.folder)
            shutil.copytree(agent.folder, copy.folder, ignore=shutil.ignore_patterns("*.sock"))
            copy.id, copy.environment = agent.id, agent.environment
            await agent.start()
            await agent.calls(30, "first")
            await is_all_there_once(controller, agent, least=50)
            await agent.kill()
            try:
                await copy.start()
                await copy.calls(25, "copy")
                await copy.says("upload", " 0 to come", healthy=True)

                async def names() -> list[str]:
                    return sorted(row["call_id"].partition("-")[0] for row in await archived(controller, agent.id))

                wanted = sorted(["both"] * 20 + ["first"] * 30 + ["copy"] * 25)

                async def are_there() -> bool:
                    return len(await names()) >= len(wanted)

                await until(are_there, lambda: f"{len(wanted)} records in the archive")
                assert await names() == wanted
                calls = [row["call_id"] for row in await archived(controller, agent.id)]
                assert len(set(calls)) == len(calls)
            finally:
                await copy.kill()

    asyncio.run(main())


@pytest.mark.slow
def test_of_two_machines_that_run_with_one_identity_the_copy_is_banned_and_both_screen_on(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder) as (controller, (agent,)):
            copy = Managed(folder / "copy", controller)
            shutil.rmtree(copy.folder)
            shutil.copytree(agent.folder, copy.folder)
            copy.id, copy.environment = agent.id, agent.environment
            await agent.start()
            await agent.is_managed()  # it is the first one that is seen
            try:
                await copy.start()
                await copy.says("controller", "this machine is a copy of another one", healthy=False)
                await agent.is_managed()
                await asyncio.to_thread(controller.logged, "two machines have one identity; the later one is banned")
                (seen,) = (await controller.operator().fleet.ListAgents(fleet.ListAgentsRequest())).agents
                assert seen.connected
                assert await copy.calls(3, "copy") == ["allow"] * 3
                assert await agent.calls(3, "first") == ["allow"] * 3
                await controller.operator().apply(a_policy("of one", 1_000_000))
                await agent.decides_by("of one")
                assert (await copy.status()).policy_name == "of the file"
            finally:
                await copy.kill()

    asyncio.run(main())
