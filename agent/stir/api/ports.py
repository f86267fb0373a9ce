"""What the API needs of the rest of the agent: two questions. Knows no HTTP and nobody who answers them."""

from collections.abc import Sequence
from typing import Protocol

from agent.identity.model import SignalledCall, Verification
from agent.stir.api.documents import SigningOrder


class Verifying(Protocol):
    """Judges Identity rows."""

    async def verify(self, values: Sequence[bytes], call: SignalledCall, when: float) -> Verification:
        """What these rows are worth to this call at `when`, epoch seconds; certificates fetched as needed.

        Never raises for what is in the rows. `call` has neither Call-ID nor From tag: a replay cannot be told from a
        second question about the same call, so this needs a replay cache of its own, not that of the calls. May be
        cancelled when the API's time is over.
        """
        ...


class UnwillingError(Exception):
    """The signer does not sign this: which parameter it objects to, and why. The client is told both.

    parameter: "attest", "orig", "dest", "iat" or "origid".
    """

    def __init__(self, parameter: str, why: str) -> None:
        super().__init__(f"{parameter}: {why}")
        self.parameter = parameter
        self.why = why


class Signing(Protocol):
    """Signs PASSporTs."""

    async def sign(self, order: SigningOrder, when: float) -> str:
        """The value of an Identity header, signed at `when`. Raises UnwillingError for an order that it does not
        carry out; any other error is one of ours (no key, an expired certificate), of which the client learns nothing.
        """
        ...
