"""Rule 4: a customer may only show numbers that are assigned to it.

The first infractions within a period warn, the next one is refused, and a policy may suspend the customer for a
while. Customers without an inventory are not judged, and neither are calls that show no number.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from agent.model import CallAttempt, Category, NumberKind, Refuse, Verdict
from agent.policy.policy import CallerIdSpec, Mode

NAME: Final = "caller-id-authorisation"
NUMBERS: Final = frozenset({NumberKind.NANP, NumberKind.NANP_INVALID, NumberKind.FOREIGN, NumberKind.AMBIGUOUS})


class Infractions:
    """Times of recent infractions and the end of a suspension, per customer. Grows with the policy, not the net."""

    __slots__ = ("_suspended_until", "_times")

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}
        self._suspended_until: dict[str, float] = {}

    def add(self, customer: str, now: float, period: float, keep: int) -> int:
        """Remember one more; returns how many (at most keep + 1) lie within the last `period` seconds."""
        times = self._times.get(customer)
        if times is None or times.maxlen != keep + 1:
            times = self._times[customer] = deque(times or (), maxlen=keep + 1)
        while times and not 0 <= now - times[0] < period:
            times.popleft()
        times.append(now)
        return len(times)

    def suspend(self, customer: str, until: float) -> None:
        """Refuse everything of this customer until then (monotonic seconds)."""
        self._suspended_until[customer] = until

    def export(self, now: float) -> dict[str, tuple[list[float], float]]:
        """Per customer: how long ago each infraction was, and how long a suspension still lasts; seconds."""
        customers = self._times.keys() | self._suspended_until.keys()
        return {one: ([now - time for time in self._times.get(one, ())], self.suspended(one, now)) for one in customers}

    def restore(self, kept: Mapping[str, tuple[Sequence[float], float]], now: float, elapsed: float) -> None:
        """Take back what was exported `elapsed` seconds ago, perhaps by another clock."""
        for customer, (ages, left) in kept.items():
            self._times[customer] = deque(sorted(now - elapsed - age for age in ages))
            if left > elapsed:
                self._suspended_until[customer] = now + left - elapsed

    def suspended(self, customer: str, now: float) -> float:
        """Seconds that the suspension still lasts; 0.0 for none."""
        return max(0.0, self._suspended_until.get(customer, now) - now)


class CallerIdRule:
    """Compares the shown number with the customer's inventory."""

    __slots__ = ("_infractions", "_refuse", "_spec", "enforcing")

    name = NAME

    def __init__(self, spec: CallerIdSpec, infractions: Infractions) -> None:
        self.enforcing = spec.rule.mode is Mode.ENFORCE
        self._refuse = Refuse(spec.rule.answer)
        self._spec = spec
        self._infractions = infractions

    def check(self, attempt: CallAttempt, now: float) -> Verdict | None:
        """Refuse an infraction beyond the warned ones, and every call of a suspended customer."""
        spec, customer = self._spec, attempt.customer
        inventory = spec.inventory.get(customer)
        if inventory is None or spec.rule.allow.covers(attempt):
            return None
        left = self._infractions.suspended(customer, now)
        if left:
            return self._verdict(f"customer {customer} is suspended for another {left:.0f} s")
        if attempt.calling in inventory or attempt.calling.kind not in NUMBERS:
            return None
        why = f"{attempt.calling.digits} is not assigned to customer {customer}"
        count = self._infractions.add(customer, now, spec.period, spec.warn_first)
        if count <= spec.warn_first:
            attempt.notes += (f"{why} (infraction {count} of {spec.warn_first} that only warn)",)
            return None
        if spec.suspend:
            self._infractions.suspend(customer, now + spec.suspend)
        return self._verdict(why)

    def _verdict(self, why: str) -> Verdict:
        return Verdict(self._refuse, NAME, Category.CALLER_ID, why)
