"""Takes the steps of upgrades, on the controller that leads: asks agents for another version, and to go back from it.

What a step is, `advance` says, as for policies; what agents have come to, `upgrading`. Here it is carried out.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from agent.ops.log import Log
from controller.errors import ControllerError, NotFound
from controller.fleet.commands import upgrade_of
from controller.fleet.leading import Leading
from controller.fleet.messages import UPGRADE
from controller.fleet.orders import Orders
from controller.fleet.rollout import advance
from controller.fleet.upgrading import ORDER_SECONDS, case_of, heard, member
from controller.model import Agent, OfferPhase, RolloutState, Term, Upgrade, UpgradeOffer
from controller.store import Store

ASKED_AT_ONCE: Final = 50
ASK_AGAIN_SECONDS: Final = 30.0
"""For an agent that did not answer; who has asked its host already says so."""


class UpgradeConductor(Leading):
    """Construction does nothing. `clock` is epoch seconds."""

    name: Final = "upgrade"

    def __init__(self, store: Store, orders: Orders, log: Log, clock: Callable[[], float] = time.time) -> None:
        super().__init__(store, log, clock)
        self._orders = orders
        self._asked: dict[tuple[int, str], float] = {}  # when, monotonic

    async def look(self, term: Term) -> bool:
        """See `Leading`. Whether an upgrade runs."""
        self._looks += 1
        now = self._clock()
        try:
            upgrade = await self._store.upgrades.get()
        except NotFound:
            return False
        agents = [agent for agent in await self._store.agents.all(now) if not agent.revoked]
        offers = {one.offer.agent_id: one for one in await self._store.upgrades.offers(upgrade.number)}
        if phases := heard(upgrade, offers, agents):
            await self._store.upgrades.note(upgrade.number, phases, now, term)
            for name, (phase, problem) in phases.items():
                offer = replace(offers[name].offer, phase=phase, problem=problem, updated_at=now)
                offers[name] = replace(offers[name], offer=offer)
            if any(phase is OfferPhase.CONFIRMED for phase, _ in phases.values()):
                # The step lasts until all have been well for its soak, beside what their hosts have waited.
                memory = {**upgrade.rollout.memory, "assigned_at": now}
                upgrade = replace(upgrade, rollout=replace(upgrade.rollout, memory=memory))
        if upgrade.rollout.state is RolloutState.ROLLED_BACK:
            await self._take_back(upgrade, now, term)
            return True
        if upgrade.rollout.state is RolloutState.RUNNING:
            upgrade = await self._advance(upgrade, offers, agents, term, now)
        if upgrade.rollout.state in (RolloutState.RUNNING, RolloutState.DONE):
            await self._ask(upgrade, offers, agents, term)
        rollout = upgrade.rollout
        self._said = f"{_words(upgrade)}: {rollout.state}" + (f", {rollout.why}" if rollout.why else "")
        return rollout.state is RolloutState.RUNNING

    async def _advance(
        self, upgrade: Upgrade, offers: dict[str, UpgradeOffer], agents: Sequence[Agent], term: Term, now: float
    ) -> Upgrade:
        of_it = [agent for agent in agents if agent.id in offers or not upgrade.takes_back]
        fleet = [member(upgrade, offers.get(agent.id), agent) for agent in of_it]
        before = upgrade.rollout
        decision = advance(case_of(upgrade, offers), fleet, now)
        if decision.rollout != before or before.memory.get("assigned_at") == now:
            await self._store.upgrades.save(decision.rollout, term)
            self._tell(upgrade, decision.rollout.state, decision.rollout.why, decision.rollout.step)
        if decision.assign:
            versions = {agent.id: _version(agent) for agent in agents if agent.id in decision.assign}
            step = decision.rollout.step
            await self._store.upgrades.assign(upgrade.number, upgrade.version, versions, step, now, term)
        return replace(upgrade, rollout=decision.rollout)

    async def _ask(
        self, upgrade: Upgrade, offers: dict[str, UpgradeOffer], agents: Sequence[Agent], term: Term
    ) -> None:
        """Those who are here and have not been asked, or did not answer."""
        now = time.monotonic()
        self._asked = {key: at for key, at in self._asked.items() if now - at < ASK_AGAIN_SECONDS}
        waiting = [
            (agent.id, offers[agent.id].version)
            for agent in agents
            if agent.id in offers
            and offers[agent.id].offer.phase is OfferPhase.OFFERED
            and agent.session is not None
            and UPGRADE in agent.session.capabilities
            and (upgrade.number, agent.id) not in self._asked
        ][:ASKED_AT_ONCE]
        answers = await asyncio.gather(*(self._ask_one(upgrade, name, version) for name, version in waiting))
        done = {name: (OfferPhase.RECEIVED, None) for (name, _), answer in zip(waiting, answers, strict=True) if answer}
        if done:
            await self._store.upgrades.note(upgrade.number, done, self._clock(), term)

    async def _ask_one(self, upgrade: Upgrade, agent_id: str, version: str) -> bool:
        """Whether it has asked its host. Why one could not, it says in its next report."""
        self._asked[upgrade.number, agent_id] = time.monotonic()
        order = upgrade_of(version, upgrade.key, upgrade.rollout.plan.soak, ORDER_SECONDS, self._clock())
        try:
            async with aclosing(self._orders.give(agent_id, order)) as pieces:
                async for _ in pieces:
                    pass
        except ControllerError as error:
            self._log.warning("an agent could not be asked for another version", agent=agent_id, why=str(error))
            return False
        self._log.info("an agent was asked for another version", agent=agent_id, version=version)
        return True

    async def _take_back(self, bad: Upgrade, now: float, term: Term) -> None:
        act = self._act("upgrade.take-back")
        back = await self._store.upgrades.take_back(bad.number, now, act, term)
        self._log.error("an upgrade is taken back", upgrade=bad.number, by=back.number, why=bad.rollout.why)

    def _tell(self, before: Upgrade, state: RolloutState, why: str, step: int) -> None:
        if state is before.rollout.state:
            if step != before.rollout.step:
                self._log.info("upgrade goes on", upgrade=before.number, step=step + 1)
            return
        self._ended += 1
        say = self._log.info if state is RolloutState.DONE else self._log.error
        say("upgrade ended", upgrade=before.number, version=before.version, state=state, why=why)


def _version(agent: Agent) -> str:
    return agent.session.version if agent.session is not None else agent.version


def _words(upgrade: Upgrade) -> str:
    return f"back from upgrade {upgrade.takes_back}" if upgrade.takes_back else f"upgrade to {upgrade.version}"
