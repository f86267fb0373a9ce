"""One limit and key: who should have how much of it, and how much of that can be given now.

Shares are worked out anew now and then, from what agents said last; an agent gets its share when it asks. Less is given
at once; more only from what nobody may be using, so that no moment sees more than the limit in use: decrease before
increase.
"""

from dataclasses import dataclass
from math import floor, inf
from typing import Final

from controller.model import Partition
from controller.quota.holdings import Given, Holdings
from controller.quota.model import (
    BURST_MIN,
    DRIFT,
    HEADROOM,
    LIFE,
    NOTHING,
    RATE_MIN,
    SAFE_PART,
    TENURE,
    WISH,
    Amount,
    Demand,
    Rate,
)
from controller.quota.shares import fair_shares

DIVIDE_SECONDS: Final = 0.1
DIVIDE_PER_AGENT: Final = 1e-4
"""Seconds between two divisions, and more of them for a large fleet: 10,000 agents are divided among once a second,
which takes a tenth of a processor."""

SILENT_SECONDS: Final = LIFE
"""An agent that did not ask for so long has no part in the next division."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """As far as it matters to a division.

    `slots` are the parts into which what is set apart is divided: a power of two, so that safe rates change when the
    fleet has doubled, and else never. `unseen` agents have not asked this leader anything yet: whatever they fall to,
    it was told to them by another one.
    """

    slots: int
    unseen: int


@dataclass(slots=True)
class Claim:
    """What an agent said last."""

    demand: float
    policy: Rate
    at: float
    since: float  # when it first wanted something
    granted_since: float | None = None  # of a limit that does not suffice for all: since when it has its turn


class Division:
    """Limit and key. `limit` None: no operator has set it, and it is as the agents' policies have it."""

    def __init__(self, limit: Rate | None) -> None:
        self.rate = Rate(0.0, 0.0)  # what holds, as of the latest division
        self.holdings = Holdings()
        self._limit = limit
        self._claims: dict[str, Claim] = {}
        self._shares: dict[str, Amount] = {}
        self._newcomer = NOTHING  # what an agent has until the next division
        self._divided_at = -inf

    def set_limit(self, limit: Rate | None) -> None:
        """An operator has set it, or does not any more."""
        self._limit, self._divided_at = limit, -inf

    @property
    def idle(self) -> bool:
        """Whether nobody asks, and nobody may be using anything."""
        return not self._claims and not len(self.holdings)

    @property
    def demand(self) -> float:
        """Attempts per second, of all who ask."""
        return sum(claim.demand for claim in self._claims.values())

    @property
    def agents(self) -> int:
        """That ask."""
        return len(self._claims)

    def note(self, agent: str, demand: Demand, fleet: Fleet, now: float) -> None:
        """What an agent wants, and what it has to fall to."""
        claim = self._claims.get(agent)
        if claim is None:
            claim = self._claims[agent] = Claim(demand.rate, demand.policy, now, now)
            if len(self._claims) == 1:
                self._find_rate()
            if demand.safe != NOTHING and agent not in self.holdings:
                told = demand.safe.least(self._told_most(fleet))
                self.holdings.give(agent, Given(0, NOTHING, told, now), now)
        if claim.demand <= 0 < demand.rate:
            claim.since = now
        claim.demand, claim.policy, claim.at = demand.rate, demand.policy, now

    def grant(self, agent: str, sequence: int, fleet: Fleet, now: float) -> tuple[Amount, Amount]:
        """The share of an agent that was noted, from now on, and what it falls to."""
        if now - self._divided_at >= DIVIDE_SECONDS + DIVIDE_PER_AGENT * len(self._claims):
            self._divide(fleet, now)
        limit = self.rate
        share = self._shares.get(agent, self._newcomer).least(self._free(agent, limit)).usable
        safe = safe_amount(limit, fleet.slots).least(share).usable
        until = inf if limit.partition is Partition.HOLD else now + LIFE * (1 + DRIFT)
        self.holdings.give(agent, Given(sequence, share, safe, until), now)
        return share, safe

    def applied(self, agent: str, sequence: int, now: float) -> None:
        """The agent follows the grant of this number."""
        self.holdings.applied(agent, sequence, now)

    def give_back(self, agent: str, now: float) -> None:
        """The agent does not want it any more."""
        self._claims.pop(agent, None)
        self._shares.pop(agent, None)
        self.holdings.give_back(agent, now)

    def tidy(self, now: float) -> None:
        """Forget what has ended."""
        self._claims = {a: claim for a, claim in self._claims.items() if now - claim.at <= SILENT_SECONDS}
        self.holdings.settle(now)

    def _find_rate(self) -> None:
        """During a rollout agents have different limits in their policies: the lowest holds."""
        if self._limit is not None:
            self.rate = self._limit
        elif self._claims:
            policies = [claim.policy for claim in self._claims.values()]
            lowest = min(policies, key=lambda policy: policy.rate)
            self.rate = Rate(lowest.rate, min(policy.burst for policy in policies), lowest.partition)

    def _told_most(self, fleet: Fleet) -> Amount:
        """The most that another leader can have told an agent to fall to, in a fleet of half the size."""
        if self.rate.partition is Partition.HOLD:
            return Amount(self.rate.rate, self.rate.burst)
        return safe_amount(self.rate, max(1, fleet.slots // 2))

    def _free(self, agent: str, limit: Rate) -> Amount:
        """The most that it can be given: what nobody else may be using, or what it may be using anyway."""
        own = self.holdings.of(agent)
        most = Amount(limit.rate / (1 + DRIFT), limit.burst)
        return (most - (self.holdings.total - own)).most(own)

    # --- who should have how much

    def _divide(self, fleet: Fleet, now: float) -> None:
        self._divided_at = now
        self.tidy(now)
        self._find_rate()
        limit = self.rate
        safe = safe_amount(limit, fleet.slots)
        absent = self._absent(limit, fleet)
        rate = max(0.0, limit.rate * (1 - HEADROOM) / (1 + DRIFT) - absent.rate)
        burst = max(0.0, limit.burst - absent.burst)
        chosen = self._chosen(limit, rate, burst, now)
        floors = safe.rate if len(chosen) == len(self._claims) else 0.0
        wishes = [(floors, max(floors, self._claims[agent].demand * WISH)) for agent in chosen]
        rates = fair_shares(wishes, rate)
        bursts = _bursts(rates, max(burst * (1 - HEADROOM), min(burst, len(chosen) * BURST_MIN)))
        everybody = len(chosen) == len(self._claims)
        self._newcomer = Amount(rate, burst).times(1 / (len(chosen) + 1)) if everybody else NOTHING
        self._shares = dict.fromkeys(self._claims, NOTHING)
        self._shares.update({agent: Amount(r, b) for agent, r, b in zip(chosen, rates, bursts, strict=True)})

    def _absent(self, limit: Rate, fleet: Fleet) -> Amount:
        """What agents may be using that do not ask."""
        told = safe_amount(limit, max(1, fleet.slots // 2)).times(fleet.unseen)
        absent = told.least(Amount(limit.rate * SAFE_PART, limit.burst))
        for agent, reserved in self.holdings.items():
            if agent not in self._claims:
                absent += reserved
        return absent

    def _chosen(self, limit: Rate, rate: float, burst: float, now: float) -> list[str]:
        """All who ask, or as many as the limit suffices for: whoever has waited longest has the next turn."""
        room = min(floor(burst / BURST_MIN), max(1, floor(rate / min(RATE_MIN, limit.rate or RATE_MIN))))
        if len(self._claims) <= room:
            for claim in self._claims.values():
                claim.granted_since = None
            return list(self._claims)
        chosen = sorted(self._claims, key=lambda agent: (*self._turn(self._claims[agent], now), agent))[:room]
        taken = set(chosen)
        for agent, claim in self._claims.items():
            if agent not in taken:
                if claim.granted_since is not None:
                    claim.granted_since, claim.since = None, now
            elif claim.granted_since is None:
                claim.granted_since = now
        return chosen

    def _turn(self, claim: Claim, now: float) -> tuple[int, float]:
        """The lower, the sooner."""
        if claim.demand <= 0:
            return (3, 0.0) if claim.granted_since is not None else (4, 0.0)
        if claim.granted_since is None:
            return 1, claim.since
        return (0 if now - claim.granted_since < TENURE else 2), -claim.granted_since


def safe_amount(limit: Rate, slots: int) -> Amount:
    """What each agent falls to: a token at least, if there is one for each.

    Nothing where a limit is too small to be divided among all, or is open anyway.
    """
    if limit.partition is Partition.OPEN:
        return NOTHING
    burst = max(limit.burst * SAFE_PART / slots, min(BURST_MIN, limit.burst / slots))
    return Amount(limit.rate * SAFE_PART / slots, burst).usable


def _bursts(rates: list[float], burst: float) -> list[float]:
    """One token each, and the rest as the rates are. As many fit as were chosen."""
    total = sum(rates)
    if not rates or total <= 0:
        return [0.0] * len(rates)
    rest = max(0.0, burst - len(rates) * BURST_MIN)
    return [BURST_MIN + rest * rate / total for rate in rates]
