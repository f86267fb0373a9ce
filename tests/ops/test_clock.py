"""The watch on the wall clock: what it calls a step, and how it says so."""

import json
import os
from pathlib import Path

import pytest

from agent.ops.clock import ClockWatch
from agent.ops.log import LineWriter, Log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(LineWriter(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)))


def test_a_clock_that_is_slewed_was_not_set(log: Log) -> None:
    watch = ClockWatch(log)
    for second in range(100):
        watch.look(5.0 + second, 1_800_000_000.0 + second * 1.0005)
    assert (watch.steps, watch.words()) == (0, "")


def test_each_step_is_counted_and_logged_and_those_that_cancel_are_none_in_all(log: Log, tmp_path: Path) -> None:
    watch = ClockWatch(log)
    for now, when in ((1.0, 1000.0), (2.0, 4601.0), (3.0, 4602.0), (4.0, 1002.9)):
        watch.look(now, when)
    assert watch.words() == "the wall clock was set 2 times, by +0 s in all"
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [3600.0, -3600.1]
