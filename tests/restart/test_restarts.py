"""The daemon, ended and started again: what it counted, and what it says of that."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.restart.files import BAD, SNAPSHOT
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.agent_process import CONFIG, PATIENCE, POLICY, AgentProcess, running
from tests.fakes.calls import invite
from tests.fakes.waiting import until

OFTEN = CONFIG + "[restart]\ndirectory = '{folder}/kept'\ninterval_seconds = 0.1\n"
ALLOW, REFUSE = pb.DECISION_ALLOW, pb.DECISION_REFUSE
NEWS = "took over what was counted before"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("r")


def waits(condition: Callable[[], bool]) -> None:
    asyncio.run(until(condition, PATIENCE))


def ask(agent: AgentProcess, *invites: bytes) -> list[pb.ScreenResponse]:
    with agent.hook() as screen:
        return [screen(one) for one in invites]


def test_limits_and_verdicts_outlive_a_clean_restart(folder: Path) -> None:
    calls = [invite() for _ in range(3)]  # two an hour may pass
    with running(folder, environment={"STATE_DIRECTORY": str(folder / "state")}) as agent:
        before = ask(agent, *calls)
        agent.signal(signal.SIGTERM)
        assert agent.ends() == 0
    assert [one.decision for one in before] == [ALLOW, ALLOW, REFUSE]
    assert (folder / "state/restart" / SNAPSHOT).stat().st_mode & 0o777 == 0o600
    with running(folder, environment={"STATE_DIRECTORY": str(folder / "state")}) as agent:
        news = next(line for line in agent.lines if line["event"] == NEWS)
        assert (news["attempts"], news["clean"]) == (3, True)
        again = ask(agent, *calls, invite())
        assert [one.repeated_attempt for one in again] == [True, True, True, False]
        assert again[2].answer == before[2].answer != pb.SipAnswer()
        assert [one.decision for one in again] == [ALLOW, ALLOW, REFUSE, REFUSE]
        assert agent.component("restart").healthy


def test_after_a_kill_it_goes_on_from_the_last_snapshot_and_says_how_old_that_is(folder: Path) -> None:
    with running(folder, config=OFTEN) as agent:
        assert [one.decision for one in ask(agent, invite(), invite())] == [ALLOW, ALLOW]
        written = agent.status().counters["restart_snapshots"]
        waits(lambda: agent.status().counters["restart_snapshots"] >= written + 2)
        agent.signal(signal.SIGKILL)
        agent.ends()
    with running(folder, config=OFTEN) as agent:
        news = next(line for line in agent.lines if line["event"] == NEWS)
        assert not news["clean"]
        assert news["not_heard_seconds"] > 0
        assert [one.decision for one in ask(agent, invite())] == [REFUSE]


def test_it_starts_with_a_damaged_snapshot_and_with_one_of_another_policy(folder: Path) -> None:
    with running(folder, config=OFTEN) as agent:
        ask(agent, invite(), invite())
        agent.signal(signal.SIGTERM)
        agent.ends()
    whole = (folder / "kept" / SNAPSHOT).read_bytes()
    (folder / "kept" / SNAPSHOT).write_bytes(whole[:-40])
    with running(folder, config=OFTEN) as agent:
        assert any("checksum" in str(line.get("error")) for line in agent.lines)
        assert [one.decision for one in ask(agent, invite())] == [ALLOW]
        assert (folder / "kept" / BAD).exists()
        agent.signal(signal.SIGTERM)
        agent.ends()
    (folder / "kept" / SNAPSHOT).write_bytes(whole)
    other = POLICY.replace("generation = 7", "generation = 8").replace("rate-per-trunk", "another")
    with running(folder, config=OFTEN, policy=other) as agent:
        news = next(line for line in agent.lines if line["event"] == NEWS)
        assert (news["policy_generation"], news["cells_of_rates"]) == ("7, now 8", 0)
        assert [one.decision for one in ask(agent, invite())] == [ALLOW]


def test_where_nothing_can_be_kept_it_says_so_and_screens(folder: Path) -> None:
    (folder / "kept").write_text("no directory")
    with running(folder, config=OFTEN) as agent:
        assert [one.decision for one in ask(agent, invite())] == [ALLOW]
        waits(lambda: not agent.component("restart").healthy)
        assert "kept" in agent.component("restart").detail
        agent.signal(signal.SIGTERM)
        assert agent.ends() == 0
