"""How long to wait before the controller is asked again. No I/O: time and chance are arguments.

Full jitter: any time from none to the bound, so that a fleet that lost its controller at one moment does not come
back at one moment. The bound shrinks again only when a connection has been well for a minute: a controller that
accepts and falls over at once must not be asked in a circle.
"""

from collections.abc import Callable
from typing import Final

from agent.control.errors import ControllerError, Trouble

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
HEALTHY_SECONDS: Final = 60.0

BANNED_SECONDS: Final = 3600.0
"""An operator has to change his mind first."""

STRANGER_SECONDS: Final = 300.0
"""An operator has to enrol it again, which ends the wait; or somebody's clock has to be put right."""

SPREAD: Final = 0.25
"""Of a time that the controller named: at least that, and up to so much more."""


class Backoff:
    """`chance` gives numbers from 0 to below 1. Times are monotonic seconds."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._bound = FIRST_SECONDS
        self._opened_at: float | None = None

    def opened(self, now: float) -> None:
        """The other side has answered."""
        self._opened_at = now

    def failed(self, error: ControllerError | None, now: float) -> float:
        """It is over, by this fault or None. Seconds to wait."""
        if self._opened_at is not None and now - self._opened_at >= HEALTHY_SECONDS:
            self._bound = FIRST_SECONDS
        self._opened_at = None
        bound, self._bound = self._bound, min(self._bound * 2, LONGEST_SECONDS)
        delay = bound * self._chance()
        if error is None:
            return delay
        longer = {Trouble.BANNED: BANNED_SECONDS, Trouble.STRANGER: STRANGER_SECONDS}.get(error.trouble, 0.0)
        least = max(error.retry_after, longer)
        return max(delay, least * (1 + SPREAD * self._chance()))
