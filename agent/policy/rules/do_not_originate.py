"""Rule 3: calling numbers that never originate calls are refused (47 CFR 64.1200(o)).

Only NANP numbers that the numbering plan does not allow, and numbers on a list. A missing or anonymous caller
ID is not an invalid number, and neither is one whose country nobody stated.
"""

from datetime import UTC, datetime
from typing import Final

from agent.model import NO_NUMBER, CallAttempt, Category, Number, NumberKind, Refuse, Verdict
from agent.numbers.dno import DnoHit
from agent.numbers.plan import judge
from agent.policy.policy import DnoSpec, Mode

NAME: Final = "do-not-originate"
INVALID: Final = NumberKind.NANP_INVALID


class DoNotOriginateRule:
    """Looks up the calling number on every list, in the order of the policy."""

    __slots__ = ("_allow", "_allows", "_finds", "_lookups", "_refuse", "_refuse_invalid", "_words", "enforcing")

    name = NAME

    def __init__(self, spec: DnoSpec) -> None:
        self.enforcing = spec.rule.mode is Mode.ENFORCE
        self._refuse = Refuse(spec.rule.answer)
        self._allow = spec.rule.allow
        self._allows = bool(spec.rule.allow)
        self._words: dict[tuple[str, DnoHit], str] = {}  # as many as the lists have assertions
        self._lookups = tuple((name, dno_list.lookup) for name, dno_list in spec.lists)
        self._finds = tuple((name, dno_list.find) for name, dno_list in spec.lists)
        self._refuse_invalid = spec.refuse_invalid

    def check(self, attempt: CallAttempt, _now: float) -> Verdict | None:
        """Refuse what would be shown to the called party and is on a list or invalid.

        A hit on the calling number that is *not* shown is a sign, but no ground to refuse.
        """
        if attempt.other_calling is not NO_NUMBER and (sign := self._find(attempt.other_calling, attempt.when)):
            attempt.notes += (f"the calling number that is not shown: {sign}",)
        why = self._find(attempt.calling, attempt.when)
        if not why or (self._allows and self._allow.covers(attempt)):
            return None
        return Verdict(self._refuse, NAME, Category.DO_NOT_ORIGINATE, why)

    @property
    def refuses_by_number(self) -> bool:
        """Whether `on_number` is all that this rule has to say of a valid NANP number that is shown."""
        return self.enforcing and not self._allows

    def on_number(self, e164: int, when: float) -> Verdict | None:
        """What `check` says of an attempt that shows this NANP number and has no other one."""
        for name, find in self._finds:
            hit = find(e164, when)
            if hit is not None:
                return Verdict(self._refuse, NAME, Category.DO_NOT_ORIGINATE, str(e164) + self._say(name, hit))
        return None

    def _say(self, name: str, hit: DnoHit) -> str:
        words = self._words.get((name, hit))
        if words is None:
            words = self._words[name, hit] = _words(name, hit)
        return words

    def _find(self, number: Number, when: float) -> str:
        for name, lookup in self._lookups:
            hit = lookup(number, when)
            if hit is not None:
                return number.digits + self._say(name, hit)
        if number.kind is INVALID and self._refuse_invalid:
            return f"{number.digits} is not a valid NANP number: {judge(number.national).reason}"
        return ""


def _words(list_name: str, hit: DnoHit) -> str:
    verified = "" if hit.verified_at is None else f", verified {datetime.fromtimestamp(hit.verified_at, UTC):%Y-%m-%d}"
    return f" is on {list_name}: {hit.category.label}, asserted by {hit.asserted_by}{verified}"
