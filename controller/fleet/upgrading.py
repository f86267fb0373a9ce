"""Another version of the agent for the fleet, seen as a rollout: what agents say of it, and who is passed by.

The steps, and what halts them, are those of rollout.py and judging.py: an upgrade's number stands for a generation, and
an agent decides by it when its session is of that version and its host has found it well. No I/O; time is an argument.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from controller.errors import Invalid
from controller.fleet.judging import Member
from controller.fleet.messages import UPGRADE
from controller.fleet.rollout import Case
from controller.model import Agent, HealthNote, OfferPhase, Problem, Upgrade, UpgradeOffer

ORDER_SECONDS: Final = 10.0
"""For an agent to answer that it has asked its host."""

VERSION: Final = re.compile(r"[0-9][A-Za-z0-9.+~-]{0,63}", re.ASCII)
"""deb-version(7) without an epoch; hosts check it again."""

UNWILLING: Final = "takes no upgrades: its host does not let it, or its release is too old"
AWAY: Final = "is not connected"

_GONE_BACK: Final = 9  # FAILED_PRECONDITION

Offers = Mapping[str, UpgradeOffer]
Phases = Mapping[str, tuple[OfferPhase, Problem | None]]


def check_version(version: str) -> str:
    """Raises Invalid."""
    if not VERSION.fullmatch(version):
        raise Invalid("version", "is none of a package of ours")
    return version


def heard(upgrade: Upgrade, offers: Offers, agents: Sequence[Agent]) -> Phases:
    """Agents that have come further than is known, and how far."""
    found = ((agent.id, _phase(upgrade, offers[agent.id], agent)) for agent in agents if agent.id in offers)
    return {name: now for name, now in found if now[0] is not offers[name].offer.phase}


def member(upgrade: Upgrade, offer: UpgradeOffer | None, agent: Agent) -> Member:
    """As a rollout sees it."""
    return Member(
        id=agent.id,
        connected=agent.session is not None,
        able=agent.session is None or UPGRADE in agent.session.capabilities,
        phase=offer.offer.phase if offer is not None else None,
        problem=offer.offer.problem if offer is not None else None,
        updated_at=offer.offer.updated_at if offer is not None else 0.0,
        health=_health(upgrade, offer, agent),
        seen_at=agent.last_seen,
    )


def case_of(upgrade: Upgrade, offers: Offers) -> Case:
    """Where a host only refused (no room, no such version) nothing has changed there: it halts, nobody goes back."""
    phases = [one.offer.phase for one in offers.values()]
    taken = any(phase in _TAKEN for phase in phases)
    only_refused = OfferPhase.REJECTED in phases and OfferPhase.ROLLED_BACK not in phases
    return Case(upgrade.rollout, way_back=taken and not only_refused, returning=bool(upgrade.takes_back))


def passed_by(upgrade: Upgrade, offers: Offers, agents: Sequence[Agent]) -> dict[str, str]:
    """Agents that it does not wait for and that do not have it, and why."""
    found: dict[str, str] = {}
    for agent in agents:
        offer = offers.get(agent.id)
        if agent.revoked or (upgrade.takes_back and offer is None):
            continue
        if offer is not None and offer.offer.phase is not OfferPhase.OFFERED:
            continue
        if agent.session is None:
            found[agent.id] = AWAY
        elif UPGRADE not in agent.session.capabilities and agent.session.version != upgrade.version:
            found[agent.id] = f"{UNWILLING} (it is of version {agent.session.version or 'unknown'})"
    return found


def _phase(upgrade: Upgrade, given: UpgradeOffer, agent: Agent) -> tuple[OfferPhase, Problem | None]:
    """By its own word where it speaks of this upgrade; else by the version that it has."""
    offer, note = given.offer, agent.health.upgrade if agent.health is not None else None
    if note is not None and note.id == upgrade.key:
        if note.phase in (OfferPhase.REJECTED, OfferPhase.ROLLED_BACK):
            return note.phase, Problem(_GONE_BACK, note.why or "its host does not say why")
        if note.phase is not OfferPhase.CONFIRMED or _runs(agent, given.version):
            return note.phase, None
    elif offer.phase is OfferPhase.OFFERED and _runs(agent, given.version):
        return OfferPhase.CONFIRMED, None  # somebody on its host was faster
    return offer.phase, offer.problem


def _health(upgrade: Upgrade, offer: UpgradeOffer | None, agent: Agent) -> HealthNote | None:
    """`active_generation` is the upgrade's number once it works by that, 0 before. Its sums are since its restart."""
    health, session = agent.health, agent.session
    if health is None:
        return None
    proven = (
        offer is not None
        and offer.offer.phase is OfferPhase.CONFIRMED
        and _runs(agent, offer.version)
        and session is not None
        and health.at >= session.opened_at
    )
    return replace(health, active_generation=upgrade.number if proven else 0)


def _runs(agent: Agent, version: str) -> bool:
    return agent.session is not None and agent.session.version == version


_TAKEN: Final = (OfferPhase.RECEIVED, OfferPhase.VALIDATED, OfferPhase.APPLIED, OfferPhase.CONFIRMED)
