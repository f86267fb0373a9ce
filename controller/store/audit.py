"""The audit log in the store: appended in the transaction of what it tells of, walked in pieces."""

from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from controller.audit import Verification, Walk, link
from controller.model import Act, AuditEntry
from controller.store import tables
from controller.store.parts import Part, reads, writes

PIECE: Final = 5000
"""Entries that are in memory at a time."""

ENTRIES_MAX: Final = 10_000
"""That one request gets."""


class Audit(Part):
    """What operators did, and what came of it."""

    @writes()
    def append(self, tx: Connection, act: Act, when: float) -> AuditEntry:
        """For what changes nothing in the store; everything else is written with its change."""
        return record(tx, act, when)

    @reads
    def entries(self, tx: Connection, after: int = 0, limit: int = 100) -> list[AuditEntry]:
        """In order, from the one behind `after`."""
        return _entries(tx, after, min(limit, ENTRIES_MAX))

    @reads
    def verify(self, tx: Connection) -> Verification:
        """Walk the whole chain, on one snapshot."""
        walk = Walk()
        while not walk.broken and (piece := _entries(tx, walk.position, PIECE)):
            walk.take(piece)
        head = tx.execute(select(tables.audit_head)).one()
        return walk.end(head.sequence, head.hash)


def record(tx: Connection, act: Act, when: float, **more: Any) -> AuditEntry:
    """Append to the log within this transaction; `more` is what only the change itself could tell.

    Whoever appends next waits until this transaction ends.
    """
    head = tx.execute(select(tables.audit_head).with_for_update()).one()
    previous = AuditEntry(head.sequence, 0, "", "", "", head.hash) if head.sequence else None
    entry = link(previous, replace(act, detail={**act.detail, **more}), when)
    tx.execute(
        insert(tables.audit).values(
            sequence=entry.sequence,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            detail=entry.detail,
            hash=entry.hash,
        )
    )
    tx.execute(update(tables.audit_head).values(sequence=entry.sequence, hash=entry.hash))
    return entry


def _entries(tx: Connection, after: int, limit: int) -> list[AuditEntry]:
    audit = tables.audit
    rows = tx.execute(select(audit).where(audit.c.sequence > after).order_by(audit.c.sequence).limit(limit))
    return [_entry(row) for row in rows]


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(row.sequence, row.at, row.actor, row.action, row.detail, bytes(row.hash))
