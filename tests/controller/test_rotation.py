"""The root of a fleet is changed while agents go on: each step waits for the last of them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.model import ConfigError
from controller.authority.authority import Authority, Credentials
from controller.authority.rotation import Rotation
from controller.authority.settings import AuthoritySettings
from controller.errors import Conflict, Unauthenticated
from controller.model import Peer, PeerKind
from controller.store import Store, StoreSettings
from tests.controller.keeping import refused, renewed, sbc_controller, well
from tests.controller.stores import HOUR, JANE, WHEN, opened, uid
from tests.controller.test_authority import enrolment, pem, request_for
from tests.fakes.controller_process import ControllerProcess


class World:
    """A controller's authority, started as often as it takes; `now` goes on by hand."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.settings = AuthoritySettings(folder / "authority", "example.net")
        self.store = store
        self.rotation = Rotation(self.settings, store)
        self.now = WHEN
        self.authority = Authority(self.settings, store)

    async def starts(self) -> None:
        self.now += 10
        self.authority = Authority(self.settings, self.store)
        await self.authority.open(self.now)

    async def enrol(self, number: int) -> str:
        return (await self.authority.enrol(await enrolment(self.authority, number), WHEN + 1)).agent_id

    async def renew(self, name: str, number: int) -> Credentials:
        peer = Peer(PeerKind.AGENT, name, None, "", self.now + HOUR)
        return await self.authority.renew(peer, request_for(), uid(number), self.now)


def in_a_world(settings: StoreSettings, folder: Path, work: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with opened(settings) as store:
            world = World(store, folder)
            await world.starts()
            await work(world)

    asyncio.run(main())


def test_each_step_waits_for_the_last_agent_and_names_it(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        first, second = await world.enrol(1), await world.enrol(2)
        rotation, old = world.rotation, str(world.authority.sha256)
        with pytest.raises(Conflict, match="stage one first"):
            await rotation.activate(JANE, world.now, force=True)
        new = await rotation.stage(JANE, world.now)
        assert await rotation.stage(JANE, world.now) == new  # again is harmless
        await world.starts()
        assert world.authority.sha256 == old
        before = await world.renew(first, 1)
        with pytest.raises(Conflict, match=f"1 agents do not know it yet: {second}"):
            await rotation.activate(JANE, world.now, force=False)
        await world.renew(second, 2)
        assert await rotation.activate(JANE, world.now + 1, force=False) == new
        await world.starts()
        assert world.authority.sha256 == new
        assert [root.role for root in await rotation.roots()] == ["issues", "before"]
        assert (await world.authority.peer(pem(before), world.now)).name == first
        assert len(before.trust_bundle) == 2
        after = await world.renew(first, 1)
        with pytest.raises(Conflict, match=f"may have a certificate of one before: {second}"):
            await rotation.retire(JANE, world.now, force=False)
        await world.renew(second, 2)
        assert await rotation.retire(JANE, world.now, force=False) == 1
        await world.starts()
        assert (await world.authority.peer(pem(after), world.now)).name == first
        assert len((await world.renew(first, 1)).trust_bundle) == 1
        assert await rotation.retire(JANE, world.now, force=False) == 0
        assert (await world.store.audit.verify()).intact

    in_a_world(store_settings, tmp_path, work)


def test_an_agent_that_was_away_for_too_long_is_in_nobodys_way(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.enrol(1)
        world.now += 25 * HOUR  # its certificate has ended: it has to be enrolled again, whatever root there is
        await world.rotation.stage(JANE, world.now)
        await world.rotation.activate(JANE, world.now, force=False)

    in_a_world(store_settings, tmp_path, work)


def test_a_key_that_was_not_moved_before_a_kill_is_moved_by_the_next_start(
    store_settings: StoreSettings, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        new = await world.rotation.stage(JANE, world.now)
        await world.store.authorities.activate(world.now, JANE)  # and then the process is killed
        await world.starts()
        folder = world.settings.directory
        assert world.authority.sha256 == new
        assert not (folder / "ca-next.key").exists()
        assert len(list(folder.glob("ca-before-*.key"))) == 1
        await world.enrol(1)
        await world.starts()

    in_a_world(store_settings, tmp_path, work)


def test_without_the_key_of_the_next_root_nothing_is_changed(store_settings: StoreSettings, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        old = world.authority.sha256
        await world.rotation.stage(JANE, world.now)
        (world.settings.directory / "ca-next.key").unlink()
        for step in (world.rotation.stage(JANE, world.now), world.rotation.activate(JANE, world.now, force=True)):
            with pytest.raises(ConfigError, match="is missing"):
                await step
        await world.starts()
        assert world.authority.sha256 == old

    in_a_world(store_settings, tmp_path, work)


def test_a_certificate_that_a_back_up_does_not_know_is_taken_if_it_is_of_that_time_and_of_a_known_agent(
    store_settings: StoreSettings, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        name = await world.enrol(1)
        theirs = await world.renew(name, 1)
        await world.store._engine.write(
            lambda tx: tx.exec_driver_sql("DELETE FROM certificates").close()  # what a back-up of before is like
        )
        await world.starts()
        with pytest.raises(Unauthenticated, match="none of this fleet"):
            await world.authority.peer(pem(theirs), world.now)
        await world.store.restored(WHEN - 100 * HOUR, WHEN - 90 * HOUR, 1000, JANE)  # of another time
        await world.starts()
        with pytest.raises(Unauthenticated, match="none of this fleet"):
            await world.authority.peer(pem(theirs), world.now)
        await world.store.restored(WHEN, world.now, 1000, JANE)
        await world.starts()
        assert (await world.authority.peer(pem(theirs), world.now)).name == name
        assert (await world.store.certificates.standing(world.now)).forgotten
        await world.store.agents.revoke(name, "", world.now, JANE)
        await world.starts()
        with pytest.raises(Exception, match="is revoked"):
            await world.authority.peer(pem(theirs), world.now)

    in_a_world(store_settings, tmp_path, work)


async def step(controller: ControllerProcess, name: str) -> str:
    """With the controller stopped, and started again."""
    await controller.close()
    controller.signal(signal.SIGTERM)
    assert await asyncio.to_thread(controller.ends) == 0
    done = await asyncio.to_thread(sbc_controller, controller, "authority", name)
    await asyncio.to_thread(controller.start)
    return well(done)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_root_follows_another_and_no_agent_is_locked_out(tmp_path: Path) -> None:
    async def main() -> None:
        with ControllerProcess(tmp_path) as controller:
            agent, old = await controller.enrol(), controller.roots
            assert f"do not know the next one yet: 1 agents: {agent.id}" in await step(controller, "stage")
            assert controller.roots == old  # it issues still
            agent = await renewed(agent)
            assert len(agent.credentials.trust_bundle) == 2
            assert "issues:" in await step(controller, "activate")
            assert controller.roots != old
            assert await refused(agent) == ""  # with a certificate of the old root, at a server of the new one
            late, agent = agent, await renewed(agent)
            newcomer = await controller.enrol()
            assert "not trusted any more: 1" in await step(controller, "retire")
            for one in (agent, newcomer):
                assert await refused(one) == ""
            assert "UNAVAILABLE" in await refused(late)  # nobody takes a certificate of the old root any more
            assert len((await renewed(agent)).credentials.trust_bundle) == 1
            await controller.close()

    asyncio.run(main())
