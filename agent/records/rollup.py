"""Roll-ups: what was counted between two looks at the tally, by trunk and by rule. Pure arithmetic.

A roll-up counts every attempt, recorded or not: with it the sampled records of allowed calls can be scaled up, and a
fleet's figures need no record of them at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from agent.records.record import rfc3339

# Fine enough to see a flood begin, and 8,640 records a day.
ROLLUP_SECONDS: Final = 10.0

_Pairs = Mapping[tuple[str, str], int]


class Counts(Protocol):
    """What is looked at: the counts of `agent.service.Tally`, which only ever grow."""

    @property
    def attempts(self) -> int: ...
    @property
    def repeats(self) -> int: ...
    @property
    def not_decided(self) -> int: ...
    @property
    def by_trunk(self) -> _Pairs: ...
    @property
    def by_rule(self) -> _Pairs: ...


@dataclass(frozen=True, slots=True)
class Look:
    """The counts at one moment (`now`: monotonic seconds)."""

    now: float = 0.0
    attempts: int = 0
    repeats: int = 0
    not_decided: int = 0
    by_trunk: _Pairs = field(default_factory=dict)
    by_rule: _Pairs = field(default_factory=dict)

    @classmethod
    def at(cls, counts: Counts, now: float) -> "Look":
        """A copy of what is counted so far."""
        return cls(
            now, counts.attempts, counts.repeats, counts.not_decided, dict(counts.by_trunk), dict(counts.by_rule)
        )


def roll_up(before: Look, after: Look, when: float) -> dict[str, object]:
    """What was added between two looks, as a record. `time` is the end of the period, `seconds` its length.

    `trunks` and `rules` name only what moved: {"peer": {"allow": 31, "refuse": 2}}; rule "" is "no rule objects".
    """
    return {
        "time": rfc3339(when),
        "seconds": round(after.now - before.now, 3),
        "attempts": after.attempts - before.attempts,
        "repeats": after.repeats - before.repeats,
        "not_decided": after.not_decided - before.not_decided,
        "trunks": _differences(before.by_trunk, after.by_trunk),
        "rules": _differences(before.by_rule, after.by_rule),
    }


def _differences(before: _Pairs, after: _Pairs) -> dict[str, dict[str, int]]:
    moved: dict[str, dict[str, int]] = {}
    for (name, action), count in sorted(after.items()):
        if added := count - before.get((name, action), 0):
            moved.setdefault(name, {})[action] = added
    return moved
