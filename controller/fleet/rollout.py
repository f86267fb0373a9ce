"""How a generation gets to the agents: canary, a tenth, all. One step of thought at a time, from facts to a decision.

Knows what the store keeps of a rollout and what each agent is like; must not know where either comes from. No I/O;
time is an argument, epoch seconds. Whatever must survive a restart is in the Rollout that comes back, so another
process can take the next step.

    running --every agent of the step has confirmed and is well--> next step, ... --of the last--> done
    running --somebody rejects it, or is worse than before--> rolled back   (halted, where there is no way back)

A generation that takes the fleet back after such a fault is for everybody at once, and is not judged.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

from controller.fleet.judging import (
    EVIDENCE,
    LOST_SECONDS,
    NAMED,
    Judgement,
    Member,
    before_from,
    before_of,
    before_to,
    is_proven,
    judge,
)
from controller.model import OfferPhase, Rollout, RolloutPlan, RolloutState

DEFAULT_PLAN: Final = RolloutPlan(steps=(0.0, 0.1, 1.0), soak=30.0, refusal_rise=0.2)
"""A share of nothing is one agent."""

AT_ONCE: Final = (1.0,)


@dataclass(frozen=True, slots=True)
class Case:
    """A rollout, and what is known of its generation. `returning`: it takes the fleet back from a bad one.

    `way_back`: there is a generation before it that the fleet could be taken back to.
    """

    rollout: Rollout
    way_back: bool = False
    returning: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The rollout as it is from now on, and who gets the offer now. Save first, then assign: both can be repeated."""

    rollout: Rollout
    assign: tuple[str, ...] = ()


def advance(case: Case, fleet: Sequence[Member], now: float) -> Decision:
    """Think once. `fleet` are all agents that are not revoked."""
    rollout = replace(case.rollout, memory=_noting_who_is_gone(case.rollout.memory, fleet, now))
    if rollout.state is not RolloutState.RUNNING:
        return Decision(case.rollout)
    members = [m for m in fleet if m.phase is not None]
    judgement = judge(members, rollout, now)
    if case.returning:
        judgement = Judgement("", judgement.ailing)
    if judgement.fault:
        state = RolloutState.ROLLED_BACK if case.way_back else RolloutState.HALTED
        return Decision(replace(rollout, state=state, why=judgement.fault))
    if not fleet:
        return Decision(replace(rollout, state=RolloutState.DONE, why="there are no agents yet"))
    return _go_on(replace(case, rollout=rollout), fleet, judgement.ailing, now)


def _go_on(case: Case, fleet: Sequence[Member], ailing: Mapping[str, str], now: float) -> Decision:
    """Assign what the step still lacks; when nothing is missing and nobody is waited for, take the next one."""
    rollout = case.rollout
    while True:
        missing = _missing(rollout, fleet)
        if missing:
            return _assign(rollout, missing, now)
        waiting = [m.id for m in fleet if _is_awaited(m, ailing, case, now)]
        if waiting:
            return Decision(replace(rollout, why=_waiting(rollout, waiting)))
        if not case.returning and now < rollout.memory.get("assigned_at", 0.0) + rollout.plan.soak:
            # Agents soak by themselves, and confirm then; a step is no shorter because one of them did not.
            return Decision(replace(rollout, why=f"{_step(rollout)}: all confirmed, soaking"))
        last = rollout.step == len(rollout.plan.steps) - 1
        if not any(m.phase is OfferPhase.CONFIRMED for m in fleet) and not (last and _nobody_can(fleet)):
            return Decision(replace(rollout, why="waiting for an agent to connect"))
        if last:
            return Decision(replace(rollout, state=RolloutState.DONE, why=""))
        rollout = replace(rollout, step=rollout.step + 1, step_started_at=now)


def _assign(rollout: Rollout, agents: Sequence[Member], now: float) -> Decision:
    before = dict(rollout.memory.get("before", {}))
    before.update((m.id, before_to(before_of(m))) for m in agents)
    names = tuple(m.id for m in agents)
    memory = {**rollout.memory, "before": before, "assigned_at": now}
    assigned = replace(rollout, memory=memory, why=_waiting(rollout, names))
    return Decision(replace(assigned, step_started_at=rollout.step_started_at or now), names)


def _missing(rollout: Rollout, fleet: Sequence[Member]) -> list[Member]:
    """Agents that this step should have and that have no offer yet."""
    share = rollout.plan.steps[rollout.step]
    free = [m for m in fleet if m.phase is None and m.able]
    if share >= 1:
        return free
    here = [m for m in fleet if m.connected and m.able and not m.refused]
    having = sum(1 for m in fleet if m.phase is not None and ((m.connected and m.able) or m.taken) and not m.refused)
    wanted = max(1, ceil(share * len(here))) - having
    if wanted <= 0:
        return []
    candidates = [m for m in free if m.connected]
    if not having:
        return _canaries(candidates, rollout)[:wanted]
    return sorted(candidates, key=lambda m: _shuffled(m.id, rollout.generation))[:wanted]


def _canaries(candidates: Sequence[Member], rollout: Rollout) -> list[Member]:
    """Best first: well, and with as little traffic as still shows within the soak whether too much is refused."""
    needed = EVIDENCE / max(rollout.plan.soak, 1.0)

    def rank(member: Member) -> tuple[bool, bool, float, str]:
        rate = member.health.attempts_per_second if member.health is not None else 0.0
        ill = member.health is None or bool(member.health.trouble)
        enough = rate >= needed
        return (ill, not enough, rate if enough else -rate, member.id)

    return sorted(candidates, key=rank)


def _shuffled(agent_id: str, generation: int) -> bytes:
    """An order that is another one for every generation, and the same for every controller."""
    return hashlib.sha256(f"{generation} {agent_id}".encode()).digest()


def _is_awaited(member: Member, ailing: Mapping[str, str], case: Case, now: float) -> bool:
    """Of those who are away, whoever left in the middle, and whoever was here for the offer and has only just gone."""
    if member.phase is None or member.refused or member.id in ailing or not member.able:
        return False
    if not member.connected:
        was_here = before_from(case.rollout.memory, member.id).here
        just_gone = was_here and member.seen_at is not None and now - member.seen_at < LOST_SECONDS
        return member.phase is not OfferPhase.CONFIRMED and (member.taken or just_gone)
    return (
        member.phase is not OfferPhase.CONFIRMED if case.returning else not is_proven(member, case.rollout.generation)
    )


def _nobody_can(fleet: Sequence[Member]) -> bool:
    """Everybody who is here takes no offers, or has refused this one."""
    return any(m.connected for m in fleet) and all(not m.able or m.refused for m in fleet if m.connected)


def _noting_who_is_gone(memory: Mapping[str, Any], fleet: Sequence[Member], now: float) -> Mapping[str, Any]:
    """Since when each member that took the offer has been away."""
    before = memory.get("gone", {})
    gone = {m.id: before.get(m.id, now) for m in fleet if m.taken and not m.connected}
    return memory if gone == before else {**memory, "gone": gone}


def _waiting(rollout: Rollout, names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{_step(rollout)}: waiting for {', '.join(names[:NAMED])}{more}"


def _step(rollout: Rollout) -> str:
    return f"step {rollout.step + 1} of {len(rollout.plan.steps)}"
