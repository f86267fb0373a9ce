"""What is said of shares, and the times and parts that leader and agents agree on."""

from dataclasses import dataclass
from typing import Final

from controller.model import WARN_AT, Partition

LIFE: Final = 3.0
"""Seconds that a lease lives, from when it was asked for: two answers in a row may be lost."""

REFRESH: Final = 1.0
"""Seconds between two questions of an agent."""

DRIFT: Final = 1e-3
"""How much faster or slower than ours an agent's clock may run. NTP corrects by at most half of that."""

HEADROOM: Final = 0.05
"""Part of a limit that nobody is to have for long: from it those get their share whose calls come, while those whose
calls went still have theirs."""

SAFE_PART: Final = 0.2
"""Part of a limit that is set apart for agents that hear nothing. An agent with calls has its part of that within its
share, so only idle and lost agents cost something."""

BURST_MIN: Final = 1.0
"""Below this a bucket never holds a token."""

RATE_MIN: Final = 0.1
"""Attempts per second. A limit is not divided into shares that take more than ten seconds to fill for one call."""

TENURE: Final = 10.0
"""Seconds that an agent has a share of a limit that does not suffice for all, before others have their turn."""

WISH: Final = 1.25
"""Times its demand is what an agent would like: calls come in clumps."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit, per key: attempts per second of the whole fleet, and so many more at once."""

    rate: float
    burst: float
    partition: Partition = Partition.SAFE


@dataclass(frozen=True, slots=True)
class Amount:
    """Of a limit. Also a difference of two."""

    rate: float = 0.0
    burst: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.rate + other.rate, self.burst + other.burst)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.rate - other.rate, self.burst - other.burst)

    def times(self, factor: float) -> "Amount":
        return Amount(self.rate * factor, self.burst * factor)

    def most(self, other: "Amount") -> "Amount":
        """The larger of each."""
        return Amount(max(self.rate, other.rate), max(self.burst, other.burst))

    def least(self, other: "Amount") -> "Amount":
        """The smaller of each."""
        return Amount(min(self.rate, other.rate), min(self.burst, other.burst))

    @property
    def usable(self) -> "Amount":
        """Itself, or nothing where no token would fit."""
        return self if self.burst >= BURST_MIN and self.rate > 0 else NOTHING


NOTHING: Final = Amount()


@dataclass(frozen=True, slots=True)
class Demand:
    """What an agent would like of a limit's key, attempts per second, and what it has to fall to.

    `policy` is the limit as the agent's policy has it.
    """

    limit: str
    key: str
    rate: float
    policy: Rate
    safe: Amount = NOTHING


@dataclass(frozen=True, slots=True)
class Question:
    """Of one agent, about everything that it has or wants a share of. `applied`: the latest answer that it follows."""

    agent: str
    sequence: int
    applied: int
    demands: tuple[Demand, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """A share for LIFE from when it was asked for, and what it falls to then."""

    limit: str
    key: str
    share: Amount
    safe: Amount
    partition: Partition


@dataclass(frozen=True, slots=True)
class Answer:
    """`epoch` 0: nobody leads now."""

    agent: str
    sequence: int
    epoch: int
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitView:
    """How a limit stands, all its keys together; `used` is the largest share of it that one key asks for, and
    `warn_at` the share from which on that is told to operators."""

    name: str
    limit: Rate
    leased: float
    demand: float
    agents: int
    keys: int
    used: float = 0.0
    warn_at: float = WARN_AT

    @property
    def warned(self) -> bool:
        """Whether it is nearly used up."""
        return self.warn_at < 1 and self.used >= self.warn_at
