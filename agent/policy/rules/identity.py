"""Rule 6: a call that nobody vouches for is refused where the policy says so. By default it never does.

Looks at what verification found out, and verifies nothing. A call whose Identity nobody looked at gives it no opinion.
"""

from typing import Final

from agent.identity.model import RESPONSES, Failure, Verification
from agent.model import Answer, CallAttempt, Category, Refuse, Verdict
from agent.policy.policy import IdentitySpec, Mode

NAME: Final = "identity"
URL_SHOWN: Final = 200
"""Characters of a URL in a reason: those in use have 80; the caller chose it, and records keep it."""


class IdentityRule:
    """Refuses by the table of the policy, and a missing Identity on the trunks that must bring one."""

    __slots__ = ("_allow", "_refusals", "_required", "_required_trunks", "enforcing")

    name = NAME

    def __init__(self, spec: IdentitySpec) -> None:
        self.enforcing = spec.mode is Mode.ENFORCE
        self._allow = spec.allow
        self._refusals = {f: Refuse(h.answer) for f, h in spec.handling.items() if h.answer is not None}
        default = Refuse(Answer(*RESPONSES[Failure.MISSING]))
        self._required = self._refusals.get(Failure.MISSING, default)
        self._required_trunks = spec.required_trunks

    def check(self, attempt: CallAttempt, _now: float) -> Verdict | None:
        """Refuse a failure that the table refuses; the reason names its kind, what was wrong, and with which row."""
        identity = attempt.identity
        if identity is None or identity.failure is None:
            return None
        refuse = self._refusals.get(identity.failure)
        if refuse is None and identity.failure is Failure.MISSING and attempt.trunk in self._required_trunks:
            refuse = self._required
        if refuse is None or self._allow.covers(attempt):
            return None
        return Verdict(refuse, NAME, Category.IDENTITY, _why(identity))


def _why(identity: Verification) -> str:
    """ "invalid: the signature does not verify (row 1, x5u https://certs.example.net/1.pem)"."""
    for i, row in enumerate(identity.rows, 1):
        if row.failure is identity.failure and row.why == identity.why:
            x5u = f", x5u {row.url[:URL_SHOWN]}" if row.url else ""
            return f"{identity.failure}: {identity.why} (row {i}{x5u})"
    return f"{identity.failure}: {identity.why}"
