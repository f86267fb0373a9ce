"""Where every list is: which generation each agent decides by, which it shall have, which there is. Pure.

Known from what is in the store anyway: the generation of the policy that an agent reported, and the lists of that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controller.model import Agent, Artifact, ArtifactKey

UNUSED: Final[Mapping[str, str]] = {"trust-list": "trust_unused_lists", "crl": "trust_unused_crls"}
"""Kind to the agents' counter of lists that a setting of their own takes the place of."""


@dataclass(frozen=True, slots=True)
class ListAtAgent:
    """One list at one agent; 0: none. `problem` says why it is not what the agent goes by, or may not be."""

    agent: Agent
    kind: str
    name: str
    generation: int
    latest: int
    offered: int
    policy_generation: int
    problem: str


def spread(
    agents: Sequence[Agent],
    latest: Sequence[Artifact],
    needed: Mapping[int, Sequence[ArtifactKey]],
    counters: Mapping[str, Mapping[str, int]],
) -> list[ListAtAgent]:
    """One row for each agent and each list that it has, or shall have. `needed` is by policy generation."""
    newest = {(artifact.key.kind, artifact.key.name): artifact.key.generation for artifact in latest}
    rows = []
    for agent in agents:
        if agent.revoked:
            continue
        active = agent.health.active_generation if agent.health is not None else 0
        offered = agent.offer.generation if agent.offer is not None else 0
        has = {(key.kind, key.name): key.generation for key in needed.get(active, ())}
        shall = {(key.kind, key.name): key.generation for key in needed.get(offered, ())}
        for kind, name in sorted(has.keys() | shall.keys()):
            ref = kind, name
            problem = _problem(agent, kind, active, counters.get(agent.id, {}))
            rows.append(
                ListAtAgent(agent, kind, name, has.get(ref, 0), newest.get(ref, 0), shall.get(ref, 0), active, problem)
            )
    return rows


def _problem(agent: Agent, kind: str, active: int, counts: Mapping[str, int]) -> str:
    if agent.health is None:
        return "has not reported yet"
    if not active:
        return "decides by a policy of its own"
    if counts.get(UNUSED.get(kind, "")):
        return "agent.toml names lists of its own, which win"
    if kind in UNUSED and "trust" in agent.health.trouble:
        return agent.health.trouble["trust"]
    return ""
