"""What this agent asks of the fleet's limits, and what it makes of the answers. No I/O: time is an argument, monotonic.

A lease begins when its question was *sent*: the controller counts it from later, so nobody believes in it for longer
than who gave it. Of two controllers that both believe to lead, the later one is heard.
"""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Final

from agent.policy.leases import Demand, Lease, LeaseBook, Partition, Safe

LIFE_MAX: Final = 10.0
"""Seconds; a lease that claims to live longer is cut. The controller's live for three."""

DRIFT: Final = 1e-3
"""Of our clock against the controller's; a lease ends so much earlier."""

FENCE_SECONDS: Final = 60.0
"""After which a lower epoch counts again: no lease of the higher one is left, and a controller that was restored from
an old copy must not be ignored for ever."""

REFRESH: Final = 1.0
"""Seconds from one question to the next; and from one to the next that cannot wait."""
QUICK: Final = 0.2

SPREAD: Final = 0.1
"""Part of these times that is left to chance, so that agents that began together do not ask together for ever."""

RATE_MAX: Final = 1e9


@dataclass(frozen=True, slots=True)
class QuotaAsk:
    """A question. `applied` is the latest answer that holds here and on disk."""

    sequence: int
    applied: int
    demands: tuple[Demand, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """One lease of an answer, `life` in seconds from when it was asked for."""

    limit: str
    key: str
    rate: float
    burst: float
    life: float
    safe: Safe

    @property
    def sound(self) -> bool:
        """Whether its numbers can be used."""
        numbers = (self.rate, self.burst, self.life, self.safe.rate, self.safe.burst)
        return all(isfinite(number) and 0 <= number <= RATE_MAX for number in numbers)


@dataclass(frozen=True, slots=True)
class QuotaReply:
    """An answer. `epoch` 0: no controller leads now."""

    sequence: int
    epoch: int
    grants: tuple[Granted, ...] = ()


class QuotaExchange:
    """One question at a time; one that is not answered is given up by asking the next."""

    def __init__(self, book: LeaseBook) -> None:
        self.applied = 0
        self.unusable = 0  # leases whose numbers make no sense, or that came for nobody
        self.late = 0  # answers to questions that were given up
        self.fenced = 0  # answers of controllers that lead no more
        self.epoch = 0
        self.answered_at = -inf
        self.granted_at = -inf  # an answer with leases in it
        self._book = book
        self._sequence = 0
        self._asked_at: float | None = None
        self._last_asked = -inf

    def next_at(self, chance: float, *, urgent: bool) -> float:
        """When the next question is due. `chance` is from 0 to below 1."""
        return self._last_asked + (QUICK if urgent else REFRESH) * (1 + SPREAD * (chance - 0.5))

    def ask(self, now: float) -> QuotaAsk:
        """The next question, to be sent at once: its leases begin now."""
        self._sequence += 1
        self._asked_at = self._last_asked = now
        return QuotaAsk(self._sequence, self.applied, tuple(self._book.demands(now)))

    def take(self, reply: QuotaReply, now: float) -> bool:
        """Go on by an answer. True: it holds, and `saved` must be told when `book.safe()` is on disk."""
        if reply.sequence != self._sequence or self._asked_at is None:
            self.late += 1
            return False
        asked_at, self._asked_at = self._asked_at, None
        if not reply.epoch:
            return False
        if reply.epoch < self.epoch and now - self.answered_at < FENCE_SECONDS:
            self.fenced += 1
            return False
        self.epoch, self.answered_at = reply.epoch, now
        if reply.grants:
            self.granted_at = now
        for granted in reply.grants:
            until = asked_at + min(granted.life, LIFE_MAX) * (1 - DRIFT)
            lease = Lease(granted.rate, granted.burst, until, granted.safe)
            if not granted.sound or not self._book.give((granted.limit, granted.key), lease, now):
                self.unusable += 1
        return True

    def saved(self, sequence: int) -> None:
        """What the answer of this number has us fall to is on disk; the next question says so."""
        self.applied = sequence


def safe_to(safe: dict[tuple[str, str], Safe]) -> list[list[object]]:
    """As JSON can hold it."""
    return [[limit, key, s.rate, s.burst, s.partition.value] for (limit, key), s in sorted(safe.items())]


def safe_from(rows: object) -> dict[tuple[str, str], Safe]:
    """The other way; raises ValueError for what is no such list."""
    if not isinstance(rows, list):
        raise ValueError("must be a list")
    safe = {}
    for row in rows:
        match row:
            case [str(limit), str(key), float() | int() as rate, float() | int() as burst, str(partition)]:
                if not (0 <= rate <= RATE_MAX and 0 <= burst <= RATE_MAX):
                    raise ValueError("holds a number that makes no sense")
                safe[limit, key] = Safe(float(rate), float(burst), Partition(partition))
            case _:
                raise ValueError("holds a row that makes no sense")
    return safe
