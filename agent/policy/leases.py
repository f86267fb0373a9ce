"""Shares of limits that hold for the whole fleet, as the controller leases them to this agent.

Knows rates, keys and leases; nothing of calls, and no controller. Time is an argument (monotonic seconds). What makes
the fleet keep its limit, whoever has which share when:

- a share is a token bucket that fills with the leased rate, and its burst is all that it can hold. A changed share
  keeps its tokens, as far as they fit; a larger one is not filled, and one that nobody leased before is empty. So the
  fleet never has more tokens than all bursts together, and gets no more of them than all rates together give;
- a lease ends by itself at the time that it names, at that moment exactly, whether or not anybody looks.

A key that was never leased anything admits nothing under SAFE; under HOLD and OPEN it counts by the limit's own rate.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

# Names of trunks, customers and prefixes are few; a policy of more keys than this counts the rest by its own rate.
KEYS_MAX: Final = 4096
# Keys that are asked for before anybody calls, of one limit: so that the first call finds a share that has filled.
FORESEEN_MAX: Final = 256
# Seconds without a call after which a key that nobody foresees gives its share back.
FORGET_AFTER: Final = 600.0
# A token, but for what rounding may take from it.
ONE: Final = 1.0 - 1e-9
# What is left of an earlier second's demand in the next, so that calls that come in clumps keep their share for a
# while: half. Of many calls less, since it is no chance then that none come.
DECAY: Final = 0.5
MANY: Final = 10.0
# Demand is measured over windows of a second; what a younger one says is smoothed by so many seconds.
WINDOW: Final = 1.0
WINDOW_MIN: Final = 0.5
# So many times the demand that was last told, and so many attempts more, within a window: it must be told at once.
SURGE: Final = 2.0
SURGE_MIN: Final = 5.0
# A share that falls by more than this is confirmed at once, so that others get it.
FALL: Final = 0.9
# Attempts per second below which it is none.
DEMAND_MIN: Final = 0.01

Key = tuple[str, str]
"""Name of the limit, and what it counts by."""


class Partition(StrEnum):
    """What becomes of a fleet's limit at an agent that no controller answers."""

    SAFE = "safe"  # a small rate that is set apart for it
    HOLD = "hold"  # what it was leased last
    OPEN = "open"  # the limit's own rate, as if there were no other agents


@dataclass(frozen=True, slots=True)
class FleetRate:
    """A limit of the fleet as the policy has it: attempts per second, and `burst` of them at once."""

    rate: float
    burst: float
    partition: Partition


@dataclass(frozen=True, slots=True)
class Safe:
    """What an agent falls to."""

    rate: float = 0.0
    burst: float = 0.0
    partition: Partition = Partition.SAFE


@dataclass(frozen=True, slots=True)
class Lease:
    """A share: attempts per second and a burst, until then by this host's monotonic clock; and what follows it."""

    rate: float
    burst: float
    until: float
    safe: Safe


@dataclass(frozen=True, slots=True)
class Demand:
    """What one key would like, attempts per second, and what it would fall to."""

    limit: str
    key: str
    rate: float
    of: FleetRate
    safe: Safe


class Share:
    """One key: its tokens, and by what lease it gets more. `hit` and `take` are what every call costs."""

    __slots__ = (
        "_at",
        "_attempts",
        "_burst",
        "_lease",
        "_rate",
        "_surge",
        "_tokens",
        "_until",
        "demand",
        "last_attempt",
        "leased",
        "safe",
    )

    def __init__(self, safe: Safe, now: float, *, leased: bool) -> None:
        self.leased = leased  # ever, by this process or one before it
        self.safe = safe
        self.demand = 0.0
        self.last_attempt = now
        self._lease = Lease(0.0, 0.0, -inf, safe)
        # What holds at `_at`, and until when.
        self._rate, self._burst, self._until = safe.rate, safe.burst, inf
        self._tokens = 0.0
        self._at = now
        self._attempts = 0  # of the running window
        self._surge = SURGE_MIN

    @property
    def lease(self) -> Lease:
        """The latest; it may be over."""
        return self._lease

    def governs(self, now: float) -> bool:
        """Whether the share is what counts, and not the limit's own rate."""
        if now < self._lease.until or self.safe.partition is Partition.SAFE:
            return True
        return self.safe.partition is Partition.HOLD and self.leased

    def hit(self, now: float) -> bool:
        """Count one attempt; whether there is a token for it. Consumes nothing."""
        self._attempts += 1
        self.last_attempt = now
        if now >= self._until:
            self._fall(now)
        if now > self._at:
            tokens = self._tokens + self._rate * (now - self._at)
            if tokens > self._burst:  # noqa: PLR1730  (`min` is a call, and this is for each of a million)
                tokens = self._burst
            self._tokens, self._at = tokens, now
        return self._tokens >= ONE

    def take(self) -> None:
        """Consume one token, for an attempt for which `hit` found one."""
        self._tokens = max(0.0, self._tokens - 1.0)

    def give(self, lease: Lease, now: float) -> None:
        """Go on by this lease."""
        self._fill(now)
        self._lease, self.safe, self.leased = lease, lease.safe, True
        self._rate, self._burst = self.current(now)
        self._until = inf if self._rate_is_for_good(now) else lease.until
        self._tokens = min(self._tokens, self._burst)

    def end(self, now: float) -> None:
        """The lease is over before its time."""
        lease = self._lease
        if lease.until > now:
            self.give(Lease(lease.rate, lease.burst, now, lease.safe), now)

    def surges(self) -> bool:
        """Whether far more calls come than was told; true once in a window."""
        if self._attempts <= self._surge:
            return False
        self._surge = inf
        return True

    def measure(self, seconds: float) -> float:
        """The demand, attempts per second, `seconds` after the running window began. One that is full ends.

        It rises at once and falls slowly: too high a share costs others little, too low a one refuses calls.
        """
        demand = max(self._attempts / max(seconds, WINDOW_MIN), self.demand)
        if seconds >= WINDOW:
            demand = max(self._attempts / seconds, self.demand * DECAY ** (seconds * (1 + self.demand / MANY)))
            self._attempts = 0
        self.demand = demand if demand >= DEMAND_MIN else 0.0
        self._surge = max(self._attempts, SURGE * self.demand * WINDOW + SURGE_MIN)
        return self.demand

    def current(self, now: float) -> tuple[float, float]:
        """Rate and burst that hold now."""
        lease = self._lease
        if now < lease.until or (self.safe.partition is Partition.HOLD and lease.until > -inf):
            return lease.rate, lease.burst
        return self.safe.rate, self.safe.burst

    def fallback(self, now: float) -> Safe:
        """What it would fall to if it heard nothing from now on."""
        if self.safe.partition is Partition.HOLD:
            return Safe(*self.current(now), Partition.HOLD)
        return self.safe

    def _rate_is_for_good(self, now: float) -> bool:
        """Whether what holds now holds until there is another lease."""
        return now >= self._lease.until or self.safe.partition is Partition.HOLD

    def _fill(self, now: float) -> None:
        """What has come since it was looked at last."""
        if now >= self._until:
            self._fall(now)
        self._pour(now)

    def _fall(self, now: float) -> None:
        """The lease has ended: from that moment on it is what it falls to."""
        self._pour(min(self._until, now))
        self._rate, self._burst, self._until = self.safe.rate, self.safe.burst, inf
        self._tokens = min(self._tokens, self._burst)

    def _pour(self, now: float) -> None:
        """What has come up to `now`, at a rate that did not change since."""
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + self._rate * (now - self._at))
            self._at = now


class LeaseBook:
    """The shares of all limits of the fleet. Without a controller (`attached` false) it has no say in anything."""

    def __init__(self) -> None:
        self.attached = False
        self.overflows = 0  # attempts of keys for which there was no room
        # Told when the controller should be asked at once: for a key that has no lease, or far more calls than before.
        self.on_need: Callable[[], None] = lambda: None
        self._limits: Mapping[str, FleetRate] = {}
        self._foreseen: frozenset[Key] = frozenset()
        self._shares: dict[Key, Share] = {}
        self._kept: dict[Key, Safe] = {}
        self._window_at: float | None = None

    def __len__(self) -> int:
        return len(self._shares)

    @property
    def limits(self) -> Mapping[str, FleetRate]:
        """Those of the policy in force, by name."""
        return self._limits

    def follow(self, limits: Mapping[str, FleetRate], foreseen: Iterable[Key]) -> None:
        """Another policy. Shares of limits that it has not are given back."""
        self._limits = limits
        self._foreseen = frozenset(foreseen)
        self._shares = {key: share for key, share in self._shares.items() if key[0] in limits}
        if self._foreseen - self._shares.keys():
            self.on_need()

    def restore(self, kept: Mapping[Key, Safe]) -> None:
        """What a process before this one fell to. It holds for keys that are hit before their first lease."""
        self._kept = dict(list(kept.items())[:KEYS_MAX])

    def hit(self, limit: str, key: str, now: float) -> tuple[Share, bool] | None:
        """Count an attempt of this key: its share, and whether there is a token. None: the limit's own rate counts."""
        if not self.attached:
            return None
        share = self._shares.get((limit, key))
        if share is None:
            share = self._open((limit, key), now)
            if share is None:
                self.overflows += 1
                return None
            self.on_need()
        conforms = share.hit(now)
        if share.surges():
            self.on_need()
        return (share, conforms) if share.governs(now) else None

    def demands(self, now: float) -> list[Demand]:
        """What is wanted now, of every key that has a share or should; what was idle for long is given back."""
        for key in (*self._foreseen, *self._kept):
            if key not in self._shares and key[0] in self._limits:
                self._open(key, now)
        self._kept.clear()  # what is not asked for now is given away to others
        idle = [
            key
            for key, share in self._shares.items()
            if now - share.last_attempt > FORGET_AFTER and key not in self._foreseen
        ]
        for key in idle:
            del self._shares[key]
        if self._window_at is None:
            self._window_at = now - WINDOW
        seconds = now - self._window_at
        if seconds >= WINDOW:
            self._window_at = now
        return [
            Demand(*key, share.measure(seconds), self._limits[key[0]], share.fallback(now))
            for key, share in self._shares.items()
        ]

    def give(self, key: Key, lease: Lease, now: float) -> bool:
        """A lease for this key; False if nobody wants it any more."""
        share = self._shares.get(key)
        if share is None:
            return False
        if lease.rate < FALL * share.current(now)[0]:
            self.on_need()
        share.give(lease, now)
        return True

    def end_all(self, now: float) -> None:
        """No lease holds any more: this host has slept, and its clock with it."""
        for share in self._shares.values():
            share.end(now)

    def safe(self) -> dict[Key, Safe]:
        """What every key would fall to: what the next process must know."""
        return {key: share.safe for key, share in self._shares.items() if share.leased}

    def leased(self, now: float) -> int:
        """Keys that have a lease which runs."""
        return sum(now < share.lease.until for share in self._shares.values())

    def words(self, limit: str, share: Share, now: float) -> str:
        """How large the share is, for verdicts."""
        if not share.leased:
            return f"no share yet of the fleet's {self._limits[limit].rate:g} per s"
        rate, burst = share.current(now)
        what = "leased" if now < share.lease.until else "without the controller"
        return f"{what} {rate:.4g} per s, burst {burst:.4g}, of the fleet's {self._limits[limit].rate:g}"

    def _open(self, key: Key, now: float) -> Share | None:
        if len(self._shares) >= KEYS_MAX or key[0] not in self._limits:
            return None
        kept = self._kept.get(key)
        safe = Safe(partition=self._limits[key[0]].partition) if kept is None else kept
        share = self._shares[key] = Share(safe, now, leased=kept is not None)
        return share
