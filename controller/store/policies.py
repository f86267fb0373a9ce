"""Policy generations: numbered in order, immutable, each with its hash and its author."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, func, insert, select

from controller.errors import Conflict, NotFound
from controller.model import Act, ArtifactKey, Policy, PolicyDraft, PolicyInfo, RolloutPlan, RolloutState, Topic
from controller.store import tables
from controller.store.audit import record
from controller.store.parts import Part, reads, writes
from controller.store.rollouts import begin

HISTORY_MAX: Final = 1000
COMMENT_MAX: Final = 1000
IN_MAX: Final = 1000
"""Generations in one question; every database has its bound."""


class Policies(Part):
    """All that ever were; a roll-back is a new one with the content of an old one."""

    @writes(Topic.POLICIES, Topic.ROLLOUTS)
    def add(
        self,
        tx: Connection,
        draft: PolicyDraft,
        when: float,
        act: Act,
        expected_generation: int = 0,
        plan: RolloutPlan | None = None,
        above: int = 0,
    ) -> Policy:
        """Make it the next generation, one that is more than `above`, too; and, with a plan, begin its rollout.

        Raises Conflict when `expected_generation` is given and is not the latest any more, or when a list is missing.
        """
        policies = tables.policies
        latest = tx.execute(select(func.max(policies.c.generation))).scalar_one() or 0
        if expected_generation and expected_generation != latest:
            raise Conflict(f"generation {latest} came after generation {expected_generation}, from which this was made")
        _check_artifacts(tx, draft.artifacts)
        generation, sha256 = max(latest, above) + 1, hashlib.sha256(draft.document).digest()
        record(tx, act, when, generation=generation, sha256=sha256.hex())
        tx.execute(
            insert(policies).values(
                generation=generation,
                sha256=sha256,
                name=draft.name,
                toml=draft.toml,
                document=draft.document,
                author=draft.author,
                comment=draft.comment[:COMMENT_MAX],
                created_at=when,
                rolled_back_to=draft.rolled_back_to,
            )
        )
        if draft.artifacts:
            tx.execute(
                insert(tables.policy_artifacts),
                [
                    {"generation": generation, "kind": k.kind, "name": k.name, "artifact_generation": k.generation}
                    for k in draft.artifacts
                ],
            )
        if plan is not None:
            begin(tx, generation, plan, when)
        return _policy(tx, generation)

    @reads
    def get(self, tx: Connection, generation: int = 0) -> Policy:
        """0: the latest. Raises NotFound."""
        return _policy(tx, generation or tx.execute(select(func.max(tables.policies.c.generation))).scalar_one() or 0)

    @reads
    def history(self, tx: Connection, limit: int = 50) -> list[PolicyInfo]:
        """Newest first."""
        order = tables.policies.c.generation.desc()
        rows = tx.execute(_infos().order_by(order).limit(min(limit, HISTORY_MAX))).all()
        needed = _artifacts_of(tx, [row.generation for row in rows])
        return [_info(row, needed.get(row.generation, ())) for row in rows]

    @reads
    def artifacts_of(self, tx: Connection, generations: Sequence[int]) -> dict[int, tuple[ArtifactKey, ...]]:
        """The lists that each of these generations needs, as far as they are still remembered."""
        wanted = sorted(set(generations))
        found: dict[int, tuple[ArtifactKey, ...]] = {}
        for some in (wanted[i : i + IN_MAX] for i in range(0, len(wanted), IN_MAX)):
            found |= _artifacts_of(tx, some)
        return found


def _check_artifacts(tx: Connection, keys: tuple[ArtifactKey, ...]) -> None:
    artifacts = tables.artifacts
    if len({(key.kind, key.name) for key in keys}) != len(keys):
        raise Conflict("a list is named in two generations")
    for key in keys:
        found = select(artifacts.c.generation).where(
            artifacts.c.kind == key.kind, artifacts.c.name == key.name, artifacts.c.generation == key.generation
        )
        if tx.execute(found).one_or_none() is None:
            raise Conflict(f"there is no {key.kind} list {key.name} of generation {key.generation}")


def _infos() -> Any:
    """Everything of a generation but its content, which can be large."""
    policies, rollouts = tables.policies, tables.rollouts
    columns = [column for column in policies.c if column.name not in ("toml", "document")]
    return select(*columns, rollouts.c.state).join_from(
        policies, rollouts, rollouts.c.generation == policies.c.generation, isouter=True
    )


def _policy(tx: Connection, generation: int) -> Policy:
    policies = tables.policies
    row = tx.execute(_infos().where(policies.c.generation == generation)).one_or_none()
    if row is None:
        raise NotFound("policy generation", generation)
    content = tx.execute(select(policies.c.toml, policies.c.document).where(policies.c.generation == generation)).one()
    needed = _artifacts_of(tx, [generation]).get(generation, ())
    return Policy(_info(row, needed), content.toml, bytes(content.document))


def _artifacts_of(tx: Connection, generations: list[int]) -> dict[int, tuple[ArtifactKey, ...]]:
    needed = tables.policy_artifacts
    statement = select(needed).where(needed.c.generation.in_(generations)).order_by(needed.c.kind, needed.c.name)
    found: dict[int, tuple[ArtifactKey, ...]] = {}
    for row in tx.execute(statement):
        key = ArtifactKey(row.kind, row.name, row.artifact_generation)
        found[row.generation] = (*found.get(row.generation, ()), key)
    return found


def _info(row: Row[Any], artifacts: tuple[ArtifactKey, ...]) -> PolicyInfo:
    return PolicyInfo(
        generation=row.generation,
        sha256=bytes(row.sha256),
        name=row.name,
        author=row.author,
        comment=row.comment,
        created_at=row.created_at,
        rolled_back_to=row.rolled_back_to,
        artifacts=artifacts,
        rollout=RolloutState(row.state) if row.state is not None else None,
    )
