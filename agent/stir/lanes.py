"""Who may fetch now: places for fetches, some of them kept for hosts that are known to be good.

However many URLs of however many hosts strangers invent, and however slowly their servers and name servers answer,
they take each other's places; certificates that calls are verified by are renewed on others.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.stir.resolver import GetAddresses, Resolver


class Lane:
    """At the most `places` fetches at one time, `per_host` of one host; their host names are resolved here, too."""

    def __init__(self, places: int, per_host: int, look_up: GetAddresses | None = None) -> None:
        self.resolve = Resolver(places, look_up).resolve
        self._free = asyncio.Semaphore(places)
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}

    @property
    def is_busy(self) -> bool:
        """Whether one more fetch would have to wait."""
        return self._free.locked()

    @asynccontextmanager
    async def place(self, host: str, within: float) -> AsyncIterator[None]:
        """A place for one fetch, as long as the context lasts. Raises TimeoutError without one in `within` seconds."""
        gate = self._hosts.setdefault(host, _Host(self._per_host))
        gate.users += 1
        try:
            await self._enter(gate, within)
            try:
                yield
            finally:
                self._free.release()
                gate.free.release()
        finally:
            gate.users -= 1
            if not gate.users:
                del self._hosts[host]

    async def _enter(self, gate: "_Host", within: float) -> None:
        async with asyncio.timeout(within):
            await gate.free.acquire()
            try:
                await self._free.acquire()
            except BaseException:
                gate.free.release()
                raise


class _Host:
    def __init__(self, places: int) -> None:
        self.users = 0
        self.free = asyncio.Semaphore(places)
