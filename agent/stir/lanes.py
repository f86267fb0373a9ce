"""Who may fetch now: places for fetches, some of them kept for hosts that are known to be good.

However many URLs of however many hosts strangers invent, and however slowly their servers and name servers answer,
they take each other's places; certificates that calls are verified by are renewed on others. Waiting is bounded, too.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from agent.stir.resolver import GetAddresses, Resolver

WAITING_MAX: Final = 1024
"""Fetches that wait for a place. What is beyond would not get one within any call's patience."""


class Lane:
    """At the most `places` fetches at one time, `per_host` of one host; their host names are resolved here, too."""

    def __init__(self, places: int, per_host: int, look_up: GetAddresses | None = None) -> None:
        self.resolve = Resolver(places, look_up).resolve
        self.waiting = 0
        self.running = 0
        self._free = asyncio.Semaphore(places)
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}

    @property
    def is_full(self) -> bool:
        """Whether one more fetch is one too many."""
        return self.waiting >= WAITING_MAX

    @asynccontextmanager
    async def place(self, host: str, within: float) -> AsyncIterator[None]:
        """A place for one fetch, as long as the context lasts. Raises TimeoutError without one in `within` seconds."""
        gate = self._hosts.setdefault(host, _Host(self._per_host))
        gate.users += 1
        try:
            await self._enter(gate, within)
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
                self._free.release()
                gate.free.release()
        finally:
            gate.users -= 1
            if not gate.users:
                del self._hosts[host]

    async def _enter(self, gate: "_Host", within: float) -> None:
        self.waiting += 1
        try:
            async with asyncio.timeout(within):
                await gate.free.acquire()
                try:
                    await self._free.acquire()
                except BaseException:
                    gate.free.release()
                    raise
        finally:
            self.waiting -= 1


class _Host:
    def __init__(self, places: int) -> None:
        self.users = 0
        self.free = asyncio.Semaphore(places)
