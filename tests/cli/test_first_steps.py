"""What somebody in a hurry is told: what is wrong, where, and what to do next. Never a traceback."""

import subprocess
import tempfile
from pathlib import Path

import pytest

from agent.cli.main import main
from tests.fakes.nobody import as_nobody

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("command", "code"), [(["run"], 78), (["run", "--check"], 78), (["setup", "--service"], 1), (["kernel", "plan"], 1)]
)
def test_before_there_is_a_configuration_setup_is_named(
    command: list[str], code: int, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "agent.toml"
    assert main([*command, "--config", str(file)]) == code
    what, next_step = capsys.readouterr().err.splitlines()
    assert what == f"sbc-agent: {file}: cannot be read: No such file or directory"
    assert next_step == "sbc-agent: `sbc-agent setup` writes a first one"


def test_missing_policy_leads_to_policy_init(tmp_path: Path, capsys: Capture) -> None:
    policy = tmp_path / "policy.toml"
    (tmp_path / "agent.toml").write_text(f'policy.file = "{policy}"\n[hook]\n')
    assert main(["run", "--check", "--config", f"{tmp_path}/agent.toml"]) == 78
    assert f"`sbc-agent policy init {policy}` writes a first one" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run", "--check"], ["setup", "--service"], ["kernel", "plan"]])
def test_wrong_key_is_told_with_its_file(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[hook]\n[kernel]\nflod_rate = 5\n")
    assert main([*command, "--config", str(file)]) != 0
    assert capsys.readouterr().err == f'sbc-agent: {file}: kernel.flod_rate: unknown key; did you mean "flood_rate"?\n'


@pytest.mark.parametrize("command", [["doctor"], ["run", "--check"], ["setup", "--yes"], ["kernel", "plan"]])
def test_ordinary_user_is_sent_to_root(command: list[str]) -> None:
    python = as_nobody()
    with tempfile.TemporaryDirectory() as folder:  # for whoever made it, as /etc/sbc-edge-agent is
        said = subprocess.run(
            [*python, "-m", "agent.cli.main", *command, "--config", f"{folder}/agent.toml"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
    assert said.returncode in {1, 78}
    assert "Permission denied" in said.stdout + said.stderr
    assert "run it as root" in said.stdout + said.stderr
    assert "Traceback" not in said.stderr
