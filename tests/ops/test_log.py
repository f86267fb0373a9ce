"""Log lines: JSON, bounded in length and number, and never a reason to wait."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.ops.log import FAULT_KINDS, LINE_MAX, LineWriter, Log
from agent.screening import Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import invite, policy, screen

REFUSING = pb.Policy(
    generation=3, limits=[pb.Limit(name="all", scope=pb.SCOPE_GLOBAL, rate=1, window_seconds=3600, burst=1)]
)


class Journal:
    """Takes lines, and can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.writer = LineWriter(self._descriptor)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal")
    yield opened
    opened.close()


def test_a_line_is_one_object_that_begins_with_time_level_and_event(journal: Journal) -> None:
    Log(journal.writer).info("ready", answer=42, text="two\nlines")
    (line,) = journal.lines()
    assert list(line) == ["time", "level", "event", "answer", "text"]
    assert (line["level"], line["event"], line["answer"], line["text"]) == ("info", "ready", 42, "two\nlines")


def test_lines_below_the_level_are_not_written(journal: Journal) -> None:
    log = Log(journal.writer, "warning")
    for write in (log.debug, log.info, log.warning, log.error):
        write("x")
    assert [line["level"] for line in journal.lines()] == ["warning", "error"]


def test_long_values_are_cut_and_a_line_never_exceeds_its_bound(journal: Journal) -> None:
    log = Log(journal.writer)
    log.info("one", value="v" * 60_000)
    log.info("many", **{f"key{n}": "\x00" * 250 for n in range(50)})
    one, many = journal.lines()
    assert one["value"] == "v" * 256 + "..."
    assert (many["event"], many["shortened"]) == ("many", True)
    assert all(len(json.dumps(line)) < LINE_MAX for line in (one, many))


def test_a_refused_call_has_a_line_and_an_allowed_one_has_none(journal: Journal) -> None:
    log, screening = Log(journal.writer), Screening(policy(REFUSING))
    log.put(screen(screening, invite(call_id="good@a.example.net")))
    log.put(screen(screening, invite(call_id="bad@a.example.net")))
    (line,) = journal.lines()
    wanted: dict[str, object] = {"action": "refuse", "rule": "all", "category": "limit", "call_id": "bad@a.example.net"}
    wanted |= {"calling": "12015550123", "called": "13035550199", "policy_generation": 3}
    assert wanted.items() <= line.items()
    assert line["why"].startswith("2 attempts in 3600 s, limit 1")


def test_refused_calls_beyond_the_rate_are_counted_and_told_once_a_second(journal: Journal) -> None:
    log, screening = Log(journal.writer, refusals_per_second=2), Screening(policy(REFUSING))
    decisions = [screen(screening, invite()) for _ in range(8)][1:]
    for decision in decisions:
        log.put(decision)
    assert log.refusals_not_logged == 5
    log.second()
    log.put(decisions[0])
    log.second()
    assert [line["event"] for line in journal.lines()] == [
        "call refused",
        "call refused",
        "calls refused, not logged one by one",
        "call refused",
    ]
    assert journal.lines()[2]["count"] == 5


def test_a_fault_is_told_once_per_kind_with_its_traceback_and_always_counted(journal: Journal) -> None:
    log = Log(journal.writer)
    for _ in range(3):
        for error in (_raised(KeyError("a")), _raised(KeyError("b")), _raised(OSError("c"))):
            log.fault(error, "screening")
    lines = journal.lines()
    assert [line["error"] for line in lines] == ["KeyError: 'a'", "OSError: c"]
    assert "test_log.py" in lines[0]["traceback"]
    assert log.faults == 9


def test_kinds_of_faults_are_bounded(journal: Journal) -> None:
    log = Log(journal.writer)
    for n in range(FAULT_KINDS + 50):
        log.fault(ValueError("x"), f"place {n}")
    assert len(journal.lines()) == FAULT_KINDS
    assert log.faults == FAULT_KINDS + 50


def test_a_pipe_that_nobody_reads_loses_lines_and_makes_nobody_wait() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    writer = LineWriter(writing)
    log = Log(writer)
    for _ in range(100):
        log.info("x" * 200)
    assert 0 < writer.lost < 100
    os.read(reading, 1 << 16)
    log.second()
    told = json.loads(os.read(reading, 4096))
    assert (told["event"], told["count"]) == ("log lines lost", writer.lost)
    os.close(reading)
    log.info("to nobody at all")
    assert writer.lost == told["count"] + 1
    os.close(writing)


def test_what_libraries_log_comes_out_as_lines_too(journal: Journal) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        Log(journal.writer).take_standard_logging()
        logging.getLogger("asyncio").warning("slow %s", "callback")
        logging.getLogger("asyncio").info("nobody needs this")
        logging.getLogger("asyncio").error("lost", exc_info=_raised(OSError("gone")))
    finally:
        root.handlers[:], root.level = handlers, level
    warning, fault = journal.lines()
    assert (warning["event"], warning["logger"]) == ("slow callback", "asyncio")
    assert (fault["event"], fault["where"], fault["error"]) == ("fault", "asyncio: lost", "OSError: gone")


def _raised(error: Exception) -> Exception:
    """The exception with a traceback, as if it had been raised and caught."""
    try:
        raise error
    except Exception as caught:
        return caught
