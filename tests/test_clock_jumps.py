"""The whole daemon while somebody sets the wall clock, by an hour to either side: nothing of a call depends on it."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Final

import pytest

from agent.records.reading import Wanted, records
from agent.records.segment import Kind
from agent.sip.scan import scan
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.agent_process import CONFIG, AgentProcess, running
from tests.fakes.calls import invite
from tests.fakes.wall_clock import COMPILER, WallClock

HOUR: Final = 3600
POLICY: Final = """\
generation = 7
name = "trial"

[[trunks]]
id = "peer"
sources = ["192.0.2.0/24", "127.0.0.1"]

[[limits]]
name = "rate-per-caller"
scope = "calling"
rate = 3
window_seconds = 7200
burst = 3
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler"),
]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("d")


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def sbc(port: int) -> Iterator[Callable[[bytes], int]]:
    """Sends an INVITE to the redirect and gives the status of the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5.0)
        here = sock.getsockname()[1]

        def ask(raw: bytes) -> int:
            sock.sendto(raw.replace(b"192.0.2.10:5060", b"127.0.0.1:%d" % here), ("127.0.0.1", port))
            answer = scan(sock.recv(65_535))
            ack = invite(method="ACK", to_tag=answer.to_tag.decode(), call_id=answer.call_id.decode())
            sock.sendto(ack, ("127.0.0.1", port))
            return answer.status

        yield ask


def steps_seen(agent: AgentProcess) -> int:
    return int(agent.status().counters["wall_clock_steps"])


def test_calls_go_on_and_limits_hold_while_the_clock_is_set_an_hour_on_and_back(
    folder: Path, port: int, sbc: Callable[[bytes], int]
) -> None:
    clock = WallClock(folder)
    config = CONFIG + f'[redirect]\nudp = ["127.0.0.1:{port}"]\n'
    numbers = count(2_015_550_100)
    greedy = "sip:+13035550142@a.example.net"
    asked: list[str] = []

    def fresh(caller: str = "") -> bytes:
        asked.append(f"{len(asked)}@a.example.net")
        return invite(calling=caller or f"sip:+1{next(numbers)}@a.example.net", call_id=asked[-1])

    with running(folder, config=config, policy=POLICY, environment=clock.environment) as agent, agent.hook() as ask:
        assert [ask(fresh(greedy)).decision for _ in range(4)] == [pb.DECISION_ALLOW] * 3 + [pb.DECISION_REFUSE]
        for turn, (ahead, step) in enumerate(((HOUR, 1), (0, -1), (-HOUR, -1), (0, 1)), 1):
            clock.set(ahead)
            deadline = time.monotonic() + 5.0
            while steps_seen(agent) < turn:  # a second at most; meanwhile calls come
                assert time.monotonic() < deadline
                assert ask(fresh()).decision == pb.DECISION_ALLOW
                assert sbc(fresh()) == 404
            assert agent.logged("the wall clock was set")["seconds"] == pytest.approx(step * HOUR, abs=1)
            assert ask(fresh(greedy)).decision == pb.DECISION_REFUSE
            assert sbc(fresh(greedy)) == 503
        assert agent.component("clock").detail == "the wall clock was set 4 times, by +0 s in all"
        assert all(component.healthy for component in agent.status().components)
        agent.signal(signal.SIGTERM)
        assert agent.ends() == 0
        assert agent.complaints() == ""

    found = list(records(folder / "spool", Wanted(kinds=frozenset(Kind) - {Kind.ROLLUP})))
    assert sorted(one["call_id"] for one in found) == sorted(asked)
    assert all(a["sequence"] < b["sequence"] for a, b in pairwise(found))
    # What was written together has the refused ones first; those that passed are in the order in which they came.
    passed = [one for one in found if one["action"] == "allow"]
    assert [one["call_id"] for one in passed] == [name for name in asked if name in {o["call_id"] for o in passed}]
    times = [datetime.fromisoformat(one["time"]).timestamp() for one in passed]
    steps = [round((b - a) / HOUR) for a, b in pairwise(times)]
    assert [step for step in steps if step] == [1, -1, -1, 1]
