"""The commands that ask a running agent: what they show, and what they say when nobody answers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.cli.status_report import rate_rows, refusal_rows
from sbcedge.admin.v1 import admin_pb2 as pb
from tests.fakes.agent_process import POLICY, AgentProcess, running
from tests.fakes.calls import invite

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """One agent for the tests that leave it as it is. It has allowed two calls and refused three."""
    with running(tmp_path_factory.mktemp("a")) as process:
        with process.hook() as ask:
            for _ in range(5):
                ask(invite())
        yield process


def socket_of(agent: AgentProcess) -> str:
    return f"--socket={agent.folder}/admin.sock"


def test_status_shows_policy_parts_trunks_and_rules(agent: AgentProcess, capsys: Capture) -> None:
    assert main(["status", socket_of(agent)]) == 0
    shown = capsys.readouterr().out
    assert 'policy generation 7 "trial"' in shown
    assert "5 attempts, " in shown
    for part in ("hook", "spool", "admin", "metrics"):
        assert re.search(rf"^{part} +│ well ", shown, re.MULTILINE), part
    assert re.search(r"^peer +│ 5 +│ 2 +│ 3 +│ 0", shown, re.MULTILINE)
    assert re.search(r"^rate-per-trunk +│ enforce +│ 3 ", shown, re.MULTILINE)


def test_status_as_json_is_the_status_of_the_contract(agent: AgentProcess, capsys: Capture) -> None:
    assert main(["status", "--json", socket_of(agent)]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["policy_generation"], status["counters"]["attempts"]) == ("7", "5")


def test_top_once_shows_trunks_and_refusals_into_a_pipe(agent: AgentProcess, capsys: Capture) -> None:
    assert main(["top", "--once", "--interval", "0.1", socket_of(agent)]) == 0
    shown = capsys.readouterr().out
    assert "attempts/s" in shown
    assert re.search(r"^peer +│ +0\.0 │", shown, re.MULTILINE)
    assert re.search(r"^rate-per-trunk +│ +enforce │ +0\.0 │ +0\.0 │ +3 │ +0", shown, re.MULTILINE)
    assert "\x1b[2J" not in shown


def test_rates_are_what_was_added_over_the_time_between() -> None:
    before = pb.Status(trunks=[pb.TrunkStatus(trunk="a", attempts=100, refused=10, dropped=1, rate_limit=50)])
    after = pb.Status(
        trunks=[
            pb.TrunkStatus(trunk="a", attempts=200, refused=20, dropped=11, rate_limit=50, sessions=3, session_limit=9),
            pb.TrunkStatus(trunk="new", attempts=4),
        ]
    )
    assert rate_rows(before, after, 4.0) == [
        ("a", "25.0", "50", "50%", "5.0", "200", "3 of 9"),
        ("new", "1.0", "-", "-", "0.0", "4", "-"),
    ]


def test_rules_that_never_refused_are_not_shown() -> None:
    before = pb.Status(rules=[pb.RuleStatus(rule="a", mode="enforce", refused=4)])
    after = pb.Status(
        rules=[
            pb.RuleStatus(rule="a", mode="enforce", refused=6, dropped=2),
            pb.RuleStatus(rule="b", mode="shadow", shadow=10),
            pb.RuleStatus(rule="c", mode="enforce", allowed=10),
        ]
    )
    assert refusal_rows(before, after, 2.0) == [
        ("a", "enforce", "2.0", "0.0", "8", "0"),
        ("b", "shadow", "0.0", "5.0", "0", "10"),
    ]


@pytest.mark.parametrize("interval", ["0", "0.01", "1e9", "nan", "soon"])
def test_an_interval_that_cannot_be_is_wrong_usage(interval: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", "--interval", interval])
    assert ended.value.code == 2


@pytest.mark.parametrize("command", [["status"], ["top", "--once"], ["drain"], ["policy", "apply"]])
def test_when_no_agent_answers_the_command_says_so(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert main([*command, "--socket", str(tmp_path / "nobody")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    where = f"no agent runs with the admin socket {tmp_path}/nobody (--socket names another)"
    assert said.err == f"sbc-agent: {where}: `sbc-agent doctor` says why\n"


def test_policy_apply_takes_a_file_or_the_agents_own(agent: AgentProcess, tmp_path: Path, capsys: Capture) -> None:
    trial = tmp_path / "trial.toml"
    trial.write_text(POLICY.replace("generation = 7", "generation = 70"))
    assert main(["policy", "apply", str(trial), socket_of(agent)]) == 0
    assert capsys.readouterr().out == "policy generation 70 is in force\n"
    assert agent.status().policy_generation == 70
    assert main(["policy", "apply", "--json", socket_of(agent)]) == 0
    assert json.loads(capsys.readouterr().out)["generation"] == 7
    assert agent.status().policy_generation == 7


def test_policy_apply_shows_every_error_of_the_agent(agent: AgentProcess, tmp_path: Path, capsys: Capture) -> None:
    trial = tmp_path / "trial.toml"
    trial.write_text('generatoin = 1\n[do_not_originate]\nlists = ["absent.list"]\n')
    assert main(["policy", "apply", str(trial), socket_of(agent)]) == 1
    assert f"sbc-agent: {trial}: generatoin: unknown key" in capsys.readouterr().err
    trial.write_text('[do_not_originate]\nlists = ["absent.list"]\n')
    assert main(["policy", "apply", str(trial), socket_of(agent)]) == 1
    assert f"do_not_originate.lists[0]: {agent.folder}/absent.list: cannot be read" in capsys.readouterr().err
    assert agent.status().policy_generation == 7


def test_an_empty_policy_file_is_a_policy_and_not_the_agents_own(
    agent: AgentProcess, tmp_path: Path, capsys: Capture
) -> None:
    trial = tmp_path / "empty.toml"
    trial.write_text("")
    assert main(["policy", "apply", str(trial), socket_of(agent)]) == 0
    assert capsys.readouterr().out == "policy generation 0 is in force\n"
    assert main(["policy", "apply", socket_of(agent)]) == 0


def test_drain_waits_for_the_end(tmp_path_factory: pytest.TempPathFactory, capsys: Capture) -> None:
    with running(tmp_path_factory.mktemp("b")) as agent:
        assert main(["drain", "--wait", "10", socket_of(agent)]) == 0
        assert capsys.readouterr().out == "draining, 0 requests in flight\nthe agent has ended\n"
        assert agent.ends() == 0
