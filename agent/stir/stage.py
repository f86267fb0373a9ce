"""The identity stage: what must be found out about a call before it is decided, and what goes with it after.

Puts verifier, certificates and signer to work for a live way in (`agent.service.IdentityStage`). Must not know sockets
or rules. Nothing here raises: a fault of ours is told, and the call goes on as if nobody had looked.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Final, Protocol

from agent.identity.model import NOT_SIGNED, RESPONSES, Credential, SignalledCall, Unreachable, Verification, Verstat
from agent.identity.reading import Claimed
from agent.identity.replay import ReplayCache
from agent.identity.signalled import signalled
from agent.identity.verification import Verifier, VerifierSettings
from agent.identity.verstat import asserted_rows
from agent.model import CallAttempt
from agent.policy.policy import IdentitySpec, Policy
from agent.records.record import stated_attestation
from agent.screening import Decision, Observation, Screening
from agent.service import NOTHING_ADDED, Additions, Coming, Finding

WAITING_MAX: Final = 4096
"""Calls that wait for a certificate at one time, some 3 kB each: 4,000 a second whose certificates are all new and
slow. One more is decided at once, as if its certificate could not be had."""

Found = dict[str, Credential | Unreachable]


class Certificates(Protocol):
    """Where certificates come from; agent.stir.source."""

    @property
    def trusting(self) -> bool:
        """Whether there is anybody to trust."""
        ...

    def peek(self, urls: Iterable[str]) -> Found | None: ...

    def begin(self, urls: Iterable[str], why: str) -> Found: ...

    async def obtain(self, urls: Iterable[str], within: float) -> Found: ...


class Keys(Protocol):
    """The Identity rows that the agent adds to a call; agent.stir.keys."""

    def rows(self, attempt: CallAttempt, policy: Policy) -> tuple[bytes, ...]: ...


class Stage:
    """One for the process. `certificates` or `keys` are None where agent.toml configures none."""

    name: Final = "identity"

    def __init__(
        self,
        screening: Screening,
        certificates: Certificates | None,
        keys: Keys | None,
        on_failure: Callable[[Exception], None],
        ports: tuple[int, ...] = VerifierSettings().ports,
    ) -> None:
        self.verified = 0
        self.waited = 0  # for a certificate
        self.overflows = 0  # would have waited, and were one too many
        self.failures = 0
        self.not_verified = 0  # brought an Identity, and there was nobody to trust
        self.by_failure: dict[str, int] = {}
        self._screening = screening
        self._certificates = certificates
        self._keys = keys
        self._on_failure = on_failure
        self._ports = ports
        self._waiting = 0
        self._spec: IdentitySpec | None = None
        self._verifier = Verifier(VerifierSettings(ports=ports), ReplayCache())

    # -- before the decision ----------------------------------------------------------------------------------------

    def verify(self, observation: Observation, patience: float = inf) -> Finding | Coming:
        """What the Identity rows of this message are worth, or what to wait for, at most `patience` seconds.

        None also where there is nobody to trust: then nothing can be proved of a call, neither good nor bad.
        """
        spec, certificates = self._screening.policy.identity, self._certificates
        if spec is None or certificates is None:
            return None
        try:
            attempt = self._screening.unverified(observation)
            if attempt is None:
                return None
            if not attempt.message.identity:
                return self._count(NOT_SIGNED)
            if not certificates.trusting:
                self.not_verified += 1
                return None
            verifier = self._verifier_for(spec)
            claimed = verifier.read(attempt.message.identity)
            call = self._signalled(attempt)
            found = certificates.peek(claimed.urls)
            within = min(spec.wait, patience)
            if found is None and within > 0 and self._waiting < WAITING_MAX:
                return self._wait(verifier, claimed, call, observation.when, within)
            if found is None:
                self.overflows += within > 0
                why = "too many calls wait for certificates" if within > 0 else "it is being fetched"
                found = certificates.begin(claimed.urls, why)
            return self._judge(verifier, claimed, found, call, observation.when)
        except Exception as error:
            self._failed(error)
            return None

    async def _wait(
        self, verifier: Verifier, claimed: Claimed, call: SignalledCall, when: float, within: float
    ) -> Finding:
        assert self._certificates is not None
        self.waited += 1
        self._waiting += 1
        try:
            found = await self._certificates.obtain(claimed.urls, within)
            return self._judge(verifier, claimed, found, call, when)
        except Exception as error:
            self._failed(error)
            return None
        finally:
            self._waiting -= 1

    def _signalled(self, attempt: CallAttempt) -> SignalledCall:
        """The number that orig must be is the one that the called party will be shown."""
        country = self._screening.policy.addresses.by_id(attempt.trunk).default_country
        return signalled(attempt.message, (attempt.calling,), attempt.called, attempt.to, country)

    def _judge(
        self, verifier: Verifier, claimed: Claimed, found: Found, call: SignalledCall, when: float
    ) -> Verification:
        return self._count(verifier.judge(claimed, found, call, when))

    def _count(self, verification: Verification) -> Verification:
        failure = verification.failure
        if failure is None:
            self.verified += 1
        else:
            self.by_failure[failure] = self.by_failure.get(failure, 0) + 1
        return verification

    def _verifier_for(self, spec: IdentitySpec) -> Verifier:
        if spec is not self._spec:
            settings = replace(self._verifier.settings, freshness=spec.freshness, lenient=spec.lenient)
            if settings != self._verifier.settings:
                self._verifier = Verifier(settings, ReplayCache(2 * spec.freshness))
            self._spec = spec
        return self._verifier

    # -- after it ---------------------------------------------------------------------------------------------------

    def additions(self, decision: Decision) -> Additions:
        """What goes with a call that passes: our signature, its verstat, and the Reason for the caller."""
        try:
            policy, attempt = decision.policy, decision.attempt
            signed = self._signed(attempt, policy)
            spec, finding = policy.identity, attempt.identity
            if spec is None or finding is None or not (spec.mark or spec.reason):
                return Additions(identity=signed) if signed else NOTHING_ADDED
            verstat = Verstat.PASSED if finding.failure is None else spec.handling[finding.failure].verstat
            asserted = attempt.message.asserted and self._asserts(attempt)
            return Additions(
                verstat=verstat.value if spec.mark else "",
                identity=signed,
                asserted=asserted_rows(attempt.message.raw, verstat) if spec.mark and asserted else (),
                responses=_reasons(finding) if spec.reason else (),
            )
        except Exception as error:
            self._failed(error)
            return NOTHING_ADDED

    def _signed(self, attempt: CallAttempt, policy: Policy) -> tuple[bytes, ...]:
        rows = () if self._keys is None or policy.signing is None else self._keys.rows(attempt, policy)
        for row in rows:  # the record is written after this turn of the loop, and says so
            attestation = stated_attestation(row)
            attempt.notes += (f"signed with attestation {attestation}" if attestation else "signed a diversion",)
        return rows

    def _asserts(self, attempt: CallAttempt) -> bool:
        """Whether P-Asserted-Identity of this peer means anything: else it is not ours to hand on (RFC 3325 5)."""
        return self._screening.policy.addresses.by_id(attempt.trunk).trust_asserted_identity

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._on_failure(error)

    # -- how it is --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Nothing: it works when it is asked."""

    async def stop(self, _grace: float) -> None:
        """Nothing: who asked waits for his own answers."""

    def health(self) -> tuple[bool, str]:
        """Not well where the policy asks for what agent.toml does not provide."""
        policy = self._screening.policy
        missing = []
        if policy.identity is not None and self._certificates is None:
            missing.append("the policy has calls verified, and agent.toml has no [identity]: none is")
        if policy.signing is not None and self._keys is None:
            missing.append("the policy has calls signed, and agent.toml has no [signing]: none is")
        if missing:
            return False, "; ".join(missing)
        return True, f"{self.verified} verified, {sum(self.by_failure.values())} not, {self._waiting} wait now"

    def counters(self) -> dict[str, int]:
        """Counts since the start; the last is how many calls wait now."""
        counts = {f"identity_{failure}": count for failure, count in self.by_failure.items()}
        return counts | {
            "identity_verified": self.verified,
            "identity_not_verified": self.not_verified,
            "identity_waited": self.waited,
            "identity_overflows": self.overflows,
            "identity_failures": self.failures,
            "identity_in_flight": self._waiting,
        }


def _reasons(finding: Verification) -> tuple[tuple[str, bytes], ...]:
    """The failure for the next response upstream (RFC 9410 2). No `ppi`: it would name a row that may not be there."""
    if finding.failure is None:
        return ()
    code, phrase = RESPONSES[finding.failure]
    return (("Reason", b'STIR ;cause=%d ;text="%b"' % (code, phrase.encode("ascii"))),)
