"""A token becomes an agent, once: token, agent and certificate in one transaction."""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from controller.errors import Conflict, Denied, Unauthenticated
from controller.model import Act, IssuedCertificate, PeerKind, Topic
from controller.store import tables
from controller.store.access import Secret
from controller.store.audit import record
from controller.store.certificates import note_certificate, revoke_certificates
from controller.store.parts import Part, writes

WORD_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Claim:
    """What an agent shows. `request_sha256` covers its idempotency key, its public key and its instance uid."""

    secret: Secret
    request_sha256: bytes
    instance_uid: str
    hostname: str
    version: str


@dataclass(frozen=True, slots=True)
class Redeemed:
    """The agent's name and its certificate, DER. `again`: it had been given before."""

    agent_id: str
    certificate: bytes
    again: bool = False


Issue = Callable[[str], tuple[IssuedCertificate, bytes]]
"""Makes a certificate for an agent of this name: what is to be noted of it, and itself, DER. Does nothing else."""


class Enrolment(Part):
    """The one way into the fleet."""

    @writes(Topic.ACCESS, Topic.AGENTS)
    def redeem(self, tx: Connection, claim: Claim, issue: Issue, when: float) -> Redeemed:
        """The same claim gets the same certificate again, as long as that is good.

        Raises Unauthenticated: no token, used, expired, revoked; Conflict: this installation is an agent already;
        Denied: the agent that the token is for, or that came of it, is revoked.
        """
        tokens = tables.tokens
        row = tx.execute(select(tokens).where(tokens.c.id == claim.secret.id)).one_or_none()
        # One answer for a wrong name and a wrong secret: whoever guesses learns nothing.
        if not hmac.compare_digest(bytes(row.secret_sha256) if row is not None else b"", claim.secret.sha256):
            raise Unauthenticated("the token is not known")
        assert row is not None
        if row.used_at is not None:
            return _again(tx, row, claim, when)
        if row.revoked_at is not None:
            raise Unauthenticated("the token was revoked")
        if row.expires_at <= when:
            raise Unauthenticated("the token has expired")
        agent_id = _rejoin(tx, row.agent_id, claim, when) if row.agent_id else _join(tx, claim, when)
        certificate, der = issue(agent_id)
        note_certificate(tx, certificate)
        agents = tables.agents
        tx.execute(update(agents).where(agents.c.id == agent_id).values(certificate_not_after=certificate.not_after))
        used = {"used_at": when, "used_by": agent_id, "request_sha256": claim.request_sha256, "certificate": der}
        tx.execute(update(tokens).where(tokens.c.id == row.id).values(used))
        act = Act(f"token:{row.id}", "agent.enroll")
        hostname = claim.hostname[:WORD_MAX]
        record(tx, act, when, agent=agent_id, hostname=hostname, serial=certificate.serial, again=bool(row.agent_id))
        return Redeemed(agent_id, der)


def _again(tx: Connection, token: Row[Any], claim: Claim, when: float) -> Redeemed:
    """The answer was lost on its way, if it is the same request; else somebody has the token who should not."""
    if not hmac.compare_digest(bytes(token.request_sha256), claim.request_sha256):
        raise Unauthenticated("the token has been used")
    agents = tables.agents
    agent = tx.execute(select(agents).where(agents.c.id == token.used_by)).one()
    if agent.revoked_at is not None:
        raise Denied(f"{token.used_by} is revoked: {agent.revoked_why}")
    if agent.certificate_not_after <= when:
        raise Unauthenticated("the token has been used")
    return Redeemed(token.used_by, bytes(token.certificate), again=True)


def _join(tx: Connection, claim: Claim, when: float) -> str:
    agents = tables.agents
    same = select(agents.c.id).where(agents.c.instance_uid == claim.instance_uid, agents.c.revoked_at.is_(None))
    if known := tx.execute(same).scalars().first():
        raise Conflict(
            f"this installation is {known} already: to enrol it again, make a token for {known}; if the machine is a "
            "copy of that one, remove its instance uid first"
        )
    agent_id = f"agent-{secrets.token_hex(8)}"
    tx.execute(
        insert(agents).values(
            id=agent_id, enrolled_at=when, certificate_not_after=when, revoked_why="", **_words(claim)
        )
    )
    return agent_id


def _rejoin(tx: Connection, agent_id: str, claim: Claim, when: float) -> str:
    """It has lost its certificate, or its disk: what had its name before is out."""
    agents, boots = tables.agents, tables.boots
    agent = tx.execute(select(agents).where(agents.c.id == agent_id)).one()
    if agent.revoked_at is not None:
        raise Denied(f"{agent_id} is revoked: {agent.revoked_why}")
    same = select(agents.c.id).where(
        agents.c.instance_uid == claim.instance_uid, agents.c.revoked_at.is_(None), agents.c.id != agent_id
    )
    if other := tx.execute(same).scalars().first():
        raise Conflict(f"this installation is {other} already; the token is for {agent_id}")
    revoke_certificates(tx, PeerKind.AGENT, agent_id, "enrolled again", when)
    tx.execute(delete(boots).where(boots.c.agent_id == agent_id))
    tx.execute(update(agents).where(agents.c.id == agent_id).values(_words(claim)))
    return agent_id


def _words(claim: Claim) -> dict[str, str]:
    return {
        "instance_uid": claim.instance_uid,
        "hostname": claim.hostname[:WORD_MAX],
        "version": claim.version[:WORD_MAX],
    }
