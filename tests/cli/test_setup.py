"""`sbc-agent setup`."""

import io
import stat
import sys
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.config import load_config
from agent.loading import load_policy
from agent.policy.policy import Mode


def setup(folder: Path, *more: str) -> list[str]:
    return ["setup", "--config", f"{folder}/agent.toml", *more]


def test_first_configuration_only_looks_on(tmp_path: Path) -> None:
    assert main(setup(tmp_path, "--yes", "--interface", "lo", "--port", "5062", "--trunk", "peer=192.0.2.0/24")) == 0
    config = load_config(tmp_path / "agent.toml")
    assert config.capture is not None
    assert (config.capture.interfaces, config.capture.ports) == (("lo",), (5062,))
    assert (config.hook, config.redirect, config.queue, config.kernel) == (None, None, None, None)
    policy = load_policy(config.policy.file)
    assert [trunk.id for trunk in policy.addresses.trunks] == ["peer"]
    assert policy.dno is not None
    assert {policy.dno.rule.mode, *(limit.rule.mode for limit in policy.limits)} == {Mode.SHADOW}


def test_files_are_not_for_everybody(tmp_path: Path) -> None:
    assert main(setup(tmp_path, "--yes")) == 0
    for name in ("agent.toml", "policy.toml"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_file_that_is_there_stays_and_nothing_else_is_written(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("mine")
    assert main(setup(tmp_path, "--yes")) == 1
    assert (tmp_path / "policy.toml").read_text() == "mine"
    assert not (tmp_path / "agent.toml").exists()


def test_force_overwrites(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("mine")
    assert main(setup(tmp_path, "--yes", "--force")) == 0
    assert load_policy(tmp_path / "policy.toml").generation == 1


def test_dry_run_writes_nothing_and_shows_the_privileges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(setup(tmp_path, "--yes", "--dry-run", "--way", "queue")) == 0
    assert "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ways", [("queue",), ("redirect",), ("hook",), ("capture", "queue", "redirect", "hook")])
def test_every_way_in_makes_a_configuration_that_the_daemon_takes(tmp_path: Path, ways: tuple[str, ...]) -> None:
    arguments = [word for way in ways for word in ("--way", way)]
    assert main(setup(tmp_path, "--yes", *arguments)) == 0
    config = load_config(tmp_path / "agent.toml")
    assert {name for name in ("capture", "queue", "redirect", "hook") if getattr(config, name)} == set(ways)


def test_bad_address_of_a_trunk_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(setup(tmp_path, "--trunk", "peer=192.0.2.300"))
    assert ended.value.code == 2


def test_bad_port_is_refused_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(setup(tmp_path, "--yes", "--way", "queue", "--port", "70000")) == 1
    assert "queue.ports[0]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_questions_are_asked_again_until_the_answer_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("telepathy\nredirect hook\n5070 70000\n5066\n"))
    assert main(setup(tmp_path)) == 0
    config = load_config(tmp_path / "agent.toml")
    assert config.redirect is not None
    assert config.hook is not None


def test_end_of_input_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("capture\n"))
    assert main(setup(tmp_path)) == 130
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(setup(tmp_path / "file", "--yes")) == 1
    assert "file: File exists" in capsys.readouterr().err


def test_service_without_privileges_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.toml").write_text("[hook]\n")
    assert main(setup(tmp_path, "--service", "--dry-run")) == 0
    assert "needs no privilege" in capsys.readouterr().out
