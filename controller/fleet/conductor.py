"""Takes the steps of rollouts, on the controller that leads. What a step is, `advance` says; here it is carried out.

Everything that it remembers is in the store: killed between any two lines and started again, here or elsewhere, it
goes on from what is there. Each write names the term in which this controller leads: that of an old leader is refused.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.ops.log import Log
from controller.errors import Conflict, NotFound, StaleEpoch, StoreError
from controller.fleet.judging import Member
from controller.fleet.messages import POLICY
from controller.fleet.publishing import Publisher
from controller.fleet.rollout import Case, advance
from controller.model import Act, Agent, Offer, Policy, Rollout, RolloutState, Term, Topic
from controller.store import Store

RUNNING_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 5.0
"""Between two looks while a rollout runs, and while none does. Changes in the store are looked at at once."""

PAUSE_SECONDS: Final = 0.05
TROUBLE_SECONDS: Final = 1.0
ASSIGN_MAX: Final = 1000
"""Offers that are made in one transaction."""

TOPICS: Final = (Topic.AGENTS, Topic.POLICIES, Topic.ROLLOUTS)


class Conductor:
    """Construction does nothing. `clock` is epoch seconds."""

    name: Final = "rollout"

    def __init__(self, store: Store, publisher: Publisher, log: Log, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._publisher = publisher
        self._log = log
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._said = "no rollout yet"
        self._trouble = ""
        self._looks = self._ended = 0

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="rollout")

    async def stop(self, grace: float) -> None:  # noqa: ARG002  (a look takes no time, and the next leader repeats it)
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def health(self) -> tuple[bool, str]:
        """What the rollout is at."""
        return not self._trouble, self._trouble or self._said

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        return {"rollout_looks": self._looks, "rollout_ended": self._ended}

    async def _run(self) -> None:
        while True:
            seen = await self._seen()
            term = self._store.leadership.term()
            if term is None:
                self._said = "another controller leads"
                await self._store.leadership.wait(None, IDLE_SECONDS)
                continue
            try:
                running = await self.look(term)
            except (StaleEpoch, Conflict) as error:
                self._log.info("a look at the rollout came to nothing", why=str(error))
                running = True
            except StoreError as error:
                self._trouble = f"the store does not answer: {error}"
                await asyncio.sleep(TROUBLE_SECONDS)
                continue
            except Exception as error:
                self._trouble = "a fault of the controller"
                self._log.fault(error, "rollout")
                await asyncio.sleep(TROUBLE_SECONDS)
                continue
            self._trouble = ""
            await asyncio.sleep(PAUSE_SECONDS)
            await self._store.changes.wait(seen, RUNNING_SECONDS if running else IDLE_SECONDS)

    async def _seen(self) -> Mapping[Topic, int]:
        """What to wait beyond: only the topics that matter here."""
        with contextlib.suppress(StoreError):
            seen = await self._store.changes.seen()
            return {topic: seen[topic] if topic in TOPICS else 1 << 62 for topic in Topic}
        return {}

    async def look(self, term: Term) -> bool:
        """One step: whatever the store shows that should be done now. Whether a rollout runs.

        Raises StaleEpoch, Conflict (somebody changed it meanwhile: look again) and StoreError.
        """
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

    def _act(self, action: str, **detail: Any) -> Act:
        return Act(f"controller:{self._store.controller_id}", action, detail)


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
