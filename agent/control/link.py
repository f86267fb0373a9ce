"""The link to the controller as a part of the daemon: one stream, held as long as it can be, and made again.

The thin edge of agent/control: gRPC and timers. What is said and what follows is the session's; whatever happens here,
screening does not notice.
"""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from grpc import aio

from agent.control.backoff import Backoff
from agent.control.channels import Channels
from agent.control.errors import ControllerError, Trouble, of_rpc
from agent.control.handshake import span
from agent.control.messages import FromAgent
from agent.control.performing import Performer
from agent.control.renewal import LOOK_SECONDS, Renewal, day
from agent.control.session import Identity, State
from agent.control.wire import from_wire, to_wire
from agent.ops.log import Log
from sbcedge.control.v1 import control_pb2_grpc

TICK_SECONDS: Final = 0.5

OUTGOING_MAX: Final = 2048
"""Messages that wait to be sent; a controller that reads so slowly is as good as none."""

GOODBYE_SECONDS: Final = 1.0
"""For what is still to be said, when a stream or the process ends."""

STUCK_SECONDS: Final = 15.0
"""That a file may take to be written before an operator is told."""

SET_SECONDS: Final = 30.0
"""Of the wall clock against the monotonic one, beyond which it was set."""

APART_SECONDS: Final = 30.0
"""Between the clocks of agent and controller, beyond which people are told: signatures of calls live for 60 s."""

MOVE_SECONDS: Final = 5.0
"""In which streams move to a new certificate: not a whole fleet at one moment."""


def _alike(one: str, other: str) -> bool:
    """Whether two reasons are the same but for numbers: how long ago, and which port."""
    return re.sub(r"\d+", "", one) == re.sub(r"\d+", "", other)


def _ahead() -> float:
    """Of the wall clock, against the one that nobody sets."""
    return time.time() - time.monotonic()


class ControlLink:
    """`identity` says who speaks; "" as instance until it is enrolled. `granted` are capabilities by the host."""

    name = "controller"

    def __init__(
        self,
        performer: Performer,
        channels: Channels,
        renewal: Renewal,
        identity: Identity,
        log: Log,
        granted: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._performer = performer
        self._session = performer.session
        self._channels = channels
        self._renewal = renewal
        self._identity = identity
        self._granted = granted
        self._log = log
        self._backoff = Backoff(random.random)
        self._tasks: list[asyncio.Task[None]] = []
        self._outgoing: asyncio.Queue[FromAgent] = asyncio.Queue(OUTGOING_MAX)
        self._why = "not connected yet"
        self._away_since = time.time()
        self._sessions = self._failures = 0

    # --- as a part of the daemon

    async def start(self) -> None:
        """Begin. Never fails for want of a controller."""
        await self._renewal.look()
        self._tasks = [
            asyncio.create_task(self._guarded(work, name), name=f"controller {name}")
            for work, name in ((self._ticks, "ticks"), (self._streams, "streams"), (self._renewals, "renewals"))
        ]

    async def stop(self, grace: float) -> None:
        """Say what is still to be said, then go."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(grace, GOODBYE_SECONDS)):
                await self.flushed()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._performer.stop()

    async def flushed(self) -> None:
        """Until everything that was to be said is on its way."""
        while self._session.state is State.OPEN and not self._outgoing.empty():
            await asyncio.sleep(0.01)

    def health(self) -> tuple[bool, str]:
        """Whether there is a session and nothing that an operator must look at."""
        offers = self._session.offers
        trouble = [self._renewal.trouble(), offers.trouble(), self._performer.disk, self._expired()]
        if (seconds := self._performer.stuck()) > STUCK_SECONDS:
            trouble.append(f"the disk has not answered for {seconds:.0f} s")
        if self._session.state is not State.OPEN:
            trouble.insert(0, f"no controller since {day(self._away_since)}: {self._why or 'it is gone'}")
        active = offers.active
        decides = f"generation {active.generation}" if active.generation else "the policy file"
        said = [words for words in trouble if words]
        if said:
            return False, f"{'; '.join(said)}; decides by {decides}"
        decides += self._apart()
        on_trial = f", on trial until it is {offers.soaking.soak:g} s old" if offers.soaking is not None else ""
        return True, f"session with {self._session.controller_id}, {decides}{on_trial}"

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        counts = {f"controller_{name}": count for name, count in self._performer.counts.items()}
        return counts | {
            "controller_sessions": self._sessions,
            "controller_failures": self._failures,
            "controller_renewals": self._renewal.renewed,
            "controller_fetched_bytes": self._performer.fetched,
        }

    def _apart(self) -> str:
        """Clocks that differ. Whose is wrong nobody can tell from here, so it is no fault of the agent's."""
        offset = self._session.clock_offset
        if abs(offset) <= APART_SECONDS:
            return ""
        return f"; this host's clock is {span(abs(offset))} {'behind' if offset > 0 else 'ahead of'} the controller's"

    def _expired(self) -> str:
        """Lists in use that are too old."""
        offers = self._session.offers
        offer = offers.soaking or offers.confirmed
        when = time.time() + self._session.clock_offset
        old = [
            f"{m.kind} {m.name} is to be used until {day(m.not_after)}, and no newer one came"
            for m in (offer.manifests if offer is not None else ())
            if m.not_after is not None and m.not_after <= when
        ]
        return "; ".join(old)

    # --- what runs

    async def _guarded(self, work: Callable[[], Any], name: str) -> None:
        """A fault of ours ends one round of it, never the part."""
        while True:
            try:
                await work()
            except Exception as error:  # a link that dies is worse than a round of it that fails
                self._log.fault(error, f"controller {name}")
            await asyncio.sleep(TICK_SECONDS)

    async def _ticks(self) -> None:
        await self._performer.tick()

    async def _renewals(self) -> None:
        await self._renewal.look()
        if self._renewal.due():
            await self._renewal.renew()
        await asyncio.sleep(LOOK_SECONDS)

    async def _streams(self) -> None:
        """One stream, and the time until the next."""
        edition = self._channels.edition
        error = await self._one_stream(edition)
        if error is None:
            return  # it moves to another certificate
        if error.trouble is Trouble.AWAY and (fault := await self._renewal.shake()):
            error = ControllerError(error.trouble, f"{fault} ({error.reason})", error.retry_after)
        if ended := self._renewal.ended():
            error = ControllerError(Trouble.STRANGER, f"{ended} ({error.reason})", error.retry_after)
        now, clock = time.monotonic(), _ahead()
        delay = self._backoff.failed(error, now)
        self._failures += 1
        if not _alike(error.reason, self._why):
            self._log.warning("no controller; screening goes on", error=error.reason, again_in=round(delay, 1))
        self._why = error.reason
        while time.monotonic() < now + delay and self._channels.edition == edition:
            if abs(_ahead() - clock) > SET_SECONDS:
                break  # somebody has set the clock, which may be all that was wrong
            await asyncio.sleep(min(TICK_SECONDS, delay))

    async def _one_stream(self, edition: int) -> ControllerError | None:
        """Until it ends. None: by our own choice, to go on with another certificate."""
        try:
            channel = self._channels.open("control")
        except ControllerError as error:
            return error
        async with channel:
            call = control_pb2_grpc.ControlServiceStub(channel).OpenSession()
            ended: asyncio.Future[ControllerError | None] = asyncio.get_running_loop().create_future()
            self._outgoing = asyncio.Queue(OUTGOING_MAX)

            def hang_up(error: ControllerError | None) -> None:
                if not ended.done():
                    ended.set_result(error)

            def say(message: FromAgent) -> None:
                try:
                    self._outgoing.put_nowait(message)
                except asyncio.QueueFull:
                    hang_up(ControllerError(Trouble.AWAY, "the controller reads too slowly"))

            identity = self._who()
            tasks = [
                asyncio.create_task(self._write(call, hang_up)),
                asyncio.create_task(self._read(call, hang_up)),
                asyncio.create_task(self._move(edition, hang_up)),
            ]
            try:
                await self._performer.connected(identity, say, hang_up)
                return await ended
            finally:
                if self._session.state is State.OPEN:
                    self._away_since = time.time()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._performer.lost()
                call.cancel()

    def _who(self) -> Identity:
        credentials = self._renewal.credentials
        identity = self._identity
        return Identity(
            credentials.instance_uid if credentials is not None else identity.instance_uid,
            identity.boot_id,
            identity.version,
            (*identity.capabilities, *self._granted()),
        )

    async def _write(self, call: Any, hang_up: Callable[[ControllerError | None], None]) -> None:
        try:
            while True:
                await call.write(to_wire(await self._outgoing.get()))
        except aio.AioRpcError as error:
            hang_up(of_rpc(error))
        except asyncio.InvalidStateError:
            pass  # the call has ended; who reads says why
        except Exception as error:  # nobody else would notice
            self._fault(error, hang_up)

    async def _read(self, call: Any, hang_up: Callable[[ControllerError | None], None]) -> None:
        try:
            while (message := await call.read()) is not aio.EOF:
                was = self._session.state
                if (known := from_wire(message)) is not None:
                    await self._performer.receive(known)
                if was is State.GREETING and self._session.state is State.OPEN:
                    self._opened()
            hang_up(ControllerError(Trouble.AWAY, "the controller has ended the session"))
        except aio.AioRpcError as error:
            hang_up(of_rpc(error))
        except ControllerError as error:
            hang_up(error)
        except Exception as error:  # nobody else would notice
            self._fault(error, hang_up)

    def _fault(self, error: Exception, hang_up: Callable[[ControllerError | None], None]) -> None:
        self._log.fault(error, "controller stream")
        hang_up(ControllerError(Trouble.AWAY, f"a fault of the agent: {type(error).__name__}"))

    def _opened(self) -> None:
        self._sessions += 1
        self._why = ""
        self._backoff.opened(time.monotonic())
        offset = self._session.clock_offset
        self._log.info("session", controller=self._session.controller_id, clock_offset=round(offset, 3))

    async def _move(self, edition: int, hang_up: Callable[[ControllerError | None], None]) -> None:
        """To a new certificate, in a quiet moment: streams end with the certificate that they began with."""
        while self._channels.edition == edition or self._performer.busy:
            await asyncio.sleep(TICK_SECONDS)
        await asyncio.sleep(random.uniform(0, MOVE_SECONDS))  # noqa: S311  (to spread, not to hide)
        hang_up(None)
