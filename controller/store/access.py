"""Who may join and who may ask: enrolment tokens and operators. Secrets are here as hashes only."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from controller.errors import Conflict, Invalid, NotFound
from controller.model import Act, EnrolmentToken, Operator, PeerKind, Role, Topic
from controller.names import name_fault
from controller.store import tables
from controller.store.audit import record
from controller.store.certificates import revoke_certificates
from controller.store.engine import upsert
from controller.store.parts import Part, reads, writes

TOKENS_MAX: Final = 10_000
"""That are good at the same time: a fleet that is set up in an hour."""

OPERATORS_MAX: Final = 10_000

NOTE_MAX: Final = 500

KEPT_SECONDS: Final = 90 * 86_400.0
"""Seconds that a token is kept after its end, for people; the audit log keeps it for good."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Of a token: by `id` it is found, by the hash of the rest it is known."""

    id: str
    sha256: bytes


class Access(Part):
    """Made and checked by the authority, which alone sees secrets."""

    @reads
    def tokens(self, tx: Connection) -> list[EnrolmentToken]:
        """Newest first."""
        tokens = tables.tokens
        return [_token(row) for row in tx.execute(select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id))]

    @reads
    def operators(self, tx: Connection) -> list[Operator]:
        """By name, revoked ones too."""
        return [operator_from(row) for row in tx.execute(select(tables.operators).order_by(tables.operators.c.name))]

    @writes(Topic.ACCESS)
    def add_token(self, tx: Connection, token: EnrolmentToken, secret: Secret, act: Act) -> None:
        """Raises NotFound, Conflict: the agent that it is for, too many tokens."""
        tokens, agents, when = tables.tokens, tables.agents, token.created_at
        if token.agent_id:
            agent = tx.execute(select(agents.c.revoked_at).where(agents.c.id == token.agent_id)).one_or_none()
            if agent is None:
                raise NotFound("agent", token.agent_id)
            if agent.revoked_at is not None:
                raise Conflict(f"{token.agent_id} is revoked for good: enrol the machine as a new agent")
        good = select(func.count()).where(tokens.c.expires_at > when, tokens.c.used_at.is_(None))
        if tx.execute(good).scalar_one() >= TOKENS_MAX:
            raise Conflict(f"{TOKENS_MAX} tokens are unused already: revoke some, or wait an hour")
        record(tx, act, when, token=token.id, agent=token.agent_id, expires_at=token.expires_at)
        tx.execute(
            insert(tokens).values(
                id=token.id,
                secret_sha256=secret.sha256,
                note=token.note[:NOTE_MAX],
                created_by=token.created_by,
                created_at=when,
                expires_at=token.expires_at,
                agent_id=token.agent_id,
                used_by="",
            )
        )

    @writes(Topic.ACCESS)
    def revoke_token(self, tx: Connection, token_id: str, when: float, act: Act) -> None:
        """Once is enough. Raises NotFound; Conflict when it was used: revoke the agent."""
        tokens = tables.tokens
        row = tx.execute(select(tokens).where(tokens.c.id == token_id)).one_or_none()
        if row is None:
            raise NotFound("token", token_id)
        if row.used_at is not None:
            raise Conflict(f"token {token_id} was used by {row.used_by}: revoke that agent")
        record(tx, act, when, token=token_id)
        if row.revoked_at is None:
            tx.execute(update(tokens).where(tokens.c.id == token_id).values(revoked_at=when))

    @writes(Topic.ACCESS)
    def add_operator(self, tx: Connection, operator: Operator, secret: Secret, act: Act) -> None:
        """Raises Invalid; Conflict when the name is in use. One that was revoked or has expired may come back."""
        operators, when = tables.operators, operator.created_at
        if fault := name_fault(operator.name):
            raise Invalid("name", fault)
        row = tx.execute(select(operators).where(operators.c.name == operator.name)).one_or_none()
        if row is not None and row.revoked_at is None and row.expires_at > when:
            raise Conflict(f"there is an operator {operator.name}")
        if tx.execute(select(func.count()).select_from(operators)).scalar_one() >= OPERATORS_MAX:
            raise Conflict(f"there are {OPERATORS_MAX} operators")
        record(tx, act, when, operator=operator.name, role=operator.role.word, expires_at=operator.expires_at)
        values = {
            "name": operator.name,
            "role": int(operator.role),
            "token_id": secret.id,
            "secret_sha256": secret.sha256,
            "created_by": operator.created_by,
            "created_at": when,
            "expires_at": operator.expires_at,
            "revoked_at": None,
        }
        upsert(tx, operators, [values])

    @writes(Topic.ACCESS)
    def revoke_operator(self, tx: Connection, name: str, when: float, act: Act) -> None:
        """Its certificates, too. Once is enough. Raises NotFound; Conflict for the last admin."""
        operators = tables.operators
        row = tx.execute(select(operators).where(operators.c.name == name)).one_or_none()
        if row is None:
            raise NotFound("operator", name)
        others = select(func.count()).where(
            operators.c.name != name,
            operators.c.role == int(Role.ADMIN),
            operators.c.revoked_at.is_(None),
            operators.c.expires_at > when,
        )
        if row.role == int(Role.ADMIN) and not tx.execute(others).scalar_one():
            raise Conflict(f"{name} is the last admin: nobody could make another one")
        record(tx, act, when, operator=name)
        if row.revoked_at is None:
            tx.execute(update(operators).where(operators.c.name == name).values(revoked_at=when))
            revoke_certificates(tx, PeerKind.OPERATOR, name, "operator revoked", when)

    @writes(Topic.ACCESS)
    def sweep(self, tx: Connection, when: float) -> None:
        """Let go of tokens that ended long ago."""
        tx.execute(delete(tables.tokens).where(tables.tokens.c.expires_at < when - KEPT_SECONDS))


def operator_from(row: Row[Any]) -> Operator:
    """Of a row of `operators`."""
    return Operator(row.name, Role(row.role), row.created_by, row.created_at, row.expires_at, row.revoked_at)


def _token(row: Row[Any]) -> EnrolmentToken:
    return EnrolmentToken(
        id=row.id,
        note=row.note,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        agent_id=row.agent_id,
        used_at=row.used_at,
        used_by=row.used_by,
        revoked_at=row.revoked_at,
    )
