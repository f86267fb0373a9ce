"""Whether the wall clock goes on as the monotonic one does, or somebody sets it. Reads neither.

Nothing is decided by the wall clock but what holds until a date (entries of a list, certificates). Still an operator
must know that it was set: the times of records around it lie apart, or come twice.
"""

from typing import Final

from agent.ops.log import Log

STEP_SECONDS: Final = 1.0
"""NTP slews what is less than that (half a millisecond in a second at most), and sets the clock for more."""


class ClockWatch:
    """Compares the clocks each time that it is told them. Logs and counts each step."""

    def __init__(self, log: Log) -> None:
        self.steps = 0
        self._log = log
        self._ahead: float | None = None  # of the wall clock, at the last look
        self._total = 0.0

    def look(self, now: float, when: float) -> None:
        """`now` is monotonic, `when` epoch seconds."""
        ahead, before = when - now, self._ahead
        self._ahead = ahead
        if before is not None and abs(ahead - before) >= STEP_SECONDS:
            self.steps += 1
            self._total += ahead - before
            self._log.warning("the wall clock was set", seconds=round(ahead - before, 3), steps=self.steps)

    def words(self) -> str:
        """What became of it since the start; "" for nothing."""
        return f"the wall clock was set {self.steps} times, by {round(self._total):+d} s in all" if self.steps else ""
