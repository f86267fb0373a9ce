"""Limits of the whole fleet among the limits of a policy: where this agent has a share, the share decides.

Knows keys and shares. Corrects what the bank of the agent's own rates says of an attempt, bit by bit: see `RateBank`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from agent.policy.leases import FORESEEN_MAX, FleetRate, Key, LeaseBook, Share
from agent.policy.policy import LimitSpec, Policy, Scope
from agent.policy.trunks import UNKNOWN

EVERYTHING = "*"


class LeasedLimits:
    """Remembers the shares of an attempt from `settle` to the `take` that directly follows it."""

    def __init__(self, limits: Sequence[tuple[int, LimitSpec, int]], book: LeaseBook) -> None:
        """`limits` are those of the fleet: number in the bank, what it is, slot of its key."""
        self._limits = [(number, spec.name, slot) for number, spec, slot in limits]
        self._book = book
        self._taken: list[Share] = []
        self._over: dict[int, str] = {}

    def settle(self, signs: int, keys: tuple[str, ...], now: float) -> int:
        """The bank's signs of an attempt, with the bits of limits that are leased as their shares say."""
        self._taken.clear()
        self._over.clear()
        for number, name, slot in self._limits:
            key = keys[slot]
            if not key or (found := self._book.hit(name, key, now)) is None:
                continue
            share, conforms = found
            if conforms:
                self._taken.append(share)
                signs &= ~(1 << number)
            else:
                signs |= 1 << number
                self._over[number] = self._book.words(name, share, now)
        return signs

    def why(self, number: int) -> str:
        """Of the limit that refuses the latest attempt; "" where its own rate does."""
        return self._over.get(number, "")

    def take(self) -> None:
        """The attempt passes: consume of every share to which it conforms. Once per `settle`."""
        for share in self._taken:
            share.take()
        self._taken.clear()


def fleet_limits(policy: Policy) -> dict[str, FleetRate]:
    """The limits of a policy that are the fleet's, by name."""
    return {
        spec.name: FleetRate(spec.rate.count / spec.rate.window, spec.rate.burst, spec.fleet)
        for spec in policy.limits
        if spec.fleet is not None and spec.rate is not None
    }


def foreseen_keys(policy: Policy) -> Iterator[Key]:
    """Keys of those limits that calls will bring, as far as the policy names them; so many of each limit."""
    customers = {trunk.customer: None for trunk in policy.addresses.trunks if trunk.customer}
    by_scope: Mapping[Scope, Sequence[str]] = {
        Scope.GLOBAL: (EVERYTHING,),
        Scope.TRUNK: (*(trunk.id for trunk in policy.addresses.trunks), UNKNOWN.id),
        Scope.CUSTOMER: tuple(customers),
    }
    for spec in policy.limits:
        if spec.fleet is None or spec.rate is None:
            continue
        chosen = {Scope.TRUNK: spec.trunks, Scope.CUSTOMER: spec.customers, Scope.CALLED_PREFIX: spec.called_prefixes}
        keys = sorted(chosen.get(spec.scope, ())) or by_scope.get(spec.scope, ())
        for key in islice(keys, FORESEEN_MAX):
            yield spec.name, key
