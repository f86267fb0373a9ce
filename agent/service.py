"""What every live way in shares: screening with a clock, tallies and a place for records.

One object, one event loop, no locks: the hook, the redirect servers and later the kernel queues call `handle` for each
message and perform what it decided. It never raises and never waits.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Protocol

from agent.calls.attempts import AttemptEntry
from agent.identity.model import Verification
from agent.model import ALLOW, Effect, Verdict
from agent.policy.policy import Policy
from agent.policy.trunks import Trunk
from agent.screening import Decision, Observation, Passed, RefusedCall, Screening, passed, refused

# Upper bounds of the latency histogram, seconds: from the cost of a compiled decision to the promised millisecond.
LATENCY_BUCKETS: Final = (2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3)
# One decision in so many is timed: two clock readings cost a twentieth of a decision.
LATENCY_EVERY: Final = 16


class RecordSink(Protocol):
    """Where decided call attempts go. Must return at once and never raise."""

    def put(self, decision: Decision) -> None: ...

    def put_passed(self, calls: Sequence[Passed]) -> None:
        """The same for calls that passed without a word, a batch at once."""
        for one in calls:
            self.put(passed(one))

    def put_refused(self, one: RefusedCall) -> None:
        """The same for a call that nothing but a list refused."""
        self.put(refused(one))


Finding = Verification | None
"""What the Identity rows of a call are worth; None where that was not found out."""

Coming = Coroutine[Any, Any, Finding]
"""A finding that must be waited for. Who does not want it must close it."""


class IdentityStage(Protocol):
    """Finds out what Identity rows are worth, before a call is decided, and what the agent adds to those that pass.

    None of its methods raises, nor does what they return.
    """

    def verify(self, observation: Observation, patience: float) -> Finding | Coming:
        """The finding, or what to wait for because a certificate must be fetched: at most `patience` seconds."""
        ...

    def additions(self, decision: Decision) -> "Additions":
        """What goes with a call that passes."""
        ...


@dataclass(frozen=True, slots=True)
class Additions:
    """What a call that passes takes along beside its own Identity rows, each as (name, value).

    `identity` are rows that the agent signed; `asserted` are P-Asserted-Identity rows that say the verification
    status, in place of those that came; `responses` are rows for the next response to the caller (RFC 9410).
    """

    verstat: str = ""
    identity: tuple[bytes, ...] = ()
    asserted: tuple[bytes, ...] = ()
    responses: tuple[tuple[str, bytes], ...] = ()


NOTHING_ADDED: Final = Additions()


@dataclass(slots=True)
class Tally:
    """Counts since the start of the process. Grows with the policy (rules, trunks), not with traffic."""

    attempts: int = 0
    repeats: int = 0
    not_decided: int = 0
    # (trunk, "allow" | "refuse" | "drop")
    by_trunk: dict[tuple[str, str], int] = field(default_factory=dict)
    # (rule, "allow" | "refuse" | "drop" | "shadow"); rule "" is "no rule objects"
    by_rule: dict[tuple[str, str], int] = field(default_factory=dict)
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    latency_sum: float = 0.0

    def count(self, decision: Decision) -> None:
        """Count one decision on a new attempt."""
        action = decision.verdict.action.word
        self.attempts += 1
        trunk, rule = (decision.attempt.trunk, action), (decision.verdict.rule, action)
        self.by_trunk[trunk] = self.by_trunk.get(trunk, 0) + 1
        self.by_rule[rule] = self.by_rule.get(rule, 0) + 1
        for verdict in decision.shadow:
            key = (verdict.rule, "shadow")
            self.by_rule[key] = self.by_rule.get(key, 0) + 1

    def count_refused(self, trunk: str, verdict: Verdict) -> None:
        """Count a new attempt that was refused, with nothing in shadow beside it."""
        action = verdict.action.word
        self.attempts += 1
        for counts, key in ((self.by_trunk, (trunk, action)), (self.by_rule, (verdict.rule, action))):
            counts[key] = counts.get(key, 0) + 1

    def count_passed(self, trunk: str, calls: int) -> None:
        """Count new attempts of one trunk that passed without a word."""
        self.attempts += calls
        for counts, key in ((self.by_trunk, (trunk, ALLOW.word)), (self.by_rule, ("", ALLOW.word))):
            counts[key] = counts.get(key, 0) + calls

    def time(self, seconds: float, decisions: int = 1) -> None:
        """Put the duration of so many decisions, each, into the histogram."""
        self.latency[bisect_left(LATENCY_BUCKETS, seconds)] += decisions
        self.latency_sum += seconds * decisions


class Service:
    """Decides messages as they come in. `clock` is monotonic seconds.

    With an `identity` stage, a way in asks `verify` first, waits for what it returns if that is to be waited for, and
    gives the finding to `handle`; after it, `additions` says what goes with a call that passes.
    """

    def __init__(
        self,
        screening: Screening,
        records: RecordSink,
        clock: Callable[[], float] = time.monotonic,
        identity: IdentityStage | None = None,
    ) -> None:
        self.screening = screening
        self.identity = identity
        self.tally = Tally()
        self.draining = False
        self._records = records
        self.clock = clock
        self._until_timed = LATENCY_EVERY

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.screening.policy

    @property
    def has_identity(self) -> bool:
        """Whether the policy has calls verified or signed, and there is somebody to do it."""
        policy = self.screening.policy
        return self.identity is not None and (policy.identity is not None or policy.signing is not None)

    def verify(self, observation: Observation, patience: float = inf) -> Finding | Coming:
        """What the Identity rows of this message are worth, or what to wait for, at most `patience` seconds."""
        if self.identity is None or self.screening.policy.identity is None:
            return None
        return self.identity.verify(observation, patience)

    def additions(self, decision: Decision) -> Additions:
        """What goes with a call that passes."""
        return NOTHING_ADDED if self.identity is None else self.identity.additions(decision)

    def handle(self, observation: Observation, identity: Finding = None) -> Decision | None:
        """Screen one message; None for what is not decided and goes on. Counts and records new attempts."""
        now = self.clock()
        decision = self.screening.handle(observation, now, identity)
        if decision is None:
            self.tally.not_decided += 1
            return None
        if decision.seen.counts:
            self.tally.count(decision)
            self._records.put(decision)
        else:
            self.tally.repeats += 1
        self._until_timed -= 1
        if not self._until_timed:
            self._until_timed = LATENCY_EVERY
            self.tally.time(self.clock() - now)
        return decision

    def complete(
        self, entry: AttemptEntry, one: Passed, signs: int | None, listed: Verdict | None = None
    ) -> Decision | None:
        """Decide, count and record a new attempt that the compiled hot path cannot decide: see Screening.complete."""
        decision = self.screening.complete(entry, one, signs, self.clock(), listed)
        if decision is None:
            self.tally.not_decided += 1
            return None
        self.tally.count(decision)
        self._records.put(decision)
        return decision

    def refuse(self, entry: AttemptEntry, one: RefusedCall) -> None:
        """Count and record a new attempt of the compiled hot path that nothing but a list refuses."""
        _, sender, _, verdict = one
        entry.decision = (verdict, (), sender.policy)
        self.tally.count_refused(sender.trunk.id, verdict)
        self._records.put_refused(one)

    def let_pass(self, calls: Sequence[Passed], counts: Sequence[tuple[Trunk, int]], seconds: float) -> None:
        """Count and record new attempts that the compiled hot path let pass; each took so long, on the average."""
        for trunk, number in counts:
            self.tally.count_passed(trunk.id, number)
        self._records.put_passed(calls)
        self._until_timed -= len(calls)
        if self._until_timed <= 0:
            timed, left = divmod(-self._until_timed, LATENCY_EVERY)
            self._until_timed = LATENCY_EVERY - left
            self.tally.time(seconds, timed + 1)

    def effects(self, decision: Decision) -> tuple[Effect, ...]:
        """What to do with the message of a decision, in order."""
        return self.screening.effects(decision)
