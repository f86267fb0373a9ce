"""Calls that never stop: one SBC at each agent, and what the fleet let pass in any window."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from itertools import count
from math import inf
from types import TracebackType
from typing import Final, Self

import grpc
from grpc import aio

from sbcedge.screening.v1 import screening_pb2, screening_pb2_grpc
from tests.fakes.agent_process import request_of
from tests.fakes.calls import invite
from tests.integration.fleet.world import Managed

ANSWER_SECONDS: Final = 10.0
"""For a call; far beyond what an SBC would wait, on a machine that has much else to do."""

RATE: Final = 40.0
BURST: Final = 20.0
LIMITED: Final = f"""
name = "limited"

[[trunks]]
id = "peer"
sources = ["192.0.2.0/24"]

[[limits]]
name = "all"
scope = "global"
rate = {RATE:g}
burst = {BURST:g}
fleet = "safe"
"""
"""A limit of all agents together."""

SEEN_SECONDS: Final = 0.5
"""Between a decision and when it is seen here, at most: so unsharp is what is counted."""


class Traffic:
    """To one agent, `rate` calls a second as long as its `async with`. An agent that is dead is asked again."""

    def __init__(self, agent: Managed, rate: float = 60.0) -> None:
        self.passed: list[float] = []
        self.answered: list[str] = []
        self.unanswered = 0
        self.slowest = 0.0
        self._agent = agent
        self._step = 1 / rate
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.end()

    async def end(self) -> None:
        """After the last answer."""
        self._ending = True
        if self._task is not None:
            await self._task
            self._task = None

    async def more(self, seconds: float) -> float:
        """How many of these agents' calls passed a second, over the next `seconds`."""
        begin, end = time.monotonic(), time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(0.05)
        return sum(begin <= moment < end for moment in self.passed) / seconds

    async def _run(self) -> None:
        path = self._agent.folder / "hook.sock"
        async with aio.insecure_channel(f"unix:{path}") as channel:
            stub = screening_pb2_grpc.ScreeningServiceStub(channel)
            due = time.monotonic()
            for number in count():
                if self._ending:
                    return
                due = max(due + self._step, time.monotonic() - 1.0)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                name = f"{self._agent.folder.name}-{number}@a.example.net"
                began = time.monotonic()
                try:
                    response = await stub.Screen(request_of(invite(call_id=name)), timeout=ANSWER_SECONDS)
                except grpc.RpcError:
                    self.unanswered += 1
                    await asyncio.sleep(0.05)
                    continue
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.answered.append(name)
                if response.decision == screening_pb2.DECISION_ALLOW:
                    self.passed.append(time.monotonic())


def worst_excess(traffic: Iterable[Traffic], rate: float = RATE) -> float:
    """The most, over all windows, that passed beyond rate times window: the burst, if the limit is kept."""
    worst, lowest = -inf, inf
    for n, moment in enumerate(sorted(moment for one in traffic for moment in one.passed)):
        lowest = min(lowest, n - rate * moment)
        worst = max(worst, n + 1 - rate * moment - lowest)
    return worst


def limit_was_kept(traffic: Iterable[Traffic]) -> bool:
    """At most the burst beyond the rate, as sharp as it can be seen from here."""
    return worst_excess(traffic) <= BURST + RATE * SEEN_SECONDS


async def passes(traffic: Iterable[Traffic], least: float, most: float, patience: float = 60.0) -> None:
    """Wait until, over two seconds, that part of the limit passes."""
    every, seen, end = list(traffic), [], time.monotonic() + patience
    while time.monotonic() < end:
        rates = await asyncio.gather(*(one.more(2.0) for one in every))
        seen.append(round(sum(rates) / RATE, 2))
        if least <= seen[-1] <= most:
            return
    raise AssertionError(f"waited in vain for {least} to {most} of the limit: {seen}")


@contextlib.asynccontextmanager
async def calling(agents: Iterable[Managed]):  # type: ignore[no-untyped-def]
    """Traffic to each of them."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Traffic(agent)) for agent in agents]
