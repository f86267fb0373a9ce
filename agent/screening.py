"""The pipeline on one page: observation -> call attempt -> verdict -> effects.

Performs nothing and reads no clock: `now` is monotonic seconds, `Observation.when` is wall-clock seconds since the
epoch. Whatever cannot be read or goes wrong passes: a screening that fails must never break a call. The edges
perform the effects, in order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from agent.calls.attempts import AttemptTable, Seen
from agent.identity.model import Verification
from agent.model import (
    ALLOW,
    DISCARD,
    NO_NUMBER,
    RELEASE,
    Allow,
    CallAttempt,
    Category,
    Drop,
    Effect,
    Number,
    NumberKind,
    ParseError,
    Refuse,
    Reply,
    Scan,
    Verdict,
)
from agent.numbers.reading import read_number
from agent.policy.policy import Policy
from agent.policy.rules import RuleState, build_rules
from agent.policy.trunks import Trunk
from agent.records.record import CallRecord
from agent.sip.answers import build_answer
from agent.sip.scan import scan
from agent.sip.tags import transaction_tag

PASSED = Verdict(ALLOW, "", Category.NONE, "no rule objects")
NEW = Seen.NEW
FULL_NUMBERS = (NumberKind.NANP, NumberKind.FOREIGN)  # a tuple: hashing an enum costs more than looking at two


# Verdict, shadow refusals, policy and numbers of an attempt: all that is kept while copies of it may still come.
_Judged = tuple[Verdict, tuple[Verdict, ...], Policy, int]


@dataclass(slots=True)
class Observation:
    """One SIP message as an ingress saw it. `transport` is "udp", "tcp", "tls" or "ws"; addresses without brackets.

    `trunk` and `customer` are names of the policy, where somebody knows them better than the source address tells.
    """

    raw: bytes
    transport: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    when: float
    trunk: str = ""
    customer: str = ""


@dataclass(slots=True)
class Decision:
    """What became of one INVITE. The verdict, shadow refusals and policy are those of its call attempt."""

    seen: Seen
    attempt: CallAttempt
    verdict: Verdict
    shadow: tuple[Verdict, ...]
    policy: Policy

    def record(self) -> CallRecord:
        """The call record of this attempt."""
        return CallRecord.of(self.attempt, self.verdict, self.shadow, self.policy)


class Screening:
    """Screens under one policy at a time; `swap` takes the next one and keeps what is counted."""

    def __init__(
        self, policy: Policy, secret: bytes = b"", on_failure: Callable[[Exception], None] = lambda _error: None
    ) -> None:
        """`secret` (up to 64 bytes) makes To tags unguessable; `on_failure` hears of faults of ours."""
        self.attempts = AttemptTable()
        # Messages that are no SIP, and faults of ours; each of them passed.
        self.unreadable = 0
        self.failures = 0
        self._secret = secret
        self._on_failure = on_failure
        self._state = RuleState()
        self.sessions = self._state.sessions
        self.leases = self._state.leases
        self.swap(policy)

    @property
    def overflows(self) -> dict[str, int]:
        """What each table forgot early because it was full, by what it holds."""
        return {
            "attempts": self.attempts.overflows,
            "sessions": self.sessions.overflows,
            "rates": self._state.overflows,
        }

    def swap(self, policy: Policy) -> None:
        """Decide by another policy from now on. Calls in progress and counters stay."""
        self.policy, self._rules = policy, build_rules(policy, self._state)

    def effects(self, decision: Decision) -> tuple[Effect, ...]:
        """What the edge has to do with the message: the same bytes for every copy of a refused INVITE.

        A refused request that lacks what an answer is made of (Via, From, To, Call-ID, CSeq) goes on to the SBC,
        which cannot accept it either.
        """
        message = decision.attempt.message
        match decision.verdict.action:
            case Refuse(answer):
                try:
                    return DISCARD, Reply(build_answer(message.raw, answer, to_tag=self.to_tag(message)))
                except ParseError:
                    return (RELEASE,)
            case Drop():
                return (DISCARD,)
            case Allow():
                return (RELEASE,)

    def to_tag(self, message: Scan) -> str:
        """The To tag of every answer to this request; its copies, its ACK and its CANCEL have the same one."""
        return transaction_tag(self._secret, message)

    def handle(self, observation: Observation, now: float, identity: Verification | None = None) -> Decision | None:
        """Take one message into account. A decision for an INVITE without To tag; None for everything else.

        None means "not ours to decide": a response, an in-dialog request, another method, what the SBC itself
        sends, and what cannot be read. All of it passes. `identity` is what its Identity rows are worth, where
        somebody has found out.
        """
        try:
            return self._handle(observation, now, identity)
        except ParseError:
            self.unreadable += 1
        except Exception as error:
            self.failures += 1
            self._on_failure(error)
        return None

    def unverified(self, observation: Observation, _now: float) -> CallAttempt | None:
        """The attempt that this message makes, if its Identity may be verified before it is decided.

        None for all that is not decided, and for calls that are emergency calls by whatever Identity: those wait for
        nothing. Counts nothing.
        """
        try:
            message = scan(observation.raw)
        except ParseError:
            return None  # `handle` counts it
        if message.method != "INVITE" or message.to_tag or (trunk := self._trunk(observation)) is None:
            return None
        attempt = attempt_of(observation, message, trunk)
        return None if self._rules.emergency.evident(attempt) else attempt

    def _trunk(self, observation: Observation) -> Trunk | None:
        addresses = self.policy.addresses
        if observation.trunk or observation.customer:
            return addresses.named(observation.source, observation.trunk, observation.customer)
        return addresses.sender(observation.source)

    def _handle(self, observation: Observation, now: float, identity: Verification | None) -> Decision | None:
        message = scan(observation.raw)
        if message.method != "INVITE" or message.to_tag:
            self.sessions.observe(message, now)
            return None
        trunk = self._trunk(observation)
        if trunk is None:
            return None
        attempt = attempt_of(observation, message, trunk)
        attempt.identity = identity
        entry = self.attempts.observe(trunk.id, message, now)
        seen = entry.seen
        if entry.decision is not None and seen is not Seen.NEW:
            judged = cast("_Judged", entry.decision)
            if _stands(seen, judged, attempt):
                if seen is not Seen.RETRANSMISSION:
                    self.sessions.observe(message, now)
                verdict, shadow, policy, _ = judged
                return Decision(seen, attempt, verdict, shadow, policy)
            seen = Seen.EXCESS
        decision = self.decide(attempt, now)
        decision.seen = seen
        entry.decision = (decision.verdict, decision.shadow, decision.policy, _numbers(attempt))
        return decision

    def decide(self, attempt: CallAttempt, now: float) -> Decision:
        """Run every rule over one new attempt. The first refusal by an enforcing rule decides."""
        rules = self._rules
        emergency = rules.emergency.check(attempt, now)
        if emergency is not None:
            return Decision(NEW, attempt, emergency, (), self.policy)
        refusals: list[tuple[bool, Verdict]] = []
        for rule in rules.before:
            if (verdict := rule.check(attempt, now)) is not None:
                refusals.append((rule.enforcing, verdict))  # noqa: PERF401  one list, three sources
        limits = rules.limits
        if limits is not None and (over := limits.check(attempt, now)):
            refusals += over
        for rule in rules.after:
            if (verdict := rule.check(attempt, now)) is not None:
                refusals.append((rule.enforcing, verdict))
        verdict, shadow = _settle(refusals) if refusals else (PASSED, ())
        if verdict is PASSED and limits is not None and (keys := limits.admit(now)):
            message = attempt.message
            self.sessions.open(message.call_id, message.from_tag, keys, now, message.branch)
        return Decision(NEW, attempt, verdict, shadow, self.policy)


def _settle(refusals: list[tuple[bool, Verdict]]) -> tuple[Verdict, tuple[Verdict, ...]]:
    """The first refusal by an enforcing rule, PASSED if there is none; and what the shadow rules refused."""
    deciding = next((verdict for enforcing, verdict in refusals if enforcing), PASSED)
    return deciding, tuple([verdict for enforcing, verdict in refusals if not enforcing])


def _numbers(attempt: CallAttempt) -> int:
    return hash((attempt.calling.digits, attempt.called.digits))


def _stands(seen: Seen, judged: _Judged, attempt: CallAttempt) -> bool:
    """Whether an earlier verdict on this call attempt holds for another INVITE of it.

    Only while it shows the same numbers, and a retry only if the attempt was let pass: neither a Call-ID nor a
    branch buys anybody a way past the rules, and a retry after a refusal is an attempt of its own.
    """
    verdict, _, _, numbers = judged
    if seen is Seen.EXCESS or numbers != _numbers(attempt):
        return False
    return seen is not Seen.CONTINUATION or verdict.action is ALLOW


def attempt_of(observation: Observation, message: Scan, trunk: Trunk) -> CallAttempt:
    """The call attempt that an INVITE of this trunk makes."""
    country = trunk.default_country
    from_uri = message.from_uri
    calling, other = read_number(from_uri, country), NO_NUMBER
    if trunk.trust_asserted_identity and (uris := message.asserted) and uris[0] != from_uri:
        asserted = _asserted(uris, country)
        if asserted is not None and asserted != calling:
            calling, other = asserted, calling
    called = read_number(message.request_uri, country)
    to = NO_NUMBER if called.kind in FULL_NUMBERS else read_number(message.to_uri, country)
    return CallAttempt(
        observation.when,
        trunk.id,
        trunk.customer,
        trunk.upstream,
        observation.source,
        calling,
        other,
        called,
        to,
        message,
    )


def _asserted(uris: tuple[bytes, ...], country: str) -> Number | None:
    """The first number among at most two asserted identities (RFC 3325 9.1: one sip, one tel)."""
    for uri in uris[:2]:
        number = read_number(uri, country)
        if number.digits:
            return number
    return None
