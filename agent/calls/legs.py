"""What pairing finds out: the transit of each leg, of each refusal, and the sums between trunks. Plain values."""

from dataclasses import dataclass
from enum import StrEnum

from agent.calls.transit import Answer, Transit


class Match(StrEnum):
    """How the two legs were recognised, the surest first."""

    CALL_ID = "call-id"
    IDENTITY = "identity"
    NUMBERS = "numbers"


@dataclass(frozen=True, slots=True)
class TransitResult:
    """One outgoing leg beside the INVITE that it comes from. `when` is epoch seconds; trunks are the policy's names.
    `first`: the first leg of its call, so that a call is counted once."""

    when: float
    call_id: bytes
    call_id_out: bytes
    ingress: str
    egress: str
    match: Match
    first: bool
    transit: Transit


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """A refusal that a callee's network gave, and what the SBC told the caller. `lost` is empty if it was all kept."""

    when: float
    call_id: bytes
    ingress: str
    egress: str
    came: Answer
    went: Answer
    lost: tuple[str, ...]


@dataclass(slots=True)
class TransitCounts:
    """What happened between two trunks. `signed` are legs that came in with Identity; the next ones are of those."""

    calls: int = 0
    legs: int = 0
    signed: int = 0
    intact: int = 0
    stripped: int = 0
    altered: int = 0
    reordered: int = 0
    added: int = 0  # also where nothing came in: the provider signs
    refusals: int = 0
    refusals_altered: int = 0

    @property
    def kept(self) -> float:
        """The share of signed legs whose rows all went out byte for byte; 1 where there were none."""
        return self.intact / self.signed if self.signed else 1.0

    def add(self, transit: Transit, first: bool) -> None:
        """Count one leg."""
        self.calls += first
        self.legs += 1
        self.added += transit.added > 0
        if transit.before:
            self.signed += 1
            self.intact += transit.intact
            self.stripped += transit.stripped > 0
            self.altered += transit.altered > 0
            self.reordered += transit.reordered


@dataclass(slots=True)
class PairingCounts:
    """Over all trunks. `not_forwarded` are incoming calls that were forgotten without a leg, `own` outgoing ones
    without a call that we saw: the SBC's own, or by TLS. The last four are what did not fit into a bound."""

    calls: int = 0
    paired: int = 0
    by_call_id: int = 0
    by_identity: int = 0
    by_numbers: int = 0
    ambiguous: int = 0  # by numbers, with more than one call that it could have been
    not_forwarded: int = 0
    own: int = 0
    calls_overflow: int = 0
    waiting_overflow: int = 0
    legs_overflow: int = 0
    alike_overflow: int = 0
