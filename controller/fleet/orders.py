"""Orders to agents, wherever their sessions are: here, or at another controller that is asked to pass them on.

Knows sessions and the store; how another controller is asked is somebody else's (`Relay`).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from controller.errors import Conflict, ControllerError, NoAnswer
from controller.fleet.commands import COMMANDS_CAPABILITY, replay_of
from controller.fleet.live import LiveSessions
from controller.fleet.messages import Order
from controller.store import Store

REPLAYS_AT_ONCE: Final = 50
REPLAY_SECONDS: Final = 100.0
CHANGED_MAX: Final = 10_000
"""Calls that are shown of a replay: an answer of 1 MB. Who changes more sees enough in these."""

TEXT_MAX: Final = 256
LEFT_OUT_MAX: Final = 1000


class Relay(Protocol):
    """Asks another controller."""

    def order(self, address: str, agent_id: str, order: Order) -> AsyncIterator[Sequence[str]]:
        """Have the controller at this address pass it on; yields pieces of JSON. Raises ControllerError."""
        ...


@dataclass(frozen=True, slots=True)
class ChangedCall:
    agent_id: str
    call_id: str
    before: str
    after: str


@dataclass(slots=True)
class Replayed:
    """What agents found when they decided again. `problems`: agents that could not, and why; `left_out`: rules that
    took no part, and why."""

    calls: int = 0
    changed: list[ChangedCall] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class Orders:
    """`clock` is epoch seconds."""

    def __init__(self, sessions: LiveSessions, store: Store, relay: Relay, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._store = store
        self._relay = relay
        self._clock = clock

    async def give(
        self, agent_id: str, order: Order, *, passed_on: bool = False
    ) -> AsyncGenerator[Sequence[str], None]:
        """Have an agent do it; yields what it says, JSON objects. `passed_on`: another controller did that already.

        Raises NotFound, Conflict (not connected, or the agent will not), NoAnswer, Busy, StoreError.
        """
        if agent_id in self._sessions.agents():
            async with aclosing(self._here(agent_id, order)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        address = await self._elsewhere(agent_id)
        if not address or passed_on:
            raise Conflict(f"{agent_id} is not connected")
        async for piece in self._relay.order(address, agent_id, order):
            yield piece

    async def replay(self, policy: bytes, window: float) -> Replayed:
        """Have all agents that are connected decide again what they saw lately, by this policy."""
        found = Replayed()
        places = asyncio.Semaphore(REPLAYS_AT_ONCE)

        async def one(agent_id: str) -> None:
            async with places:
                try:
                    order = replay_of(policy, window, REPLAY_SECONDS, self._clock())
                    async with aclosing(self.give(agent_id, order)) as pieces:
                        async for piece in pieces:
                            _add(found, agent_id, piece)
                except ControllerError as error:
                    found.problems[agent_id] = str(error)

        agents = [a for a in await self._store.agents.all(self._clock()) if a.session is not None]
        able = [a.id for a in agents if a.session is not None and COMMANDS_CAPABILITY in a.session.capabilities]
        found.problems |= {agent.id: "takes no commands" for agent in agents if agent.id not in set(able)}
        await asyncio.gather(*(one(agent_id) for agent_id in able))
        return found

    async def _here(self, agent_id: str, order: Order) -> AsyncGenerator[Sequence[str], None]:
        try:
            async with aclosing(self._sessions.order(agent_id, order)) as answers:
                async for answer in answers:
                    if answer.json:
                        yield answer.json
                    if answer.problem is not None and answer.problem.code:
                        raise Conflict(f"{agent_id}: {answer.problem.message}")
        except NoAnswer:
            if order.word != "tail":  # of that, all that there was has come
                raise

    async def _elsewhere(self, agent_id: str) -> str:
        """The address of the controller that has the session; "" nobody has. Raises NotFound."""
        now = self._clock()
        agent = await self._store.agents.get(agent_id, now)
        if agent.session is None or agent.session.controller_id == self._store.controller_id:
            return ""
        controllers = {c.id: c.address for c in await self._store.sessions.controllers(now)}
        return controllers.get(agent.session.controller_id, "")


def _add(found: Replayed, agent_id: str, piece: Sequence[str]) -> None:
    """What an agent says; whatever is no answer to a replay is a problem of that agent."""
    for text in piece:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            found.problems[agent_id] = "answers with what is no JSON object"
        elif isinstance(said.get("replayed"), int):
            found.calls += said["replayed"]
            _leave_out(found, said.get("left_out"))
        elif len(found.changed) < CHANGED_MAX:
            found.changed.append(
                ChangedCall(agent_id, _text(said, "call_id"), _text(said, "before"), _text(said, "after"))
            )


def _leave_out(found: Replayed, left_out: object) -> None:
    """By rule; agents of the release before say it in one sentence for all."""
    named = left_out if isinstance(left_out, dict) else {"limits": left_out} if isinstance(left_out, str) else {}
    for rule, why in named.items():
        if len(found.left_out) < LEFT_OUT_MAX:
            found.left_out[str(rule)[:TEXT_MAX]] = str(why)[:TEXT_MAX]


def _text(said: dict[str, Any], key: str) -> str:
    return str(said.get(key, ""))[:TEXT_MAX]
