"""The policy in force, in the terms of the compiled hot path (agent/native/gate.c): what it may decide, and by what.

The gate takes only what it can decide exactly as screening would: a new call attempt in the plain form, of a sender
whose calls no rule has an opinion on by itself, with numbers that are on no list, within all limits. It works on the
same tables as screening, and asks Python for every other attempt (`Service.complete`) or leaves the message to it.
Knows rules and limits; must not know sockets, nor any contract. Performs nothing.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent import native
from agent.model import Verdict
from agent.policy.policy import Policy
from agent.policy.rules.caller_id import CallerIdRule
from agent.policy.rules.do_not_originate import DoNotOriginateRule
from agent.policy.rules.provider_block import ProviderBlockRule
from agent.policy.rules.subscriber_list import SubscriberListRule
from agent.policy.trunks import UNKNOWN, Trunk
from agent.screening import PASSED, Screening
from agent.service import Service

if TYPE_CHECKING:
    from agent.native._gate import Gate, Sender

# Rules whose silence the gate can tell. Where there is any other, Python decides every attempt.
UNDERSTOOD: Final = (ProviderBlockRule, DoNotOriginateRule, CallerIdRule, SubscriberListRule)


@dataclass(frozen=True, slots=True)
class Passing:
    """How the calls of a sender are answered where they pass: for a way in that answers. `next_hop` makes it a 302,
    whose Contact the gate puts together."""

    status_line: bytes = b""
    rows: bytes = b""
    next_hop: bytes = b""


SenderOf = Callable[[bytes], tuple[str, Trunk | None]]
"""Address and trunk of what a way in knows its senders by; None for those whose messages are all left to Python."""


class GateKeeper:
    """The gate of one way in, made anew when the policy changes.

    `sender_of` reads the keys that this way in gives to the gate, `passing` says how calls of a trunk are answered,
    None where that is for Python. `serves_sessions` says whether the way in lets calls in progress be counted.
    """

    def __init__(
        self,
        service: Service,
        sender_of: SenderOf,
        passing: Callable[[Trunk], Passing | None] = lambda _trunk: Passing(),
        *,
        serves_sessions: bool = True,
    ) -> None:
        self._service = service
        self._sender_of = sender_of
        self._passing = passing
        self._serves_sessions = serves_sessions
        self._policy: Policy | None = None
        self._gate: Gate | None = None

    @property
    def gate(self) -> "Gate | None":
        """The gate for the policy in force; None where everything is for Python."""
        screening = self._service.screening
        if screening.policy is not self._policy:
            self._policy = screening.policy
            self._gate = self._build(screening)
        return self._gate

    def _build(self, screening: Screening) -> "Gate | None":
        policy, limits = screening.policy, screening.rules.limits
        if native.gate is None or policy.identity is not None or policy.signing is not None:
            return None
        if limits is not None and limits.has_sessions and not self._serves_sessions:
            return None
        rules = (*screening.rules.before, *screening.rules.after)
        dno, lists = policy.dno, policy.subscriber_lists
        gate: Gate = native.gate.Gate(
            attempts=screening.attempts,
            bank=limits.bank if limits is not None else None,
            indexes=tuple(dno_list.terms for _, dno_list in dno.lists) if dno is not None else (),
            refuse_invalid=dno is not None and dno.refuse_invalid,
            watched=_watched(policy),
            unwanted=dict(lists.unwanted) if lists is not None else None,
            asks=not all(isinstance(rule, UNDERSTOOD) for rule in rules)
            or (limits is not None and limits.has_sessions),
            judged=(PASSED, (), policy),
            refusal=_refusal(screening),
            secret=screening.secret,
            sender_of=lambda key: self._sender(key, screening),
            clock=self._service.clock,
        )
        return gate

    def _sender(self, key: bytes, screening: Screening) -> "Sender | None":
        assert native.gate is not None
        source, trunk = self._sender_of(key)
        passing = None if trunk is None else self._passing(trunk)
        if trunk is None or passing is None or not source.isascii():
            return None
        policy, limits = screening.policy, screening.rules.limits
        keys = limits.keys_of(trunk) if limits is not None else ()
        sender: Sender = native.gate.Sender(
            trunk=trunk,
            trunk_id=trunk.id,
            source=source,
            policy=policy,
            country=trunk.default_country,
            trusted=trunk.trust_asserted_identity,
            plain=keys is not None and not _has_opinion(policy, trunk, source),
            known=trunk is not UNKNOWN,
            status_line=passing.status_line,
            rows=passing.rows,
            next_hop=passing.next_hop,
            keys=keys or (),
        )
        return sender


def _has_opinion(policy: Policy, trunk: Trunk, source: str) -> bool:
    """Whether a rule may say something about any call of this sender, whatever its numbers."""
    if policy.emergency.psap_sources.longest(source) is not None:
        return True
    if policy.provider_block is not None and any(
        block.trunk == trunk.id if block.trunk else block.upstream == trunk.upstream
        for block in policy.provider_block.blocks
    ):
        return True
    return policy.caller_id is not None and trunk.customer in policy.caller_id.inventory


def _refusal(screening: Screening) -> Callable[[int, float], Verdict | None] | None:
    """What the do-not-originate rule says of a number alone, where it refuses by nothing else."""
    rules = [rule for rule in screening.rules.before if isinstance(rule, DoNotOriginateRule)]
    return rules[0].on_number if rules and rules[0].refuses_by_number else None


def _watched(policy: Policy) -> bytes:
    """The calling numbers of public-safety answering points, as pairs of u64 in native order."""
    return array("Q", [bound for piece in policy.emergency.psap_calling.pieces() for bound in piece]).tobytes()
