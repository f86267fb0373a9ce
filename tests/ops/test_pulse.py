"""What the daemon does regularly, with a clock of the test's own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.ops.log import LineWriter, Log
from agent.ops.notify import Notifier
from agent.ops.pulse import BEAT_SECONDS, Pulse
from agent.ops.readings import Readings
from agent.screening import Screening
from agent.service import RecordSink, Service
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import invite, observe, policy


class NoRecords(RecordSink):
    def put(self, decision: object) -> None:
        pass


@pytest.fixture
def readings() -> Iterator[Readings]:
    sink = os.open(os.devnull, os.O_WRONLY)
    limited = policy(pb.Policy(limits=[pb.Limit(name="calls", scope=pb.SCOPE_GLOBAL, sessions=5)]))
    service = Service(Screening(limited), NoRecords(), clock=lambda: 0.0)
    yield Readings(service, Log(LineWriter(sink), refusals_per_second=0), [], "1.2.3")
    os.close(sink)


def beats(pulse: Pulse, seconds: float, start: float = 0.0) -> float:
    """Beat in time for so long; the time after it."""
    now = start
    for n in range(1, round(seconds / BEAT_SECONDS) + 1):
        now = start + n * BEAT_SECONDS
        pulse.beat(now)
    return now


def test_the_longest_wait_of_each_second_is_measured(readings: Readings) -> None:
    pulse = Pulse(readings, Notifier({}), lambda: "", 0.0)
    now = beats(pulse, 0.5)
    pulse.beat(now + BEAT_SECONDS + 0.25)
    pulse.beat(now + 2 * BEAT_SECONDS + 0.3)
    now = beats(pulse, 0.5, now + 2 * BEAT_SECONDS + 0.3)
    assert readings.stall == pytest.approx(0.25)
    beats(pulse, 1.2, now)
    assert readings.stall == pytest.approx(0.0, abs=1e-9)


def test_calls_whose_time_is_up_are_let_go_without_any_traffic(readings: Readings) -> None:
    readings.service.handle(observe(invite()))
    sessions = readings.service.screening.sessions
    pulse = Pulse(readings, Notifier({}), lambda: "", 0.0)
    beats(pulse, 1.5)
    assert sessions.in_progress == 1
    pulse.beat(250.0)  # beyond Timer C
    assert (sessions.in_progress, sessions.expired) == (0, 1)


def test_systemd_is_told_what_has_changed_and_nothing_else(readings: Readings, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        state = "all is well"
        pulse = Pulse(readings, Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}), lambda: state, 0.0)
        now = beats(pulse, 3.0)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        state = "not well: metrics"
        beats(pulse, 3.0, now)
        assert manager.recv(100) == b"STATUS=not well: metrics"
        with pytest.raises(BlockingIOError):
            manager.recv(100)
