"""What agents may be using of one limit and key, as far as the leader can know.

An agent uses one of the grants that were made to it since the one of which it has said that it follows it, or what one
of them has it fall to. So it is taken to use the largest of each; a share no longer than its lease runs, what it falls
to until it has said that it follows a later grant.
"""

from dataclasses import dataclass, replace
from math import fsum, inf
from typing import Final

from controller.quota.model import NOTHING, Amount

GRANTS_MAX: Final = 8
"""Of one agent that are remembered one by one: it is asked once a second, and a lease lives for three."""


@dataclass(frozen=True, slots=True)
class Given:
    """A grant. `until` by the leader's clock."""

    sequence: int
    share: Amount
    safe: Amount
    until: float

    def merged(self, later: "Given") -> "Given":
        """Both as one, which counts for as long as either."""
        until = max(self.until, later.until)
        return Given(later.sequence, self.share.most(later.share), self.safe.most(later.safe), until)


class Holding:
    """Of one agent."""

    __slots__ = ("_given", "reserved")

    def __init__(self) -> None:
        self._given: list[Given] = []
        self.reserved = NOTHING  # as of the latest change

    @property
    def empty(self) -> bool:
        return not self._given

    def add(self, given: Given, now: float) -> None:
        """One more grant."""
        self._given.append(given)
        if len(self._given) > GRANTS_MAX:
            first, second, *rest = self._given
            self._given = [first.merged(second), *rest]
        self.settle(now)

    def applied(self, sequence: int, now: float) -> None:
        """The agent follows the grant of this number: those before it are no more. An unknown number says nothing."""
        for n in range(len(self._given) - 1, 0, -1):
            if self._given[n].sequence == sequence:
                del self._given[:n]
                self.settle(now)
                return

    def give_back(self, now: float) -> None:
        """The agent has no use for it any more, and falls to nothing."""
        self._given = [replace(given, safe=NOTHING) for given in self._given if now < given.until < inf]
        self.settle(now)

    def settle(self, now: float) -> None:
        """Bring `reserved` up to date."""
        rate = burst = 0.0
        for given in self._given:
            rate, burst = max(rate, given.safe.rate), max(burst, given.safe.burst)
            if now < given.until:
                rate, burst = max(rate, given.share.rate), max(burst, given.share.burst)
        if rate != self.reserved.rate or burst != self.reserved.burst:
            self.reserved = Amount(rate, burst)
        if not rate and not burst:
            self._given.clear()


class Holdings:
    """Of all agents. `total` never says less than they may be using."""

    def __init__(self) -> None:
        self.total = NOTHING
        self._by_agent: dict[str, Holding] = {}

    def __contains__(self, agent: str) -> bool:
        return agent in self._by_agent

    def __len__(self) -> int:
        return len(self._by_agent)

    def of(self, agent: str) -> Amount:
        """What this agent may be using."""
        holding = self._by_agent.get(agent)
        return NOTHING if holding is None else holding.reserved

    def give(self, agent: str, given: Given, now: float) -> None:
        """A grant was made."""
        holding = self._by_agent.get(agent)
        if holding is None:
            holding = self._by_agent[agent] = Holding()
        before = holding.reserved
        holding.add(given, now)
        self.total += holding.reserved - before

    def applied(self, agent: str, sequence: int, now: float) -> None:
        """The agent follows the grant of this number."""
        holding = self._by_agent.get(agent)
        if holding is not None:
            before = holding.reserved
            holding.applied(sequence, now)
            self.total += holding.reserved - before

    def give_back(self, agent: str, now: float) -> None:
        """The agent has no use for its share any more."""
        holding = self._by_agent.get(agent)
        if holding is not None:
            before = holding.reserved
            holding.give_back(now)
            self.total += holding.reserved - before

    def settle(self, now: float) -> None:
        """Let go of what has ended. The total is added up anew, so that rounding does not gather in it."""
        for holding in self._by_agent.values():
            holding.settle(now)
        self._by_agent = {agent: holding for agent, holding in self._by_agent.items() if not holding.empty}
        reserved = [holding.reserved for holding in self._by_agent.values()]
        self.total = Amount(fsum(r.rate for r in reserved), fsum(r.burst for r in reserved))

    def items(self) -> list[tuple[str, Amount]]:
        """Every agent that may be using something."""
        return [(agent, holding.reserved) for agent, holding in self._by_agent.items()]
