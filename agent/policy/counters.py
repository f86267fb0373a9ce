"""Rates: the generic cell rate algorithm (ITU-T I.371 annex A) and the attempts of the running window, per key.

Knows nothing of calls; time is an argument (monotonic seconds). Exact while a table is not full: a cell is
forgotten only after so long without an attempt that a new one would behave alike. A flood of fresh keys
cannot grow a table beyond its capacity; what is then forgotten early is counted in `overflows`, and errs towards
letting calls pass.

A `RateBank` asks all limits about one attempt in one call. `RateTable` and `RateBank` have compiled twins.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Final

from agent import native
from agent.hashing import identify_py

if TYPE_CHECKING:
    from typing_extensions import Buffer

# 200,000 callers at once is ten times the busiest SBC we know of; a cell costs about 250 bytes, so 50 MB at worst.
CAPACITY: Final = 200_000
# Two bits per table in one machine word; a policy of more rates than that is generated, and better as one by key.
BANK_MAX: Final = 32
# Seconds. Monotonic clocks stay below 10^7 s, where a float resolves 2e-9 s and each admission rounds by up to half
# of that. Without this grace a burst of 10 would now and then admit 9.
CLOCK_RESOLUTION: Final = 1e-7
ROUNDING: Final = 1e-9
# A cell that survives a restart: its key (agent.hashing), seconds until it is due, age of its window, attempts in it.
KEPT: Final = struct.Struct("<QdfI")
ATTEMPTS_MAX: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` attempts per `window` seconds, and `burst` attempts (at least 1) that may come at once.

    In any interval of t seconds (taken to the resolution of the clock) at most count / window * t + burst
    attempts are admitted.
    """

    count: float
    window: float
    burst: float
    # Seconds between two attempts at the even rate (the T of I.371).
    interval: float = field(init=False)
    # Seconds that an attempt may come early (the tau of I.371).
    tolerance: float = field(init=False)

    @property
    def grace(self) -> float:
        """Seconds that rounding may take from the burst, and that are given back."""
        return CLOCK_RESOLUTION + self.burst * ROUNDING

    def __post_init__(self) -> None:
        if not (self.count > 0 and self.window > 0 and self.burst >= 1):
            raise ValueError("a rate needs count > 0, window > 0 and burst >= 1")
        if not all(map(isfinite, (self.count, self.window, self.burst))):
            raise ValueError("a rate needs finite numbers")
        object.__setattr__(self, "interval", self.window / self.count)
        object.__setattr__(self, "tolerance", (self.burst - 1) * self.interval + self.grace)


class Cell:
    """One key: when the next attempt is due at the even rate, and the attempts of the running window."""

    __slots__ = ("attempts", "due", "start")

    def __init__(self, now: float) -> None:
        self.due = now
        self.start = now
        self.attempts = 0


class RateTablePy:
    """The cells of one limit. Two generations: what was not touched for a whole generation is forgotten.

    A generation lasts at least the horizon, after which an untouched cell holds nothing that matters: its due
    time is past and its window is over.
    """

    def __init__(self, window: float, interval: float, tolerance: float, capacity: int = CAPACITY) -> None:
        self._young: dict[str, Cell] = {}
        self._old: dict[str, Cell] = {}
        self._kept: dict[int, Cell] = {}  # restored, and not touched since
        self._half = max(1, capacity // 2)
        self._rotate_at = float("-inf")
        self._horizon = 0.0
        self.overflows = 0
        self.configure(window, interval, tolerance)

    def configure(self, window: float, interval: float, tolerance: float) -> None:
        """Follow a changed rate; the cells stay, since a due time means the same under every rate."""
        self.window, self.interval, self.tolerance = window, interval, tolerance
        self._horizon = max(self._horizon, tolerance + interval, window)

    def __len__(self) -> int:
        return len(self._young) + len(self._old) + len(self._kept)

    def hit(self, key: str, now: float) -> Cell:
        """Count one attempt in the running window; returns the cell. Consumes nothing."""
        if now >= self._rotate_at:
            self._rotate(now)
        cell = self._young.get(key)
        if cell is None:
            cell = self._revive(key, now)
        if 0.0 <= now - cell.start < self.window:
            cell.attempts += 1
        else:
            cell.start = now
            cell.attempts = 1
        return cell

    def conforms(self, cell: Cell, now: float) -> bool:
        """Whether an attempt at `now` keeps within the rate. Consumes nothing.

        A due time further away than this rate can have put it comes from a clock that stepped back or from a
        slower rate that was replaced: the cell is then taken as fresh, so that it never blocks calls for long.
        """
        early = cell.due - now
        return early <= self.tolerance or early > 2 * (self.tolerance + self.interval)

    def admit(self, cell: Cell, now: float) -> None:
        """Consume one attempt. Call it only for an attempt that conforms."""
        early = cell.due - now
        cell.due = (cell.due if 0 < early <= self.tolerance else now) + self.interval

    def _revive(self, key: str, now: float) -> Cell:
        cell = self._old.pop(key, None)
        if cell is None:
            kept = self._kept.pop(identify_py(key), None) if self._kept else None
            cell = Cell(now) if kept is None else kept
        if len(self._young) >= self._half:
            self.overflows += len(self._old) + len(self._kept)
            self._rotate(now)
        self._young[key] = cell
        return cell

    def export(self, now: float) -> bytes:
        """The cells that matter: one that is due and whose window is over behaves like a new one."""
        cells = [(identify_py(key), cell) for part in (self._old, self._young) for key, cell in part.items()]
        kept = [_keep(key, cell, now, self.window) for key, cell in (*self._kept.items(), *cells)]
        return b"".join([one for one in kept if one])

    def restore(self, data: "Buffer", now: float, elapsed: float) -> int:
        """Take back the cells that another table exported `elapsed` seconds ago; how many. Only into a new table.

        `now` need not be of the same clock. Times keep to `elapsed` exactly, so that neither more nor less is admitted
        than if nothing had happened. Raises ValueError for what no table exported.
        """
        if memoryview(data).nbytes % KEPT.size:
            raise ValueError("no whole number of cells")
        for key, due, age, attempts in KEPT.iter_unpack(data):
            cell = Cell(now)
            cell.due, cell.start, cell.attempts = now + (due - elapsed), now - (age + elapsed), attempts
            known = key in self._kept or len(self._kept) >= 2 * self._half
            if key and not known and isfinite(cell.due) and isfinite(cell.start) and _matters(cell, now, self.window):
                self._kept[key] = cell
        if self._kept:
            self._rotate_at = now + self._horizon
        return len(self._kept)

    def _rotate(self, now: float) -> None:
        self._old, self._young = self._young, {}
        self._kept = {}
        self._rotate_at = now + self._horizon


def _matters(cell: Cell, now: float, window: float) -> bool:
    return cell.due > now or 0.0 <= now - cell.start < window


def _keep(key: int, cell: Cell, now: float, window: float) -> bytes:
    if not _matters(cell, now, window):
        return b""
    age = now - cell.start
    if 0.0 <= age < window:
        return KEPT.pack(key, cell.due - now, age, min(cell.attempts, ATTEMPTS_MAX))
    return KEPT.pack(key, cell.due - now, 2 * window, 0)


class RateBankPy:
    """All rate limits of a policy, asked about one attempt in one call.

    `slots` says of each table which of the attempt's keys it counts by; an empty key means that the limit does
    not apply. `warn` is how many attempts in a window raise a warning, 0 for never. At most BANK_MAX tables.
    """

    def __init__(self, tables: Sequence[RateTablePy], slots: Sequence[int], warn: Sequence[int]) -> None:
        if not len(tables) == len(slots) == len(warn) <= BANK_MAX:
            raise ValueError(f"a bank takes one slot and one warning per table, and at most {BANK_MAX} tables")
        self._limits = tuple(zip(tables, slots, warn, strict=True))
        self._cells: list[Cell | None] = [None] * len(tables)

    def hit(self, keys: tuple[str, ...], now: float) -> int:
        """Count the attempt with every limit that applies; 0 for nothing to say.

        Bit i is set if it does not conform to limit i, bit BANK_MAX + i if it is the one that raises a warning.
        """
        over = 0
        cells: list[Cell | None] = []
        for i, (table, slot, warn) in enumerate(self._limits):
            key = keys[slot]
            if not key:
                cells.append(None)
                continue
            cell = table.hit(key, now)
            cells.append(cell)
            if not table.conforms(cell, now):
                over |= 1 << i
            if cell.attempts == warn:
                over |= 1 << (BANK_MAX + i)
        self._cells = cells
        return over

    def attempts(self, i: int) -> int:
        """Attempts in limit i's running window, of the key of the last `hit`; 0 where it did not apply."""
        cell = self._cells[i]
        return 0 if cell is None else cell.attempts

    def admit(self, now: float) -> None:
        """The attempt of the last `hit` passes: consume of every limit to which it conforms. Once per hit."""
        for (table, _, _), cell in zip(self._limits, self._cells, strict=True):
            if cell is not None and table.conforms(cell, now):
                table.admit(cell, now)
        self._cells = [None] * len(self._cells)


if TYPE_CHECKING or native.rates is None:
    RateTable = RateTablePy
    RateBank = RateBankPy
else:
    RateTable = native.rates.RateTable
    RateBank = native.rates.RateBank


def new_table(rate: Rate, capacity: int = CAPACITY) -> RateTablePy:
    """A table for this rate, of the twin in use."""
    return RateTable(rate.window, rate.interval, rate.tolerance, capacity)
