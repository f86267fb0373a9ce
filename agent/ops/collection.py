"""When Python's cyclic collector may look at everything. Knows the collector, and how busy the agent is.

A full collection looks at every object that lives: with the tables full of call attempts that took up to 270 ms, every
few seconds, in which no call was answered. What a call leaves behind is freed without it, by reference counts; cycles
are rare (a fault with its traceback, a task that was cancelled) and can wait. So young objects are collected as ever,
and everything only in a quiet moment, or after a day without one.
"""

import gc
from typing import Final

QUIET_ATTEMPTS: Final = 20
"""Per second; below it the tables of the last 40 s are small, and a full collection takes some milliseconds."""

EVERY_SECONDS: Final = 600.0
AT_LAST_SECONDS: Final = 86_400.0

# The collector's own rule for the oldest generation: not before so many collections of the middle one.
_NEVER: Final = 1_000_000_000


class Collection:
    """Decides, once a second. `now` is monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._last = now
        self._attempts = 0

    def begin(self) -> None:
        """To be called when everything is built: what there is by now stays, and is not looked at again."""
        first, second, _ = gc.get_threshold()
        gc.set_threshold(first, second, _NEVER)
        gc.collect()
        gc.freeze()

    def second(self, attempts: int, now: float) -> bool:
        """Collect if this is the time for it. `attempts` is how many there were since the start of the process."""
        quiet = attempts - self._attempts < QUIET_ATTEMPTS
        self._attempts = attempts
        if now - self._last < (EVERY_SECONDS if quiet else AT_LAST_SECONDS):
            return False
        self._last = now
        gc.collect()
        return True
