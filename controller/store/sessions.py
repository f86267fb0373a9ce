"""Which controller holds the session of which agent, and which controllers live."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, delete, select, update

from controller.errors import Denied, NotFound
from controller.model import Act, Boot, Controller, Session, Topic
from controller.store import tables
from controller.store.audit import record
from controller.store.clones import BOOTS_MAX, judge
from controller.store.engine import upsert
from controller.store.parts import Part, reads, writes

CONTROLLER_SILENCE: Final = 15.0
"""Seconds; a controller beats every five, so this is three that were missed."""

FORGOTTEN: Final = 7 * 86_400.0
"""Seconds after which a controller that is silent is no controller any more."""

CAPABILITIES_MAX: Final = 64
WORD_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Opened:
    """`replaced` is the session that ends by this one; it may be another controller's.

    `banned` is the boot id of a cloned machine that has just been found out: that of `replaced`. Its process gets no
    session any more.
    """

    replaced: Session | None
    banned: str = ""


class Sessions(Part):
    """One for each agent at most."""

    async def open(self, session: Session) -> Opened:
        """Note it in place of the one before. Raises NotFound; Denied: revoked, another installation, a clone."""
        opened = await self._open(session)
        if opened.banned == session.boot_id:  # noted, and so not raised where that would undo it
            raise _copy(session.agent_id)
        return opened

    @writes(Topic.AGENTS)
    def _open(self, tx: Connection, session: Session) -> Opened:
        agents = tables.agents
        agent = tx.execute(select(agents).where(agents.c.id == session.agent_id)).one_or_none()
        if agent is None:
            raise NotFound("agent", session.agent_id)
        if agent.revoked_at is not None:
            raise Denied(f"{session.agent_id} is revoked: {agent.revoked_why}")
        if agent.instance_uid != session.instance_uid:
            raise Denied(
                f"{session.agent_id} was enrolled by another installation; enrol this one by a token of its own"
            )
        banned = self._note_boot(tx, session)
        if banned == session.boot_id:
            return Opened(None, banned)
        before = tx.execute(select(tables.sessions).where(tables.sessions.c.agent_id == session.agent_id)).one_or_none()
        upsert(tx, tables.sessions, [_session_to(session)])
        tx.execute(update(agents).where(agents.c.id == session.agent_id).values(version=session.version[:WORD_MAX]))
        upsert(
            tx,
            tables.agent_notes,
            [{"agent_id": session.agent_id, "last_seen": session.opened_at, "health": None, "counters": None}],
            keep=("health", "counters"),
        )
        return Opened(session_from(before) if before is not None else None, banned)

    def _note_boot(self, tx: Connection, session: Session) -> str:
        """The boot id that this bans, "" none. Raises Denied when it was banned before."""
        boots, agent_id, when = tables.boots, session.agent_id, session.opened_at
        rows = tx.execute(select(boots).where(boots.c.agent_id == agent_id).order_by(boots.c.last_seen)).all()
        if any(row.banned and row.boot_id == session.boot_id for row in rows):
            raise _copy(agent_id)
        found = judge([_boot_from(row) for row in rows], session.boot_id, when)
        row = {
            "agent_id": agent_id,
            "boot_id": session.boot_id,
            "instance_uid": session.instance_uid,
            "address": session.address[:WORD_MAX],
            "first_seen": when,
            "last_seen": when,
            "returns": found.returns,
            "returned_at": found.returned_at,
            "banned": False,
        }
        upsert(tx, boots, [row], keep=("first_seen",))
        for old in rows[: max(0, len(rows) + 1 - BOOTS_MAX)]:
            if old.boot_id != session.boot_id:
                tx.execute(delete(boots).where(boots.c.agent_id == agent_id, boots.c.boot_id == old.boot_id))
        if found.banned:
            tx.execute(
                update(boots).where(boots.c.agent_id == agent_id, boots.c.boot_id == found.banned).values(banned=True)
            )
            act = Act(f"controller:{session.controller_id}", "clone.ban")
            record(tx, act, when, agent=agent_id, boot=found.banned[:WORD_MAX], address=session.address[:WORD_MAX])
        return found.banned

    @writes(Topic.AGENTS)
    def close(self, tx: Connection, agent_id: str, session_id: str, when: float) -> bool:
        """It has ended. False when another one has taken its place already."""
        sessions, notes = tables.sessions, tables.agent_notes
        which = and_(sessions.c.agent_id == agent_id, sessions.c.id == session_id)
        if not tx.execute(delete(sessions).where(which)).rowcount:
            return False
        tx.execute(update(notes).where(notes.c.agent_id == agent_id).values(last_seen=when))
        return True

    @reads
    def held(self, tx: Connection) -> dict[str, str]:
        """The sessions of this controller: agent to session id. What is not here any more, another one has replaced."""
        sessions = tables.sessions
        which = select(sessions.c.agent_id, sessions.c.id).where(sessions.c.controller_id == self._controller_id)
        return {row.agent_id: row.id for row in tx.execute(which)}

    @reads
    def of_agent(self, tx: Connection, agent_id: str, when: float) -> Session | None:
        """The one that a living controller holds."""
        sessions, controllers = tables.sessions, tables.controllers
        alive = and_(controllers.c.id == sessions.c.controller_id, controllers.c.last_seen > when - CONTROLLER_SILENCE)
        row = tx.execute(select(sessions).join(controllers, alive).where(sessions.c.agent_id == agent_id)).one_or_none()
        return session_from(row) if row is not None else None

    @writes()
    def beat(self, tx: Connection, when: float) -> None:
        """This controller lives."""
        tx.execute(
            update(tables.controllers).where(tables.controllers.c.id == self._controller_id).values(last_seen=when)
        )

    @reads
    def controllers(self, tx: Connection, when: float) -> list[Controller]:
        """Those that live, by name."""
        controllers = tables.controllers
        rows = tx.execute(
            select(controllers).where(controllers.c.last_seen > when - CONTROLLER_SILENCE).order_by(controllers.c.id)
        )
        return [Controller(row.id, row.address, row.started_at, row.last_seen) for row in rows]


def begin_controller(tx: Connection, controller_id: str, address: str, when: float) -> None:
    """This controller starts: no session that it held before is left; forget those that are long gone."""
    controllers, sessions = tables.controllers, tables.sessions
    tx.execute(delete(controllers).where(controllers.c.last_seen < when - FORGOTTEN))
    tx.execute(delete(sessions).where(sessions.c.controller_id == controller_id))
    row = {"id": controller_id, "address": address, "started_at": when, "last_seen": when}
    upsert(tx, controllers, [row])


def end_controller(tx: Connection, controller_id: str) -> None:
    """It stops: its sessions are over."""
    tx.execute(delete(tables.sessions).where(tables.sessions.c.controller_id == controller_id))
    tx.execute(delete(tables.controllers).where(tables.controllers.c.id == controller_id))


def _copy(agent_id: str) -> Denied:
    return Denied(f"{agent_id}: this machine is a copy of another one; enrol it by a token of its own")


def session_from(row: Row[Any]) -> Session:
    """Of a row of `sessions`."""
    return Session(
        id=row.id,
        agent_id=row.agent_id,
        controller_id=row.controller_id,
        instance_uid=row.instance_uid,
        boot_id=row.boot_id,
        version=row.version,
        capabilities=frozenset(row.capabilities),
        address=row.address,
        opened_at=row.opened_at,
    )


def _session_to(session: Session) -> dict[str, Any]:
    return {
        "agent_id": session.agent_id,
        "id": session.id,
        "controller_id": session.controller_id,
        "instance_uid": session.instance_uid,
        "boot_id": session.boot_id,
        "version": session.version[:WORD_MAX],
        "capabilities": sorted(session.capabilities)[:CAPABILITIES_MAX],
        "address": session.address[:WORD_MAX],
        "opened_at": session.opened_at,
    }


def _boot_from(row: Row[Any]) -> Boot:
    return Boot(row.boot_id, row.instance_uid, row.address, row.first_seen, row.last_seen, row.returns, row.returned_at)
