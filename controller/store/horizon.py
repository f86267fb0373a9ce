"""Which generations of lists may go: none that an agent goes by, may be offered, may go back to, or has a delta from.

Works within a transaction on tables; knows no bytes. What is kept:

    in use     the latest policy, the one that is rolled out, the last that was rolled out to the end, and of every
               agent that is not banned what it was offered last and what it says it decides by
    near       the `keep` policies before each of these, for going back
    recent     the `keep` newest generations of each list, for operators, and as bases of deltas

A delta stays as long as its target may be offered and its base is kept. A policy whose lists have gone remains as a
text; going back to it takes the lists of then from its text, as they are by that time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, and_, delete, func, select

from controller.model import ArtifactKey, RolloutState
from controller.store import tables

SWEEP_MAX: Final = 500
"""Generations that go in one transaction; the rest goes in the next round."""

DELTAS_MAX: Final = 5000
IN_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Swept:
    """What has gone. `locations` are free; `more`: there is more to do."""

    keys: tuple[ArtifactKey, ...] = ()
    deltas: int = 0
    locations: frozenset[str] = frozenset()
    more: bool = False


def sweep(tx: Connection, keep: int) -> Swept:
    """Let go of what is beyond the horizon."""
    offered = _in_use(tx)
    near = {generation - back for generation in offered for back in range(keep + 1)}
    held = {(row.kind, row.name, row.generation): row for row in tx.execute(select(tables.artifacts)).all()}
    recent = _recent(held, keep)
    latest = _recent(held, 1)
    kept = _needed(tx, near) | recent
    gone = sorted(held.keys() - kept)
    batch = gone[:SWEEP_MAX]
    free: set[str] = set()
    for key in batch:
        _drop(tx, key)
        free.add(held[key].location)
    left = held.keys() - set(batch)
    targets = {bytes(held[key].sha256) for key in (_needed(tx, offered) | latest) & left}
    deltas = _sweep_deltas(tx, {bytes(held[key].sha256) for key in left}, targets)
    still = {held[key].location for key in left}
    keys = tuple(ArtifactKey(*key) for key in batch)
    return Swept(keys, len(deltas), frozenset((free | deltas) - still), len(gone) > len(batch))


Key = tuple[str, str, int]


def _in_use(tx: Connection) -> set[int]:
    """Generations of the policy that somebody goes by, or may be told to."""
    policies, rollouts, offers, agents = tables.policies, tables.rollouts, tables.offers, tables.agents
    found = [
        tx.execute(select(func.max(policies.c.generation))).scalar(),
        tx.execute(select(func.max(rollouts.c.generation)).where(rollouts.c.state == RolloutState.DONE)).scalar(),
        *tx.execute(select(rollouts.c.generation).where(rollouts.c.state == RolloutState.RUNNING)).scalars(),
    ]
    there = agents.c.revoked_at.is_(None)
    latest = select(func.max(offers.c.generation)).join(agents, and_(agents.c.id == offers.c.agent_id, there))
    found += tx.execute(latest.group_by(offers.c.agent_id)).scalars()
    notes = tables.agent_notes
    said = select(notes.c.health).join(agents, and_(agents.c.id == notes.c.agent_id, there))
    found += [health["active_generation"] for health in tx.execute(said).scalars() if health]
    return {generation for generation in found if generation}


def _needed(tx: Connection, generations: Iterable[int]) -> set[Key]:
    """The lists of these policies."""
    needed, wanted = tables.policy_artifacts, sorted(generations)
    found: set[Key] = set()
    for some in (wanted[i : i + IN_MAX] for i in range(0, len(wanted), IN_MAX)):
        columns = select(needed.c.kind, needed.c.name, needed.c.artifact_generation).distinct()
        found |= {(row[0], row[1], row[2]) for row in tx.execute(columns.where(needed.c.generation.in_(some)))}
    return found


def _recent(held: Iterable[Key], count: int) -> set[Key]:
    by_list: dict[tuple[str, str], list[int]] = {}
    for kind, name, generation in held:
        by_list.setdefault((kind, name), []).append(generation)
    return {(*ref, generation) for ref, all_of in by_list.items() for generation in sorted(all_of)[-count:]}


def _drop(tx: Connection, key: Key) -> None:
    artifacts, needed = tables.artifacts, tables.policy_artifacts
    kind, name, generation = key
    tx.execute(
        delete(needed).where(needed.c.kind == kind, needed.c.name == name, needed.c.artifact_generation == generation)
    )
    tx.execute(
        delete(artifacts).where(
            artifacts.c.kind == kind, artifacts.c.name == name, artifacts.c.generation == generation
        )
    )


def _sweep_deltas(tx: Connection, bases: set[bytes], targets: set[bytes]) -> set[str]:
    """Where those are that nobody will ask for."""
    deltas = tables.artifact_deltas
    free: set[str] = set()
    for row in tx.execute(select(deltas).limit(DELTAS_MAX)).all():
        if bytes(row.target_sha256) in targets and bytes(row.base_sha256) in bases:
            continue
        tx.execute(
            delete(deltas).where(deltas.c.base_sha256 == row.base_sha256, deltas.c.target_sha256 == row.target_sha256)
        )
        free.add(row.location)
    return free
