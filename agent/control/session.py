"""The agent's end of a session: what is said, and what follows from what comes. No I/O; time is an argument.

`now` is monotonic, `when` epoch seconds. Messages in, effects out; whoever holds the stream performs them in order and
tells what came of them. Lives as long as the process, over many streams: what an offer has come to does not depend on
whether anybody listens. Must not know streams, files or certificates.

    away --connected--> greeting --welcome--> open --lost--> away

What is not in the table is the controller's fault, and ends the stream.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from agent.control import steps
from agent.control.commands import WORDS
from agent.control.errors import ControllerError, Trouble
from agent.control.messages import (
    Code,
    Command,
    CommandAnswer,
    FromAgent,
    Goodbye,
    HealthReport,
    Hello,
    Offer,
    Problem,
    ToAgent,
    Welcome,
)
from agent.control.offers import Offers
from agent.control.soak import Vitals

WELCOME_SECONDS: Final = 15.0
"""For the first answer; the controller looks into its store for it."""

REHASH_SECONDS: Final = 300.0
"""Between two looks at whether what is on disk is still what was put there."""

COMMANDS_MAX: Final = 8
"""Under way at a time; people type them."""

REMEMBERED: Final = 64
"""Ids of commands that are not carried out twice."""

COMPONENTS_MAX: Final = 64
COUNTERS_MAX: Final = 512
DETAIL_MAX: Final = 300


class State(Enum):
    AWAY = "away"
    GREETING = "greeting"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who speaks. `boot_id` is new at every start of the process."""

    instance_uid: str
    boot_id: str
    version: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """To the controller."""

    message: FromAgent


@dataclass(frozen=True, slots=True)
class Run:
    """Carry it out; answers come by `answer`."""

    command: Command


@dataclass(frozen=True, slots=True)
class StopCommands:
    """Nobody waits for their answers any more."""


@dataclass(frozen=True, slots=True)
class Rehash:
    """Look whether the disk still holds what was put there; then `Offers.damaged`."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """The stream is of no use any more."""

    error: ControllerError


Effect = Send | Run | StopCommands | Rehash | HangUp | steps.Effect


class Session:
    """The machine. `vitals` says from memory how the agent does."""

    def __init__(self, offers: Offers, vitals: Callable[[], Vitals]) -> None:
        self.state = State.AWAY
        self.offers = offers
        self.clock_offset = 0.0
        """Seconds that the controller's clock is ahead of ours, by its last welcome."""
        self.controller_id = ""
        self.vitals = vitals
        self._greeted_at = 0.0
        self._health_every = 0.0
        self._health_at = 0.0
        self._rehash_at: float | None = None
        self._told = (0, 0)  # attempts and refusals that have been reported
        self._running: dict[str, None] = {}
        self._done: dict[str, None] = {}

    # --- the stream

    def connected(self, identity: Identity, now: float, when: float) -> list[Effect]:
        """There is a stream."""
        self.state = State.GREETING
        self._greeted_at = now
        hello = Hello(
            identity.instance_uid,
            identity.boot_id,
            identity.version,
            identity.capabilities,
            self.offers.active,
            when,
            self.offers.rejected,
        )
        return [Send(hello)]

    def lost(self) -> list[Effect]:
        """There is no stream any more."""
        self.state = State.AWAY
        stopped: list[Effect] = [StopCommands()] if self._running else []
        self._running.clear()
        return stopped

    def receive(self, message: ToAgent, now: float, when: float) -> list[Effect]:
        """What follows from a message."""
        handle = _TABLE.get((self.state, type(message)))
        if handle is None:
            said = type(message).__name__.lower()
            return [HangUp(ControllerError(Trouble.AWAY, f"the controller says {said} where it does not belong"))]
        return handle(self, message, now, when)

    def _welcome(self, welcome: Welcome, now: float, when: float) -> list[Effect]:
        self.state = State.OPEN
        self.controller_id = welcome.controller_id
        self.clock_offset = 0.0 if welcome.controller_time is None else welcome.controller_time - when
        self._health_every = welcome.health_interval
        self._health_at = now
        return self.follow(self.offers.again(), when)

    def _offer(self, offer: Offer, _now: float, when: float) -> list[Effect]:
        return self.follow(self.offers.offer(offer), when)

    def _goodbye(self, goodbye: Goodbye, _now: float, _when: float) -> list[Effect]:
        problem = goodbye.problem
        if problem is None or problem.code == 0:
            said = problem.message if problem is not None else ""
            return [
                HangUp(ControllerError(Trouble.BUSY, said or "the controller ends the session", goodbye.retry_after))
            ]
        return [HangUp(ControllerError(_TROUBLES.get(problem.code, Trouble.AWAY), str(problem), goodbye.retry_after))]

    # --- commands

    def _command(self, command: Command, _now: float, when: float) -> list[Effect]:
        if command.id in self._running:
            return []  # it is being carried out, and answers
        problem = self._why_not(command, when)
        if problem is not None:
            return [Send(CommandAnswer(command.id, problem=problem, last=True))]
        self._running[command.id] = self._done[command.id] = None
        while len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]
        return [Run(command)]

    def _why_not(self, command: Command, when: float) -> Problem | None:
        if command.word not in WORDS:
            return Problem(Code.UNIMPLEMENTED, "this agent does not know the command")
        if command.expires_at is None or command.expires_at <= when + self.clock_offset:
            return Problem(Code.DEADLINE_EXCEEDED, "the command came too late")
        if command.id in self._done:
            return Problem(Code.ABORTED, "the command has been carried out already")
        if len(self._running) >= COMMANDS_MAX:
            return Problem(Code.RESOURCE_EXHAUSTED, f"{COMMANDS_MAX} commands are under way at this agent")
        return None

    def answer(self, answer: CommandAnswer) -> list[Effect]:
        """A piece of what a command came to."""
        if answer.id not in self._running:
            return []
        if answer.last:
            del self._running[answer.id]
        return [Send(answer)]

    # --- time, and what else happens

    def tick(self, now: float, when: float) -> list[Effect]:
        """About once a second."""
        if self.state is State.GREETING and now - self._greeted_at > WELCOME_SECONDS:
            return [HangUp(ControllerError(Trouble.AWAY, f"no welcome within {WELCOME_SECONDS:g} s"))]
        effects = self.follow(self.offers.tick(self.vitals(), now), when)
        if self.state is State.OPEN and now >= self._health_at:
            self._health_at = now + self._health_every
            effects.append(Send(self._health(when)))
        if self._rehash_at is None or now >= self._rehash_at:
            effects += [Rehash()] if self._rehash_at is not None else []
            self._rehash_at = now + REHASH_SECONDS
        return effects

    def follow(self, effects: list[steps.Effect], when: float) -> list[Effect]:
        """What of the offers' effects is to be said, as what it is; while nobody listens nothing is."""
        followed: list[Effect] = []
        for effect in effects:
            match effect:
                case steps.Report(report):
                    followed += [Send(report)] if self.state is State.OPEN else []
                case steps.SayHealth():
                    followed += [Send(self._health(when))] if self.state is State.OPEN else []
                case _:
                    followed.append(effect)
        return followed

    def _health(self, when: float) -> HealthReport:
        vitals = self.vitals()
        told, self._told = self._told, (vitals.attempts, vitals.refusals)
        components = list(vitals.components.items())[:COMPONENTS_MAX]
        return HealthReport(
            at=when,
            components={name: (healthy, words[:DETAIL_MAX]) for name, (healthy, words) in components},
            counters=dict(list(vitals.counters.items())[:COUNTERS_MAX]),
            active=self.offers.active,
            attempts=max(0, vitals.attempts - told[0]),
            refusals=max(0, vitals.refusals - told[1]),
            upgrade=vitals.upgrade,
        )


_TROUBLES: Final = {
    7: Trouble.BANNED,
    8: Trouble.BUSY,
    10: Trouble.STALE,
    16: Trouble.STRANGER,
}
"""What a goodbye means, by gRPC's number; else it is trouble of the controller."""

_TABLE: Final[Mapping[tuple[State, type[ToAgent]], Callable[..., list[Effect]]]] = {
    (State.GREETING, Welcome): Session._welcome,  # noqa: SLF001  (the table is part of the class)
    (State.GREETING, Goodbye): Session._goodbye,  # noqa: SLF001
    (State.OPEN, Offer): Session._offer,  # noqa: SLF001
    (State.OPEN, Command): Session._command,  # noqa: SLF001
    (State.OPEN, Goodbye): Session._goodbye,  # noqa: SLF001
}
