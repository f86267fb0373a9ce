"""The sessions that this process holds: streams on one side, the store on the other, machines in between.

Performs the effects of `AgentSession`, and tells the machines what the store says: which offers wait, who was
replaced. Knows no protobuf. What an agent says of its health is gathered and written once a second for all; what it
says of an offer is written at once, and kept until the store takes it.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from agent.ops.log import Log
from controller.errors import Busy, Conflict, ControllerError, Denied, NoAnswer, NotFound, StoreError
from controller.fleet.messages import CommandAnswer, FromAgent, Goodbye, Hello, Offering, OfferReport, Order, ToAgent
from controller.fleet.offerings import Offerings
from controller.fleet.session import (
    BACK_LATER,
    BACK_SOON,
    AgentSession,
    Drifted,
    Effect,
    Enter,
    Hand,
    Note,
    Over,
    Pace,
    Send,
    State,
    Tell,
)
from controller.fleet.settings import FleetSettings
from controller.model import HealthNote, OfferPhase, Session, Topic
from controller.store import Store

OUTBOX_MAX: Final = 128
"""Messages that an agent has not taken yet. Whoever lets that many lie is gone, or as good as."""

WAITING_MAX: Final = 4096
"""Agents whose session is about to begin; with 64 at a time, a fleet of so many is served in ten seconds."""

ANSWERS_MAX: Final = 256
"""Pieces of answers that an operator has not taken yet; then the oldest are dropped, and he is told."""

BEAT_SECONDS: Final = 5.0
SECOND: Final = 1.0
PAUSE_SECONDS: Final = 0.1
"""Between two looks at the store, however much changes there."""

RETURNS_PER_SECOND: Final = 100.0
"""How fast agents come back that were sent away together."""

AGE_JITTER: Final = 0.1


@dataclass(slots=True)
class _Live:
    """One stream. `id` is "" until the store has noted the session."""

    agent_id: str
    address: str
    session: AgentSession
    outbox: "asyncio.Queue[ToAgent | Over]"
    id: str = ""
    answers: dict[str, "asyncio.Queue[CommandAnswer | None]"] = field(default_factory=dict)
    untold: dict[int, OfferReport] = field(default_factory=dict)  # by generation: what the store did not take yet


@dataclass(slots=True)
class _Counts:
    opened: int = 0
    turned_away: int = 0
    replaced: int = 0
    clones: int = 0
    offers: int = 0
    drifts: int = 0
    ignored: int = 0


class LiveSessions:
    """Construction does nothing. `clock` is epoch seconds."""

    name: Final = "sessions"

    def __init__(self, store: Store, settings: FleetSettings, log: Log, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._log = log
        self._clock = clock
        self._counts = _Counts()
        self._live: dict[str, _Live] = {}
        self._streams: set[_Stream] = set()
        self._notes: dict[str, HealthNote | None] = {}
        self._offerings = Offerings(store)
        self._places = asyncio.Semaphore(settings.openings)
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._moved = False  # sessions came or went, here or elsewhere
        self._trouble = ""

    # --- life

    async def start(self) -> None:
        """Begin to look after sessions."""
        seen = await self._store.changes.seen()
        for work, name in ((self._every_second(), "sessions"), (self._follow(seen), "offers")):
            self._tasks.add(asyncio.create_task(work, name=name))

    async def stop(self, grace: float) -> None:
        """Send everybody away, spread over the time that they need to come back elsewhere."""
        self._stopping = True
        streams = list(self._streams)
        spread = max(BACK_SOON, len(streams) / RETURNS_PER_SECOND)
        for stream in streams:
            back = random.uniform(1.0, 1.0 + spread)  # noqa: S311  (to spread, not to hide)
            self._perform_now(stream.live, stream.live.session.end(None, back, "the controller stops"))
        deadline = time.monotonic() + grace
        while self._streams and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._closing, return_exceptions=True)
        with contextlib.suppress(StoreError):
            await self._write_notes()

    def health(self) -> tuple[bool, str]:
        """How many there are."""
        return not self._trouble, self._trouble or f"{len(self._live)} agents"

    def counters(self) -> Mapping[str, int]:
        """Counts since the start, and how many there are."""
        counts = self._counts
        return {
            "sessions_opened": counts.opened,
            "sessions_turned_away": counts.turned_away,
            "sessions_replaced": counts.replaced,
            "sessions_clones": counts.clones,
            "sessions_offers": counts.offers,
            "sessions_drifts": counts.drifts,
            "sessions_reports_ignored": counts.ignored,
            "sessions_in_flight": len(self._live),
        }

    def agents(self) -> frozenset[str]:
        """Who has a session here."""
        return frozenset(self._live)

    # --- a stream

    async def serve(
        self, agent_id: str, address: str, messages: AsyncIterator[FromAgent]
    ) -> AsyncGenerator[ToAgent, None]:
        """Hold a session with this agent; yields what is for it. Raises ControllerErrors that end it."""
        age = self._settings.session * random.uniform(1 - AGE_JITTER, 1)  # noqa: S311  (to spread, not to hide)
        session = AgentSession(Pace(self._settings.health, age), time.monotonic())
        live = _Live(agent_id, address, session, asyncio.Queue(OUTBOX_MAX))
        stream = _Stream(live)
        if self._stopping:
            raise Busy("the controller stops", BACK_SOON)
        self._streams.add(stream)
        reader = asyncio.create_task(self._read(live, messages))
        try:
            while True:
                message = await live.outbox.get()
                if isinstance(message, Over):
                    if message.error is not None:
                        raise message.error
                    return
                yield message
        finally:
            # Nothing is awaited here: whoever ends a stream may do that in two blows, and the second one would cut it.
            self._streams.discard(stream)
            reader.cancel()
            self._leave(live)

    async def _read(self, live: _Live, messages: AsyncIterator[FromAgent]) -> None:
        try:
            async for message in messages:
                effects = live.session.receive(message, time.monotonic(), self._clock())
                await self._perform(live, effects)
                if live.session.state is State.ENDED:
                    return
            self._put(live, Over(None))  # the agent has said all that it had to say
        except ControllerError as error:
            self._perform_now(live, live.session.end(error, _patience(error)))
        except Exception as error:  # a fault of ours ends this session and no other
            self._log.fault(error, "session")
            self._put(live, Over(Conflict("a fault of the controller")))

    def _leave(self, live: _Live) -> None:
        if self._live.get(live.agent_id) is live:
            del self._live[live.agent_id]
        for waiting in live.answers.values():
            _answer(waiting, None)
        if live.id:
            task = asyncio.create_task(self._close(live), name="end of a session")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, live: _Live) -> None:
        try:
            await self._store.sessions.close(live.agent_id, live.id, self._clock())
        except StoreError as error:  # it is taken for gone when a new one comes, or when this process goes
            self._log.warning("the end of a session is not noted", agent=live.agent_id, error=str(error))

    # --- effects

    async def _perform(self, live: _Live, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Enter):
                await self._enter(live, effect.hello)
            elif isinstance(effect, Tell):
                live.untold[effect.report.generation] = effect.report
                await self._note_now(live)
                await self._tell(live)
            else:
                self._perform_now(live, [effect])

    def _perform_now(self, live: _Live, effects: list[Effect]) -> None:
        """Those that need not wait for the store."""
        for effect in effects:
            match effect:
                case Send(message):
                    self._send(live, message)
                case Over():
                    self._put(live, effect)
                case Note(health):
                    self._notes[live.agent_id] = health
                case Hand(answer):
                    waiting = live.answers.get(answer.id)
                    if waiting is not None:
                        _answer(waiting, answer)
                case Drifted(generation, active):
                    self._counts.drifts += 1
                    self._log.warning(
                        "an agent decides by another generation than it confirmed, offered again",
                        agent=live.agent_id,
                        generation=generation,
                        active=active,
                    )
                case Tell(report):
                    live.untold[report.generation] = report  # written within a second
                case Enter():
                    raise AssertionError("only a message of the agent begins a session")
                case _:
                    assert_never(effect)

    def _send(self, live: _Live, message: ToAgent) -> None:
        if isinstance(message, Goodbye):
            message = replace(message, retry_after=message.retry_after * random.uniform(0.5, 1.5))  # noqa: S311
        elif isinstance(message, Offering):
            self._counts.offers += 1
        self._put(live, message)

    def _put(self, live: _Live, message: ToAgent | Over) -> None:
        try:
            live.outbox.put_nowait(message)
        except asyncio.QueueFull:
            while not live.outbox.empty():
                live.outbox.get_nowait()
            live.session.end(None)
            live.outbox.put_nowait(Over(Busy(f"{OUTBOX_MAX} messages were not taken", BACK_LATER)))

    async def _enter(self, live: _Live, hello: Hello) -> None:
        """Note the session, then say welcome. Raises NotFound, Denied, Busy, StoreError."""
        if self._waiting >= WAITING_MAX:
            self._counts.turned_away += 1
            raise Busy(f"{WAITING_MAX} agents come back at the same time", BACK_LATER)
        self._waiting += 1
        try:
            async with self._places:
                await self._open(live, hello)
        finally:
            self._waiting -= 1

    async def _open(self, live: _Live, hello: Hello) -> None:
        session = Session(
            id=secrets.token_hex(8),
            agent_id=live.agent_id,
            controller_id=self._store.controller_id,
            instance_uid=hello.instance_uid,
            boot_id=hello.boot_id,
            version=hello.version,
            capabilities=hello.capabilities,
            address=live.address,
            opened_at=self._clock(),
        )
        live.id = session.id  # before it is there: whatever happens, it is closed again
        try:
            opened = await self._store.sessions.open(session)
        except (Denied, NotFound):
            live.id = ""
            self._counts.turned_away += 1
            raise
        before, self._live[live.agent_id] = self._live.get(live.agent_id), live
        if before is not None:
            self._replace(before, is_copy=bool(opened.banned))
        self._counts.opened += 1
        offer, refused = await self._store.rollouts.standing(live.agent_id)
        if live.session.state is State.ENDED:
            return
        self._perform_now(live, live.session.welcome(refused))
        if offer is not None:
            await self._perform(live, live.session.want(await self._offerings.get(offer.generation), offer.phase))

    def _replace(self, live: _Live, *, is_copy: bool) -> None:
        self._counts.replaced += 1
        error = None
        if is_copy:
            self._counts.clones += 1
            self._log.error("two machines have one identity; the later one is banned", agent=live.agent_id)
            error = Denied(f"{live.agent_id}: this machine is a copy of another one; enrol it by a token of its own")
        self._perform_now(live, live.session.end(error, BACK_LATER, "another session of this agent has begun"))

    async def _note_now(self, live: _Live) -> None:
        """What it said of its health before it spoke of an offer counts when a rollout looks at that."""
        note = self._notes.pop(live.agent_id, None)
        if note is None:
            return
        try:
            await self._store.agents.observe({live.agent_id: note}, self._clock())
        except StoreError:
            self._notes.setdefault(live.agent_id, note)

    async def _tell(self, live: _Live) -> None:
        """Write what the agent said of its offers; what the store does not take now is tried again."""
        for generation, report in list(live.untold.items()):
            try:
                await self._store.rollouts.report(
                    live.agent_id, generation, report.phase, report.problem, self._clock()
                )
            except NotFound:
                self._counts.ignored += 1  # of a generation that we never offered: an older fleet, a restored store
            except StoreError as error:
                self._log.warning("what an agent said of an offer waits", agent=live.agent_id, error=str(error))
                return
            if live.untold.get(generation) is report:
                del live.untold[generation]

    # --- orders

    async def order(self, agent_id: str, order: Order) -> AsyncGenerator[CommandAnswer, None]:
        """Have an agent do it, and yield what it says until the last. Raises Conflict, NoAnswer, Busy."""
        live = self._live.get(agent_id)
        if live is None:
            raise Conflict(f"{agent_id} is not connected")
        waiting: asyncio.Queue[CommandAnswer | None] = asyncio.Queue(ANSWERS_MAX)
        live.answers[order.id] = waiting
        try:
            self._perform_now(live, live.session.order(order, self._clock()))
            while True:
                try:
                    async with asyncio.timeout(max(0.0, order.expires_at - self._clock())):
                        answer = await waiting.get()
                except TimeoutError:
                    raise NoAnswer(f"{agent_id} did not finish in time") from None
                if answer is None:
                    raise Conflict(f"{agent_id} has gone")
                yield answer
                if answer.last:
                    return
        finally:
            live.answers.pop(order.id, None)

    # --- what the store says

    async def _every_second(self) -> None:
        beaten = 0.0
        while True:
            await asyncio.sleep(SECOND)
            now = time.monotonic()
            for stream in list(self._streams):
                self._perform_now(stream.live, stream.live.session.tick(now))
            try:
                await self._write_notes()
                for live in [live for live in self._live.values() if live.untold]:
                    await self._tell(live)
                if self._moved:
                    self._moved = False
                    await self._compare()
                if now - beaten >= BEAT_SECONDS:
                    await self._store.sessions.beat(self._clock())
                    beaten = now
            except StoreError as error:
                self._trouble = f"the store does not take what agents say: {error}"
            except Exception as error:
                self._log.fault(error, "sessions")
            else:
                self._trouble = ""

    async def _write_notes(self) -> None:
        if not self._notes:
            return
        notes, self._notes = self._notes, {}
        try:
            await self._store.agents.observe(notes, self._clock())
        except StoreError:
            self._notes = notes | self._notes
            raise

    async def _follow(self, seen: Mapping[Topic, int]) -> None:
        """Look at the store whenever offers or sessions change there."""
        while True:
            now = await self._store.changes.wait(seen, BEAT_SECONDS)
            try:
                if now[Topic.ROLLOUTS] != seen[Topic.ROLLOUTS]:
                    await self._send_offers()
                self._moved = self._moved or now[Topic.AGENTS] != seen[Topic.AGENTS]
            except StoreError:
                await asyncio.sleep(SECOND)
                continue  # and look at the same again
            except Exception as error:
                self._log.fault(error, "offers")
            seen = now
            await asyncio.sleep(PAUSE_SECONDS)

    async def _send_offers(self) -> None:
        for agent_id, offer in (await self._store.rollouts.waiting()).items():
            live = self._live.get(agent_id)
            if live is None or live.session.state is not State.OPEN or live.session.knows(offer.generation):
                continue
            offering = await self._offerings.get(offer.generation)
            await self._perform(live, live.session.want(offering, OfferPhase.OFFERED))

    async def _compare(self) -> None:
        """Sessions that began at other controllers end those here; of those that ended here nothing is left there."""
        ours = {agent_id: live for agent_id, live in self._live.items() if live.id}
        held = await self._store.sessions.held()
        for agent_id, live in ours.items():
            if held.get(agent_id) != live.id and self._live.get(agent_id) is live:
                self._replace(live, is_copy=False)
        known = {stream.live.id for stream in self._streams}
        for agent_id, session_id in held.items():
            if session_id not in known:
                await self._store.sessions.close(agent_id, session_id, self._clock())


class _Stream:
    """A live stream, by identity."""

    def __init__(self, live: _Live) -> None:
        self.live = live


def _patience(error: ControllerError) -> float:
    return error.retry_after if isinstance(error, Busy) else BACK_LATER


def _answer(waiting: "asyncio.Queue[CommandAnswer | None]", answer: CommandAnswer | None) -> None:
    """Pass it on; where nobody keeps up, the oldest give way."""
    while True:
        try:
            waiting.put_nowait(answer)
        except asyncio.QueueFull:
            waiting.get_nowait()
        else:
            return
