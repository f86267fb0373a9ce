"""Takes the steps of rollouts, on the controller that leads. What a step is, `advance` says; here it is carried out."""

import time
from collections.abc import Callable
from typing import Final

from agent.ops.log import Log
from controller.errors import NotFound
from controller.fleet.judging import Member
from controller.fleet.leading import Leading
from controller.fleet.messages import POLICY
from controller.fleet.publishing import Publisher
from controller.fleet.rollout import Case, advance
from controller.model import Agent, Offer, Policy, Rollout, RolloutState, Term
from controller.store import Store

ASSIGN_MAX: Final = 1000
"""Offers that are made in one transaction."""


class Conductor(Leading):
    """Construction does nothing. `clock` is epoch seconds."""

    name: Final = "rollout"

    def __init__(self, store: Store, publisher: Publisher, log: Log, clock: Callable[[], float] = time.time) -> None:
        super().__init__(store, log, clock)
        self._publisher = publisher

    async def look(self, term: Term) -> bool:
        """See `Leading`. Whether a rollout runs."""
        self._looks += 1
        now = self._clock()
        try:
            rollout = await self._store.rollouts.get()
        except NotFound:
            return False
        agents = [agent for agent in await self._store.agents.all(now) if not agent.revoked]
        policy = await self._store.policies.get(rollout.generation)
        if rollout.state is RolloutState.ROLLED_BACK:
            await self._return(policy)
            return False
        settled = await self._publisher.settled()
        if rollout.state is RolloutState.RUNNING:
            rollout = await self._advance(rollout, policy, settled, agents, term, now)
        self._said = f"generation {rollout.generation}: {rollout.state}" + (f", {rollout.why}" if rollout.why else "")
        await self._settle(settled, agents, term, now)
        return rollout.state is RolloutState.RUNNING

    async def _advance(
        self, rollout: Rollout, policy: Policy, settled: int, agents: list[Agent], term: Term, now: float
    ) -> Rollout:
        offers = {offer.agent_id: offer for offer in await self._store.rollouts.offers(rollout.generation)}
        fleet = [_member(agent, offers.get(agent.id)) for agent in agents]
        returning = _is_return(policy)
        way_back = bool(settled) and not policy.info.rolled_back_to
        decision = advance(Case(rollout, way_back, returning), fleet, now)
        if decision.rollout != rollout:
            await self._store.rollouts.save(decision.rollout, term)
            self._tell(rollout, decision.rollout)
        names = decision.assign
        for some in (names[n : n + ASSIGN_MAX] for n in range(0, len(names), ASSIGN_MAX)):
            await self._store.rollouts.assign(rollout.generation, some, decision.rollout.step, now, term)
        return decision.rollout

    def _tell(self, before: Rollout, after: Rollout) -> None:
        if after.state is before.state:
            if after.step != before.step:
                self._log.info("rollout goes on", generation=after.generation, step=after.step + 1)
            return
        self._ended += 1
        say = self._log.info if after.state is RolloutState.DONE else self._log.error
        say("rollout ended", generation=after.generation, state=after.state, why=after.why)

    async def _return(self, bad: Policy) -> None:
        """Take the fleet back from a generation that was rolled back, unless that is done or somebody applied more."""
        latest = (await self._store.policies.get()).info.generation
        settled = await self._publisher.settled()
        if latest != bad.info.generation or not settled:
            return
        why = (await self._store.rollouts.get(bad.info.generation)).why
        comment = f"back from generation {bad.info.generation}: {why}"[:1000]
        policy = await self._publisher.take_back(settled, comment, self._act, expected=bad.info.generation)
        self._log.error("the fleet is taken back", generation=policy.info.generation, content_of=settled, why=why)

    async def _settle(self, settled: int, agents: list[Agent], term: Term, now: float) -> None:
        """Who came to the fleet after the last rollout gets what the others have."""
        if settled:
            new = [agent.id for agent in agents if agent.offer is None]
            for some in (new[n : n + ASSIGN_MAX] for n in range(0, len(new), ASSIGN_MAX)):
                await self._store.rollouts.assign(settled, some, 0, now, term)


def _is_return(policy: Policy) -> bool:
    """Whether a controller made it, to take the fleet back."""
    return bool(policy.info.rolled_back_to) and policy.info.author.startswith("controller:")


def _member(agent: Agent, offer: Offer | None) -> Member:
    return Member(
        id=agent.id,
        connected=agent.session is not None,
        able=agent.session is None or POLICY in agent.session.capabilities,
        phase=offer.phase if offer is not None else None,
        problem=offer.problem if offer is not None else None,
        updated_at=offer.updated_at if offer is not None else 0.0,
        health=agent.health,
        seen_at=agent.last_seen,
    )
