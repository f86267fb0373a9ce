"""What a controller may ask of the host, through an agent that has no privilege."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.control.messages import Phase
from agent.control.upgrades import BEGIN_SECONDS, Upgrades
from agent.host.upgrade_files import Outcome, Places, State, take_request, write_outcome
from agent.ops.log import LineWriter, Log


class Desk:
    """An agent on a host whose administrator lets it."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.now = 1000.0
        self.places = Places(
            asked=folder / "asked", outcome=folder / "outcome", underway=folder / "underway", enabled=folder / "enabled"
        )
        self.places.enabled.symlink_to("unit")
        self.log = log
        self.agent = self.started()

    def started(self) -> Upgrades:
        agent = Upgrades(self.places, self.log, lambda: self.now)
        agent._look()
        return agent

    def ask(self, version: str = "0.2.0", key: str = "00ff", soak: float = 0.0) -> None:
        asyncio.run(self.agent.ask(version, key, soak))

    def ends(self, state: State, why: str = "") -> None:
        write_outcome(self.places.outcome, Outcome("fleet-00ff", "0.2.0", "0.1.0", state, why, self.now))
        self.agent._look()

    def phase(self) -> Phase | None:
        report = self.agent.report()
        return None if report is None else report.phase


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield Desk(tmp_path, Log(LineWriter(descriptor)))
    os.close(descriptor)


def test_asked_for_a_version_it_leaves_a_request(desk: Desk) -> None:
    desk.ask(soak=5.0)
    request = take_request(desk.places.asked, os.geteuid())
    assert request is not None
    assert (request.id, request.version, request.soak) == ("fleet-00ff", "0.2.0", 5.0)
    assert desk.phase() is Phase.RECEIVED


def test_where_the_administrator_does_not_let_it_nothing_is_left_and_no_capability_claimed(desk: Desk) -> None:
    assert desk.agent.capabilities() == ("upgrade.v1",)
    desk.places.enabled.unlink()
    assert desk.agent.capabilities() == ()
    with pytest.raises(LookupError, match="administrator"):
        desk.ask()
    assert not desk.places.asked.exists()
    report = desk.agent.report()
    assert report is not None
    assert (report.phase, report.id) == (Phase.REJECTED, "00ff")


@pytest.mark.parametrize(("version", "key"), [("-x", "1"), ("0.2.0", "../x"), ("", "1")])
def test_what_is_no_version_or_no_id_is_refused(desk: Desk, version: str, key: str) -> None:
    with pytest.raises(LookupError):
        desk.ask(version, key)
    assert not desk.places.asked.exists()


def test_the_same_upgrade_is_asked_for_once_also_after_a_restart(desk: Desk) -> None:
    desk.ask()
    desk.places.asked.unlink()  # the helper has taken it
    desk.ask()
    assert not desk.places.asked.exists()
    desk.ends(State.DONE)
    desk.agent = desk.started()
    desk.ask()
    assert not desk.places.asked.exists()


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        (State.PREPARING, Phase.RECEIVED),
        (State.UNDERWAY, Phase.APPLIED),
        (State.DONE, Phase.CONFIRMED),
        (State.REFUSED, Phase.REJECTED),
        (State.RETURNED, Phase.ROLLED_BACK),
        (State.FAILED, Phase.ROLLED_BACK),
    ],
)
def test_what_became_of_it_is_told(desk: Desk, state: State, phase: Phase) -> None:
    desk.ask()
    desk.ends(state, "why")
    assert desk.phase() is phase
    assert desk.agent.health()[0] is (state is not State.FAILED)


def test_a_helper_that_does_not_begin_is_told_of(desk: Desk) -> None:
    desk.ask()
    desk.now += BEGIN_SECONDS + 1
    assert desk.phase() is Phase.REJECTED


def test_what_the_administrator_does_himself_is_nothing_of_the_controllers(desk: Desk) -> None:
    write_outcome(desk.places.outcome, Outcome("host-1", "0.2.0", "0.1.0", State.DONE, "", 1.0))
    assert desk.started().report() is None


def test_a_request_that_cannot_be_written_is_refused_with_the_reason(desk: Desk, tmp_path: Path) -> None:
    desk.places = replace(desk.places, asked=tmp_path / "none" / "asked")
    desk.agent = desk.started()
    with pytest.raises(LookupError, match="cannot be written"):
        desk.ask()
    assert desk.phase() is Phase.REJECTED
