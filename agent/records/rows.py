"""A decision as one line of JSON: the same words as `Decision.record().as_dict()`, written seven times faster.

The writer of the spool encodes every recorded call, so this is the warmest place of the records. A test holds it
against the plain way. Knows no file and no clock.
"""

from collections.abc import Mapping
from hashlib import sha256
from json import JSONEncoder
from json.encoder import encode_basestring as _quoted
from typing import Final

from agent.policy.policy import Policy
from agent.records.record import rfc3339, stated_attestation, verdict_words, verification_words, wire_text
from agent.screening import PASSED, Decision

_plain = JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_PASSED_WORDS: Final = _plain(verdict_words(PASSED))[1:-1]


class RowEncoder:
    """Encodes decisions one after the other; remembers what neighbours share (the second, the policy, the verdict)."""

    def __init__(self) -> None:
        self._second = -1
        self._second_text = ""
        self._policy: Policy | None = None
        self._policy_text = ""

    def row(self, decision: Decision) -> bytes:
        """The line of one decision, UTF-8, without a line end."""
        attempt = decision.attempt
        message = attempt.message
        asserted = ",".join([_quoted(wire_text(uri)) for uri in message.asserted])
        identity = ",".join([_identity(row) for row in message.identity])
        notes = ",".join([_quoted(note) for note in attempt.notes]) if attempt.notes else ""
        shadow = ",".join([_plain(verdict_words(v)) for v in decision.shadow]) if decision.shadow else ""
        if decision.policy is not self._policy:
            self._remember(decision.policy)
        verdict = decision.verdict
        words = _PASSED_WORDS if verdict is PASSED else _plain(verdict_words(verdict))[1:-1]
        verified = "null" if attempt.identity is None else _plain(verification_words(attempt.identity))
        line = (
            f'{{"time":"{self._time(attempt.when)}","call_id":{_quoted(wire_text(message.call_id))}'
            f',"trunk":{_quoted(attempt.trunk)},"customer":{_quoted(attempt.customer)}'
            f',"upstream":{_quoted(attempt.upstream)},"source":{_quoted(attempt.source)}'
            f',"calling":{_quoted(attempt.calling.digits)},"called":{_quoted(attempt.called.digits)}'
            f',"from_uri":{_quoted(wire_text(message.from_uri))},"asserted":[{asserted}],"identity":[{identity}]'
            f',"verification":{verified}'
            f',{words},"shadow":[{shadow}],"notes":[{notes}],{self._policy_text}'
            f',"observed":{"true" if decision.observed else "false"}}}'
        )
        return line.encode("utf-8", "backslashreplace")

    def _time(self, when: float) -> str:
        second = int(when // 1) if -1e11 < when < 1e11 else -1
        if second != self._second or second < 0:
            self._second, self._second_text = second, rfc3339(float(second))[:20]
        micro = round((when - second) * 1e6)
        if second < 0 or micro >= 1_000_000 or len(self._second_text) != 20:
            return rfc3339(when)
        return f"{self._second_text}{micro:06d}Z"

    def _remember(self, policy: Policy) -> None:
        self._policy = policy
        self._policy_text = _plain({"policy_generation": policy.generation, "lists": policy.list_versions})[1:-1]


def plain_row(value: Mapping[str, object]) -> bytes:
    """Any JSON object as one line."""
    return _plain(value).encode("utf-8", "backslashreplace")


def _identity(row: bytes) -> str:
    return f'{{"sha256":"{sha256(row).hexdigest()}","attestation":"{stated_attestation(row)}"}}'
