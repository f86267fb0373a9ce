"""Upgrades of agents, and who was asked for which version. Who is asked when is decided elsewhere; here it is kept.

The columns that are a rollout's are kept as those of rollouts of policies are.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from controller.errors import Conflict, NotFound
from controller.model import (
    Act,
    Offer,
    OfferPhase,
    Problem,
    Rollout,
    RolloutPlan,
    RolloutState,
    Term,
    Topic,
    Upgrade,
    UpgradeOffer,
)
from controller.store import tables
from controller.store.audit import record
from controller.store.engine import upsert
from controller.store.leadership import fence
from controller.store.parts import Part, reads, writes
from controller.store.rollouts import TEXT_MAX, bounded, problem_from, problem_to, rollout_from, rollout_values

KEPT: Final = 100

TAKEN: Final = (OfferPhase.RECEIVED, OfferPhase.VALIDATED, OfferPhase.APPLIED, OfferPhase.CONFIRMED)
"""Phases of agents that have the version, or are about to."""


class Upgrades(Part):
    """At most one is running."""

    @writes(Topic.ROLLOUTS)
    def start(self, tx: Connection, version: str, plan: RolloutPlan, when: float, act: Act, author: str) -> Upgrade:
        """Begin one. Raises Conflict where another one, or a rollout of a policy, is running."""
        upgrades, rollouts = tables.upgrades, tables.rollouts
        running = tx.execute(select(upgrades.c.number).where(upgrades.c.state == RolloutState.RUNNING)).scalar()
        if running is not None:
            raise Conflict(f"upgrade {running} is running: halt it, or wait")
        policy = tx.execute(select(rollouts.c.generation).where(rollouts.c.state == RolloutState.RUNNING)).scalar()
        if policy is not None:
            raise Conflict(f"the rollout of generation {policy} is running: one would be blamed for the other")
        upgrade = _begin(tx, version, plan, when, author, takes_back=0)
        record(tx, act, when, version=version, upgrade=upgrade.number)
        return upgrade

    @reads
    def get(self, tx: Connection, number: int = 0) -> Upgrade:
        """0: the latest. Raises NotFound."""
        return _get(tx, number)

    @reads
    def offers(self, tx: Connection, number: int) -> list[UpgradeOffer]:
        """By agent."""
        return _offers(tx, number)

    @writes(Topic.ROLLOUTS)
    def save(self, tx: Connection, rollout: Rollout, term: Term) -> None:
        """By the leader. Raises StaleEpoch; Conflict when it is not running any more: look again."""
        fence(tx, term)
        if _get(tx, rollout.generation).rollout.state is not RolloutState.RUNNING:
            raise Conflict(f"upgrade {rollout.generation} is not running any more")
        _save(tx, rollout)

    @writes(Topic.ROLLOUTS)
    def assign(
        self, tx: Connection, number: int, version: str, before: Mapping[str, str], step: int, when: float, term: Term
    ) -> None:
        """The agents in `before`, which have these versions, shall have this one. Raises StaleEpoch, NotFound."""
        fence(tx, term)
        _get(tx, number)
        rows = [_offer_values(agent, number, version, had, step, when) for agent, had in sorted(before.items())]
        upsert(tx, tables.upgrade_offers, rows, update=False)

    @writes(Topic.ROLLOUTS)
    def note(
        self,
        tx: Connection,
        number: int,
        phases: Mapping[str, tuple[OfferPhase, Problem | None]],
        when: float,
        term: Term,
    ) -> None:
        """How far these agents have come. Raises StaleEpoch."""
        fence(tx, term)
        offers = tables.upgrade_offers
        for agent, (phase, problem) in sorted(phases.items()):
            values = {"phase": int(phase), "problem": problem_to(bounded(problem)), "updated_at": when}
            which = (offers.c.agent_id == agent) & (offers.c.number == number)
            tx.execute(update(offers).where(which).values(values))

    @writes(Topic.ROLLOUTS)
    def halt(self, tx: Connection, number: int, state: RolloutState, why: str, when: float, act: Act) -> Upgrade:
        """By an operator. Raises NotFound; Conflict unless it is running."""
        upgrade = _get(tx, number)
        if upgrade.rollout.state is not RolloutState.RUNNING:
            raise Conflict(f"upgrade {upgrade.number} is {upgrade.rollout.state}")
        if upgrade.takes_back and state is RolloutState.ROLLED_BACK:
            raise Conflict(f"upgrade {upgrade.number} takes one back already")
        record(tx, act, when, upgrade=upgrade.number, state=state, why=why[:TEXT_MAX])
        halted = replace(upgrade.rollout, state=state, why=why[:TEXT_MAX])
        _save(tx, halted)
        return replace(upgrade, rollout=halted)

    @writes(Topic.ROLLOUTS)
    def take_back(self, tx: Connection, number: int, when: float, act: Act, term: Term) -> Upgrade:
        """Begin what gives its agents the version that they had. Raises StaleEpoch; Conflict: it is not the latest."""
        fence(tx, term)
        bad = _get(tx, 0)
        if bad.number != number:
            raise Conflict(f"upgrade {number} is not the latest any more")
        plan = replace(bad.rollout.plan, steps=(1.0,))
        back = _begin(tx, "", plan, when, act.actor, takes_back=number)
        taken = [one for one in _offers(tx, number) if one.offer.phase in TAKEN and one.before != one.version]
        rows = [_offer_values(one.offer.agent_id, back.number, one.before, one.version, 0, when) for one in taken]
        upsert(tx, tables.upgrade_offers, rows, update=False)
        record(tx, act, when, upgrade=number, agents=len(rows))
        return back


def _begin(tx: Connection, version: str, plan: RolloutPlan, when: float, author: str, takes_back: int) -> Upgrade:
    upgrades, offers = tables.upgrades, tables.upgrade_offers
    number = (tx.execute(select(func.max(upgrades.c.number))).scalar_one() or 0) + 1
    rollout = Rollout(number, RolloutState.RUNNING, plan, started_at=when, step_started_at=when)
    # Known to hosts for good: never the same as one of another fleet, or of this one before its store was restored.
    upgrade = Upgrade(version, secrets.token_hex(8), author, rollout, takes_back)
    values = {"version": version, "key": upgrade.key, "author": author, "takes_back": takes_back}
    tx.execute(insert(upgrades).values(number=number, **values, **rollout_values(rollout)))
    tx.execute(delete(offers).where(offers.c.number <= number - KEPT))
    tx.execute(delete(upgrades).where(upgrades.c.number <= number - KEPT))
    return upgrade


def _get(tx: Connection, number: int) -> Upgrade:
    upgrades = tables.upgrades
    wanted = number or tx.execute(select(func.max(upgrades.c.number))).scalar_one() or 0
    row = tx.execute(select(upgrades).where(upgrades.c.number == wanted)).one_or_none()
    if row is None:
        raise NotFound("upgrade", wanted or "any")
    return Upgrade(row.version, row.key, row.author, rollout_from(row, row.number), row.takes_back)


def _save(tx: Connection, rollout: Rollout) -> None:
    upgrades = tables.upgrades
    tx.execute(update(upgrades).where(upgrades.c.number == rollout.generation).values(rollout_values(rollout)))


def _offers(tx: Connection, number: int) -> list[UpgradeOffer]:
    offers = tables.upgrade_offers
    rows: Sequence[Row[Any]] = tx.execute(
        select(offers).where(offers.c.number == number).order_by(offers.c.agent_id)
    ).all()
    return [_offer_from(row) for row in rows]


def _offer_from(row: Row[Any]) -> UpgradeOffer:
    offer = Offer(
        agent_id=row.agent_id,
        generation=row.number,
        step=row.step,
        phase=OfferPhase(row.phase),
        offered_at=row.offered_at,
        updated_at=row.updated_at,
        problem=problem_from(row.problem),
    )
    return UpgradeOffer(offer, row.version, row.before)


def _offer_values(agent_id: str, number: int, version: str, before: str, step: int, when: float) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "number": number,
        "version": version,
        "before": before,
        "step": step,
        "phase": int(OfferPhase.OFFERED),
        "problem": None,
        "offered_at": when,
        "updated_at": when,
    }
