"""The pipeline on one page: observation -> call attempt -> verdict -> effects.

Performs nothing and reads no clock: `now` is monotonic seconds, `Observation.when` is wall-clock seconds since the
epoch. Whatever cannot be read or goes wrong passes: a screening that fails must never break a call. The edges
perform the effects, in order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from agent.calls.attempts import AttemptEntry, AttemptTable, Seen
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


# Verdict, shadow refusals and policy of an attempt: what is kept, with its numbers, while copies of it may still come.
Judged = tuple[Verdict, tuple[Verdict, ...], Policy]


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
    """What became of one INVITE. The verdict, shadow refusals and policy are those of its call attempt.

    `observed`: the call was only seen passing by, so that nobody enforced the verdict.
    """

    seen: Seen
    attempt: CallAttempt
    verdict: Verdict
    shadow: tuple[Verdict, ...]
    policy: Policy
    observed: bool = False

    def record(self) -> CallRecord:
        """The call record of this attempt."""
        return CallRecord.of(self.attempt, self.verdict, self.shadow, self.policy, observed=self.observed)


class Sender(Protocol):
    """Who sent a call that the compiled hot path let pass, and by what policy it did."""

    @property
    def trunk(self) -> Trunk: ...
    @property
    def source(self) -> str: ...
    @property
    def policy(self) -> Policy: ...


Passed = tuple[bytes, Sender, float]
"""A new attempt that passed all rules without a word: the message, who sent it, and when. `passed` says it in full."""


def passed(one: Passed) -> Decision:
    """The decision on a call that the compiled hot path let pass."""
    raw, sender, when = one
    return Decision(NEW, make_attempt(scan(raw), sender.trunk, sender.source, when), PASSED, (), sender.policy)


RefusedCall = tuple[bytes, Sender, float, Verdict]
"""A new attempt that one list refuses, and nothing else has a word to say about. `refused` says it in full."""


def refused(one: RefusedCall) -> Decision:
    """The decision on a call that the compiled hot path refused by a list."""
    raw, sender, when, verdict = one
    return Decision(NEW, make_attempt(scan(raw), sender.trunk, sender.source, when), verdict, (), sender.policy)


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
        self.secret = secret
        self._on_failure = on_failure
        self.counted = RuleState()
        self.sessions = self.counted.sessions
        self.leases = self.counted.leases
        self.swap(policy)

    @property
    def overflows(self) -> dict[str, int]:
        """What each table forgot early because it was full, by what it holds."""
        return {
            "attempts": self.attempts.overflows,
            "sessions": self.sessions.overflows,
            "rates": self.counted.overflows,
        }

    def swap(self, policy: Policy) -> None:
        """Decide by another policy from now on. Calls in progress and counters stay."""
        self.policy, self.rules = policy, build_rules(policy, self.counted)

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
        return transaction_tag(self.secret, message)

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

    def unverified(self, observation: Observation) -> CallAttempt | None:
        """The attempt that this message makes, if its Identity may be verified before it is decided.

        None for all that is not decided, and for calls that are emergency calls by whatever Identity: those wait for
        nothing. Counts nothing.
        """
        try:
            message = scan(observation.raw)
        except ParseError:
            return None  # `handle` counts it
        if not _opens_a_call(message) or (trunk := self._trunk(observation)) is None:
            return None
        attempt = attempt_of(observation, message, trunk)
        return None if self.rules.emergency.evident(attempt) else attempt

    def _trunk(self, observation: Observation) -> Trunk | None:
        addresses = self.policy.addresses
        if observation.trunk or observation.customer:
            return addresses.named(observation.source, observation.trunk, observation.customer)
        return addresses.sender(observation.source)

    def _handle(self, observation: Observation, now: float, identity: Verification | None) -> Decision | None:
        message = scan(observation.raw)
        if not _opens_a_call(message):
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
            verdict, shadow, policy = cast("Judged", entry.decision)
            if entry.numbers == self._fingerprint(attempt) and _stands(seen, verdict):
                if seen is not Seen.RETRANSMISSION:
                    self.sessions.observe(message, now)
                return Decision(seen, attempt, verdict, shadow, policy)
            seen = Seen.EXCESS
        decision = self.decide(attempt, now)
        decision.seen = seen
        entry.numbers = self._fingerprint(attempt)
        entry.decision = (decision.verdict, decision.shadow, decision.policy)
        return decision

    def _fingerprint(self, attempt: CallAttempt) -> int:
        return self.attempts.fingerprint(attempt.calling.digits, attempt.called.digits)

    def decide(self, attempt: CallAttempt, now: float) -> Decision:
        """Run every rule over one new attempt. The first refusal by an enforcing rule decides."""
        rules = self.rules
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
        return self._settle(attempt, refusals, now)

    def complete(
        self, entry: AttemptEntry, one: Passed, signs: int | None, now: float, listed: Verdict | None = None
    ) -> Decision | None:
        """Decide a new attempt that the compiled hot path has entered into `attempts`, but cannot decide.

        `signs` is what the limits said, where only they, and a list by the verdict `listed`, have something to say and
        they have counted it already; else None. None as the decision: a fault of ours; the call passes.
        """
        raw, sender, when = one
        try:
            attempt = make_attempt(scan(raw), sender.trunk, sender.source, when)
            limits = self.rules.limits
            if signs is None or limits is None:
                decision = self.decide(attempt, now)
            else:
                by_list = [] if listed is None else [(True, listed)]
                decision = self._settle(attempt, by_list + limits.refusals(attempt, signs), now)
        except Exception as error:
            self.failures += 1
            self._on_failure(error)
            return None
        entry.decision = (decision.verdict, decision.shadow, decision.policy)
        return decision

    def _settle(self, attempt: CallAttempt, refusals: list[tuple[bool, Verdict]], now: float) -> Decision:
        """What follows from the refusals, in the order of the rules. A call that passes consumes of the limits."""
        verdict, shadow = _settled(refusals) if refusals else (PASSED, ())
        limits = self.rules.limits
        if verdict is PASSED and limits is not None and (keys := limits.admit(now)):
            message = attempt.message
            self.sessions.open(message.call_id, message.from_tag, keys, now, message.branch)
        return Decision(NEW, attempt, verdict, shadow, self.policy)


def _opens_a_call(message: Scan) -> bool:
    """Whether this is an INVITE without To tag. Methods are case-sensitive (RFC 3261 7.1), and yet SBCs take "invite",
    so whoever writes that must not get past the rules."""
    method = message.method
    return (method == "INVITE" or method.upper() == "INVITE") and not message.to_tag


def _settled(refusals: list[tuple[bool, Verdict]]) -> tuple[Verdict, tuple[Verdict, ...]]:
    """The first refusal by an enforcing rule, PASSED if there is none; and what the shadow rules refused."""
    if len(refusals) == 1 and refusals[0][0]:  # nearly every refused call
        return refusals[0][1], ()
    deciding = next((verdict for enforcing, verdict in refusals if enforcing), PASSED)
    return deciding, tuple([verdict for enforcing, verdict in refusals if not enforcing])


def _stands(seen: Seen, verdict: Verdict) -> bool:
    """Whether an earlier verdict on this call attempt holds for another INVITE of it that shows the same numbers.

    With other ones it never does, and a retry only if the attempt was let pass: neither a Call-ID nor a branch buys
    anybody a way past the rules, and a retry after a refusal is an attempt of its own.
    """
    return seen is not Seen.EXCESS and (seen is not Seen.CONTINUATION or verdict.action is ALLOW)


def attempt_of(observation: Observation, message: Scan, trunk: Trunk) -> CallAttempt:
    """The call attempt that an INVITE of this trunk makes."""
    return make_attempt(message, trunk, observation.source, observation.when)


def make_attempt(message: Scan, trunk: Trunk, source: str, when: float) -> CallAttempt:
    """The same, where nobody has made an observation of it."""
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
        when,
        trunk.id,
        trunk.customer,
        trunk.upstream,
        source,
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
