"""What the daemon does regularly: measures how late it is, lets go of calls that are over, tells what has changed.

Knows no clock and no timer: `beat` is called every BEAT_SECONDS with the time.
"""

from collections.abc import Callable
from typing import Final

from agent.ops.collection import Collection
from agent.ops.notify import Notifier
from agent.ops.readings import Readings

BEAT_SECONDS: Final = 0.1
"""How often the event loop is measured; a call that waits longer than a few of these has gone on without us."""


class Pulse:
    """`summary` is the line for `systemctl status`. Times are monotonic seconds."""

    def __init__(self, readings: Readings, notifier: Notifier, summary: Callable[[], str], now: float) -> None:
        self._readings = readings
        self._notifier = notifier
        self._summary = summary
        self._told = summary()
        self._last = self._second = now
        self._stall = 0.0
        self._collection = Collection(now)

    def begin(self) -> None:
        """To be called when every part has started."""
        self._collection.begin()

    def beat(self, now: float, when: float | None = None) -> None:
        """Measure how late this is; once a second, do what a second brings. `when` is epoch seconds, if known."""
        self._stall = max(self._stall, now - self._last - BEAT_SECONDS)
        self._last = now
        if when is not None:
            self._readings.clock.look(now, when)
        if now - self._second >= 1.0:
            self._second = now
            self._readings.stall, self._stall = self._stall, 0.0
            self._readings.log.second()
            self._tell()
            service = self._readings.service
            service.screening.sessions.sweep(now)
            self._collection.second(service.tally.attempts, now)

    def _tell(self) -> None:
        """Tell systemd when things are no longer as it was told."""
        summary = self._summary()
        if summary != self._told:
            self._told = summary
            self._notifier.status(summary)
