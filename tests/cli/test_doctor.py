"""`sbc-agent doctor`."""

import json
from pathlib import Path

import pytest

from agent.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text('generation = 1\n[[trunks]]\nid = "peer"\nsources = ["192.0.2.0/24"]\n')
    (tmp_path / "agent.toml").write_text(
        f'policy.file = "{tmp_path}/policy.toml"\nhook.socket = "{tmp_path}/hook.sock"\nmetrics.listen = ""\n'
        f'records = {{ directory = "{tmp_path}/spool", min_free_ratio = 0.0 }}\n'
    )
    return tmp_path


def examine(folder: Path, *more: str) -> list[str]:
    return ["doctor", "--config", f"{folder}/agent.toml", "--socket", f"{folder}/admin.sock", *more]


def test_sound_configuration_has_no_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(examine(folder, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"]
    assert {"configuration", "policy", "disk", "clock", "service"} <= {one["about"] for one in report["findings"]}


def test_fault_of_the_policy_is_told_with_its_field(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "policy.toml").write_text("generation = 1\nlocal_addresses = ['192.0.2.300']\n")
    assert main(examine(folder, "--json")) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["healthy"]
    assert "local_addresses[0]" in next(one["found"] for one in report["findings"] if one["state"] == "fault")


def test_table_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "policy.toml").unlink()
    assert main(examine(folder)) == 1
    assert "sbc-agent policy init" in capsys.readouterr().out
