"""Roots of the fleet as they follow one another: the one that issues, the next, those before; and who is behind.

`created_at` of a row is when it took its place: staged, or began to issue. Of one before, when it last issued.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from controller.errors import Conflict
from controller.model import Act, PeerKind, Topic
from controller.store import tables
from controller.store.audit import record
from controller.store.parts import Part, reads, writes

OWN: Final = "internal"
"""Under which name our own authority is kept; others are kept under their hash."""

NEXT: Final = "internal-next"


@dataclass(frozen=True, slots=True)
class AuthorityRow:
    name: str
    certificate: bytes
    created_at: float


class Authorities(Part):
    """By name."""

    @reads
    def all(self, tx: Connection) -> list[AuthorityRow]:
        """Latest first."""
        known = tables.authorities
        rows = tx.execute(select(known).order_by(known.c.created_at.desc(), known.c.name))
        return [AuthorityRow(row.name, bytes(row.certificate), row.created_at) for row in rows]

    @reads
    def get(self, tx: Connection, name: str) -> bytes | None:
        """Its certificate."""
        return _certificate(tx, name)

    @reads
    def behind(self, tx: Connection, name: str) -> list[str]:
        """Agents with a certificate that is good, and was given out before this authority took its place."""
        known, certificates, agents = tables.authorities, tables.certificates, tables.agents
        since = tx.execute(select(known.c.created_at).where(known.c.name == name)).scalar_one_or_none()
        if since is None:
            return []
        latest = (
            select(certificates.c.name, func.max(certificates.c.issued_at).label("issued_at"))
            .join(agents, agents.c.id == certificates.c.name)
            .where(
                certificates.c.kind == PeerKind.AGENT,
                agents.c.revoked_at.is_(None),
                agents.c.certificate_not_after > since,
            )
            .group_by(certificates.c.name)
            .subquery()
        )
        wanted = select(latest.c.name).where(latest.c.issued_at < since).order_by(latest.c.name)
        return list(tx.execute(wanted).scalars())

    @writes(Topic.ACCESS)
    def stage(self, tx: Connection, certificate: bytes, when: float, act: Act) -> bytes:
        """Keep this as the next one; the one that is kept already, where there is."""
        if (kept := _certificate(tx, NEXT)) is not None:
            return kept
        if _certificate(tx, OWN) is None:
            raise Conflict("there is no authority yet: start the controller once")
        record(tx, act, when, sha256=hashlib.sha256(certificate).hexdigest())
        tx.execute(insert(tables.authorities).values(name=NEXT, certificate=certificate, created_at=when))
        return certificate

    @writes(Topic.ACCESS)
    def activate(self, tx: Connection, when: float, act: Act) -> None:
        """The next one takes the place of the one that issues, which stays under its hash. Raises Conflict."""
        known = tables.authorities
        staged, own = _certificate(tx, NEXT), _certificate(tx, OWN)
        if staged is None or own is None:
            raise Conflict("there is no next authority: stage one first")
        record(tx, act, when, sha256=hashlib.sha256(staged).hexdigest())
        before = hashlib.sha256(own).hexdigest()
        tx.execute(update(known).where(known.c.name == OWN).values(name=before, created_at=when - 1))
        tx.execute(update(known).where(known.c.name == NEXT).values(name=OWN, created_at=when))

    @writes(Topic.ACCESS)
    def retire(self, tx: Connection, act: Act, when: float) -> int:
        """Let go of all but the one that issues and the next; how many."""
        known = tables.authorities
        others = known.c.name.not_in((OWN, NEXT))
        gone = [row.name for row in tx.execute(select(known.c.name).where(others))]
        if gone:
            record(tx, act, when, sha256=gone)
            tx.execute(delete(known).where(others))
        return len(gone)


def _certificate(tx: Connection, name: str) -> bytes | None:
    found = tx.execute(
        select(tables.authorities.c.certificate).where(tables.authorities.c.name == name)
    ).scalar_one_or_none()
    return None if found is None else bytes(found)
