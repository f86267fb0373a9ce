"""An agent that is cut off for a while, restarted meanwhile; and a policy under which nearly every call is refused."""

import asyncio
from pathlib import Path

import pytest

from controller.store import StoreSettings
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import a_policy
from tests.controller.ingest.uploads import bytes_in
from tests.controller.stores import opened
from tests.fakes.relay import Relay
from tests.integration.fleet.traffic import calling
from tests.integration.fleet.world import a_fleet, an_agent, is_all_there_once, until

pytestmark = pytest.mark.slow

QUIET = "sip:+1201{number:07d}@a.example.net;user=phone"
MANY = 1_000_000


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("p")


def test_an_agent_cut_off_and_killed_meanwhile_screens_on_within_its_bounds_and_tells_what_it_gave_up(
    folder: Path,
) -> None:
    """A day in little: the spool holds less than what comes; what a day itself does is in tests/control."""

    async def main() -> None:
        small = "segment_bytes = 4096\nmax_bytes = 65536\n"
        async with (
            a_fleet(folder, 0) as (controller, _),
            Relay([controller.address]) as way,
            an_agent(folder / "a", controller, way=way.address, records=small) as agent,
        ):
            await agent.start()
            await controller.operator().apply(a_policy("before", MANY))
            await agent.decides_by("before")
            await agent.calls(50, "before")
            await is_all_there_once(controller, agent, least=50)
            way.cut()
            await controller.operator().sees(lambda seen: not seen[0].connected)
            await controller.operator().apply(a_policy("missed", MANY))
            for n in range(2):

                async def gives_up() -> bool:
                    assert set(await agent.calls(100, "away", calling=QUIET)) == {"allow"}
                    return await agent.counter("spool_dropped_records") > 0

                async def keeps_to_its_bound() -> bool:
                    return bytes_in(agent.spool) <= 65536 + 4 * 4096

                await until(gives_up, lambda: "the spool to be full")
                # It looks at its bounds once a second; what comes meanwhile, it takes.
                await until(keeps_to_its_bound, lambda: "the spool to keep to its bound")
                assert (await agent.status()).policy_name == "before"
                if not n:
                    await agent.kill()  # -9, in the middle of it
                    await agent.start()
            attempts = way.attempts
            assert attempts > 2, "it asked again and again"
            way.mend()
            await agent.is_managed()
            await agent.decides_by("missed")
            await agent.says("upload", " 0 to come", healthy=True)
            there = await is_all_there_once(controller, agent, kept=False)
            assert sum(name.startswith("before") for name in there.values()) == 50
            await agent.kill()
            controller.kill()
            await controller.close()
            async with opened(StoreSettings(folder / "c" / "state.db")) as store:
                lost = await store.records.dropped(agent.id)
            numbers = {sequence for _, sequence in there}
            told = {n for one in lost for n in range(one.first, one.last + 1)}
            assert not numbers & told
            assert numbers | told >= set(range(1, max(numbers) + 1)), "there, or told"
            assert {one.kind for one in lost} <= {"allowed", ""}

    asyncio.run(main())


def test_a_policy_that_refuses_everything_gets_to_one_agent_and_goes_back_by_itself(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder, 3) as (controller, agents):
            for agent in agents:
                await agent.start()
                await agent.is_managed()
            operator = controller.operator()
            await operator.apply(a_policy("good", MANY))
            assert (await operator.rollout_ends(1)).state == "done"
            async with calling(agents) as traffic:
                await until(lambda: enough(traffic), lambda: "some calls")
                await operator.apply(a_policy("everything", 1), (0.01, 1.0), soak=20.0)
                ended = await operator.rollout_ends(2)
                assert ended.state == "rolled-back"
                assert "refused" in ended.why
                await operator.sees(lambda seen: all(one.active_generation == 3 for one in seen))
                for agent in agents:
                    await agent.decides_by("good")
            history = (await operator.policy.ListPolicies(fleet.ListPoliciesRequest())).policies
            assert [one.rolled_back_to for one in history] == [1, 0, 0]
            assert sum(len(one.passed) < len(one.answered) for one in traffic) == 1, "the canary alone has had it"

    asyncio.run(main())


async def enough(traffic) -> bool:  # type: ignore[no-untyped-def]
    return min(len(one.passed) for one in traffic) > 100
