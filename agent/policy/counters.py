"""Rates: the generic cell rate algorithm (ITU-T I.371 annex A) and the attempts of the running window, per key.

Knows nothing of calls; time is an argument (monotonic seconds). Exact while the table is not full: a cell is
forgotten only after so long without an attempt that a new one would behave alike. A flood of fresh keys
cannot grow it beyond `capacity`; what is then forgotten early is counted in `overflows`, and errs towards
letting calls pass.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

# 200,000 callers at once is ten times the busiest SBC we know of; a cell costs about 250 bytes, so 50 MB at worst.
CAPACITY: Final = 200_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` attempts per `window` seconds, and `burst` attempts (at least 1) that may come at once.

    In any interval of t seconds at most count / window * t + burst attempts are admitted.
    """

    count: float
    window: float
    burst: float
    # Seconds between two attempts at the even rate (the T of I.371).
    interval: float = field(init=False)
    # Seconds that an attempt may come early (the tau of I.371).
    tolerance: float = field(init=False)

    def __post_init__(self) -> None:
        if not (self.count > 0 and self.window > 0 and self.burst >= 1):
            raise ValueError("a rate needs count > 0, window > 0 and burst >= 1")
        if not all(map(isfinite, (self.count, self.window, self.burst))):
            raise ValueError("a rate needs finite numbers")
        object.__setattr__(self, "interval", self.window / self.count)
        object.__setattr__(self, "tolerance", (self.burst - 1) * self.interval)


class Cell:
    """One key: when the next attempt is due at the even rate, and the attempts of the running window."""

    __slots__ = ("attempts", "due", "window_start")

    def __init__(self, now: float) -> None:
        self.due = now
        self.window_start = now
        self.attempts = 0


class RateTable:
    """The cells of one limit. Two generations: what was not touched for a whole generation is forgotten.

    A generation lasts at least `horizon` seconds, after which an untouched cell holds nothing that matters: its
    due time is past and its window is over.
    """

    __slots__ = ("_capacity", "_horizon", "_old", "_rotate_at", "_young", "overflows")

    def __init__(self, rate: Rate, capacity: int = CAPACITY) -> None:
        self._young: dict[Hashable, Cell] = {}
        self._old: dict[Hashable, Cell] = {}
        self._capacity = max(1, capacity // 2)
        self._rotate_at = float("-inf")
        self._horizon = 0.0
        self.overflows = 0
        self.resize(rate)

    def resize(self, rate: Rate) -> None:
        """Follow a changed rate; the cells stay, since a due time means the same under every rate."""
        self._horizon = max(self._horizon, rate.tolerance + rate.interval, rate.window)

    def hit(self, key: Hashable, now: float, window: float) -> Cell:
        """Count one attempt in the running window of `window` seconds; returns the cell. Consumes nothing."""
        if now >= self._rotate_at:
            self._rotate(now)
        cell = self._young.get(key)
        if cell is None:
            cell = self._revive(key, now)
        if not 0.0 <= now - cell.window_start < window:
            cell.window_start = now
            cell.attempts = 1
        else:
            cell.attempts += 1
        return cell

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def _revive(self, key: Hashable, now: float) -> Cell:
        cell = self._old.pop(key, None) or Cell(now)
        if len(self._young) >= self._capacity:
            self.overflows += len(self._old)
            self._old, self._young = self._young, {}
            self._rotate_at = now + self._horizon
        self._young[key] = cell
        return cell

    def _rotate(self, now: float) -> None:
        self._old, self._young = self._young, {}
        self._rotate_at = now + self._horizon


def conforms(cell: Cell, rate: Rate, now: float) -> bool:
    """Whether an attempt at `now` keeps within the rate. Consumes nothing.

    A due time further away than this rate can have put it comes from a clock that stepped back or from a slower
    rate that was replaced: the cell is then taken as fresh, so that a bad clock never blocks calls for long.
    """
    early = cell.due - now
    return early <= rate.tolerance or early > 2 * (rate.tolerance + rate.interval)


def admit(cell: Cell, rate: Rate, now: float) -> None:
    """Consume one attempt. Call it only for an attempt that conforms."""
    due = cell.due
    cell.due = (due if now < due <= now + rate.tolerance else now) + rate.interval
