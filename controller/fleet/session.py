"""One session of one agent: what is said, what follows from what comes. No I/O; time is an argument.

`now` is monotonic, `when` epoch seconds. Messages in, effects out; whoever holds the stream performs these in order.
Must not know stores, streams or other sessions.

    awaiting --hello--> opening --welcome--> open --end--> ended

What is not in the table is the agent's fault, and ends the session with the name of the field.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from controller.errors import Busy, ControllerError, Invalid
from controller.fleet.health import HealthReader
from controller.fleet.messages import (
    POLICY,
    CommandAnswer,
    FromAgent,
    Goodbye,
    HealthReport,
    Hello,
    Offering,
    OfferReport,
    Order,
    ToAgent,
    Welcome,
)
from controller.model import HealthNote, OfferPhase, Problem

HELLO_SECONDS: Final = 10.0
"""For the first message; the stream was opened for it."""

SILENCES: Final = 4
SILENCE_MIN: Final = 60.0
"""Health reports that may be missing, and seconds that they are waited for at least. Then the session ends, so that
nobody takes a hung agent for a connected one; what it screens is none of our business."""

MESSAGES_PER_SECOND: Final = 200.0
MESSAGES_AT_ONCE: Final = 2000.0
"""A tail of a busy agent has 20 messages a second, each of many records."""

ORDERS_MAX: Final = 8
"""Commands at a time; people type them."""

DRIFTS: Final = 2
DRIFT_SECONDS: Final = 300.0
"""Reports of another policy than the confirmed one before it is offered again, and how rarely that is done."""

BACK_SOON: Final = 5.0
BACK_LATER: Final = 30.0


class State(Enum):
    AWAITING = "awaiting"
    OPENING = "opening"
    OPEN = "open"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Send:
    """To the agent."""

    message: ToAgent


@dataclass(frozen=True, slots=True)
class Enter:
    """The session may begin, if the store agrees: then `welcome`, else `end`."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be kept of the agent's health."""

    health: HealthNote


@dataclass(frozen=True, slots=True)
class Tell:
    """What is to be kept of an offer."""

    report: OfferReport


@dataclass(frozen=True, slots=True)
class Hand:
    """To whoever gave the order."""

    answer: CommandAnswer


@dataclass(frozen=True, slots=True)
class Drifted:
    """The agent does not decide by what it has confirmed; it has been offered that again."""

    generation: int
    active_generation: int


@dataclass(frozen=True, slots=True)
class Over:
    """Close the stream; with this error, if there is one."""

    error: ControllerError | None


Effect = Send | Enter | Note | Tell | Hand | Drifted | Over


@dataclass(frozen=True, slots=True)
class Pace:
    """`health` is how often an agent reports; a session is over after `age`. Seconds."""

    health: float
    age: float


class AgentSession:
    """The machine. `opened` is when the stream began, monotonic."""

    def __init__(self, pace: Pace, opened: float) -> None:
        self.state = State.AWAITING
        self.hello: Hello | None = None
        self._pace = pace
        self._opened = self._heard = opened
        self._budget = MESSAGES_AT_ONCE
        self._budget_at = opened
        self._health = HealthReader()
        self._wanted: Offering | None = None
        self._phase = OfferPhase.OFFERED  # of what is wanted
        self._sent: set[int] = set()
        self._refused: set[int] = set()
        self._orders: dict[str, float] = {}  # by id: when it expires
        self._strays = 0
        self._offered_again_at: float | None = None

    # --- from the agent

    def receive(self, message: FromAgent, now: float, when: float) -> list[Effect]:
        """What follows from a message."""
        if self.state is State.ENDED:
            return []
        self._heard = now
        if not self._affords(now):
            return self.end(Busy(f"more than {MESSAGES_PER_SECOND:g} messages a second", BACK_LATER), BACK_LATER)
        handle = _TABLE.get((self.state, type(message)))
        if handle is None:
            return self.end(Invalid("message", f"{_name(message)} does not belong here: hello comes first and once"))
        return handle(self, message, now, when)

    def _hello(self, hello: Hello, _now: float, _when: float) -> list[Effect]:
        for field, value in (("hello.instance_uid", hello.instance_uid), ("hello.boot_id", hello.boot_id)):
            if not value or len(value) > 64:
                return self.end(Invalid(field, "is missing" if not value else "is longer than 64 characters"))
        self.hello = hello
        self._refused |= hello.rejected
        self.state = State.OPENING
        return [Enter(hello)]

    def _offer_report(self, report: OfferReport, _now: float, _when: float) -> list[Effect]:
        if report.generation == 0:
            return self.end(Invalid("offer_state.generation", "is missing"))
        if report.phase is OfferPhase.OFFERED:
            return self.end(Invalid("offer_state.phase", "is missing or unknown"))
        wanted = self._wanted
        if wanted is not None and report.generation == wanted.generation:
            if report.sha256 != wanted.sha256:
                return self.end(Invalid("offer_state.sha256", f"is not that of generation {wanted.generation}"))
            self._phase = report.phase
        if report.phase in (OfferPhase.REJECTED, OfferPhase.ROLLED_BACK):
            if report.generation in self._refused:
                return []  # said again after a new connection: it is known
            self._refused.add(report.generation)
            if report.problem is None:
                report = replace(report, problem=Problem(2, "the agent does not say why"))
        return [Tell(report)]

    def _health_report(self, report: HealthReport, now: float, when: float) -> list[Effect]:
        note = self._health.read(report, now, when)
        again = self._drift(report, now)
        if self._strays >= DRIFTS:
            assert self._wanted is not None
            decides = f"decides by generation {report.active_generation}, not by {self._wanted.generation}"
            note = replace(note, trouble={**note.trouble, "generation": f"{decides} that it confirmed"})
        return [Note(note), *again]

    def _drift(self, report: HealthReport, now: float) -> list[Effect]:
        wanted = self._wanted
        if wanted is None or self._phase is not OfferPhase.CONFIRMED or _is(wanted, report):
            self._strays = 0
            return []
        self._strays += 1
        last = self._offered_again_at
        if self._strays < DRIFTS or (last is not None and now - last < DRIFT_SECONDS):
            return []
        self._offered_again_at = now
        return [Drifted(wanted.generation, report.active_generation), Send(wanted)]

    def _command_answer(self, answer: CommandAnswer, _now: float, _when: float) -> list[Effect]:
        if answer.id not in self._orders:
            return []  # came too late; nobody waits any more
        if answer.last:
            del self._orders[answer.id]
        return [Hand(answer)]

    def _affords(self, now: float) -> bool:
        gained = max(0.0, now - self._budget_at) * MESSAGES_PER_SECOND
        self._budget = min(MESSAGES_AT_ONCE, self._budget + gained) - 1
        self._budget_at = now
        return self._budget >= 0

    # --- from our side

    def welcome(self, refused: frozenset[int]) -> list[Effect]:
        """The store has noted the session. `refused` are generations that this agent does not get again."""
        self._refused |= refused
        self.state = State.OPEN
        return [Send(Welcome(self._pace.health))]

    def want(self, offering: Offering | None, phase: OfferPhase) -> list[Effect]:
        """What the agent shall have, and how far it came with that according to the store."""
        if self.state is not State.OPEN or self.hello is None or POLICY not in self.hello.capabilities:
            return []
        if offering is None:
            self._wanted = None
            return []
        if self._wanted is None or self._wanted.generation != offering.generation:
            self._wanted, self._phase, self._strays = offering, phase, 0
        if offering.generation in self._refused:
            said = Problem(9, "the agent has refused this generation before")
            report = OfferReport(offering.generation, offering.sha256, OfferPhase.REJECTED, said)
            return [] if phase in (OfferPhase.REJECTED, OfferPhase.ROLLED_BACK) else [Tell(report)]
        has_it = phase is OfferPhase.CONFIRMED and _is(offering, self.hello)
        if has_it or offering.generation in self._sent:
            return []
        self._sent.add(offering.generation)
        return [Send(offering)]

    def knows(self, generation: int) -> bool:
        """Whether it wants this one already, or a later one."""
        return self._wanted is not None and self._wanted.generation >= generation

    def order(self, order: Order, when: float) -> list[Effect]:
        """Have the agent do something. Raises Busy; one with the same id that is under way is not sent again."""
        self._orders = {id_: expires for id_, expires in self._orders.items() if expires > when}
        if order.id in self._orders:
            return []
        if len(self._orders) >= ORDERS_MAX:
            raise Busy(f"{ORDERS_MAX} commands are under way at this agent", BACK_SOON)
        self._orders[order.id] = order.expires_at
        return [Send(order)]

    def tick(self, now: float) -> list[Effect]:
        """What follows from nothing but time."""
        if self.state is State.AWAITING and now - self._opened > HELLO_SECONDS:
            return self.end(Invalid("hello", f"did not come within {HELLO_SECONDS:g} s"))
        if self.state is not State.OPEN:
            return []
        if now - self._opened > self._pace.age:
            return self.end(None, BACK_SOON, "this session is old: open another one")
        silence = max(SILENCES * self._pace.health, SILENCE_MIN)
        if now - self._heard > silence:
            return self.end(None, BACK_SOON, f"no report for {silence:g} s")
        return []

    def end(self, error: ControllerError | None, retry_after: float = BACK_LATER, why: str = "") -> list[Effect]:
        """Say goodbye. Once is enough."""
        if self.state is State.ENDED:
            return []
        self.state = State.ENDED
        return [Send(Goodbye(error, retry_after, why)), Over(error)]


def _is(offering: Offering, said: Hello | HealthReport) -> bool:
    """Whether that is what the agent decides by, lists included."""
    return (said.active_generation, said.active_sha256) == (offering.generation, offering.sha256)


def _name(message: FromAgent) -> str:
    return {Hello: "hello", OfferReport: "offer_state", HealthReport: "health", CommandAnswer: "command_result"}[
        type(message)
    ]


_Handler = Callable[..., list[Effect]]

_TABLE: Final[Mapping[tuple[State, type[FromAgent]], _Handler]] = {
    (State.AWAITING, Hello): AgentSession._hello,  # noqa: SLF001  (the table is part of the class)
    (State.OPEN, OfferReport): AgentSession._offer_report,  # noqa: SLF001
    (State.OPEN, HealthReport): AgentSession._health_report,  # noqa: SLF001
    (State.OPEN, CommandAnswer): AgentSession._command_answer,  # noqa: SLF001
}
