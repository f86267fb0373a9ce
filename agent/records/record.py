"""The call record: who called whom, what was decided, by which rule, why, and under which policy and lists.

The same words as the verdict, so that log, metric and record can be laid side by side.
"""

import json
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from agent.identity.model import Verification
from agent.model import CallAttempt, Refuse, Verdict
from agent.policy.policy import Policy

# An attacker pays nothing for a long row; a real PASSporT payload has under 600 bytes.
PAYLOAD_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class StatedIdentity:
    """One Identity row: SHA-256 of its bytes as received, and the attestation that it *states* (not verified)."""

    sha256: str
    attestation: str


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One decided call attempt. `time` is RFC 3339 UTC; numbers are canonical digits, uris as sent.

    `observed`: the call was only seen passing by, and the verdict enforced by nobody. `verification` holds the words of
    `verification_words`; None where nothing was verified.
    """

    time: str
    call_id: str
    trunk: str
    customer: str
    upstream: str
    source: str
    calling: str
    called: str
    from_uri: str
    asserted: tuple[str, ...]
    identity: tuple[StatedIdentity, ...]
    verification: dict[str, object] | None
    action: str
    rule: str
    category: str
    why: str
    answer: str
    shadow: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    policy_generation: int
    lists: tuple[str, ...]
    observed: bool = False

    @classmethod
    def of(
        cls,
        attempt: CallAttempt,
        verdict: Verdict,
        shadow: Sequence[Verdict],
        policy: Policy,
        *,
        observed: bool = False,
    ) -> "CallRecord":
        """Put together what screening knows about one attempt."""
        message = attempt.message
        return cls(
            time=rfc3339(attempt.when),
            call_id=wire_text(message.call_id),
            trunk=attempt.trunk,
            customer=attempt.customer,
            upstream=attempt.upstream,
            source=attempt.source,
            calling=attempt.calling.digits,
            called=attempt.called.digits,
            from_uri=wire_text(message.from_uri),
            asserted=tuple(map(wire_text, message.asserted)),
            identity=tuple(
                StatedIdentity(sha256(row).hexdigest(), stated_attestation(row)) for row in message.identity
            ),
            verification=verification_words(attempt.identity),
            notes=attempt.notes,
            shadow=tuple(verdict_words(v) for v in shadow),
            policy_generation=policy.generation,
            lists=policy.list_versions,
            observed=observed,
            **verdict_words(verdict),
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return asdict(self)


def verdict_words(verdict: Verdict) -> dict[str, str]:
    """A verdict in the words that records, logs and tables share."""
    answer = str(verdict.action.answer) if isinstance(verdict.action, Refuse) else ""
    return {
        "action": verdict.action.word,
        "rule": verdict.rule,
        "category": str(verdict.category),
        "why": verdict.why,
        "answer": answer,
    }


def verification_words(found: Verification | None) -> dict[str, object] | None:
    """What caller-ID authentication came to: `failure` is "" for a verified call; what then stands in `attestation`,
    `signer` (the Service Provider Code) and `origid` is vouched for, else it is what was stated."""
    if found is None:
        return None
    return {
        "failure": "" if found.failure is None else found.failure.value,
        "why": found.why,
        "attestation": found.attestation,
        "signer": found.spc,
        "origid": found.origid,
        "rows": [
            {
                "ppt": row.ppt,
                "url": row.url,
                "failure": "" if row.failure is None else row.failure.value,
                "why": row.why,
            }
            for row in found.rows
        ],
    }


def rfc3339(when: float) -> str:
    """Epoch seconds as UTC with microseconds; a time that no calendar has is shown as the number it is."""
    try:
        return datetime.fromtimestamp(when, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return repr(when)


def stated_attestation(row: bytes) -> str:
    """ "A", "B" or "C" as a PASSporT's payload states it (RFC 8588); "" where it states none or cannot be read."""
    parts = row.split(b";", 1)[0].strip().split(b".")
    if len(parts) != 3 or not 0 < len(parts[1]) <= PAYLOAD_MAX:
        return ""
    try:
        payload = json.loads(urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except (ValueError, Base64Error, RecursionError):
        return ""
    attest = payload.get("attest") if isinstance(payload, dict) else None
    return attest if attest in ("A", "B", "C") else ""


def wire_text(value: bytes) -> str:
    """Bytes of a message as text that any record can hold: what is not UTF-8 comes out as \\xNN."""
    return value.decode("utf-8", "backslashreplace")
