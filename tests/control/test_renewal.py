"""When a certificate is renewed, and what is said when it is not."""

import asyncio
import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.control.channels import Channels
from agent.control.credentials import CredentialFiles, Credentials, assemble, new_key
from agent.control.messages import Issued
from agent.control.renewal import Renewal
from agent.control.settings import ControllerSettings
from agent.ops.log import LineWriter, Log
from tests.control.fake_controller import DAY, FakeController, LaboratoryAuthority


class World:
    """A renewal with clocks that the test moves. Nobody listens at its controller."""

    def __init__(self, folder: Path, address: str = "127.0.0.1:1", chance: float = 0.5) -> None:
        self.now = 0.0
        self.files = CredentialFiles(folder / "control")
        self.channels = Channels(ControllerSettings(address, folder / "control"))
        log = Log(LineWriter(os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)))
        self.renewal = Renewal(
            self.files, self.channels, log, lambda: self.began + self.now, lambda: self.now, lambda: chance
        )
        self.began = 0.0

    async def enrol(self, authority: LaboratoryAuthority, lifetime: float = DAY) -> Credentials:
        key = new_key()
        leaf = authority.issue(load_pem_private_key(key, None).public_key(), [], lifetime)
        credentials = assemble("agent-1", "uid", key, Issued((leaf,), (authority.der,)))
        self.files.save(credentials)
        self.began = credentials.not_before
        assert await self.renewal.look()
        return credentials


def test_it_is_due_at_half_of_its_life_with_jitter_and_never_before_or_when_it_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        authority = LaboratoryAuthority()
        due = []
        for n, chance in enumerate((0.0, 0.5, 0.999)):
            (tmp_path / str(n)).mkdir()
            world = World(tmp_path / str(n), chance=chance)
            assert not world.renewal.due()  # not enrolled
            await world.enrol(authority)
            while not world.renewal.due():
                world.now += 60.0
            due.append(world.now / DAY)
            world.now = 2 * DAY
            assert not world.renewal.due()
            assert "its certificate ended at" in world.renewal.trouble()
        assert [round(share, 2) for share in due] == [0.45, 0.5, 0.55]

    asyncio.run(main())


def test_a_renewal_that_fails_is_tried_again_and_becomes_trouble_late(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        before = await world.enrol(LaboratoryAuthority())
        tries = 0
        while world.now < DAY * 0.7:
            world.now += 600.0
            if world.renewal.due():
                await world.renewal.renew()
                tries += 1
        assert tries > 20
        assert world.renewal.trouble() == ""
        assert world.renewal.credentials == before
        world.now = DAY * 0.8
        assert "is not renewed: UNAVAILABLE" in world.renewal.trouble()

    asyncio.run(main())


def test_a_renewed_certificate_is_for_a_new_key_and_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeController() as controller:
            world = World(tmp_path, controller.address)
            before = await world.enrol(controller.authority)
            edition = world.channels.edition
            await world.renewal.renew()
            after = world.renewal.credentials
            assert after is not None
            assert world.files.load() == after
            assert after.key != before.key
            assert (after.agent_id, after.instance_uid) == ("agent-1", "uid")
            assert list(world.renewal.artifact_keys()) == ["k1"]
            assert world.channels.edition > edition
            assert not await world.renewal.look()  # what we wrote ourselves is no news
            controller.issue_for_another_key = True
            await world.renewal.renew()
            assert world.renewal.credentials == after

    asyncio.run(main())


def test_files_that_somebody_changes_are_taken_and_damaged_ones_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.enrol(LaboratoryAuthority())
        path = tmp_path / "control" / "identity.pem"
        path.write_bytes(path.read_bytes()[:100])
        assert await world.renewal.look()
        assert world.renewal.credentials is None
        assert not world.renewal.due()
        again = await world.enrol(LaboratoryAuthority())
        assert world.renewal.credentials == again

    asyncio.run(main())
