"""Agents as the store knows them: who enrolled, who is banned, what each said last."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select, update

from controller.errors import NotFound
from controller.model import Act, Agent, HealthNote, OfferPhase, PeerKind, Topic, UpgradeNote
from controller.store import tables
from controller.store.audit import record
from controller.store.certificates import revoke_certificates
from controller.store.engine import upsert
from controller.store.parts import Part, reads, writes
from controller.store.rollouts import offer_from
from controller.store.sessions import CONTROLLER_SILENCE, session_from

TROUBLE_MAX: Final = 64
COUNTERS_MAX: Final = 512
"""What is kept of one report; an agent has a tenth of it."""

IN_MAX: Final = 1000
"""Names in one question; every database has its bound."""

WHY_MAX: Final = 500


class Agents(Part):
    """All of them, revoked ones too: a name is never given to a second one."""

    @reads
    def get(self, tx: Connection, agent_id: str, when: float) -> Agent:
        """Raises NotFound."""
        found = _agents(tx, when, tables.agents.c.id == agent_id)
        if not found:
            raise NotFound("agent", agent_id)
        return found[0]

    @reads
    def all(self, tx: Connection, when: float) -> list[Agent]:
        """By name, without the counters of their health."""
        return _agents(tx, when)

    @reads
    def counter(self, tx: Connection, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """Of each agent what it said last of these counters, those that are not 0."""
        notes = tables.agent_notes
        found = {}
        for row in tx.execute(select(notes.c.agent_id, notes.c.counters).where(notes.c.counters.is_not(None))):
            if counts := {name: row.counters[name] for name in names if row.counters.get(name)}:
                found[row.agent_id] = counts
        return found

    @reads
    def names(self, tx: Connection) -> frozenset[str]:
        """Of those who are enrolled and not banned."""
        agents = tables.agents
        return frozenset(tx.execute(select(agents.c.id).where(agents.c.revoked_at.is_(None))).scalars())

    @reads
    def revoked(self, tx: Connection) -> frozenset[str]:
        """Names of those who are banned."""
        agents = tables.agents
        return frozenset(tx.execute(select(agents.c.id).where(agents.c.revoked_at.is_not(None))).scalars())

    @writes(Topic.AGENTS, Topic.ACCESS)
    def revoke(self, tx: Connection, agent_id: str, reason: str, when: float, act: Act) -> None:
        """Ban it, with its certificates. Once is enough. Raises NotFound."""
        agents = tables.agents
        row = tx.execute(select(agents.c.revoked_at).where(agents.c.id == agent_id)).one_or_none()
        if row is None:
            raise NotFound("agent", agent_id)
        record(tx, act, when, agent=agent_id, reason=reason[:WHY_MAX])
        if row.revoked_at is not None:
            return
        why = reason[:WHY_MAX]
        tx.execute(update(agents).where(agents.c.id == agent_id).values(revoked_at=when, revoked_why=why))
        revoke_certificates(tx, PeerKind.AGENT, agent_id, why, when)

    @writes()
    def observe(self, tx: Connection, notes: Mapping[str, HealthNote | None], when: float) -> None:
        """These agents were heard of; None keeps what they said last. Names that are no agent's are left out."""
        agents, names = tables.agents, sorted(notes)
        for some in (names[i : i + IN_MAX] for i in range(0, len(names), IN_MAX)):
            known = set(tx.execute(select(agents.c.id).where(agents.c.id.in_(some))).scalars())
            rows = [_note_to(name, notes[name], when) for name in some if name in known]
            upsert(tx, tables.agent_notes, [row for row in rows if row["health"] is not None])
            silent = [row for row in rows if row["health"] is None]
            upsert(tx, tables.agent_notes, silent, keep=("health", "counters"))


def _agents(tx: Connection, when: float, condition: ColumnElement[bool] | None = None) -> list[Agent]:
    """Agents with all that the list of agents shows, in four questions however many there are."""
    agents, notes = tables.agents, tables.agent_notes
    columns = (agents, notes.c.last_seen, notes.c.health)
    statement = select(*columns) if condition is None else select(*columns, notes.c.counters).where(condition)
    statement = statement.join_from(agents, notes, notes.c.agent_id == agents.c.id, isouter=True)
    rows = tx.execute(statement.order_by(agents.c.id)).all()
    only = [row.id for row in rows] if condition is not None else None
    sessions = {row.agent_id: row for row in tx.execute(_sessions(when, only))}
    offers = {row.agent_id: row for row in tx.execute(_latest_offers(only))}
    committed = {row.agent_id: int(row.records) for row in tx.execute(_committed(only))}
    return [
        Agent(
            id=row.id,
            instance_uid=row.instance_uid,
            hostname=row.hostname,
            version=row.version,
            enrolled_at=row.enrolled_at,
            certificate_not_after=row.certificate_not_after,
            revoked_at=row.revoked_at,
            revoked_why=row.revoked_why,
            last_seen=row.last_seen,
            health=_health_from(row),
            session=session_from(sessions[row.id]) if row.id in sessions else None,
            offer=offer_from(offers[row.id]) if row.id in offers else None,
            records_committed=committed.get(row.id, 0),
        )
        for row in rows
    ]


def _sessions(when: float, only: list[str] | None) -> Any:
    sessions, controllers = tables.sessions, tables.controllers
    alive = and_(controllers.c.id == sessions.c.controller_id, controllers.c.last_seen > when - CONTROLLER_SILENCE)
    return _of(select(sessions).join(controllers, alive), sessions.c.agent_id, only)


def _latest_offers(only: list[str] | None) -> Any:
    offers = tables.offers
    latest = select(offers.c.agent_id, func.max(offers.c.generation).label("generation")).group_by(offers.c.agent_id)
    newest = _of(latest, offers.c.agent_id, only).subquery()
    same = and_(offers.c.agent_id == newest.c.agent_id, offers.c.generation == newest.c.generation)
    return select(offers).join(newest, same)


def _committed(only: list[str] | None) -> Any:
    marks = tables.watermarks
    sums = select(marks.c.agent_id, func.sum(marks.c.records).label("records")).group_by(marks.c.agent_id)
    return _of(sums, marks.c.agent_id, only)


def _of(statement: Any, column: ColumnElement[str], only: list[str] | None) -> Any:
    return statement if only is None else statement.where(column.in_(only))


def _note_to(agent_id: str, note: HealthNote | None, when: float) -> dict[str, Any]:
    row: dict[str, Any] = {"agent_id": agent_id, "last_seen": when, "health": None, "counters": None}
    if note is None:
        return row
    values = asdict(note)
    values["active_sha256"] = note.active_sha256.hex()
    values["trouble"] = dict(sorted(note.trouble.items())[:TROUBLE_MAX])
    counters = dict(sorted(values.pop("counters").items())[:COUNTERS_MAX])
    return row | {"health": values, "counters": counters}


def _health_from(row: Row[Any]) -> HealthNote | None:
    if row.health is None:
        return None
    counters = getattr(row, "counters", None) or {}
    sha256 = bytes.fromhex(row.health["active_sha256"])
    upgrade = row.health.get("upgrade")
    if upgrade is not None:
        upgrade = UpgradeNote(**{**upgrade, "phase": OfferPhase(upgrade["phase"])})
    return HealthNote(**{**row.health, "active_sha256": sha256, "counters": counters, "upgrade": upgrade})
