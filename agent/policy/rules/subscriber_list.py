"""Rule 7: the called party does not want this caller (RFC 8197). Its own list, its own word; no analytics."""

from typing import Final

from agent.model import CallAttempt, Category, NumberKind, Refuse, Verdict
from agent.policy.policy import Mode, SubscriberListSpec

NAME: Final = "subscriber-list"
NUMBERLESS: Final = frozenset({NumberKind.ANONYMOUS, NumberKind.ABSENT})


class SubscriberListRule:
    """Looks up the caller on the called number's own list."""

    __slots__ = ("_refuse", "_spec", "enforcing")

    name = NAME

    def __init__(self, spec: SubscriberListSpec) -> None:
        self.enforcing = spec.rule.mode is Mode.ENFORCE
        self._refuse = Refuse(spec.rule.answer)
        self._spec = spec

    def check(self, attempt: CallAttempt, _now: float) -> Verdict | None:
        """Refuse a caller that the called number listed, or callers without a number where it asked for that."""
        called = attempt.called.digits
        unwanted = self._spec.unwanted.get(called)
        if unwanted is None:
            return None
        if attempt.calling in unwanted:
            who = attempt.calling.digits
        elif called in self._spec.no_anonymous and attempt.calling.kind in NUMBERLESS:
            who = "callers without a number"
        else:
            return None
        if self._spec.rule.allow.covers(attempt):
            return None
        return Verdict(self._refuse, NAME, Category.SUBSCRIBER, f"{called} does not want calls from {who}")
