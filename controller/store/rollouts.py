"""Rollouts and the offers they are made of. Who gets what when is decided elsewhere, by a leader; here it is kept."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select, update

from controller.errors import Conflict, NotFound
from controller.model import (
    Act,
    FieldViolation,
    Offer,
    OfferPhase,
    Problem,
    Rollout,
    RolloutPlan,
    RolloutState,
    Term,
    Topic,
)
from controller.store import tables
from controller.store.audit import record
from controller.store.engine import upsert
from controller.store.leadership import fence
from controller.store.parts import Part, reads, writes

OFFERS_KEPT: Final = 100
"""Generations whose offers are kept; older ones are never offered again."""

FIELDS_MAX: Final = 100
TEXT_MAX: Final = 2000
"""What is kept of a problem; the agent bounds it, too, but it is the agent's word."""

_REFUSED: Final = (OfferPhase.REJECTED, OfferPhase.ROLLED_BACK)
_IN_FORCE: Final = (OfferPhase.APPLIED, OfferPhase.CONFIRMED)
_OFFERING: Final = (RolloutState.RUNNING, RolloutState.DONE)


class Rollouts(Part):
    """At most one is running. A generation has at most one."""

    @writes(Topic.ROLLOUTS)
    def start(self, tx: Connection, generation: int, plan: RolloutPlan, when: float, act: Act) -> Rollout:
        """Begin it, or a halted one again. Raises NotFound; Conflict: it runs or is done, or a later one does."""
        record(tx, act, when, generation=generation)
        return begin(tx, generation, plan, when)

    @reads
    def get(self, tx: Connection, generation: int = 0) -> Rollout:
        """0: the latest. Raises NotFound."""
        latest = select(func.max(tables.rollouts.c.generation))
        return _rollout(tx, generation or tx.execute(latest).scalar_one() or 0)

    @reads
    def running(self, tx: Connection) -> list[Rollout]:
        """One, or none."""
        rollouts = tables.rollouts
        rows = tx.execute(select(rollouts).where(rollouts.c.state == RolloutState.RUNNING))
        return [rollout_from(row) for row in rows]

    @writes(Topic.ROLLOUTS)
    def save(self, tx: Connection, rollout: Rollout, term: Term) -> None:
        """By the leader. Raises StaleEpoch; Conflict when it is not running any more: look again."""
        fence(tx, term)
        if _rollout(tx, rollout.generation).state is not RolloutState.RUNNING:
            raise Conflict(f"the rollout of generation {rollout.generation} is not running any more")
        _save(tx, rollout)

    @writes(Topic.ROLLOUTS)
    def halt(self, tx: Connection, generation: int, state: RolloutState, why: str, when: float, act: Act) -> Rollout:
        """By an operator. Raises NotFound; Conflict unless it is running."""
        rollout = _rollout(tx, generation)
        if rollout.state is not RolloutState.RUNNING:
            raise Conflict(f"the rollout of generation {generation} is {rollout.state}")
        record(tx, act, when, generation=generation, state=state, why=why[:TEXT_MAX])
        halted = replace(rollout, state=state, why=why[:TEXT_MAX])
        _save(tx, halted)
        return halted

    @writes(Topic.ROLLOUTS)
    def assign(
        self, tx: Connection, generation: int, agents: Sequence[str], step: int, when: float, term: Term
    ) -> None:
        """These agents shall have it; what they said to it before stays. Raises StaleEpoch, NotFound."""
        fence(tx, term)
        _rollout(tx, generation)
        rows = [
            {
                "agent_id": agent,
                "generation": generation,
                "step": step,
                "phase": int(OfferPhase.OFFERED),
                "problem": None,
                "offered_at": when,
                "updated_at": when,
            }
            for agent in sorted(set(agents))
        ]
        upsert(tx, tables.offers, rows, update=False)

    @reads
    def offers(self, tx: Connection, generation: int) -> list[Offer]:
        """Of one generation, by agent."""
        offers = tables.offers
        rows = tx.execute(select(offers).where(offers.c.generation == generation).order_by(offers.c.agent_id))
        return [offer_from(row) for row in rows]

    @reads
    def standing(self, tx: Connection, agent_id: str) -> tuple[Offer | None, frozenset[int]]:
        """`offer_of` and `refused` in one question: what a session begins with."""
        return _offer_of(tx, agent_id), _refused(tx, agent_id)

    @reads
    def offer_of(self, tx: Connection, agent_id: str) -> Offer | None:
        """What this agent shall have: the latest that it did not refuse and that is being rolled out, or in force."""
        return _offer_of(tx, agent_id)

    @reads
    def waiting(self, tx: Connection) -> dict[str, Offer]:
        """Offers to agents with a session at this controller that were not answered yet: the latest of each."""
        offers, rollouts, sessions = tables.offers, tables.rollouts, tables.sessions
        rows = tx.execute(
            select(offers)
            .join(rollouts, rollouts.c.generation == offers.c.generation)
            .join(sessions, sessions.c.agent_id == offers.c.agent_id)
            .where(sessions.c.controller_id == self._controller_id, rollouts.c.state.in_(_OFFERING))
            .where(offers.c.phase == int(OfferPhase.OFFERED))
            .order_by(offers.c.generation)
        )
        return {row.agent_id: offer_from(row) for row in rows}

    @writes(Topic.ROLLOUTS)
    def report(
        self, tx: Connection, agent_id: str, generation: int, phase: OfferPhase, problem: Problem | None, when: float
    ) -> Offer:
        """What an agent says of an offer. A refusal stays one. Raises NotFound: it was never offered that."""
        offers = tables.offers
        which = and_(offers.c.agent_id == agent_id, offers.c.generation == generation)
        row = tx.execute(select(offers).where(which)).one_or_none()
        if row is None:
            raise NotFound("offer", f"of generation {generation} to {agent_id}")
        offer = offer_from(row)
        if offer.phase in _REFUSED and phase not in _REFUSED:
            return offer
        offer = replace(offer, phase=phase, problem=bounded(problem), updated_at=when)
        values = {"phase": int(phase), "problem": problem_to(offer.problem), "updated_at": when}
        tx.execute(update(offers).where(which).values(values))
        return offer

    @reads
    def refused(self, tx: Connection, agent_id: str) -> frozenset[int]:
        """Generations that this agent has refused or gone back from."""
        return _refused(tx, agent_id)


def _offer_of(tx: Connection, agent_id: str) -> Offer | None:
    offers, rollouts = tables.offers, tables.rollouts
    row = tx.execute(
        select(offers)
        .join(rollouts, rollouts.c.generation == offers.c.generation)
        .where(offers.c.agent_id == agent_id, offers.c.phase.not_in(_REFUSED))
        .where(or_(rollouts.c.state.in_(_OFFERING), offers.c.phase.in_(_IN_FORCE)))
        .order_by(offers.c.generation.desc())
        .limit(1)
    ).one_or_none()
    return offer_from(row) if row is not None else None


def _refused(tx: Connection, agent_id: str) -> frozenset[int]:
    offers = tables.offers
    statement = select(offers.c.generation).where(offers.c.agent_id == agent_id, offers.c.phase.in_(_REFUSED))
    return frozenset(tx.execute(statement).scalars())


def begin(tx: Connection, generation: int, plan: RolloutPlan, when: float) -> Rollout:
    """Begin a rollout; the one that runs is halted for it. As Rollouts.start, within a transaction."""
    policies, rollouts, offers = tables.policies, tables.rollouts, tables.offers
    if tx.execute(select(policies.c.generation).where(policies.c.generation == generation)).one_or_none() is None:
        raise NotFound("policy generation", generation)
    for row in tx.execute(select(rollouts).where(rollouts.c.state.in_(_OFFERING))).all():
        if row.generation > generation:
            raise Conflict(f"generation {row.generation} came later: to go back, make a new one with the old content")
        if row.generation == generation:
            raise Conflict(f"the rollout of generation {generation} is {row.state}")
    tx.execute(
        update(rollouts)
        .where(rollouts.c.state == RolloutState.RUNNING)
        .values(state=RolloutState.HALTED, why=f"superseded by generation {generation}")
    )
    rollout = Rollout(generation, RolloutState.RUNNING, plan, started_at=when, step_started_at=when)
    tx.execute(delete(rollouts).where(rollouts.c.generation == generation))
    tx.execute(insert(rollouts).values(generation=generation, **rollout_values(rollout)))
    tx.execute(delete(offers).where(offers.c.generation <= generation - OFFERS_KEPT))
    return rollout


def _rollout(tx: Connection, generation: int) -> Rollout:
    rollouts = tables.rollouts
    row = tx.execute(select(rollouts).where(rollouts.c.generation == generation)).one_or_none()
    if row is None:
        raise NotFound("rollout of generation", generation)
    return rollout_from(row)


def _save(tx: Connection, rollout: Rollout) -> None:
    rollouts = tables.rollouts
    tx.execute(update(rollouts).where(rollouts.c.generation == rollout.generation).values(rollout_values(rollout)))


def rollout_values(rollout: Rollout) -> dict[str, Any]:
    """For the columns that every table of rollouts has."""
    return {
        "state": rollout.state,
        "why": rollout.why[:TEXT_MAX],
        "step": rollout.step,
        "steps": list(rollout.plan.steps),
        "soak": rollout.plan.soak,
        "refusal_rise": rollout.plan.refusal_rise,
        "started_at": rollout.started_at,
        "step_started_at": rollout.step_started_at,
        "memory": dict(rollout.memory),
    }


def rollout_from(row: Row[Any], number: int = 0) -> Rollout:
    """Of a row of `rollouts`; of another table, with its number."""
    return Rollout(
        generation=number or row.generation,
        state=RolloutState(row.state),
        plan=RolloutPlan(tuple(row.steps), row.soak, row.refusal_rise),
        started_at=row.started_at,
        why=row.why,
        step=row.step,
        step_started_at=row.step_started_at,
        memory=row.memory,
    )


def offer_from(row: Row[Any]) -> Offer:
    """Of a row of `offers`."""
    return Offer(
        agent_id=row.agent_id,
        generation=row.generation,
        step=row.step,
        phase=OfferPhase(row.phase),
        offered_at=row.offered_at,
        updated_at=row.updated_at,
        problem=problem_from(row.problem),
    )


def bounded(problem: Problem | None) -> Problem | None:
    """As much of it as is kept."""
    if problem is None:
        return None
    fields = (FieldViolation(f.field[:TEXT_MAX], f.description[:TEXT_MAX]) for f in problem.fields[:FIELDS_MAX])
    return Problem(problem.code, problem.message[:TEXT_MAX], tuple(fields))


def problem_to(problem: Problem | None) -> dict[str, Any] | None:
    """As JSON."""
    return asdict(problem) if problem is not None else None


def problem_from(value: dict[str, Any] | None) -> Problem | None:
    """The other way."""
    if value is None:
        return None
    return Problem(value["code"], value["message"], tuple(FieldViolation(**field) for field in value["fields"]))
