"""Another version on a host that is played: what is installed, how it does there, and what goes wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.host.upgrade_files import Outcome, Request, State
from agent.host.upgrader import START_SECONDS, HostError, Look, Size, Upgrader

NOW = 1_800_000_000.0
WELL = Look(running=True, process=1)


@dataclass
class PlayedHost:
    """Versions by how an agent of each does; time passes only in pauses."""

    does: dict[str, Look] = field(default_factory=lambda: {"0.1.0": WELL, "0.2.0": WELL})
    version: str = "0.1.0"
    repository: set[str] = field(default_factory=lambda: {"0.1.0", "0.2.0"})
    cache: set[str] = field(default_factory=set)
    faults: dict[str, str] = field(default_factory=dict)  # of the configuration, by version
    cannot: dict[str, str] = field(default_factory=dict)  # of methods
    now: float = 1000.0
    done: list[str] = field(default_factory=list)

    def _may(self, what: str) -> None:
        self.done.append(what)
        if (why := self.cannot.get(what)) is not None:
            raise HostError(why)

    def installed(self) -> str:
        if "installed" in self.cannot:
            raise HostError(self.cannot["installed"])
        return self.version

    def is_newer(self, version: str, than: str) -> bool:
        return version > than

    def refresh(self) -> None:
        self._may("refresh")

    def kept(self, version: str) -> Sequence[Path]:
        return [Path(version)] if version in self.cache else []

    def fetch(self, version: str) -> Sequence[Path]:
        self._may(f"fetch {version}")
        if version not in self.repository:
            raise HostError(f"Version '{version}' for 'sbc-edge-agent' was not found")
        self.cache.add(version)
        return [Path(version)]

    def size(self, version: str) -> Size:
        return Size(20 << 20, 90 << 20)

    def size_of(self, packages: Sequence[Path]) -> Size:
        return Size(0, 90 << 20)

    def short_of(self, size: Size) -> str:
        return self.cannot.get("room", "")

    def check(self, packages: Sequence[Path]) -> None:
        self._may("check")

    def install(self, packages: Sequence[Path]) -> None:
        version = str(packages[0])
        self._may(f"install {version}")
        self.version = version

    def repair(self) -> None:
        self.done.append("repair")

    def keep_only(self, versions: Sequence[str]) -> None:
        self.cache &= set(versions)

    def config_fault(self) -> str:
        return self.faults.get(self.version, "")

    def look(self) -> Look:
        look = self.does[self.version]
        return Look(look.running, look.failed, look.restarts, look.process, self.version, look.ill, look.trouble)

    def pause(self, seconds: float) -> float:
        self.now += seconds
        return self.now

    def upgrade(
        self, version: str = "0.2.0", *, last: Outcome | None = None, by_root: bool = True, late: float = 0.0
    ) -> Outcome:
        told: list[Outcome] = []
        upgrader = Upgrader(self, told.append, lambda _text: None, lambda: NOW)
        outcome = upgrader.carry_out(Request("fleet-1", version, NOW + 60 - late, 30.0), last, by_root=by_root)
        assert told[-1] == outcome
        return outcome

    @property
    def changed(self) -> bool:
        return any(what.startswith("install") for what in self.done)


def test_a_version_that_does_its_work_stays_and_the_one_before_is_kept() -> None:
    host = PlayedHost()
    outcome = host.upgrade()
    assert (outcome.state, outcome.before, outcome.why, host.version) == (State.DONE, "0.1.0", "", "0.2.0")
    assert host.cache == {"0.1.0", "0.2.0"}
    assert host.now - 1000 >= 30


def test_the_way_back_needs_no_network() -> None:
    host = PlayedHost()
    host.upgrade()
    host.cannot = {"refresh": "no network", "fetch 0.1.0": "no network"}
    assert host.upgrade("0.1.0").state is State.DONE
    assert host.version == "0.1.0"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Look(running=False, failed=True, trouble="failed, exit-code"), "it does not run: failed, exit-code"),
        (Look(running=False, restarts=3, trouble="activating, "), "it does not run"),
        (Look(running=True, process=1, ill={"hook": "port taken"}), "hook is not well: port taken"),
        (Look(running=True, process=1, trouble="does not say how it is"), "does not say how it is"),
    ],
    ids=["fails", "crashes", "ill", "silent"],
)
def test_a_version_that_does_not_do_its_work_is_taken_back(bad: Look, why: str) -> None:
    host = PlayedHost(does={"0.1.0": WELL, "0.2.0": bad})
    outcome = host.upgrade()
    assert (outcome.state, host.version) == (State.RETURNED, "0.1.0")
    assert why in outcome.why
    assert host.now - 1000 <= START_SECONDS + 60


def test_what_was_ill_before_is_not_held_against_it() -> None:
    ill = Look(running=True, process=1, ill={"controller": "away"})
    assert PlayedHost(does={"0.1.0": ill, "0.2.0": ill}).upgrade().state is State.DONE


def test_a_version_that_does_not_take_the_configuration_is_taken_back() -> None:
    host = PlayedHost(faults={"0.2.0": "hook.port: unknown"})
    assert "hook.port" in host.upgrade().why
    assert host.version == "0.1.0"


def test_an_installation_that_fails_is_repaired_and_taken_back() -> None:
    host = PlayedHost(cannot={"install 0.2.0": "dpkg: error"})
    assert host.upgrade().state is State.RETURNED
    assert host.done[-2:] == ["repair", "install 0.1.0"]


def test_that_neither_version_works_is_said() -> None:
    host = PlayedHost(does={"0.1.0": WELL, "0.2.0": Look(running=False, failed=True, trouble="failed")})
    host.cannot = {"install 0.1.0": "dpkg: error"}
    outcome = host.upgrade()
    assert outcome.state is State.FAILED
    assert "dpkg: error" in outcome.why


@pytest.mark.parametrize(
    "cannot",
    [
        {"room": "/usr has 10 MiB"},
        {"refresh": "is not signed"},
        {"check": "it would change other packages: libc6"},
        {"fetch 0.2.0": "Hash Sum mismatch"},
        {"fetch 0.1.0": "was not found"},
        {"installed": "packages of ours have different versions"},
    ],
    ids=lambda one: next(iter(one)),
)
def test_what_could_not_be_finished_or_taken_back_is_not_begun(cannot: dict[str, str]) -> None:
    host = PlayedHost(cannot=cannot)
    outcome = host.upgrade()
    assert outcome.state is State.REFUSED
    assert next(iter(cannot.values())) in outcome.why
    assert not host.changed


def test_a_request_that_lay_there_for_long_is_not_carried_out() -> None:
    host = PlayedHost()
    assert host.upgrade(late=3600).state is State.REFUSED
    assert not host.changed


def test_a_version_that_is_in_force_is_nothing_to_do() -> None:
    host = PlayedHost()
    assert host.upgrade("0.1.0").state is State.DONE
    assert not host.done


def test_a_service_that_did_not_run_is_not_waited_for() -> None:
    idle = Look(running=False, trouble="inactive")
    host = PlayedHost(does={"0.1.0": idle, "0.2.0": idle})
    assert (host.upgrade().state, host.now) == (State.DONE, 1000.0)


def test_from_afar_only_the_version_that_was_just_left_comes_back() -> None:
    host = PlayedHost(version="0.2.0", does=dict.fromkeys(("0.0.9", "0.1.0", "0.2.0"), WELL))
    host.repository.add("0.0.9")
    last = Outcome("fleet-0", "0.2.0", "0.1.0", State.DONE, "", NOW)
    assert host.upgrade("0.0.9", last=last, by_root=False).state is State.REFUSED
    assert host.upgrade("0.1.0", last=None, by_root=False).state is State.REFUSED
    assert host.upgrade("0.1.0", last=last, by_root=False).state is State.DONE


def test_one_that_was_cut_off_is_taken_back() -> None:
    host = PlayedHost(version="0.2.0", cache={"0.1.0", "0.2.0"})
    told: list[Outcome] = []
    upgrader = Upgrader(host, told.append, lambda _text: None, lambda: NOW)
    assert upgrader.resume(Request("fleet-1", "0.2.0", 0.0), "0.1.0").state is State.RETURNED
    assert host.version == "0.1.0"
    assert host.done == ["repair", "install 0.1.0"]
