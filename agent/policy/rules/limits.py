"""Rule 5: rates and sessions, any number of limits at once, each counting by its own scope.

Every attempt counts in the running window, refused or not; only a call that passes *all* rules consumes of the
rate and takes a session. So a flood that one limit refuses does not eat what another grants to good calls.
"""

from collections.abc import Callable, Hashable
from typing import Final

from agent.calls.sessions import SessionTable
from agent.model import DROP, CallAttempt, Category, Refuse, Verdict
from agent.policy.counters import Cell, Rate, RateTable, admit, conforms
from agent.policy.policy import LimitSpec, Mode, Scope

Key = Callable[[CallAttempt], Hashable | None]

# What a limit counts by. None or "": the limit does not apply to this attempt.
KEYS: Final[dict[Scope, Key]] = {
    Scope.GLOBAL: lambda _attempt: "*",
    Scope.TRUNK: lambda attempt: attempt.trunk,
    Scope.CUSTOMER: lambda attempt: attempt.customer,
    Scope.CALLING: lambda attempt: attempt.calling.digits,
    Scope.CALLED: lambda attempt: attempt.called.digits,
}
# A limit on sessions alone still counts its attempts, over this window.
COUNT_ONLY: Final = Rate(1.0, 1.0, 1.0)


class LimitRule:
    """One limit. Remembers the cell of an attempt from `check` to the `admit` that directly follows it."""

    __slots__ = ("_cell", "_key", "_key_of", "_refuse", "_sessions", "_spec", "_table", "_warn_attempts",
                 "_window", "enforcing", "name", "warnings")

    def __init__(self, spec: LimitSpec, table: RateTable, sessions: SessionTable) -> None:
        self.name = spec.name
        self.enforcing = spec.rule.mode is Mode.ENFORCE
        self.warnings = 0
        self._spec = spec
        self._table = table
        self._sessions = sessions
        self._refuse = Refuse(spec.rule.answer)
        self._window = (spec.rate or COUNT_ONLY).window
        self._warn_attempts = max(1, round(spec.warn_at * spec.rate.count)) if spec.rate and spec.warn_at < 1 else 0
        self._key_of = _key(spec)
        self._key: Hashable | None = None
        self._cell: Cell | None = None

    def check(self, attempt: CallAttempt, now: float) -> Verdict | None:
        """Count the attempt; refuse it (or drop it, above the flood threshold) if it is over the limit."""
        key = self._key = self._key_of(attempt)
        if not key or self._spec.rule.allow.covers(attempt):
            self._key = self._cell = None
            return None
        cell = self._cell = self._table.hit(key, now, self._window)
        rate = self._spec.rate
        if cell.attempts == self._warn_attempts:
            self.warnings += 1
            attempt.notes += (f"{self.name}: {cell.attempts} attempts in {self._window:g} s, near the limit",)
        if rate is not None and not conforms(cell, rate, now):
            return self._over_rate(cell, rate)
        if self._spec.sessions and self._sessions.count((self.name, key)) >= self._spec.sessions:
            return self._verdict(f"{self._spec.sessions} calls in progress, limit {self._spec.sessions}")
        return None

    def admit(self, now: float) -> Hashable | None:
        """The attempt of the last `check` passes: consume of the rate. Returns the session key to hold, if any."""
        if self._cell is None:
            return None
        rate = self._spec.rate
        if rate is not None and (self.enforcing or conforms(self._cell, rate, now)):
            admit(self._cell, rate, now)
        return (self.name, self._key) if self._spec.sessions else None

    def _over_rate(self, cell: Cell, rate: Rate) -> Verdict:
        why = f"{cell.attempts} attempts in {rate.window:g} s, limit {rate.count:g}, burst {rate.burst:g}"
        if cell.attempts > self._spec.drop_above * rate.window:
            return Verdict(DROP, self.name, Category.LIMIT, f"{why}, dropped above {self._spec.drop_above:g} per s")
        return self._verdict(why)

    def _verdict(self, why: str) -> Verdict:
        return Verdict(self._refuse, self.name, Category.LIMIT, why)


def _key(spec: LimitSpec) -> Key:
    if spec.scope is Scope.CALLED_PREFIX:
        lengths = sorted({len(p) for p in spec.called_prefixes}, reverse=True)

        def base(attempt: CallAttempt) -> Hashable | None:
            digits = attempt.called.digits
            return next((digits[:n] for n in lengths if digits[:n] in spec.called_prefixes), None)
    else:
        base = KEYS[spec.scope]  # type: ignore[assignment]
    if not spec.trunks and not spec.customers:
        return base

    def of_chosen(attempt: CallAttempt) -> Hashable | None:
        chosen = attempt.trunk in spec.trunks or attempt.customer in spec.customers
        return base(attempt) if chosen else None

    return of_chosen


