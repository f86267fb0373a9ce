"""Rule 1: an emergency call passes, whatever else is configured. Cannot be switched off.

47 CFR 64.1200(k)(5): no blocking of calls to 911; (k)(6): nor of calls from public-safety answering points.
It errs towards passing, with two exceptions: a number that merely contains 911 is no emergency call; and where the
policy enforces verification, a mark that any caller can write (Priority: psap-callback, Resource-Priority: esnet.*)
needs somebody who vouches for it. That is a verified rph PASSporT (RFC 9027), or a trunk that the policy believes.
Without such a policy, in shadow mode, and where verification came to nothing through no fault of the caller, the mark
counts as it is. A call *to* an emergency service needs nobody's word, ever.
"""

from typing import Final

from agent.identity.model import Verification
from agent.model import ALLOW, CallAttempt, Category, Verdict
from agent.policy.emergency import ALWAYS, FULL_NUMBERS, destination, is_esnet, is_psap_callback
from agent.policy.policy import EmergencySpec

NAME: Final = "emergency"
ESNET: Final = "Resource-Priority names the emergency services network (esnet)"
CALLBACK: Final = "Priority is psap-callback"


class EmergencyRule:
    """Says why an attempt is an emergency call; None when it is none."""

    __slots__ = ("_believed", "_numbers", "_psap_calling", "_psap_sources", "_psaps")

    def __init__(self, spec: EmergencySpec) -> None:
        self._numbers = ALWAYS | spec.numbers
        self._psap_calling = spec.psap_calling
        self._psap_sources = spec.psap_sources
        self._psaps = bool(spec.psap_calling or spec.psap_sources)
        self._believed = spec.believed

    def check(self, attempt: CallAttempt, _now: float) -> Verdict | None:
        """The final verdict "allow" for an emergency call; no opinion on any other."""
        why = self.evident(attempt)
        if not why and self._believed is not None:
            why = self._vouched(attempt)
        return Verdict(ALLOW, NAME, Category.EMERGENCY, why) if why else None

    def evident(self, attempt: CallAttempt) -> str:
        """Why it is an emergency call whatever its Identity is worth; "" if it is none, or that must be asked."""
        message = attempt.message
        why = "" if attempt.called.kind in FULL_NUMBERS else destination(attempt, self._numbers)
        if not why and (message.resource_priority or message.priority):
            believed = self._believed
            why = _mark(attempt) if believed is None or attempt.trunk in believed else ""
        if not why and self._psaps:
            why = self._from_psap(attempt)
        return why

    def _vouched(self, attempt: CallAttempt) -> str:
        """Why it is an emergency call by the word of a PASSporT, or for lack of an agent that could ask for one."""
        mark, identity = _mark(attempt), attempt.identity
        if identity is None:
            return mark and f"{mark}, not verified"
        if identity.psap_callback:
            return "a verified PASSporT says psap-callback"
        if mark == ESNET and _has_rph(identity):
            return f"{mark}, with a verified PASSporT"
        if mark:
            attempt.notes += (f"{mark}, but nobody vouches for it",)
        return ""

    def _from_psap(self, attempt: CallAttempt) -> str:
        if attempt.calling in self._psap_calling:
            return f"called from the public-safety answering point {attempt.calling.digits}"
        if self._psap_sources.longest(attempt.source) is not None:
            return f"called from a public-safety answering point at {attempt.source}"
        return ""


def _mark(attempt: CallAttempt) -> str:
    """The mark of an emergency service that the message bears."""
    message = attempt.message
    if message.resource_priority and is_esnet(message.resource_priority):
        return ESNET
    return CALLBACK if message.priority and is_psap_callback(message.priority) else ""


def _has_rph(identity: Verification) -> bool:
    return any(row.ppt == "rph" and row.failure is None for row in identity.rows)
