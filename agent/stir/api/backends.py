"""Who does the work behind the API: the verifier and the signer of this agent, under the policy in force."""

from collections.abc import Callable, Sequence

from agent.identity.model import SignalledCall, Unreachable, Verification, Verstat
from agent.identity.replay import ReplayCache
from agent.identity.signing import Signer
from agent.identity.verification import Verifier, VerifierSettings
from agent.policy.policy import Policy
from agent.stir.api.documents import SigningOrder, verstat_of
from agent.stir.api.ports import UnwillingError
from agent.stir.stage import Certificates


class Verifies:
    """`ports.Verifying` by our verifier. `within`: seconds that a certificate may take."""

    def __init__(
        self, certificates: Certificates, policy: Callable[[], Policy], ports: tuple[int, ...], within: float
    ) -> None:
        self._certificates = certificates
        self._policy = policy
        self._within = within
        self._verifier = Verifier(VerifierSettings(ports=ports), _nobody_replays())

    async def verify(self, values: Sequence[bytes], call: SignalledCall, when: float) -> Verification:
        """What these rows are worth to this call."""
        verifier = self._current()
        claimed = verifier.read(values)
        if not self._certificates.trusting:
            no_trust = Unreachable("no trust list is loaded")
            return verifier.judge(claimed, dict.fromkeys(claimed.urls, no_trust), call, when)
        found = self._certificates.peek(claimed.urls)
        if found is None:
            found = await self._certificates.obtain(claimed.urls, self._within)
        return verifier.judge(claimed, found, call, when)

    def _current(self) -> Verifier:
        """The verifier with the freshness of the policy in force."""
        spec = self._policy().identity
        ports = self._verifier.settings.ports
        settings = (
            VerifierSettings(ports=ports) if spec is None else VerifierSettings(spec.freshness, spec.lenient, ports)
        )
        if settings != self._verifier.settings:
            self._verifier = Verifier(settings, _nobody_replays())
        return self._verifier


def _nobody_replays() -> ReplayCache:
    """A question has no Call-ID, so nothing can be called a replay: all of them are one call here."""
    return ReplayCache(capacity=1)


class Signs:
    """`ports.Signing` by our key. `signer` gives the one in use; None while there is none."""

    def __init__(self, signer: Callable[[], Signer | None]) -> None:
        self._signer = signer

    async def sign(self, order: SigningOrder, when: float) -> str:
        """The value of an Identity header. Raises UnwillingError, and RuntimeError where nothing can be signed."""
        signer = self._signer()
        if signer is None or not signer.valid_at(when):
            raise RuntimeError("there is no key with a valid certificate to sign with")
        try:
            return signer.sign(order.orig, order.dest, order.attest, order.origid, order.iat).decode("ascii")
        except ValueError as error:
            claim, _, why = str(error).partition(": ")
            raise UnwillingError(claim, why) from None


def verstat_by(policy: Callable[[], Policy]) -> Callable[[Verification], Verstat]:
    """What a verification amounts to under the policy in force."""

    def verstat(result: Verification) -> Verstat:
        spec = policy().identity
        if spec is None or result.failure is None:
            return verstat_of(result)
        return spec.handling[result.failure].verstat

    return verstat
