"""Rule 1: an emergency call passes, whatever else is configured. Cannot be switched off.

47 CFR 64.1200(k)(5): no blocking of calls to 911; (k)(6): nor of calls from public-safety answering points.
It errs towards passing, with one exception: a number that merely contains 911 is no emergency call.
"""

from typing import Final

from agent.model import ALLOW, CallAttempt, Category, NumberKind, Verdict
from agent.policy.policy import EmergencySpec

# 911; its test code 933 (NENA-STA-010); 112, which phones dial by themselves (3GPP TS 22.101 section 10).
ALWAYS: Final = frozenset({"911", "933", "112"})
# A full number is no emergency call, whatever digits it contains.
FULL_NUMBERS: Final = (NumberKind.NANP, NumberKind.FOREIGN)  # a tuple: hashing an enum costs more than this
NAME: Final = "emergency"


class EmergencyRule:
    """Says why an attempt is an emergency call; None when it is none."""

    __slots__ = ("_numbers", "_psap_calling", "_psap_sources", "_psaps")

    def __init__(self, spec: EmergencySpec) -> None:
        self._numbers = ALWAYS | spec.numbers
        self._psap_calling = spec.psap_calling
        self._psap_sources = spec.psap_sources
        self._psaps = bool(spec.psap_calling or spec.psap_sources)

    def check(self, attempt: CallAttempt, _now: float) -> Verdict | None:
        """The final verdict "allow" for an emergency call; no opinion on any other."""
        message = attempt.message
        why = "" if attempt.called.kind in FULL_NUMBERS else self._to_emergency(attempt)
        if not why and (message.resource_priority or message.priority):
            why = _marked(message.resource_priority, message.priority)
        if not why and self._psaps:
            why = self._from_psap(attempt)
        return Verdict(ALLOW, NAME, Category.EMERGENCY, why) if why else None

    def _to_emergency(self, attempt: CallAttempt) -> str:
        called = attempt.called
        if called.digits in self._numbers:
            return f"called {called.digits}"
        uri = attempt.message.request_uri
        if _is_sos(uri):
            return "called urn:service:sos"  # RFC 5031, with or without sub-service
        # RFC 6881: the Request-URI may be a routing URN or the next hop, while To keeps what was dialled. A
        # Request-URI that is a number of its own is no such thing, and a To of 911 cannot exempt it.
        if called.kind is NumberKind.NOT_A_NUMBER or called.kind is NumberKind.ABSENT:
            if attempt.to.digits in self._numbers:
                return f"To is {attempt.to.digits}"
            if _is_sos(attempt.message.to_uri):
                return "To is urn:service:sos"
        return ""

    def _from_psap(self, attempt: CallAttempt) -> str:
        if attempt.calling in self._psap_calling:
            return f"called from the public-safety answering point {attempt.calling.digits}"
        if self._psap_sources.longest(attempt.source) is not None:
            return f"called from a public-safety answering point at {attempt.source}"
        return ""


def _is_sos(uri: bytes) -> bool:
    head = uri[:16].lower()
    return head.startswith(b"urn:service:sos") and head[15:] in {b"", b".", b";", b"?"}


def _marked(resource_priority: bytes, priority: bytes) -> str:
    """Emergency services network traffic (RFC 7135) and call-backs from it (RFC 7090 section 5)."""
    if resource_priority and any(
        value.strip().startswith(b"esnet.") for value in resource_priority.lower().split(b",")
    ):
        return "Resource-Priority names the emergency services network (esnet)"
    if priority and priority.strip().lower() == b"psap-callback":
        return "Priority is psap-callback"
    return ""
