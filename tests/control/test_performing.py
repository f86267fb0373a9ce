"""What the session decides, performed on real files and a real screening: decay of the disk, haste, faults of ours."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.control.commands import Abilities, Commands, Tail
from agent.control.credentials import make_directory
from agent.control.errors import ControllerError, Trouble
from agent.control.messages import FromAgent, Offer, OfferReport, Welcome
from agent.control.offers import Offers
from agent.control.performing import Performer
from agent.control.preparing import Preparer
from agent.control.session import Identity, Session
from agent.control.settings import ControllerSettings
from agent.control.slots import SLOTS, Slots
from agent.control.soak import Vitals
from agent.control.standing import Places, find_standing
from agent.control.trust import NoTrust
from agent.daemon import build_service
from agent.ops.log import LineWriter, Log
from agent.ops.policy_keeper import PolicyKeeper
from agent.ops.readings import PolicyChanges
from tests.control.managed import a_policy
from tests.control.offering import a_list
from tests.fakes.waiting import until

WELCOME = Welcome("c1", None, frozenset(), 60.0)


class NoChannels:
    """A link that is not there."""

    def open(self, _name: str) -> Any:
        raise ControllerError(Trouble.AWAY, "no link")


class World:
    """An agent's control on a folder, without a process around it."""

    def __init__(self, folder: Path) -> None:
        self.settings = ControllerSettings("127.0.0.1:7443", folder / "control")
        self.places = Places.of(self.settings)
        self.said: list[FromAgent] = []
        self._log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.log = Log(LineWriter(self._log))
        file = folder / "policy.toml"
        file.write_text('name = "of the file"')
        standing = find_standing(self.settings, file)
        self.service = build_service(standing.policy, self.log, self.log)
        self.vitals = Vitals()
        self.session = Session(Offers(standing.offer, standing.journal), lambda: self.vitals)
        self.keeper = PolicyKeeper(self.service, file, PolicyChanges(), self.log)

        async def nothing(*_: Any) -> list[str]:
            return []

        abilities = Abilities(lambda: "{}", lambda: "{}", nothing, nothing, lambda: None, nothing)
        self.performer = Performer(
            self.session,
            standing,
            self.places,
            Preparer(self.places.artifacts, NoChannels(), keys, NoTrust()),
            Commands(abilities, Tail(), self.log),
            self.keeper,
            lambda: self.service.policy,
            self.log,
        )

    async def connect(self) -> None:
        await self.performer.connected(Identity("uid", "boot", "1", ()), self.said.append, lambda _error: None)
        await self.performer.receive(WELCOME)

    async def take(self, offer: Offer) -> None:
        """All the way."""
        await self.performer.receive(offer)
        await until(lambda: self.phases(offer.generation)[-1:] == ["APPLIED"])
        await self.performer.tick()
        await until(lambda: self.phases(offer.generation)[-1:] == ["CONFIRMED"])

    def phases(self, generation: int) -> list[str]:
        reports = [message for message in self.said if isinstance(message, OfferReport)]
        return [report.phase.name for report in reports if report.generation == generation]


def keys() -> Mapping[str, bytes]:
    return {}


def an_offer(generation: int, name: str) -> Offer:
    policy = a_policy(name).SerializeToString()
    return Offer(generation, hashlib.sha256(policy).digest(), policy, soak=0.0)


def run(main: Callable[[], Any]) -> None:
    asyncio.run(main())


def test_a_slot_that_decays_is_written_again(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.connect()
        await world.take(an_offer(7, "old"))
        await world.take(an_offer(8, "new"))
        slots = Slots(world.settings.directory)
        for name in SLOTS:
            path = world.settings.directory / name
            path.write_bytes(path.read_bytes()[:-1] + b"x")
            await world.performer._rehash()
            assert slots.load()[0].generation == 8
        assert world.performer.counts["repairs"] == 2
        (world.settings.directory / SLOTS[0]).unlink()
        (world.settings.directory / SLOTS[1]).unlink()
        await world.performer._rehash()
        assert [offer.generation for offer in slots.load()] == [8]
        assert world.phases(8)[-1] == "CONFIRMED"
        assert world.service.policy.name == "new"
        assert world.log.faults == 0

    run(main)


def test_an_event_whose_bringer_goes_away_is_followed_to_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.connect()
        offer = an_offer(8, "new")
        bringer = asyncio.create_task(world.performer.receive(offer))
        await asyncio.sleep(0)  # it has begun to write its note
        bringer.cancel()
        await asyncio.gather(bringer, return_exceptions=True)
        await until(lambda: "APPLIED" in world.phases(8))

    run(main)


def test_offers_in_haste_leave_the_latest_in_force(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.connect()
        for generation in range(1, 40):
            await world.performer.receive(an_offer(generation, f"p{generation}"))
            if generation % 3 == 0:
                await asyncio.sleep(0.002)
        await until(lambda: "APPLIED" in world.phases(39))
        await world.performer.tick()
        await until(lambda: "CONFIRMED" in world.phases(39))
        assert world.service.policy.name == "p39"
        assert Slots(world.settings.directory).load()[0].generation == 39
        assert all("RECEIVED" in world.phases(generation) for generation in range(1, 40))
        assert world.log.faults == 0

    run(main)


def test_a_disk_that_takes_nothing_keeps_an_offer_from_being_confirmed_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.connect()
        await world.take(an_offer(7, "old"))
        full = OSError(28, "No space left on device", "policy-a.slot")

        def refuse(*_: Any) -> None:
            raise full

        monkeypatch.setattr("agent.control.slots.write_private", refuse)
        await world.performer.receive(an_offer(8, "new"))
        await until(lambda: "APPLIED" in world.phases(8))
        await world.performer.tick()
        assert "No space left on device" in world.session.offers.trouble()
        assert world.phases(8)[-1] == "APPLIED"
        assert Slots(world.settings.directory).load()[0].generation == 7
        monkeypatch.undo()
        trial = world.session.offers._trial
        assert trial is not None
        trial.again_at = 0.0
        await world.performer.tick()
        assert world.phases(8)[-1] == "CONFIRMED"
        assert world.session.offers.trouble() == ""
        assert world.performer.disk == ""
        assert world.log.faults == 0

    run(main)


def test_a_fault_of_ours_while_preparing_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.connect()
        monkeypatch.setattr("agent.control.preparing.compile_policy", lambda *_: 1 // 0)
        await world.performer.receive(an_offer(8, "new"))
        await until(lambda: "REJECTED" in world.phases(8))
        monkeypatch.undo()
        assert world.log.faults == 1
        await world.take(an_offer(9, "newer"))

    run(main)


def test_a_swap_that_fails_leaves_the_old_policy_and_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.connect()
        await world.take(an_offer(7, "old"))
        monkeypatch.setattr(world.service.screening, "swap", lambda _policy: 1 // 0)
        await world.performer.receive(an_offer(8, "new"))
        await until(lambda: "REJECTED" in world.phases(8))
        monkeypatch.undo()
        assert world.service.policy.name == "old"
        assert world.session.offers.active.generation == 7

    run(main)


def test_without_a_link_an_offer_that_needs_a_list_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.control.preparing.faults_of", lambda *_: [])

    async def main() -> None:
        world = World(tmp_path)
        await world.connect()
        offer = an_offer(8, "new")
        await world.performer.receive(Offer(8, offer.sha256, offer.policy, (a_list(),), 0.0))
        await until(lambda: "no link" in world.session.offers.trouble())
        assert world.phases(8) == ["RECEIVED"]

    run(main)


def test_the_directory_is_made_for_the_agent_alone(tmp_path: Path) -> None:
    make_directory(tmp_path / "control")
    assert (tmp_path / "control").stat().st_mode & 0o777 == 0o700
