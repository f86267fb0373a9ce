"""`sbc-agent kernel`."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.main import main
from tests.conftest import ROOT
from tests.fakes.namespaces import Namespace, join, need_namespaces

CONFIG = """\
[policy]
file = "policy.toml"
[kernel]
flood_rate = 200
exempt = ["192.0.2.7"]
[queue]
ports = [5060, 5080]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def space() -> Iterator[Namespace]:
    need_namespaces()
    with Namespace("cli") as made:
        yield made


def agent(space: Namespace, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = space.command(sys.executable, "-m", "agent.cli.main", "kernel", *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


def test_plan_shows_both_tables_without_any_privilege(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernel", "plan", "--config", str(config)]) == 0
    text = capsys.readouterr().out
    assert "table inet sbc_edge {" in text
    assert "table inet sbc_edge_queue {" in text
    assert text.startswith("# engine = auto: a program of eBPF")
    assert "limit rate over 200/second burst 200 packets" in text
    assert "elements = { 192.0.2.7 }" in text
    assert "armed and armed_following hold: 5060, 5080" in text


def test_plan_names_every_error_of_both_sections(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text('[kernel]\nexempt = ["192.0.2.1/24"]\n[queue]\nlength = 3\n')
    assert main(["kernel", "plan", "--config", str(config)]) == 1
    said = capsys.readouterr().err
    assert "kernel.exempt[0]: 192.0.2.1/24 has host bits set" in said
    assert "queue.length: must be from 16 to 8192" in said


def test_a_file_without_these_sections_installs_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("[hook]\n")
    assert main(["kernel", "plan", "--config", str(config)]) == 1
    assert "neither [kernel] nor [queue]" in capsys.readouterr().err


@pytest.mark.kernel
def test_nft_takes_the_plan(config: Path, space: Namespace, tmp_path: Path) -> None:
    if not shutil.which("nft"):
        pytest.skip("nft is not installed (apt-get install nftables)")
    config.write_text(CONFIG.partition("[queue]")[0])
    plan = agent(space, "plan", "--config", str(config))
    (tmp_path / "plan.nft").write_text(plan.stdout)
    space.run("nft", "--check", "-f", str(tmp_path / "plan.nft"))


@pytest.mark.kernel
def test_what_is_applied_to_stay_is_shown_and_removed(config: Path, space: Namespace) -> None:
    assert agent(space, "status").returncode == 1
    assert agent(space, "apply", "--hold", "--config", str(config)).returncode == 0
    status = agent(space, "status")
    assert status.returncode == 0
    assert "held by nobody" in status.stdout
    found = json.loads(agent(space, "status", "--json").stdout)
    assert found["sbc_edge"]["packets"]["flood"] == 0
    assert agent(space, "remove").stdout == "removed: sbc_edge\n"
    assert agent(space, "status").returncode == 1


@pytest.mark.kernel
def test_the_program_in_front_of_the_table_is_shown_and_goes_with_the_command(config: Path, space: Namespace) -> None:
    config.write_text('[kernel]\nflood_rate = 200\nengine = "ebpf"\n')
    command = space.command(sys.executable, "-m", "agent.cli.main", "kernel", "apply", "--config", str(config))
    with Namespace("peer") as peer:
        join(space, "port0", peer, "port1")
        space.ip("link", "set", "port0", "up")
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            said = process.stdout.readline()
            assert said.startswith("in front of it, a program of eBPF (")
            assert said.endswith(") on port0\n")
            status = agent(space, "status").stdout
            assert re.search(r"a program of eBPF \((tcx|generic XDP)\) in front of it has dropped", status)
            found = json.loads(agent(space, "status", "--json").stdout)
            assert found["ebpf"]["packets"] == {"invites": 0, "empty_lines": 0, "blocked": 0, "flood": 0}
            process.kill()
    assert agent(space, "status").returncode == 1


@pytest.mark.kernel
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_applied_in_the_foreground_goes_with_the_command(
    config: Path, space: Namespace, number: signal.Signals
) -> None:
    command = space.command(
        sys.executable, "-m", "agent.cli.main", "kernel", "apply", "--shadow", "--config", str(config)
    )
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("installed table sbc_edge")
        refused = agent(space, "remove")
        assert refused.returncode == 1
        assert "another process holds table sbc_edge" in refused.stderr
        process.send_signal(number)
        process.wait(10)
    assert agent(space, "status").returncode == 1
