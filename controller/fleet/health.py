"""What an agent's health reports amount to: rates between two of them, and sums under one policy.

Time is an argument. Knows one session; what it says goes into the store as it is.
"""

from typing import Final

from controller.fleet.messages import HealthReport
from controller.model import HealthNote

INTERVAL_MIN: Final = 0.5
"""Seconds below which a rate means nothing: reports that follow each other so fast are rated together."""

SHARE_DIGITS: Final = 4


class HealthReader:
    """Of one session. `now` is monotonic, `when` epoch seconds."""

    def __init__(self) -> None:
        self._rated_at: float | None = None
        self._attempts = self._refusals = 0  # since then
        self._rate = self._share = 0.0
        self._under: tuple[int, bytes] | None = None  # the generation that the sums are about
        self._sums = (0, 0)

    def read(self, report: HealthReport, now: float, when: float) -> HealthNote:
        """The note of a report."""
        self._sum(report)
        self._rate_since(report, now)
        return HealthNote(
            at=when,
            active_generation=report.active_generation,
            active_sha256=report.active_sha256,
            trouble=report.trouble,
            counters=report.counters,
            attempts_per_second=round(self._rate, 2),
            refused_share=round(self._share, SHARE_DIGITS),
            clock_offset=0.0 if report.at is None else round(report.at - when, 3),
            attempts=self._sums[0],
            refusals=self._sums[1],
            upgrade=report.upgrade,
        )

    def _sum(self, report: HealthReport) -> None:
        """Under what is in force. The report in which it changed, or which is the first, is of more than that."""
        under = (report.active_generation, report.active_sha256)  # with other lists the same policy decides otherwise
        if under != self._under:
            self._under, self._sums = under, (0, 0)
        else:
            self._sums = (self._sums[0] + report.attempts, self._sums[1] + report.refusals)

    def _rate_since(self, report: HealthReport, now: float) -> None:
        """From the first report on: that one may be about an hour in which nobody listened."""
        if self._rated_at is None:
            self._rated_at = now
            return
        self._attempts += report.attempts
        self._refusals += report.refusals
        elapsed = now - self._rated_at
        if elapsed < INTERVAL_MIN:
            return
        self._rate = self._attempts / elapsed
        self._share = min(1.0, self._refusals / self._attempts) if self._attempts else 0.0
        self._attempts = self._refusals = 0
        self._rated_at = now
