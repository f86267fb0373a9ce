"""All shares of all limits, for as long as this controller leads. It keeps them in memory only: who leads next hands
nothing out until every lease of this one has ended.

Bounds: what an agent may ask for at once, limits times keys in all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

from controller.model import WARN_AT, FleetLimit
from controller.quota.division import Division, Fleet
from controller.quota.model import DRIFT, LIFE, Answer, Demand, Grant, LimitView, Question, Rate

DEMANDS_MAX: Final = 4096
"""Of one question; an agent has no more keys."""

KEYS_MAX: Final = 20_000
"""Limits times keys, in all. What is beyond gets nothing, and is counted."""

TIDY_SECONDS: Final = 10.0


@dataclass(slots=True)
class Asked:
    """An agent that has asked this leader. `keys` are those of its last question."""

    at: float
    keys: set[tuple[str, str]] = field(default_factory=set)


class Quotas:
    """Idle until `begin`. The limits and the agents of the fleet are told as they change."""

    def __init__(self) -> None:
        self.epoch = 0
        self.questions = 0
        self.grants = 0
        self.overflows = 0
        self._not_before = inf
        self._limits: Mapping[str, Rate] = {}
        self._warn_at: Mapping[str, float] = {}
        self._enrolled: frozenset[str] = frozenset()
        self._asked: dict[str, Asked] = {}
        self._divisions: dict[tuple[str, str], Division] = {}
        self._fleet = Fleet(1, 0)
        self._tidied_at = -inf

    # --- what happens around

    def begin(self, epoch: int, now: float) -> None:
        """Lead. Nothing is known of what was leased before: none of it lives longer than a life."""
        self.epoch = epoch
        self._not_before = now + LIFE * (1 + DRIFT)
        self._asked.clear()
        self._divisions.clear()
        self._count()

    def end(self) -> None:
        """Do not lead any more."""
        self.epoch, self._not_before = 0, inf
        self._asked.clear()
        self._divisions.clear()

    def set_limits(self, limits: Iterable[FleetLimit]) -> None:
        """Those that operators have set, all of them."""
        limits = tuple(limits)
        self._warn_at = {limit.name: limit.warn_at for limit in limits}
        self._limits = {limit.name: Rate(limit.rate, limit.burst, limit.partition) for limit in limits}
        for (name, _), division in self._divisions.items():
            division.set_limit(self._limits.get(name))

    def set_agents(self, agents: Iterable[str]) -> None:
        """Those that are enrolled and not revoked. Nothing is set apart for those that are not any more."""
        before, self._enrolled = self._enrolled, frozenset(agents)
        for agent in before - self._enrolled:
            asked = self._asked.pop(agent, Asked(0.0))
            for key in asked.keys:
                self._divisions[key].give_back(agent, asked.at + LIFE)
        self._count()

    # --- what agents ask

    def ask(self, question: Question, now: float) -> Answer:
        """What the agent may use from when it asked."""
        self.questions += 1
        if not self.epoch:
            return Answer(question.agent, question.sequence, 0)
        self._tidy(now)
        asked = self._asked.get(question.agent)
        if asked is None:
            asked = self._asked[question.agent] = Asked(now)
            self._count()
        asked.at = now
        demands = question.demands[:DEMANDS_MAX]
        keys = {(demand.limit, demand.key) for demand in demands}
        for key in asked.keys - keys:
            self._divisions[key].give_back(question.agent, now)
        for key in asked.keys & keys:
            self._divisions[key].applied(question.agent, question.applied, now)
        asked.keys &= keys
        for demand in demands:
            division = self._division(demand)
            if division is not None:
                asked.keys.add((demand.limit, demand.key))
                division.note(question.agent, demand, self._fleet, now)
        if now < self._not_before:
            return Answer(question.agent, question.sequence, self.epoch)
        grants = tuple(self._grant(key, question, now) for key in sorted(asked.keys))
        self.grants += len(grants)
        return Answer(question.agent, question.sequence, self.epoch, grants)

    def _grant(self, key: tuple[str, str], question: Question, now: float) -> Grant:
        division = self._divisions[key]
        share, safe = division.grant(question.agent, question.sequence, self._fleet, now)
        return Grant(*key, share, safe, division.rate.partition)

    def _division(self, demand: Demand) -> Division | None:
        """Where this is divided; None if there is no room for one more."""
        key = (demand.limit, demand.key)
        division = self._divisions.get(key)
        if division is None:
            if len(self._divisions) >= KEYS_MAX:
                self.overflows += 1
                return None
            division = self._divisions[key] = Division(self._limits.get(demand.limit))
        return division

    def views(self, now: float) -> list[LimitView]:
        """Every limit that is set or asked for, by name; none of those that others lead."""
        self._tidy(now, every=0.0)
        by_name: dict[str, list[Division]] = {name: [] for name in self._limits}
        for (name, _), division in self._divisions.items():
            by_name.setdefault(name, []).append(division)
        return [
            LimitView(
                name,
                self._limits.get(name) or divisions[0].rate,
                sum(division.holdings.total.rate for division in divisions),
                sum(division.demand for division in divisions),
                max((division.agents for division in divisions), default=0),
                len(divisions),
                max(
                    (division.demand / division.rate.rate for division in divisions if division.rate.rate), default=0.0
                ),
                self._warn_at.get(name, WARN_AT),
            )
            for name, divisions in sorted(by_name.items())
        ]

    def _tidy(self, now: float, every: float = TIDY_SECONDS) -> None:
        if now - self._tidied_at < every:
            return
        self._tidied_at = now
        for division in self._divisions.values():
            division.tidy(now)
        self._divisions = {key: division for key, division in self._divisions.items() if not division.idle}
        for asked in self._asked.values():
            asked.keys &= self._divisions.keys()

    def _count(self) -> None:
        size = max(1, len(self._enrolled | self._asked.keys()))
        self._fleet = Fleet(1 << (size - 1).bit_length(), len(self._enrolled - self._asked.keys()))
