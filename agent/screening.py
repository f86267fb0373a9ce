"""The pipeline on one page: observation -> call attempt -> verdict -> effects.

Performs nothing and reads no clock: `now` is monotonic seconds, `Observation.when` is wall-clock seconds since the
epoch. Whatever cannot be read or goes wrong passes: a screening that fails must never break a call. The edges
perform the effects, in order.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

from agent.calls.attempts import AttemptTable, Seen
from agent.calls.sessions import SessionTable
from agent.model import (
    ALLOW,
    DISCARD,
    NO_NUMBER,
    RELEASE,
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
from agent.policy.rules.emergency import EmergencyRule
from agent.policy.trunks import Trunk
from agent.records.record import CallRecord
from agent.sip.answers import build_answer
from agent.sip.scan import scan

PASSED = Verdict(ALLOW, "", Category.NONE, "no rule objects")
FULL_NUMBERS = frozenset({NumberKind.NANP, NumberKind.FOREIGN})


# Verdict, shadow refusals, policy and numbers of an attempt: all that is kept while copies of it may still come.
_Judged = tuple[Verdict, tuple[Verdict, ...], Policy, int]


@dataclass(slots=True)
class Observation:
    """One SIP message as an ingress saw it. `transport` is "udp", "tcp" or "tls"; addresses without brackets."""

    raw: bytes
    transport: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    when: float


@dataclass(slots=True)
class Decision:
    """What became of one INVITE. The verdict, shadow refusals and policy are those of its call attempt."""

    seen: Seen
    attempt: CallAttempt
    verdict: Verdict
    shadow: tuple[Verdict, ...]
    policy: Policy

    def effects(self) -> tuple[Effect, ...]:
        """What the edge has to do with the message. The same bytes for every copy of the INVITE."""
        match self.verdict.action:
            case Refuse(answer):
                request = self.attempt.message.raw
                return DISCARD, Reply(build_answer(request, answer, to_tag=_to_tag(self.attempt.message)))
            case Drop():
                return (DISCARD,)
            case _:
                return (RELEASE,)

    def record(self) -> CallRecord:
        """The call record of this attempt."""
        return CallRecord.of(self.attempt, self.verdict, self.shadow, self.policy)


class Screening:
    """Screens under one policy at a time; `swap` takes the next one and keeps what is counted."""

    def __init__(self, policy: Policy, on_failure: Callable[[Exception], None] = lambda _error: None) -> None:
        self.attempts = AttemptTable()
        self.sessions = SessionTable()
        # Messages that are no SIP, and faults of ours; each of them passed.
        self.unreadable = 0
        self.failures = 0
        self._on_failure = on_failure
        self._state = RuleState(self.sessions)
        self.swap(policy)

    def swap(self, policy: Policy) -> None:
        """Decide by another policy from now on. Calls in progress and counters stay."""
        rules, limits = build_rules(policy, self._state)
        self._state.keep_only(policy)
        self.policy, self._emergency, self._rules, self._limits = (
            policy, EmergencyRule(policy.emergency), rules, limits)

    def handle(self, observation: Observation, now: float) -> Decision | None:
        """Take one message into account. A decision for an INVITE without To tag; None for everything else.

        None means "not ours to decide": a response, an in-dialog request, another method, what the SBC itself
        sends, and what cannot be read. All of it passes.
        """
        try:
            return self._handle(observation, now)
        except ParseError:
            self.unreadable += 1
        except Exception as error:  # noqa: BLE001  the one catch-all: a fault of ours must not break a call
            self.failures += 1
            self._on_failure(error)
        return None

    def _handle(self, observation: Observation, now: float) -> Decision | None:
        message = scan(observation.raw)
        if message.method != "INVITE" or message.to_tag:
            self.sessions.observe(message, now)
            return None
        trunk = self.policy.addresses.sender(observation.source)
        if trunk is None:
            return None
        attempt = _attempt(observation, message, trunk)
        entry = self.attempts.observe(trunk.id, message, now)
        seen = entry.seen
        if entry.decision is not None and seen is not Seen.NEW:
            judged = cast(_Judged, entry.decision)
            if _stands(seen, judged, attempt):
                verdict, shadow, policy, _ = judged
                return Decision(seen, attempt, verdict, shadow, policy)
            seen = Seen.EXCESS
        decision = self.decide(attempt, now)
        decision.seen = seen
        entry.decision = (decision.verdict, decision.shadow, decision.policy, _numbers(attempt))
        return decision

    def decide(self, attempt: CallAttempt, now: float) -> Decision:
        """Run every rule over one new attempt. The first refusal by an enforcing rule decides."""
        emergency = self._emergency.check(attempt, now)
        if emergency is not None:
            return Decision(Seen.NEW, attempt, emergency, (), self.policy)
        refusal: Verdict | None = None
        shadow: tuple[Verdict, ...] = ()
        for rule in self._rules:
            verdict = rule.check(attempt, now)
            if verdict is None:
                continue
            if not rule.enforcing:
                shadow += (verdict,)
            elif refusal is None:
                refusal = verdict
        if refusal is None:
            self._admit(attempt, now)
        return Decision(Seen.NEW, attempt, refusal or PASSED, shadow, self.policy)

    def _admit(self, attempt: CallAttempt, now: float) -> None:
        keys: tuple[Hashable, ...] = ()
        for limit in self._limits:
            key = limit.admit(now)
            if key is not None:
                keys += (key,)
        if keys:
            self.sessions.open(attempt.message.call_id, attempt.message.from_tag, keys, now)


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


def _attempt(observation: Observation, message: Scan, trunk: Trunk) -> CallAttempt:
    country = trunk.default_country
    calling, other = read_number(message.from_uri, country), NO_NUMBER
    if trunk.trust_asserted_identity:
        asserted = _asserted(message.asserted, country)
        if asserted is not None:
            calling, other = asserted, calling
    called = read_number(message.request_uri, country)
    to = NO_NUMBER if called.kind in FULL_NUMBERS else read_number(message.to_uri, country)
    return CallAttempt(observation.when, trunk.id, trunk.customer, trunk.upstream, observation.source,
                       calling, other, called, to, message)


def _asserted(uris: tuple[bytes, ...], country: str) -> Number | None:
    """The first number among at most two asserted identities (RFC 3325 9.1: one sip, one tel)."""
    return next((n for n in (read_number(uri, country) for uri in uris[:2]) if n.digits), None)


def _to_tag(message: Scan) -> str:
    """The same for every copy of one INVITE, so that a retransmission gets the same answer (RFC 3261 17.2.1)."""
    seed = b"\0".join((message.call_id, message.from_tag, message.branch, message.sent_by, message.request_uri))
    return blake2b(seed, digest_size=8).hexdigest()
