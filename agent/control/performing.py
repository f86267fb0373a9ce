"""Performs what the session decides: files, threads, the policy in force, commands. One effect after the other.

An edge. What takes long (an offer's lists, a look at the disk, a command) goes on beside it and comes back as an event.
Knows no stream: what is to be said goes to `say`.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from agent.control import steps
from agent.control.commands import Commands
from agent.control.errors import ControllerError
from agent.control.messages import Code, CommandAnswer, FromAgent, Offer, Problem, ToAgent
from agent.control.preparing import Later, Preparer, Refused
from agent.control.session import Effect, HangUp, Identity, Rehash, Run, Send, Session, State, StopCommands
from agent.control.standing import Places
from agent.control.steps import Standing
from agent.control.trust import documents_of
from agent.ops.log import Log
from agent.ops.policy_keeper import PolicyKeeper
from agent.policy.policy import Policy

Content = tuple[bytes, frozenset[tuple[str, str, bytes]]]

ENDING_SECONDS: Final = 2.0
"""For the last note to reach the disk."""


class Performer:
    """Holds the session's machine, and what it cannot hold: policies, tasks, files."""

    def __init__(
        self,
        session: Session,
        standing: Standing,
        places: Places,
        preparer: Preparer,
        commands: Commands,
        keeper: PolicyKeeper,
        in_force: Callable[[], Policy],
        log: Log,
    ) -> None:
        self.session = session
        self.disk = ""
        """What the disk did not take or keep; "" all is well."""
        names = ("offers", "confirmed", "rejected", "rolled_back", "commands", "repairs", "swept_files")
        self.counts = dict.fromkeys(names, 0)
        self._say: Callable[[FromAgent], None] = _unheard
        self._hang_up: Callable[[ControllerError], None] = _unheard
        self._places = places
        self._preparer = preparer
        self._commands = commands
        self._keeper = keeper
        self._in_force = in_force
        self._trust = preparer.trust
        self._log = log
        self._turn = asyncio.Lock()
        self._fallback = standing.policy
        self._policies: dict[Content, Policy] = {}
        self._ready: Policy | None = None
        self._managed: Policy | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._events: set[asyncio.Task[None]] = set()
        self._tidying = asyncio.Lock()
        self._since: float | None = None
        self.disk = "; ".join(standing.problems)
        if standing.offer is not None:
            self._policies[standing.offer.content] = standing.policy
            self._managed = keeper.managed = standing.policy

    # --- events

    async def connected(
        self, identity: Identity, say: Callable[[FromAgent], None], hang_up: Callable[[ControllerError], None]
    ) -> None:
        """There is a stream."""

        def begin() -> Sequence[Effect]:
            self._say, self._hang_up = say, hang_up
            return self.session.connected(identity, time.monotonic(), time.time())

        await self._event(begin)

    async def lost(self) -> None:
        """There is none any more."""

        def end() -> Sequence[Effect]:
            self._say = self._hang_up = _unheard
            return self.session.lost()

        await self._event(end)

    async def receive(self, message: ToAgent) -> None:
        """Something was said."""
        if isinstance(message, Offer):
            self.counts["offers"] += 1
        await self._event(lambda: self.session.receive(message, time.monotonic(), time.time()))

    async def tick(self) -> None:
        """About once a second."""

        def beat() -> Sequence[Effect]:
            self.session.offers.strayed = self._managed is not None and self._in_force() is not self._managed
            if self.session.state is State.OPEN:
                self._trust.vouch()
            return self.session.tick(time.monotonic(), time.time())

        await self._event(beat)

    async def stop(self) -> None:
        """The process ends as it should."""
        for task in (self._preparing, *self._running.values(), *self._others):
            if task is not None:
                task.cancel()
        with contextlib.suppress(TimeoutError):  # a disk that hangs; then the next start counts it
            async with asyncio.timeout(ENDING_SECONDS):
                await self._event(lambda: self._follow(self.session.offers.ending()))

    @property
    def fetched(self) -> int:
        """Bytes of lists that came."""
        return self._preparer.fetched

    @property
    def busy(self) -> bool:
        """Whether this is no moment for another stream."""
        return bool(self._running) or self._preparing is not None

    def stuck(self) -> float:
        """Seconds that the event in hand has taken; 0.0 for none."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    # --- effects

    async def _event(self, decide: Callable[[], Sequence[Effect]]) -> None:
        """Whoever brings an event may go away meanwhile: what follows from it is done to the end."""
        task = asyncio.create_task(self._settle(decide), name="event")
        self._events.add(task)
        task.add_done_callback(self._events.discard)
        await asyncio.shield(task)

    async def _settle(self, decide: Callable[[], Sequence[Effect]]) -> None:
        async with self._turn:
            self._since = time.monotonic()
            try:
                pending = deque(decide())
                while pending:
                    pending.extend(await self._guarded(pending.popleft()))
            finally:
                self._since = None

    async def _guarded(self, effect: Effect) -> Sequence[Effect]:
        """A fault of ours at one effect does not keep the others from being performed."""
        try:
            return await self._do(effect)
        except Exception as error:
            self._log.fault(error, f"controller {type(effect).__name__}")
            return ()

    async def _do(self, effect: Effect) -> Sequence[Effect]:  # noqa: C901  (one line for each)
        match effect:
            case Send(message):
                self._count(message)
                self._say(message)
            case HangUp(error):
                self._hang_up(error)
            case Run(command):
                self.counts["commands"] += 1
                task = asyncio.create_task(self._commands.run(command, self._answer), name=f"command {command.word}")
                self._running[command.id] = task
                task.add_done_callback(lambda _: self._running.pop(command.id, None))
            case StopCommands():
                for task in self._running.values():
                    task.cancel()
            case Rehash():
                self._beside(self._rehash(), "rehash")
            case steps.Prepare(offer):
                await self._give_up()
                self._preparing = asyncio.create_task(self._prepare(offer), name="prepare")
            case steps.GiveUp():
                await self._give_up()
            case steps.Apply(offer):
                return await self._apply(offer)
            case steps.Reinstate(offer):
                await self._reinstate(offer)
            case steps.Keep(offer):
                return self._follow(await self._keep(offer))
            case steps.Note(journal):
                await self._note(journal)
            case steps.Report() | steps.SayHealth():
                return self.session.follow([effect], time.time())
        return ()

    def _count(self, message: FromAgent) -> None:
        name = getattr(getattr(message, "phase", None), "name", "").lower()
        if name in self.counts:
            self.counts[name] += 1

    def _follow(self, effects: list[steps.Effect]) -> Sequence[Effect]:
        return self.session.follow(effects, time.time())

    async def _answer(self, answer: CommandAnswer) -> None:
        await self._event(lambda: self.session.answer(answer))

    # --- offers

    async def _give_up(self) -> None:
        """Two must not write to the same files."""
        self._ready = None
        task, self._preparing = self._preparing, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _prepare(self, offer: Offer) -> None:
        offers = self.session.offers
        fetched = self._preparer.fetched
        try:
            async with self._tidying:  # who begins waits until nothing is swept; from then on nothing is
                pass
            policy = await self._preparer.prepare(offer, offers.floors, self._lists())
        except Refused as error:
            self._log.error("offer refused", generation=offer.generation, error=str(error.problem))
            await self._came_out(partial(offers.refused, offer, error.problem))
            self._beside(self._sweep(), "sweep")  # what came of its lists is of no use
        except Later as error:
            progress = self._preparer.fetched > fetched
            await self._came_out(partial(offers.postponed, offer, str(error), time.monotonic(), progress=progress))
        except Exception as error:  # a fault of ours must not leave the offer without an answer
            self._log.fault(error, "offer")
            problem = Problem(Code.INTERNAL, f"a fault of the agent: {type(error).__name__}: {error}"[:300])
            await self._came_out(partial(offers.refused, offer, problem))
        else:
            await self._came_out(partial(offers.prepared, offer), policy)

    async def _came_out(self, event: Callable[[], list[steps.Effect]], policy: Policy | None = None) -> None:
        """Unless another offer has taken its place, which ends this task."""
        task = asyncio.current_task()

        def settle() -> Sequence[Effect]:
            if self._preparing is not task:
                return ()
            self._preparing = None
            effects = self._follow(event())
            awaited = any(isinstance(effect, steps.Apply | steps.Reinstate) for effect in effects)
            self._ready = policy if awaited else None
            return effects

        await self._event(settle)

    async def _apply(self, offer: Offer) -> Sequence[Effect]:
        policy, self._ready = self._ready, None
        assert policy is not None
        offers = self.session.offers
        vitals = self.session.vitals()
        try:
            await self._trust_by(offer)
            await self._keeper.take(policy, managed=True)
        except Exception as error:  # told to the log by the keeper; the old policy is in force
            await self._trust_by(offers.confirmed)
            problem = Problem(Code.INTERNAL, f"cannot be put into force: {type(error).__name__}: {error}"[:300])
            return self._follow(offers.refused(offer, problem))
        self._managed = policy
        self._policies[offer.content] = policy
        return self._follow(offers.applied(offer, vitals, time.monotonic()))

    async def _trust_by(self, offer: Offer | None) -> None:
        """Whoever verifies calls goes by the lists of this offer."""
        await self._trust.give(documents_of(offer.manifests if offer is not None else (), self._places.artifacts))

    async def _reinstate(self, offer: Offer | None) -> None:
        await self._trust_by(offer)
        if offer is None:
            self._managed = None
            await self._keeper.take(self._fallback, managed=False)
            return
        ready, self._ready = self._ready, None  # it was in force, and its lists were broken
        policy = replace(ready or self._policies[offer.content], generation=offer.generation)
        self._policies[offer.content] = self._managed = policy
        await self._keeper.take(policy, managed=True)

    async def _keep(self, offer: Offer) -> list[steps.Effect]:
        offers = self.session.offers
        try:
            await asyncio.to_thread(self._places.slots.save, offer)
        except OSError as error:
            return offers.not_kept(offer, in_words(error), time.monotonic())
        except Exception as error:
            self._log.fault(error, "controller Keep")
            return offers.not_kept(offer, f"a fault of the agent: {type(error).__name__}", time.monotonic())
        effects = offers.kept(offer)
        needed = {known.content for known in (offers.confirmed, offers.soaking) if known is not None}
        self._policies = {content: policy for content, policy in self._policies.items() if content in needed}
        self._beside(self._sweep(), "sweep")
        self.disk = ""
        return effects

    async def _note(self, journal: steps.Journal) -> None:
        try:
            await asyncio.to_thread(self._places.slots.save_journal, journal)
        except OSError as error:
            self.disk = in_words(error)

    # --- the disk

    async def _rehash(self) -> None:
        offers = self.session.offers
        confirmed = offers.confirmed
        if confirmed is None:
            return
        slots, lists = await asyncio.to_thread(self._look, confirmed, there=self.session.state is State.OPEN)
        if slots or lists:
            self.counts["repairs"] += 1
            self._log.error("what is on disk has changed, and is mended", policy=slots, lists=lists)

        def settle() -> Sequence[Effect]:
            return self._follow(offers.damaged(slots=slots, lists=lists)) if offers.confirmed == confirmed else ()

        await self._event(settle)
        await self._sweep()

    def _look(self, confirmed: Offer, *, there: bool) -> tuple[bool, bool]:
        """Whether the slot, and whether a list is damaged. `there`: the controller is, and stands for its lists."""
        slots, files = self._places.slots, self._places.artifacts
        whole = slots.holds(confirmed)
        intact = all(map(files.intact, confirmed.manifests))
        if there and intact:
            with contextlib.suppress(OSError):  # then they are held to be older than they are
                files.vouch(confirmed.manifests)
        return not whole or bool(slots.problems), not intact

    async def _sweep(self) -> None:
        """Let go of lists that neither what is in force, nor what is kept to go back to, nor what soaks needs."""
        files, offers = self._places.artifacts, self.session.offers
        try:
            async with self._tidying:
                kept = await asyncio.to_thread(self._places.slots.load)
                published = () if offers.confirmed is None else offers.confirmed.manifests
                await asyncio.to_thread(files.begin)
                await asyncio.to_thread(files.publish, published)
                if self._preparing is not None:
                    return  # what comes in is needed; when it has come out, this is done again
                known = [offer for offer in (*kept, offers.confirmed, offers.soaking) if offer is not None]
                needed = [manifest for offer in known for manifest in offer.manifests]
                swept = await asyncio.to_thread(files.sweep, needed, published)
        except OSError as error:
            self._log.warning("cannot tidy up lists", error=str(error))
            return
        self.counts["swept_files"] += swept
        if swept:
            self._log.info("lists swept", files=swept)

    def _lists(self) -> dict[tuple[str, str], bytes]:
        """What is here of each list."""
        offers = self.session.offers
        return {
            (m.kind, m.name): m.sha256
            for offer in (offers.confirmed, offers.soaking)
            if offer is not None
            for m in offer.manifests
        }

    def _beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # nobody awaits it
                self._log.fault(error, name)

        task = asyncio.create_task(guarded(), name=name)
        self._others.add(task)
        task.add_done_callback(self._others.discard)


def in_words(error: OSError) -> str:
    """What the disk says, and of which file."""
    return f"{error.filename or 'disk'}: {error.strerror or error}"


def _unheard(_what: object) -> None:
    """Nobody listens."""
