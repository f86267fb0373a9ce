"""What of an INVITE says that an emergency service is called, or calls back. Knows the wire; believes and decides
nothing: whether a mark that anybody can write counts is for the rule.
"""

from typing import Final

from agent.model import CallAttempt, NumberKind

# 911; its test code 933 (NENA-STA-010); 112, which phones dial by themselves (3GPP TS 22.101 section 10).
ALWAYS: Final = frozenset({"911", "933", "112"})
# A full number is no emergency call, whatever digits it contains.
FULL_NUMBERS: Final = (NumberKind.NANP, NumberKind.FOREIGN)  # a tuple: hashing an enum costs more than this


def destination(attempt: CallAttempt, numbers: frozenset[str]) -> str:
    """Why this is a call to an emergency service, by `numbers` and by URN; "" if it is none."""
    called = attempt.called
    if called.kind in FULL_NUMBERS:
        return ""
    if called.digits in numbers:
        return f"called {called.digits}"
    if _is_sos(attempt.message.request_uri):
        return "called urn:service:sos"  # RFC 5031, with or without sub-service
    # RFC 6881: the Request-URI may be a routing URN or the next hop, while To keeps what was dialled. A
    # Request-URI that is a number of its own is no such thing, and a To of 911 cannot exempt it.
    if called.kind is NumberKind.NOT_A_NUMBER or called.kind is NumberKind.ABSENT:
        if attempt.to.digits in numbers:
            return f"To is {attempt.to.digits}"
        if _is_sos(attempt.message.to_uri):
            return "To is urn:service:sos"
    return ""


def is_esnet(resource_priority: bytes) -> bool:
    """Whether Resource-Priority names the emergency services network (RFC 7135)."""
    return any(value.strip().startswith(b"esnet.") for value in resource_priority.lower().split(b","))


def is_psap_callback(priority: bytes) -> bool:
    """Whether Priority says that a public-safety answering point calls back (RFC 7090 section 5)."""
    return priority.strip().lower() == b"psap-callback"


def _is_sos(uri: bytes) -> bool:
    head = uri[:16].lower()
    return head.startswith(b"urn:service:sos") and head[15:] in {b"", b".", b";", b"?"}
