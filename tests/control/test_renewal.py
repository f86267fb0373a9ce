"""When a certificate is renewed, and what is said when it is not."""

import asyncio
import os
import time
from pathlib import Path
from typing import get_type_hints

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.control.channels import Channels
from agent.control.credentials import CredentialFiles, Credentials, assemble, new_key
from agent.control.messages import Issued
from agent.control.renewal import HALF, JITTER, LEAST_SECONDS, Life, Renewal
from agent.control.settings import ControllerSettings
from agent.ops.log import LineWriter, Log
from agent.settings import Range
from controller.authority.issuer import BACKDATED, Issuer, make_authority
from controller.authority.settings import AuthoritySettings
from controller.model import PeerKind
from tests.control.fake_controller import DAY, FakeController, LaboratoryAuthority

HOUR = 3600.0
SHORTEST, LONGEST = (
    bound * HOUR
    for part in get_type_hints(AuthoritySettings, include_extras=True)["hours"].__metadata__
    if isinstance(part, Range)
    for bound in (part.lowest, part.highest)
)


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
        self.began = time.time()
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


@pytest.mark.parametrize("lifetime", [SHORTEST, 24 * HOUR, LONGEST])
@pytest.mark.parametrize("clock", [-HOUR, 0.0, HOUR])
@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_of_every_lifetime_that_can_be_set_half_is_left_when_it_is_renewed(
    lifetime: float, clock: float, chance: float
) -> None:
    """Played: an agent whose clock is off by `clock`, as far as clocks may be, and certificates of the controller."""
    began = 1_800_000_000.0
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = Issuer("test", (make_authority("test", key, began - 30 * DAY),), key)

    def issued(when: float) -> tuple[Life, float]:
        noted, _ = issuer.issue(PeerKind.AGENT, "a", key.public_key(), lifetime, when)
        return Life(max(noted.not_before, when + clock), noted.not_after), noted.not_after

    share, step = HALF + JITTER * (chance - 0.5), lifetime / 500
    now, taken = began, began
    life, ends = issued(now)
    gaps, left = [], []
    while now < began + 10 * lifetime:
        now += step
        if life.is_due(share, now + clock):
            gaps.append(now - taken)
            left.append(ends - now)
            taken = now
            life, ends = issued(now)
    seen = lifetime - clock  # of a clock that is ahead some of the life is gone already
    assert len(gaps) >= 10
    assert all(share * seen - 1 <= gap <= share * seen + step + 1 for gap in gaps), gaps
    assert min(gaps) >= LEAST_SECONDS
    assert min(left) >= 20 * 60, "the longest wait between two tries is a minute"


def test_an_authority_that_is_about_to_end_is_not_asked_ever_more_often() -> None:
    began = 1_800_000_000.0
    now, ends, asked = began, began + HOUR, 0
    life = Life(now, ends)
    while now < ends:
        now += 1.0
        if life.is_due(HALF, now):
            asked += 1
            life = Life(now, ends)  # no later: so does the authority
    assert 3 <= asked <= HOUR / LEAST_SECONDS


def test_the_shortest_certificate_is_not_due_when_it_comes_nor_when_it_is_read_again(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeController() as controller:
            controller.authority.backdated = BACKDATED
            controller.lifetime = SHORTEST
            world = World(tmp_path, controller.address)
            await world.enrol(controller.authority, SHORTEST)
            assert not world.renewal.due()
            world.now = 0.49 * SHORTEST
            assert not world.renewal.due()
            world.now = 0.51 * SHORTEST
            assert world.renewal.due()
            await world.renewal.renew()
            assert world.renewal.renewed == 1
            assert not world.renewal.due()
            again = World(tmp_path, controller.address)  # the agent is started again
            again.began = time.time()
            assert await again.renewal.look()
            assert not again.renewal.due()

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
