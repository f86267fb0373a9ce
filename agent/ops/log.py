"""Log lines: one JSON object each on stdout, which journald keeps. Knows how to write them and how many are enough.

Nothing is logged of an allowed call: a line costs ten times a decision. A refused call has one line, up to a rate;
a fault of ours has one with its traceback per kind, and is counted from then on. A log that cannot take a line loses
it, and says later how many: a journal that hangs must not hang calls.
"""

import json
import logging
import os
import select
import traceback
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

import structlog

from agent.calls.legs import AnswerResult, TransitResult
from agent.model import Allow
from agent.records.record import verdict_words, wire_text
from agent.screening import Decision, Passed, RefusedCall, refused

LINE_MAX: Final = 4096
"""Bytes of one line. A pipe that polls writable takes so many at once (PIPE_BUF), and so does journald's socket."""

VALUE_MAX: Final = 256
"""Characters of one value: the Call-ID of a hostile peer may have 60,000."""

TRACEBACK_MAX: Final = 2048
"""Characters of a traceback; the end of it says where the fault is."""

FAULT_KINDS: Final = 256
"""Kinds of faults that are told apart; our code has fewer places that can raise."""

FIRST: Final = ("time", "level", "event")
"""The keys that a reader looks for."""


class LineWriter:
    """Writes whole lines to a descriptor if that is possible at once; else counts them as lost."""

    def __init__(self, descriptor: int) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def msg(self, message: str) -> None:
        """Write one line, given without its end. Never waits and never raises."""
        line = message.encode(errors="backslashreplace") + b"\n"
        try:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT or os.write(self._descriptor, line) != len(line):
                self.lost += 1
        except OSError:
            self.lost += 1

    # structlog calls the method that is named like the level.
    debug = info = warning = error = critical = msg


class Log:
    """The daemon's log. `writer` is where lines go; times are wall-clock UTC."""

    def __init__(self, writer: LineWriter, level: str = "info", refusals_per_second: int = 20) -> None:
        self.writer = writer
        self.faults = 0  # faults of ours, ever
        self.refusals_not_logged = 0  # refused calls without a line, ever
        self._kinds: set[tuple[str, str, str]] = set()
        self._refusals_per_second = refusals_per_second
        self._refusals_left = refusals_per_second
        self._refusals_told = 0
        self._lines_told = 0
        self._level = getattr(logging, level.upper())
        self._logger = structlog.wrap_logger(
            writer,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                _render,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
            cache_logger_on_first_use=True,
        )

    def debug(self, event: str, **values: object) -> None:
        """For whoever looks for a fault."""
        self._logger.debug(event, **values)

    def info(self, event: str, **values: object) -> None:
        """What an operator wants to find later: started, policy changed, stopped."""
        self._logger.info(event, **values)

    def warning(self, event: str, **values: object) -> None:
        """What an operator should look at when there is time."""
        self._logger.warning(event, **values)

    def error(self, event: str, **values: object) -> None:
        """What keeps a part from its work."""
        self._logger.error(event, **values)

    def fault(self, error: BaseException, where: str) -> None:
        """An exception that nobody expected: counted; one line per kind, a kind being its type and place."""
        self.faults += 1
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        kind = (where, type(error).__name__, place)
        if kind in self._kinds or len(self._kinds) >= FAULT_KINDS:
            return
        self._kinds.add(kind)
        text = "".join(traceback.format_exception(error))
        self._logger.error(
            "fault", where=where, error=f"{type(error).__name__}: {error}", traceback=text[-TRACEBACK_MAX:]
        )

    def put_passed(self, calls: Sequence[Passed]) -> None:
        """Nothing: there is no line for a call that passes."""

    def put_refused(self, one: RefusedCall) -> None:
        """As `put`."""
        if self._has_room():
            self._write(refused(one))

    def put(self, decision: Decision) -> None:
        """One line for a refused or dropped call attempt, up to the rate. Never raises."""
        if not isinstance(decision.verdict.action, Allow) and self._has_room():
            self._write(decision)

    def _write(self, decision: Decision) -> None:
        verdict = decision.verdict
        attempt = decision.attempt
        self._logger.info(
            "call refused",
            **verdict_words(verdict),
            trunk=attempt.trunk,
            call_id=wire_text(attempt.message.call_id),
            calling=attempt.calling.digits,
            called=attempt.called.digits,
            source=attempt.source,
            policy_generation=decision.policy.generation,
        )

    def transit(self, result: TransitResult) -> None:
        """One line for a call whose Identity did not go out as it came in, up to the rate of refusals. Never raises."""
        if result.transit.intact or not self._has_room():
            return
        self._logger.warning(
            "identity not passed on as it came",
            what=result.transit.words(),
            ingress=result.ingress,
            egress=result.egress,
            call_id=wire_text(result.call_id),
            call_id_out=wire_text(result.call_id_out),
            matched_by=str(result.match),
        )

    def altered_answer(self, result: AnswerResult) -> None:
        """The same for a refusal that the caller got otherwise than the called network gave it."""
        if not result.lost or not self._has_room():
            return
        self._logger.warning(
            "refusal not passed on as it came",
            lost=list(result.lost),
            came=f"{result.came.status} {wire_text(result.came.phrase)}",
            went=f"{result.went.status} {wire_text(result.went.phrase)}",
            ingress=result.ingress,
            egress=result.egress,
            call_id=wire_text(result.call_id),
        )

    def _has_room(self) -> bool:
        """Whether one more line about a call may be written this second; what may not is counted."""
        if not self._refusals_left:
            self.refusals_not_logged += 1
            return False
        self._refusals_left -= 1
        return True

    def second(self) -> None:
        """To be called once a second: there is room for refusals again; say what had no line."""
        self._refusals_left = self._refusals_per_second
        if self.refusals_not_logged > self._refusals_told:
            self.info("calls refused, not logged one by one", count=self.refusals_not_logged - self._refusals_told)
            self._refusals_told = self.refusals_not_logged
        if self.writer.lost > self._lines_told:
            lost, self._lines_told = self.writer.lost - self._lines_told, self.writer.lost
            self.warning("log lines lost", count=lost)

    def take_standard_logging(self) -> None:
        """Let what libraries log by the standard library (asyncio, grpc) come out as lines of this log."""
        root = logging.getLogger()
        root.handlers[:] = [_Bridge(self)]
        root.setLevel(max(self._level, logging.WARNING))


class _Bridge(logging.Handler):
    """From the standard library's logging to ours."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._log.fault(record.exc_info[1], f"{record.name}: {record.getMessage()}"[:VALUE_MAX])
        elif record.levelno >= logging.ERROR:
            self._log.error(record.getMessage(), logger=record.name)
        else:
            self._log.warning(record.getMessage(), logger=record.name)


def _render(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """One JSON object that fits on a line, however long the values are."""
    first = {key: event[key] for key in FIRST if key in event}
    bounded = {key: _bounded(key, value) for key, value in (first | dict(event)).items()}
    line = json.dumps(bounded, default=str)
    if len(line) < LINE_MAX:
        return line
    return json.dumps({key: bounded[key] for key in first} | {"shortened": True})


def _bounded(key: str, value: object) -> object:
    if isinstance(value, str) and key != "traceback" and len(value) > VALUE_MAX:
        return value[:VALUE_MAX] + "..."
    return value
