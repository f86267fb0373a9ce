"""Puts the link to the controller together, for the composition root. Starts nothing.

What the daemon lends is named in `Around`; what goes over streams of its own is added beside the link, with `channels`.
"""

import json
import platform
import random
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.control.channels import Channels
from agent.control.commands import Abilities, Commands, Tail
from agent.control.link import ControlLink
from agent.control.messages import CAPABILITIES, Offer
from agent.control.offers import Offers
from agent.control.performing import Performer
from agent.control.preparing import Preparer
from agent.control.renewal import Renewal
from agent.control.session import Identity, Session
from agent.control.settings import ControllerSettings
from agent.control.shadow import Shadow
from agent.control.soak import Vitals
from agent.control.standing import Places
from agent.control.steps import Standing
from agent.control.trust import Trust
from agent.control.upgrades import Upgrades
from agent.host import upgrade_files
from agent.ops.admin import Find
from agent.ops.log import Log
from agent.ops.policy_keeper import PolicyKeeper
from agent.ops.readings import Readings
from agent.ops.wire import status_json
from agent.service import Service

if TYPE_CHECKING:
    from agent.config import Config


@dataclass(frozen=True, slots=True)
class Around:
    """What the daemon lends. `spool` None: no records are kept. `drain` begins the end of the process."""

    config: "Config"
    spool: Path | None
    find: Find
    drain: Callable[[], None]
    tail: Tail


@dataclass(frozen=True, slots=True)
class Fleet:
    """The link, and what others need who have streams of their own."""

    link: ControlLink
    channels: Channels
    upgrades: Upgrades


def assemble(
    settings: ControllerSettings,
    service: Service,
    readings: Readings,
    keeper: PolicyKeeper,
    standing: Standing,
    around: Around,
    trust: Trust,
    log: Log,
) -> Fleet:
    """Everything, not yet started."""
    places, channels = Places.of(settings), Channels(settings)
    upgrades = Upgrades(upgrade_files.Places(), log, time.time)
    session = Session(Offers(standing.offer, standing.journal), partial(vitals, readings, upgrades))
    renewal = Renewal(
        places.credentials, channels, log, lambda: time.time() + session.clock_offset, time.monotonic, random.random
    )
    active: Callable[[], Offer | None] = lambda: session.offers.soaking or session.offers.confirmed  # noqa: E731
    shadow = Shadow(around.spool, around.config.policy.file, active, places.artifacts)
    abilities = Abilities(
        status=partial(status_json, readings),
        diagnostics=partial(diagnostics, around.config, readings, session),
        find=around.find,
        replay=shadow.replay,
        drain=around.drain,
        upgrade=upgrades.ask,
    )
    performer = Performer(
        session,
        standing,
        places,
        Preparer(places.artifacts, channels, renewal.artifact_keys, trust),
        Commands(abilities, around.tail, log),
        keeper,
        lambda: service.policy,
        log,
    )
    identity = Identity("", secrets.token_hex(16), readings.version, CAPABILITIES)
    link = ControlLink(performer, channels, renewal, identity, log, upgrades.capabilities)
    return Fleet(link, channels, upgrades)


def vitals(readings: Readings, upgrades: Upgrades) -> Vitals:
    """How the agent does, from memory."""
    tally = readings.service.tally
    refusals = sum(count for (_, action), count in tally.by_rule.items() if action in ("refuse", "drop"))
    failures = readings.service.screening.failures
    health, counters, upgrade = readings.health(), readings.counters(), upgrades.report()
    return Vitals(tally.attempts, refusals, failures, health, counters, upgrade)


def diagnostics(config: "Config", readings: Readings, session: Session) -> str:
    """What support asks for first. Holds no key, no token and no number of a caller."""
    offers = session.offers
    return json.dumps(
        {
            "version": readings.version,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "host": platform.node(),
            "agent_time": time.time(),
            "clock_offset": session.clock_offset,
            "started_at": readings.started_at,
            "stall_seconds": readings.stall,
            "active": asdict(offers.active) | {"sha256": offers.active.sha256.hex()},
            "rejected_generations": offers.rejected,
            "lists": [f"{kind} {name} {generation}" for (kind, name), generation in offers.floors.items()],
            "health": {name: {"healthy": ok, "detail": words} for name, (ok, words) in readings.health().items()},
            "counters": readings.counters(),
            "config": asdict(config),
        },
        default=str,
    )
