"""Everything that the operations' side reads of the running agent, in one place. Changes nothing."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.calls.legs import TransitCounts
from agent.ops.clock import ClockWatch
from agent.ops.component import Component
from agent.ops.log import Log
from agent.policy.policy import LimitSpec, Mode, Policy
from agent.policy.rules import caller_id, do_not_originate, emergency, identity, provider_block, subscriber_list
from agent.service import Service


@dataclass(slots=True)
class PolicyChanges:
    """How the policy in force came to be. `last_error` is "" after a success."""

    applied: int = 0
    rejected: int = 0
    last_error: str = ""


@dataclass(slots=True)
class Readings:
    """The parts that status and metrics read. `started_at` is epoch seconds; `stall` the event loop's longest wait
    in the last second, in seconds; `transit` what became of Identity between two trunks."""

    service: Service
    log: Log
    components: Sequence[Component]
    version: str
    changes: PolicyChanges = field(default_factory=PolicyChanges)
    started_at: float = field(default_factory=time.time)
    stall: float = 0.0
    transit: Mapping[tuple[str, str], TransitCounts] = field(default_factory=dict)
    clock: ClockWatch = field(init=False)

    def __post_init__(self) -> None:
        self.clock = ClockWatch(self.log)

    def counters(self) -> dict[str, int]:
        """Every count without a label, by name."""
        service = self.service
        tally, screening = service.tally, service.screening
        counts = {
            "attempts": tally.attempts,
            "repeats": tally.repeats,
            "not_decided": tally.not_decided,
            "unreadable": screening.unreadable,
            "screening_failures": screening.failures,
            "faults": self.log.faults,
            "log_lines_lost": self.log.writer.lost,
            "refusals_not_logged": self.log.refusals_not_logged,
            "sessions_answered": screening.sessions.answered,
            "sessions_expired": screening.sessions.expired,
            "policy_applied": self.changes.applied,
            "policy_rejected": self.changes.rejected,
            "wall_clock_steps": self.clock.steps,
        }
        for component in self.components:
            counts.update(component.counters())
        return counts

    def health(self) -> dict[str, tuple[bool, str]]:
        """Component to (healthy, in words). One that fails to answer is not healthy."""
        states = {}
        for component in self.components:
            try:
                states[component.name] = component.health()
            except Exception as error:  # a part that cannot even say how it is must not hide the others
                self.log.fault(error, f"health of {component.name}")
                states[component.name] = (False, "does not say how it is")
        if words := self.clock.words():
            states["clock"] = True, words  # no part is ill for it, and no rollout is to end for it
        return states


def rule_modes(policy: Policy) -> Mapping[str, str]:
    """Every rule that is not off to its mode, in the order in which they run. The emergency rule always enforces."""
    before = (
        (provider_block.NAME, policy.provider_block),
        (do_not_originate.NAME, policy.dno),
        (caller_id.NAME, policy.caller_id),
    )
    modes: list[tuple[str, Mode]] = [(name, part.rule.mode) for name, part in before if part is not None]
    modes += [(limit.name, limit.rule.mode) for limit in policy.limits]
    if policy.identity is not None:
        modes.append((identity.NAME, policy.identity.mode))
    if policy.subscriber_lists is not None:
        modes.append((subscriber_list.NAME, policy.subscriber_lists.rule.mode))
    return {emergency.NAME: "enforce"} | {name: mode.value for name, mode in modes}


def in_words(limit: LimitSpec) -> str:
    """A limit as tables show it: "30 in 1 s, 200 calls"."""
    rate = f"{limit.rate.count:g} in {limit.rate.window:g} s" if limit.rate else ""
    sessions = f"{limit.sessions} calls" if limit.sessions else ""
    return ", ".join(filter(None, (rate, sessions)))
