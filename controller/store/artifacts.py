"""Lists by generation, what makes one of another, how scheduled fetches went. Bytes are elsewhere: see `location`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, and_, func, insert, select

from controller.errors import NotFound
from controller.model import Act, Artifact, ArtifactKey, Delta, FetchState, Topic
from controller.store import horizon, tables
from controller.store.audit import record
from controller.store.engine import upsert
from controller.store.horizon import Swept
from controller.store.parts import Part, reads, writes

VERSIONS_MAX: Final = 1000
TEXT_MAX: Final = 2000
LISTS_SHOWN: Final = 100
"""In one entry of the audit log."""


@dataclass(frozen=True, slots=True)
class ArtifactDraft:
    """What becomes the next generation of a list. The bytes are in place, under `location`."""

    kind: str
    name: str
    sha256: bytes
    size: int
    format_version: int
    not_after: float | None
    location: str
    author: str
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signed:
    """The manifest of an artifact as it was signed, and by which key."""

    manifest: bytes
    key_id: str
    signature: bytes


class Artifacts(Part):
    """Each is immutable; generations of a name rise and are never given twice, not even after `sweep`."""

    @writes(Topic.ARTIFACTS)
    def add(
        self, tx: Connection, draft: ArtifactDraft, sign: Callable[[int], Signed], when: float, act: Act, above: int = 0
    ) -> Artifact:
        """Make it the next generation of its name, one that is more than `above`, too.

        `sign` is given the generation and may be called again with the same one; it does nothing but sign.
        """
        artifacts = tables.artifacts
        named = and_(artifacts.c.kind == draft.kind, artifacts.c.name == draft.name)
        latest = tx.execute(select(func.max(artifacts.c.generation)).where(named)).scalar_one() or 0
        generation = max(latest, above) + 1
        record(tx, act, when, kind=draft.kind, name=draft.name, list_generation=generation, sha256=draft.sha256.hex())
        signed = sign(generation)
        tx.execute(
            insert(artifacts).values(
                kind=draft.kind,
                name=draft.name,
                generation=generation,
                sha256=draft.sha256,
                size=draft.size,
                format_version=draft.format_version,
                not_after=draft.not_after,
                key_id=signed.key_id,
                signature=signed.signature,
                manifest=signed.manifest,
                location=draft.location,
                author=draft.author,
                created_at=when,
                counts=draft.counts,
            )
        )
        return _one(tx, select(artifacts).where(named, artifacts.c.generation == generation), "", "")

    @reads
    def latest(self, tx: Connection, kind: str, name: str) -> Artifact:
        """Raises NotFound."""
        artifacts = tables.artifacts
        named = select(artifacts).where(artifacts.c.kind == kind, artifacts.c.name == name)
        return _one(tx, named.order_by(artifacts.c.generation.desc()).limit(1), f"{kind} list", name)

    @reads
    def get(self, tx: Connection, key: ArtifactKey) -> Artifact:
        """Raises NotFound."""
        return _one(tx, select(tables.artifacts).where(_is(key)), f"{key.kind} list", f"{key.name} {key.generation}")

    @reads
    def by_sha256(self, tx: Connection, sha256: bytes) -> Artifact:
        """Where several have the same bytes, the latest. Raises NotFound."""
        artifacts = tables.artifacts
        same = select(artifacts).where(artifacts.c.sha256 == sha256)
        return _one(tx, same.order_by(artifacts.c.generation.desc()).limit(1), "artifact", sha256.hex())

    @reads
    def all_latest(self, tx: Connection) -> list[Artifact]:
        """One of each name."""
        return _latest(tx)

    @reads
    def versions(self, tx: Connection, kind: str, name: str, limit: int = 50) -> list[Artifact]:
        """Newest first."""
        artifacts = tables.artifacts
        named = select(artifacts).where(artifacts.c.kind == kind, artifacts.c.name == name)
        rows = tx.execute(named.order_by(artifacts.c.generation.desc()).limit(min(limit, VERSIONS_MAX)))
        return [_artifact(row) for row in rows]

    @reads
    def offered_to(self, tx: Connection, agent_id: str, sha256: bytes) -> Artifact | None:
        """The artifact with these bytes, if a generation that this agent was offered needs it."""
        artifacts, needed, offers = tables.artifacts, tables.policy_artifacts, tables.offers
        is_needed = and_(
            needed.c.kind == artifacts.c.kind,
            needed.c.name == artifacts.c.name,
            needed.c.artifact_generation == artifacts.c.generation,
        )
        row = tx.execute(
            select(artifacts)
            .join(needed, is_needed)
            .join(offers, offers.c.generation == needed.c.generation)
            .where(artifacts.c.sha256 == sha256, offers.c.agent_id == agent_id)
            .order_by(artifacts.c.generation.desc())
            .limit(1)
        ).one_or_none()
        return _artifact(row) if row is not None else None

    # --- deltas

    @writes()
    def add_delta(self, tx: Connection, delta: Delta) -> None:
        """The same two again replace the one that was."""
        upsert(tx, tables.artifact_deltas, [asdict(delta)])

    @reads
    def delta(self, tx: Connection, base_sha256: bytes, target_sha256: bytes) -> Delta | None:
        deltas = tables.artifact_deltas
        row = tx.execute(
            select(deltas).where(deltas.c.base_sha256 == base_sha256, deltas.c.target_sha256 == target_sha256)
        ).one_or_none()
        return _delta(row) if row is not None else None

    # --- letting go

    @reads
    def locations(self, tx: Connection) -> frozenset[str]:
        """Of everything that is in use, deltas too: what else lies in the folder is nobody's."""
        names = tx.execute(select(tables.artifacts.c.location)).scalars().all()
        return frozenset(names) | frozenset(tx.execute(select(tables.artifact_deltas.c.location)).scalars())

    @writes(Topic.ARTIFACTS)
    def sweep(self, tx: Connection, keep: int, when: float, act: Act) -> Swept:
        """Let go of generations and deltas that nobody can need any more: see controller/store/horizon.py."""
        swept = horizon.sweep(tx, keep)
        if swept.keys or swept.deltas:
            record(tx, act, when, lists=_in_short(swept.keys), deltas=swept.deltas)
        return swept

    # --- scheduled fetches

    @reads
    def fetch_states(self, tx: Connection) -> dict[str, FetchState]:
        """By source."""
        return {
            row.source: FetchState(row.source, row.tried_at, row.fetched_at, row.validator, row.problem)
            for row in tx.execute(select(tables.fetches))
        }

    @writes()
    def fetched(self, tx: Connection, state: FetchState) -> None:
        """How it went this time."""
        row = asdict(state)
        row["problem"], row["validator"] = state.problem[:TEXT_MAX], state.validator[:TEXT_MAX]
        upsert(tx, tables.fetches, [row])


def _in_short(keys: Sequence[ArtifactKey]) -> dict[str, str]:
    """ "dno/industry": "generations 3 to 17, 12 of them"; the log says what was done, it is no second store."""
    by_list: dict[str, list[int]] = {}
    for key in keys:
        by_list.setdefault(f"{key.kind}/{key.name}", []).append(key.generation)
    shown = sorted(by_list.items())[:LISTS_SHOWN]
    return {name: f"generations {min(all_of)} to {max(all_of)}, {len(all_of)} of them" for name, all_of in shown}


def _is(key: ArtifactKey) -> Any:
    artifacts = tables.artifacts
    return and_(artifacts.c.kind == key.kind, artifacts.c.name == key.name, artifacts.c.generation == key.generation)


def _one(tx: Connection, statement: Select[Any], kind: str, name: str) -> Artifact:
    row = tx.execute(statement).one_or_none()
    if row is None:
        raise NotFound(kind, name)
    return _artifact(row)


def _latest(tx: Connection) -> list[Artifact]:
    artifacts = tables.artifacts
    newest = (
        select(artifacts.c.kind, artifacts.c.name, func.max(artifacts.c.generation).label("generation"))
        .group_by(artifacts.c.kind, artifacts.c.name)
        .subquery()
    )
    same = and_(
        artifacts.c.kind == newest.c.kind,
        artifacts.c.name == newest.c.name,
        artifacts.c.generation == newest.c.generation,
    )
    rows = tx.execute(select(artifacts).join(newest, same).order_by(artifacts.c.kind, artifacts.c.name))
    return [_artifact(row) for row in rows]


def _artifact(row: Row[Any]) -> Artifact:
    return Artifact(
        key=ArtifactKey(row.kind, row.name, row.generation),
        sha256=bytes(row.sha256),
        size=row.size,
        format_version=row.format_version,
        not_after=row.not_after,
        key_id=row.key_id,
        signature=bytes(row.signature),
        manifest=bytes(row.manifest),
        location=row.location,
        author=row.author,
        created_at=row.created_at,
        counts=row.counts,
    )


def _delta(row: Row[Any]) -> Delta:
    return Delta(bytes(row.base_sha256), bytes(row.target_sha256), bytes(row.sha256), row.size, row.location)
