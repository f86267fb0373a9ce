"""Certificates that the authority gave out, which of them are revoked, and what the authority itself is known by."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from controller.errors import Busy, Denied, NotFound
from controller.model import Act, IssuedCertificate, PeerKind, Role, Topic
from controller.store import tables
from controller.store.audit import record
from controller.store.engine import upsert
from controller.store.parts import Part, reads, writes

LIVE_MAX: Final = 64
"""Of one name at a time. With two a day it is one or two; the rest is for restarts, and a fault must end somewhere."""

RETRY_SECONDS: Final = 3600.0

KEPT_SECONDS: Final = 7 * 86_400.0
"""Seconds that a certificate is kept after its end, for whoever asks which one that was."""


@dataclass(frozen=True, slots=True)
class Login:
    """What an operator's login token must match, and how long."""

    name: str
    role: Role
    secret_sha256: bytes
    expires_at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Who is in and who is out, to be kept in memory: asked at every call, read when topics move.

    `logins` are those of operators that are not revoked, by token id; `roles` of the same, by name. `forgotten` are
    times whose certificates are not in the store: from a back-up until it was put back.
    """

    revoked_agents: frozenset[str] = frozenset()
    revoked_serials: frozenset[str] = frozenset()
    logins: Mapping[str, Login] = field(default_factory=dict)
    roles: Mapping[str, Login] = field(default_factory=dict)
    forgotten: tuple[tuple[float, float], ...] = ()


class Certificates(Part):
    """By serial number."""

    @reads
    def get(self, tx: Connection, serial: str) -> IssuedCertificate:
        """Raises NotFound."""
        certificates = tables.certificates
        row = tx.execute(select(certificates).where(certificates.c.serial == serial)).mappings().one_or_none()
        if row is None:
            raise NotFound("certificate", serial)
        return IssuedCertificate(**{**row, "kind": PeerKind(row["kind"]), "key_sha256": bytes(row["key_sha256"])})

    @writes()
    def issue(self, tx: Connection, certificate: IssuedCertificate, act: Act | None = None) -> None:
        """Note one, before it is handed out. Raises Busy when there are too many of this name."""
        if act is not None:
            record(tx, act, certificate.issued_at, serial=certificate.serial, name=certificate.name)
        note_certificate(tx, certificate)

    @writes()
    def renew(self, tx: Connection, certificate: IssuedCertificate, instance_uid: str) -> None:
        """Note the next one of an agent. Raises NotFound; Denied: revoked, another installation; Busy."""
        agents = tables.agents
        agent = tx.execute(select(agents).where(agents.c.id == certificate.name)).one_or_none()
        if agent is None:
            raise NotFound("agent", certificate.name)
        if agent.revoked_at is not None:
            raise Denied(f"{certificate.name} is revoked: {agent.revoked_why}")
        if agent.instance_uid != instance_uid:
            raise Denied(f"{certificate.name} was enrolled by another installation; enrol this one by its own token")
        note_certificate(tx, certificate)
        tx.execute(
            update(agents).where(agents.c.id == certificate.name).values(certificate_not_after=certificate.not_after)
        )

    @writes()
    def adopt(self, tx: Connection, certificate: IssuedCertificate) -> None:
        """Note one of an agent that was given out and is not in the store. Raises NotFound, Denied: revoked."""
        agents = tables.agents
        agent = tx.execute(select(agents).where(agents.c.id == certificate.name)).one_or_none()
        if agent is None:
            raise NotFound("agent", certificate.name)
        if agent.revoked_at is not None:
            raise Denied(f"{certificate.name} is revoked: {agent.revoked_why}")
        upsert(tx, tables.certificates, [asdict(certificate)], update=False)
        ends = max(agent.certificate_not_after, certificate.not_after)
        tx.execute(update(agents).where(agents.c.id == certificate.name).values(certificate_not_after=ends))

    @reads
    def standing(self, tx: Connection, when: float) -> Standing:
        """Of everybody, on one snapshot. Certificates that have ended are left out: they are good for nothing."""
        agents, certificates, operators = tables.agents, tables.certificates, tables.operators
        revoked = select(certificates.c.serial).where(
            certificates.c.revoked_at.is_not(None), certificates.c.not_after > when
        )
        rows = tx.execute(select(operators).where(operators.c.revoked_at.is_(None))).all()
        logins = {
            row.token_id: Login(row.name, Role(row.role), bytes(row.secret_sha256), row.expires_at) for row in rows
        }
        return Standing(
            frozenset(tx.execute(select(agents.c.id).where(agents.c.revoked_at.is_not(None))).scalars()),
            frozenset(tx.execute(revoked).scalars()),
            logins,
            {login.name: login for login in logins.values()},
            tuple((row.backup_at, row.restored_at) for row in tx.execute(select(tables.restores))),
        )

    @writes()
    def sweep(self, tx: Connection, when: float) -> None:
        """Let go of those that ended long ago."""
        certificates = tables.certificates
        tx.execute(delete(certificates).where(certificates.c.not_after < when - KEPT_SECONDS))

    # --- what the authority is known by

    @writes()
    def authority(self, tx: Connection, name: str, certificate: bytes, when: float) -> bytes:
        """The certificate under this name: the given one if there was none yet, else that which is there."""
        row = {"name": name, "certificate": certificate, "created_at": when}
        upsert(tx, tables.authorities, [row], update=False)
        known = select(tables.authorities.c.certificate).where(tables.authorities.c.name == name)
        return bytes(tx.execute(known).scalar_one())

    @reads
    def known_authority(self, tx: Connection, name: str) -> bytes | None:
        """The certificate under this name."""
        known = select(tables.authorities.c.certificate).where(tables.authorities.c.name == name)
        found = tx.execute(known).scalar_one_or_none()
        return bytes(found) if found is not None else None

    @reads
    def known_authorities(self, tx: Connection) -> list[bytes]:
        """All that ever issued for this fleet, latest first."""
        known = tables.authorities
        statement = select(known.c.certificate).order_by(known.c.created_at.desc(), known.c.name)
        return [bytes(found) for found in tx.execute(statement).scalars()]

    @writes(Topic.ACCESS)
    def add_artifact_key(self, tx: Connection, key_id: str, public_key: bytes, when: float) -> dict[str, bytes]:
        """Note a key that artifacts are signed with; all that ever were, by id."""
        row = {"key_id": key_id, "public_key": public_key, "created_at": when}
        upsert(tx, tables.artifact_keys, [row], update=False)
        return _artifact_keys(tx)

    @reads
    def known_artifact_keys(self, tx: Connection) -> dict[str, bytes]:
        """By id."""
        return _artifact_keys(tx)


def _artifact_keys(tx: Connection) -> dict[str, bytes]:
    return {row.key_id: bytes(row.public_key) for row in tx.execute(select(tables.artifact_keys))}


def note_certificate(tx: Connection, certificate: IssuedCertificate) -> None:
    """As Certificates.issue, within a transaction."""
    certificates = tables.certificates
    if certificate.kind is PeerKind.CONTROLLER:  # whatever happens, a controller must be able to start
        tx.execute(insert(certificates).values(asdict(certificate)))
        return
    live = select(func.count()).where(
        certificates.c.kind == certificate.kind,
        certificates.c.name == certificate.name,
        certificates.c.not_after > certificate.issued_at,
    )
    if tx.execute(live).scalar_one() >= LIVE_MAX:
        raise Busy(f"{certificate.name} has {LIVE_MAX} certificates that are good", RETRY_SECONDS)
    tx.execute(insert(certificates).values(asdict(certificate)))


def revoke_certificates(tx: Connection, kind: PeerKind, name: str, why: str, when: float) -> None:
    """All of one name."""
    certificates = tables.certificates
    tx.execute(
        update(certificates)
        .where(certificates.c.kind == kind, certificates.c.name == name, certificates.c.revoked_at.is_(None))
        .values(revoked_at=when, revoked_why=why)
    )
