"""What would have been decided about calls that are only seen. Nothing here can enforce, or claim that anybody did.

Screens with tables of its own: a call that the hook or the queue decides, too, is counted there once and here once, and
the limits of the one are not used up by the other. Its verdicts are of another type than decisions, so that no record
of an enforced verdict can be made of one by mistake.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.model import Allow, Verdict
from agent.policy.policy import Policy
from agent.screening import Decision, Observation, Screening


@dataclass(frozen=True, slots=True)
class Observed:
    """A verdict on a call attempt that was seen passing by. It was not enforced, whatever it says."""

    decision: Decision

    @property
    def would_refuse(self) -> bool:
        """Whether the policy would not have let the call pass."""
        return not isinstance(self.decision.verdict.action, Allow)

    def record(self) -> dict[str, object]:
        """The words of the call record, which say that they are no more than an observation."""
        return self.decision.record().as_dict()


class ObservedSink(Protocol):
    """Where observed attempts go. Must return at once and never raise."""

    def put(self, observed: Observed) -> None: ...


def nowhere(_source: str, _verdict: Verdict) -> None:
    """What becomes of refusals unless somebody wants to know."""


class Observer:
    """Screens under the policy in force: `policy` is asked for it with every message, so that it follows each swap.

    `on_refusal(source, verdict)` hears of each new attempt that would be refused, from which address; whoever listens
    may block that source in the kernel where the policy says so, and says so in his own name.
    """

    def __init__(
        self,
        policy: Callable[[], Policy],
        sink: ObservedSink | None = None,
        on_refusal: Callable[[str, Verdict], None] = nowhere,
        on_failure: Callable[[Exception], None] = lambda _error: None,
    ) -> None:
        self.screening = Screening(policy(), on_failure=on_failure)
        self._policy = policy
        self._sink = sink
        self._on_refusal = on_refusal

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy()

    def observe(self, observation: Observation, now: float) -> Observed | None:
        """Take one incoming message into account; what a new call attempt would have met, None for everything else."""
        policy = self._policy()
        if policy is not self.screening.policy:
            self.screening.swap(policy)
        decision = self.screening.handle(observation, now)
        if decision is None or not decision.seen.counts:
            return None
        decision.observed = True
        observed = Observed(decision)
        if self._sink is not None:
            self._sink.put(observed)
        if observed.would_refuse:
            self._on_refusal(observation.source, decision.verdict)
        return observed
