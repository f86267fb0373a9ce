"""The stream on which this agent asks for its shares of the fleet's limits. Calls are counted without it.

Knows gRPC, clocks and one file: what every limit falls to when nobody answers, so that a process that starts without
the controller knows it. There is no stream as long as the policy has no limit of the fleet.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any, Final, Protocol

from grpc import aio

from agent.control.backoff import Backoff
from agent.control.credentials import write_private
from agent.control.errors import ControllerError, Trouble, of_rpc
from agent.control.quota import QuotaExchange, safe_from, safe_to
from agent.control.quota_wire import ask_to, reply_from
from agent.ops.log import Log
from agent.policy.leases import Key, LeaseBook, Safe
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc

FILE: Final = "quota.json"
FILE_MAX: Final = 4 << 20

REPLY_SECONDS: Final = 1.5
"""That an answer may take. Two of them fit into the life of a lease."""

CONNECT_SECONDS: Final = 10.0
"""For the first answer on a new connection: a handshake is among those of a whole fleet."""

AWAY_MAX: Final = 5.0
"""Seconds between two attempts, unless the controller has named a time: safe rates refuse calls."""

FIRST_SECONDS: Final = 10.0
"""Without a lease that are nobody's fault: until the first answer, or until a new leader is found, which waits for the
leases of the one before it to end."""

IDLE_SECONDS: Final = 1.0
"""Between two looks whether the policy has limits of the fleet now."""

RENEWED_SECONDS: Final = 0.25
"""Between two looks whether the certificate was renewed, or is there at all, while nobody can be asked without."""

SLEPT_SECONDS: Final = 0.05
"""Of sleep of this host, after which no lease counts: its monotonic clock has stood still meanwhile."""


class Channels(Protocol):
    """As agent.control.channels has them."""

    @property
    def edition(self) -> int:
        """Rises when the certificate was renewed."""
        ...

    def open(self, name: str) -> aio.Channel:
        """Raises ControllerError."""
        ...


class QuotaLink:
    """`clock` is monotonic seconds, the one that calls are counted by; `awake` goes on while the host sleeps."""

    name: Final = "quota"

    def __init__(
        self,
        book: LeaseBook,
        channels: Channels,
        directory: Path,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
        awake: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._book = book
        self._channels = channels
        self._path = directory / FILE
        self._log = log
        self._clock = clock
        self._awake = awake
        self._exchange = QuotaExchange(book)
        self._backoff = Backoff(random.random)
        self._needed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._kept: dict[Key, Safe] = {}
        self._slept = 0.0
        self._wanted_at = inf  # since when there is something to ask for
        self._questions = self._answers = self._failures = self._sleeps = 0
        self._trouble = ""
        self._disk_trouble = ""

    async def start(self) -> None:
        """From now on shares decide. What was kept and cannot be read is told, and is nothing."""
        self._kept = await asyncio.to_thread(self._load)
        self._book.restore(self._kept)
        self._book.on_need = self._needed.set
        self._book.attached = True
        self._slept = self._awake() - self._clock()
        self._task = asyncio.create_task(self._run(), name="quota")

    async def stop(self, _grace: float) -> None:
        """Leases run on, for as long as calls do."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def health(self) -> tuple[bool, str]:
        """Whether this agent has its shares."""
        wanted = len(self._book)
        if not self._book.limits:
            return True, "the policy has no limit of the fleet"
        leased = self._book.leased(self._clock())
        if self._disk_trouble:
            return False, self._disk_trouble
        if leased or not (wanted or self._trouble):
            return True, f"{leased} of {wanted} keys leased, term {self._exchange.epoch}"
        waits = self._clock() - max(self._wanted_at, self._exchange.granted_at) < FIRST_SECONDS
        return waits, f"nothing leased of {wanted} keys: {self._trouble or 'nothing is handed out yet'}"

    def counters(self) -> Mapping[str, int]:
        """Counts since the start."""
        exchange = self._exchange
        return {
            "quota_questions": self._questions,
            "quota_answers": self._answers,
            "quota_failures": self._failures,
            "quota_unusable_leases": exchange.unusable,
            "quota_late_answers": exchange.late,
            "quota_fenced_answers": exchange.fenced,
            "quota_sleeps": self._sleeps,
            "quota_keys_in_use": len(self._book),
        }

    # --- the stream

    async def _run(self) -> None:
        while True:
            if not self._book.limits and not len(self._book) and not self._kept:
                self._wanted_at = inf
                await self._pause(IDLE_SECONDS)
                continue
            self._wanted_at = min(self._wanted_at, self._clock())
            try:
                await self._converse()
                await self._pause(IDLE_SECONDS)
                continue
            except ControllerError as error:
                trouble: ControllerError = error
            except Exception as error:  # a fault of ours: leases end by themselves, and it is tried again
                self._log.fault(error, "quota")
                trouble = ControllerError(Trouble.AWAY, f"{type(error).__name__}")
            await self._failed(trouble)

    async def _failed(self, error: ControllerError) -> None:
        self._failures += 1
        if not self._trouble:
            self._log.warning("no shares of the fleet's limits", error=error.reason)
        self._trouble = error.reason
        delay = self._backoff.failed(error, self._clock())
        if error.trouble is Trouble.AWAY and not error.retry_after:
            delay = min(delay, AWAY_MAX * random.random())  # noqa: S311  (to spread, not to hide)
        await self._unless_renewed(delay)

    async def _unless_renewed(self, seconds: float) -> None:
        """Wait so long, or until there is another certificate."""
        edition, end = self._channels.edition, self._clock() + seconds
        while edition == self._channels.edition and (left := end - self._clock()) > 0:
            await asyncio.sleep(min(left, RENEWED_SECONDS))

    async def _converse(self) -> None:
        """Ask and be answered until nothing is wanted, or the certificate is another one. Raises ControllerError."""
        edition = self._channels.edition
        async with self._channels.open(self.name) as channel:
            call = pb_grpc.QuotaServiceStub(channel).StreamQuota()
            patience = CONNECT_SECONDS
            try:
                while edition == self._channels.edition:
                    await self._ask(call, patience)
                    patience = REPLY_SECONDS
                    if not len(self._book):
                        return  # and the controller was told so
                    await self._until_due()
            except aio.AioRpcError as error:
                raise of_rpc(error) from None
            except asyncio.InvalidStateError:  # written to a call that has ended
                raise ControllerError(Trouble.AWAY, "the stream has ended") from None
            finally:
                call.cancel()

    async def _ask(self, call: Any, patience: float) -> None:
        """One question and its answer."""
        self._notice_sleep()
        self._needed.clear()
        self._questions += 1
        ask = self._exchange.ask(self._clock())
        try:
            async with asyncio.timeout(patience):
                await call.write(ask_to(ask))
                message = await call.read()
        except TimeoutError:
            raise ControllerError(Trouble.AWAY, f"no answer within {patience:g} s") from None
        if message is aio.EOF:
            raise ControllerError(Trouble.AWAY, "the controller has ended the stream")
        self._notice_sleep()
        reply = reply_from(message)
        if self._exchange.take(reply, self._clock()):
            self._answers += 1
            self._trouble = ""
            self._backoff.opened(self._clock())
            await self._keep(reply.sequence)
        elif not reply.epoch:
            self._trouble = "no controller leads"

    async def _until_due(self) -> None:
        """Wait for the next question: sooner, if something is needed."""
        chance = random.random()  # noqa: S311  (to spread, not to hide)
        due = self._exchange.next_at(chance, urgent=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - self._clock())):
                await self._needed.wait()
        await asyncio.sleep(max(0.0, self._exchange.next_at(chance, urgent=True) - self._clock()))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._needed.wait()
        self._needed.clear()

    def _notice_sleep(self) -> None:
        slept = self._awake() - self._clock()
        if slept - self._slept > SLEPT_SECONDS:
            self._sleeps += 1
            self._book.end_all(self._clock())
        self._slept = slept

    # --- the file

    async def _keep(self, sequence: int) -> None:
        """Have on disk what we fall to; only then is the controller told that we follow the answer."""
        safe = self._book.safe()
        if safe != self._kept:
            try:
                await asyncio.to_thread(write_private, self._path, json.dumps({"safe": safe_to(safe)}).encode())
            except OSError as error:
                self._disk_trouble = f"{self._path}: {error.strerror}"
                return
            self._kept = safe
        self._disk_trouble = ""
        self._exchange.saved(sequence)

    def _load(self) -> dict[Key, Safe]:
        try:
            with self._path.open("rb") as file:
                document = json.loads(file.read(FILE_MAX))
            return safe_from(document["safe"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self._log.warning("kept shares cannot be read", file=str(self._path), error=str(error))
            return {}
