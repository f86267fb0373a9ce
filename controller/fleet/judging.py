"""How agents do under a new generation, compared to how they did before it: what halts a rollout.

Knows members of a rollout and what each was like before its offer. No I/O; time is an argument, epoch seconds.

A rejection halts always, and so does a rise of the refused share of all members taken together. What one machine can
come to by itself (a disk that is full, a cable) halts when it comes to more than one in twenty of those who have the
new generation: so to any of the first twenty.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

from controller.model import HealthNote, OfferPhase, Problem, Rollout, RolloutPlan

EVIDENCE: Final = 20
"""Call attempts below which a share of refusals says nothing."""

CHANCE: Final = 2.0
"""Standard deviations that chance is given: of few attempts a share may be high without being so."""

TOLERATED_SHARE: Final = 0.05

LOST_SECONDS: Final = 180.0
"""How long an agent may be gone: a restart, a change of controllers. Where these were away for long, agents come back
within a minute or two of each other."""

PATIENCE_SECONDS: Final = 600.0
"""For an agent that is connected to come to the next phase: lists may have to be fetched over a slow line."""

PROOF_SECONDS: Final = 120.0
"""For health under the new generation to be heard of after it was confirmed; it comes every ten seconds or so."""

NAMED: Final = 5
"""Agents that a reason names."""

ABOUT_US: Final = frozenset({"quota", "upload"})
"""Parts of an agent that are ill when controllers are away or start again: no generation is to blame for that."""

REFUSED: Final = (OfferPhase.REJECTED, OfferPhase.ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class Member:
    """An agent as the rollout of one generation sees it. `phase` is None where that was not offered to it.

    `able`: takes offers at all; of one that is away, nobody knows and it counts as able. `seen_at`: when it last was
    here; None: never, or not for as long as anybody remembers.
    """

    id: str
    connected: bool
    able: bool = True
    phase: OfferPhase | None = None
    problem: Problem | None = None
    updated_at: float = 0.0
    health: HealthNote | None = None
    seen_at: float | None = None

    @property
    def refused(self) -> bool:
        return self.phase in REFUSED

    @property
    def taken(self) -> bool:
        """It has answered, and not by no."""
        return self.phase is not None and self.phase is not OfferPhase.OFFERED and not self.refused


@dataclass(frozen=True, slots=True)
class Before:
    """What an agent was like when it got its offer. `here`: it was connected."""

    attempts: int = 0
    refusals: int = 0
    trouble: frozenset[str] = frozenset()
    here: bool = False


def before_of(member: Member) -> Before:
    """From its last report."""
    health = member.health
    if health is None:
        return Before(here=member.connected)
    return Before(health.attempts, health.refusals, frozenset(health.trouble), member.connected)


def before_to(before: Before) -> list[Any]:
    """For the memory of a rollout, which is JSON."""
    return [before.attempts, before.refusals, sorted(before.trouble), before.here]


def before_from(memory: Mapping[str, Any], agent_id: str) -> Before:
    """The other way; of an agent that is not in it, nothing is known."""
    kept = memory.get("before", {}).get(agent_id)
    return Before() if kept is None else Before(kept[0], kept[1], frozenset(kept[2]), kept[3])


@dataclass(frozen=True, slots=True)
class Judgement:
    """`fault` halts the rollout, "" nothing does. `ailing` are members that it need not wait for, and why."""

    fault: str
    ailing: Mapping[str, str]


def judge(members: Sequence[Member], rollout: Rollout, now: float) -> Judgement:
    """Look at everybody who was offered the generation of this rollout."""
    plan, memory, generation = rollout.plan, rollout.memory, rollout.generation
    # Who refused it in an earlier rollout of the same generation is not asked again, and does not halt this one.
    rejections = [f"{m.id} {_said(m)}" for m in members if m.refused and m.updated_at >= rollout.started_at]
    if rejections:
        return Judgement(_some(rejections), {})
    ailing = {m.id: why for m in members if (why := _ails(m, rollout, now))}
    had = sum(1 for m in members if m.taken)
    under = [(m.health, before_from(memory, m.id)) for m in members if m.health is not None and _decides(m, generation)]
    together = _risen(under, plan)
    if together:
        return Judgement(f"refused share of all who have it: {together}", ailing)
    if len(ailing) > int(had * TOLERATED_SHARE):
        return Judgement(_some([f"{agent_id} {why}" for agent_id, why in ailing.items()]), ailing)
    return Judgement("", ailing)


def is_proven(member: Member, generation: int) -> bool:
    """It has confirmed, and has said how it does since."""
    return member.phase is OfferPhase.CONFIRMED and _decides(member, generation)


def _decides(member: Member, generation: int) -> bool:
    """It has said of itself that it decides by this."""
    return member.taken and member.health is not None and member.health.active_generation == generation


def _ails(member: Member, rollout: Rollout, now: float) -> str:
    """Why this one is worse than before; "" it is not."""
    plan, memory, generation = rollout.plan, rollout.memory, rollout.generation
    if not member.connected:
        gone = now - memory.get("gone", {}).get(member.id, now)
        return f"has been gone for {gone:.0f} s since it took the offer" if gone > LOST_SECONDS else ""
    if not member.able:
        return ""
    waited = now - member.updated_at
    if member.phase is OfferPhase.CONFIRMED:
        if not _decides(member, generation) and waited > PROOF_SECONDS:
            return "has confirmed it, and says that it decides by something else"
    elif member.phase is not None and waited > PATIENCE_SECONDS + plan.soak:
        return f"has been at {member.phase.word} for {waited:.0f} s"
    if member.health is None or not _decides(member, generation):
        return ""
    before = before_from(memory, member.id)
    new = [part for part in sorted(member.health.trouble) if part not in before.trouble | ABOUT_US]
    if new:
        return f"is not well: {new[0]}: {member.health.trouble[new[0]]}"
    rise = _risen([(member.health, before)], plan)
    return f"refused share: {rise}" if rise else ""


def _risen(pairs: Iterable[tuple[HealthNote, Before]], plan: RolloutPlan) -> str:
    """ "0.02 before, 0.97 of 1234 attempts now", if that is too much of a rise."""
    attempts = refusals = attempts_before = refusals_before = 0
    for health, before in pairs:
        attempts, refusals = attempts + health.attempts, refusals + health.refusals
        attempts_before, refusals_before = attempts_before + before.attempts, refusals_before + before.refusals
    if attempts < EVIDENCE:
        return ""
    share_before = refusals_before / attempts_before if attempts_before >= EVIDENCE else 0.0
    if _least_share(refusals, attempts) - share_before <= plan.refusal_rise:
        return ""
    return f"{share_before:.2f} before, {refusals / attempts:.2f} of {attempts} attempts now"


def _least_share(refusals: int, attempts: int) -> float:
    """Of calls to come, as far as these tell: the lower end of Wilson's score interval."""
    share, square = min(refusals / attempts, 1.0), CHANCE * CHANCE  # agents count, and may count wrong
    spread = CHANCE * sqrt(share * (1 - share) / attempts + square / (4 * attempts * attempts))
    return (share + square / (2 * attempts) - spread) / (1 + square / attempts)


def _said(member: Member) -> str:
    word = "rejected it" if member.phase is OfferPhase.REJECTED else "went back from it"
    if member.problem is None:
        return word
    fields = "; ".join(f"{f.field}: {f.description}" for f in member.problem.fields[:NAMED])
    return f"{word}: {fields or member.problem.message}"


def _some(reasons: Sequence[str]) -> str:
    more = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    return "; ".join(reasons[:NAMED]) + more
