"""One PASSporT against the clock, its credential and the call: each check says "" or what is wrong, in words.

Knows claims, credentials and the signalling as values. Takes no decision over several rows; reads no clock: `when` is
epoch seconds.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from agent.identity.claims import Claims
from agent.identity.model import Credential, SignalledCall
from agent.policy.emergency import ALWAYS

_SOS: Final = "urn:service:sos"  # RFC 5031; the dest of a PASSporT of an emergency call (RFC 9027 4)


def stale(what: str, stated: float, when: float, freshness: float) -> str:
    """RFC 8224 6.2 step 4. Both ways: a clock ahead of ours would give its tokens a longer life than others have."""
    age = when - stated
    if -freshness <= age <= freshness:
        return ""
    if age > freshness:
        return f"{what} is {_seconds(age)} old, more than {_seconds(freshness)}"
    if age < -freshness:
        return f"{what} is {_seconds(-age)} in the future, more than {_seconds(freshness)}"
    return f"{what} cannot be read"  # not a number


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 1 else f"{seconds:.3f} s"


def unusable(credential: Credential, iat: int, when: float) -> str:
    """Whether a credential may be relied on for a token of `iat`: judged now, however long it has been cached."""
    if credential.fault:
        return credential.fault
    if credential.public_key is None:
        return "the certificate has no key"
    if when > credential.not_after:
        return f"the certificate expired at {_moment(credential.not_after)}"
    if when < credential.not_before:
        return f"the certificate is not valid before {_moment(credential.not_before)}"
    if not credential.not_before <= iat <= credential.not_after:  # RFC 8224 6.2 step 4
        return "iat is outside the validity of the certificate"
    return ""


def _moment(seconds: float) -> str:
    """Epoch seconds in words; certificates hold no time that a calendar lacks, but a number may be any."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def outside_constraints(credential: Credential, payload: Mapping[str, Any]) -> str:
    """The JWTClaimConstraints of the certificate (RFC 8226 8, RFC 9118 3)."""
    for claim in credential.mandatory:
        if claim not in payload:
            return f"the certificate demands the claim {_shown(claim)}"
    for claim in credential.excluded:
        if claim in payload:
            return f"the certificate forbids the claim {_shown(claim)}"
    for claim, values in credential.permitted:
        # RFC 9118 3: a claim that is absent needs no permission.
        if claim in payload and not _permitted(payload[claim], values):
            return f"the certificate does not permit this value of the claim {_shown(claim)}"
    return ""


def _permitted(value: object, permitted: tuple[object, ...]) -> bool:
    """Permitted values are text; a claim that is no string is compared as deterministic JSON (RFC 8225 9)."""
    if value in permitted:
        return True
    if isinstance(value, str):
        return False
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False) in permitted


def _shown(claim: str) -> str:
    return f'"{claim[:32].encode("unicode_escape").decode()}"'


def other_caller(claims: Claims, call: SignalledCall) -> str:
    """RFC 8224 6.2 step 2: who calls is what the signalling says; orig must be it."""
    if claims.orig and claims.orig in call.calling:
        return ""
    stated = claims.orig or "no number"
    return f"orig is {stated}, the call is from {' or '.join(filter(None, call.calling)) or 'no number'}"


def names(claims: Claims, number: str) -> bool:
    """Whether dest holds this number; an emergency number also where dest is the emergency service itself."""
    if not number:
        return False
    if number in claims.dest:
        return True
    return number in ALWAYS and any(uri.lower().startswith(_SOS) for uri in claims.dest_uris)


def other_callee(claims: Claims, call: SignalledCall) -> str:
    """Without diversion: dest holds the To number (ATIS-1000074) or that of the Request-URI."""
    if names(claims, call.called) or names(claims, call.to):
        return ""
    called = " or ".join(dict.fromkeys(filter(None, (call.called, call.to)))) or "no number"
    return f"dest is {_dest(claims)}, the call is to {called}"


def _dest(claims: Claims) -> str:
    shown = ", ".join(claims.dest[:3]) or "no number"
    return f"{shown} and {len(claims.dest) - 3} more" if len(claims.dest) > 3 else shown
