"""Where questions about shares arrive: answered here while this controller leads, else by the one that does.

The one module of this package with I/O: it follows the store (who leads, limits, who is enrolled). When the store does
not answer, what was known last goes on, for as long as this controller may lead.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from agent.ops.log import Log
from controller.errors import ControllerError, StoreError
from controller.model import Topic
from controller.quota.model import Answer, LimitView, Question
from controller.quota.quotas import Quotas
from controller.store import Store

FOLLOW_SECONDS: Final = 10.0
"""After which the store is looked at without a change having been told."""

AGENTS_SECONDS: Final = 2.0
"""Between two looks at who is enrolled: sessions that come and go are changes of agents, too."""

RETRY_SECONDS: Final = 1.0

WARN_SECONDS: Final = 1.0
"""Between two looks at whether a limit is nearly used up."""


class Relay(Protocol):
    """Asks the controller at this address, which leads."""

    async def ask(self, address: str, question: Question) -> Answer:
        """Raises ControllerError."""
        ...

    async def close(self) -> None: ...


class QuotaDesk:
    """`clock` is monotonic seconds."""

    name: Final = "quota"

    def __init__(self, store: Store, relay: Relay, log: Log, clock: Callable[[], float]) -> None:
        self.quotas = Quotas()
        self._store = store
        self._relay = relay
        self._log = log
        self._clock = clock
        self._leader = ""  # address of another one that leads
        self._passed_on = 0
        self._unanswered = 0
        self._problem = ""
        self._warned: frozenset[str] = frozenset()
        self._warnings = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises StoreError."""
        seen = await self._store.changes.seen()
        await self._read_limits()
        await self._read_agents()
        self._tasks = [
            asyncio.create_task(self._follow(seen), name="quota"),
            asyncio.create_task(self._look_for_leader(), name="quota leader"),
            asyncio.create_task(self._warn(), name="quota warnings"),
        ]

    async def stop(self, _grace: float) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._relay.close()

    def leads(self) -> bool:
        """Whether this controller does now. Asked before every answer."""
        term = self._store.leadership.term()
        if term is None:
            if self.quotas.epoch:
                self.quotas.end()
            return False
        if term.epoch != self.quotas.epoch:
            self.quotas.begin(term.epoch, term.since)
        return True

    async def ask(self, question: Question, *, passed_on: bool = False) -> Answer:
        """The answer; of epoch 0 where nobody leads that can be asked. `passed_on`: by another controller."""
        if self.leads():
            return self.quotas.ask(question, self._clock())
        if self._leader and not passed_on:
            self._passed_on += 1
            with contextlib.suppress(ControllerError):
                return await self._relay.ask(self._leader, question)
        self._unanswered += 1
        return Answer(question.agent, question.sequence, 0)

    def views(self) -> list[LimitView] | None:
        """How the limits stand; None: another one leads."""
        return self.quotas.views(self._clock()) if self.leads() else None

    @property
    def leader(self) -> str:
        """The address of another controller that leads, as far as is known."""
        return self._leader

    def health(self) -> tuple[bool, str]:
        """Whether shares are handed out, here or elsewhere."""
        if self._problem:
            return False, self._problem
        if self.leads():
            return True, f"leads term {self.quotas.epoch}"
        return (True, f"{self._leader} leads") if self._leader else (False, "no controller leads")

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        return {
            "quota_questions": self.quotas.questions,
            "quota_leases": self.quotas.grants,
            "quota_passed_on": self._passed_on,
            "quota_unanswered": self._unanswered,
            "quota_overflows": self.quotas.overflows,
            "quota_warnings": self._warnings,
            "quota_limits_nearly_used_up": len(self._warned),
        }

    async def _warn(self) -> None:
        """Tell of each limit once when it is nearly used up, and when it is not any more."""
        while True:
            await asyncio.sleep(WARN_SECONDS)
            views = {view.name: view for view in self.views() or () if view.warned}
            for name in views.keys() - self._warned:
                self._warnings += 1
                view = views[name]
                self._log.warning(
                    "limit nearly used up",
                    limit=name,
                    used=round(view.used, 3),
                    warn_at=view.warn_at,
                    rate=view.limit.rate,
                )
            for name in self._warned - views.keys():
                self._log.info("limit not nearly used up any more", limit=name)
            self._warned = frozenset(views)

    # --- what is known of the store

    async def _follow(self, seen: Mapping[Topic, int]) -> None:
        """Look again when something has changed."""
        read_agents_at = self._clock()
        while True:
            revisions = await self._store.changes.wait(seen, FOLLOW_SECONDS)
            try:
                if revisions.get(Topic.LIMITS) != seen.get(Topic.LIMITS):
                    await self._read_limits()
                if self._clock() - read_agents_at >= AGENTS_SECONDS:
                    await self._read_agents()
                    read_agents_at = self._clock()
                elif revisions.get(Topic.AGENTS) != seen.get(Topic.AGENTS):
                    await asyncio.sleep(AGENTS_SECONDS)
                    continue  # with the numbers as they were: it is looked at now
            except StoreError as error:
                await self._failed(error)
                continue
            seen, self._problem = revisions, ""

    async def _look_for_leader(self) -> None:
        while True:
            term = self._store.leadership.term()
            try:
                leader = None if term is not None else await self._store.leader()
            except StoreError:
                leader = None
            own = leader is None or leader.controller_id == self._store.controller_id
            self._leader = "" if own or leader is None else leader.address
            self.leads()
            await self._store.leadership.wait(term, RETRY_SECONDS)

    async def _read_limits(self) -> None:
        self.quotas.set_limits(await self._store.limits.all())

    async def _read_agents(self) -> None:
        self.quotas.set_agents(await self._store.agents.names())

    async def _failed(self, error: StoreError) -> None:
        if not self._problem:
            self._log.warning("limits cannot be read", error=str(error))
        self._problem = f"limits cannot be read: {error}"
        await asyncio.sleep(RETRY_SECONDS)
