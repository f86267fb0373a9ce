"""Keeps servers running that can fail one by one: a busy port must not take down screening.

Knows start and stop. A server that cannot start is told of once per reason, is unhealthy, and is tried again until it
starts; one that does not stop in time is left behind. Nothing here ends the process.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from agent.model import ConfigError
from agent.ops.component import Server
from agent.ops.log import Log

RETRY_SECONDS: Final = 5.0
"""Between two attempts to start: soon enough for people, rare enough for a log."""

STOP_MARGIN: Final = 2.0
"""Seconds beyond its grace that a server has to be gone."""


class Supervised:
    """A server that may fail to start. `build` makes one for every attempt; errors name the `section` of agent.toml."""

    def __init__(self, build: Callable[[], Server], section: str, log: Log) -> None:
        self.server = build()
        self.running = False
        self._build = build
        self._section = section
        self._log = log
        self._why_not = "not started yet"
        self._retry: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """That of the server."""
        return self.server.name

    def health(self) -> tuple[bool, str]:
        """What the server says, or why it does not run."""
        return self.server.health() if self.running else (False, self._why_not)

    def counters(self) -> Mapping[str, int]:
        """Those of the server."""
        return self.server.counters()

    async def start(self) -> None:
        """Start it, or go on trying. Returns after the first attempt and never raises."""
        if not await self._attempt():
            self._retry = asyncio.create_task(self._go_on())

    async def stop(self, grace: float) -> None:
        """Stop it if it runs. Never raises."""
        if self._retry is not None:
            self._retry.cancel()
        if not self.running:
            return
        self.running = False
        self._why_not = "stopped"
        try:
            await self.server.stop(grace)
        except Exception as error:
            self._log.fault(error, f"stop of {self.name}")

    async def hasten(self) -> None:
        """Stop it at once, beside a stop that is taking its time. Never raises."""
        try:
            await self.server.stop(0.0)
        except Exception as error:
            self._log.fault(error, f"stop of {self.name}")

    async def _go_on(self) -> None:
        while not self.running:
            await asyncio.sleep(RETRY_SECONDS)
            self.server = self._build()
            if await self._attempt():
                self._log.info("started after all", component=self.name, detail=self.health()[1])

    async def _attempt(self) -> bool:
        try:
            await self.server.start()
        except (OSError, ConfigError) as error:
            why = in_words(error, self._section)
        except Exception as error:
            self._log.fault(error, f"start of {self.name}")
            why = f"{self._section}: {type(error).__name__}: {error}"
        else:
            self.running = True
            return True
        if why != self._why_not:
            self._log.error("does not start, will be tried again", component=self.name, error=why)
        self._why_not = why
        return False


def in_words(error: OSError | ConfigError, section: str) -> str:
    """An error of a start, with the section of agent.toml that it is about."""
    if isinstance(error, ConfigError):
        known = not error.field or error.field.startswith(section)
        return str(error) if known else f"{section}.{error}"
    what = error.strerror or str(error)
    return f"{section}: {error.filename}: {what}" if error.filename else f"{section}: {what}"


async def stop_all(servers: Iterable[Supervised], grace: float, hasten: asyncio.Event, log: Log) -> None:
    """Stop them at the same time, within `grace` seconds, or at once when `hasten` is set."""
    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(_stop_one(server, grace, hasten, log))


async def _stop_one(server: Supervised, grace: float, hasten: asyncio.Event, log: Log) -> None:
    stopping = asyncio.create_task(server.stop(0.0 if hasten.is_set() else grace))
    hurry = asyncio.create_task(hasten.wait())
    try:
        await asyncio.wait({stopping, hurry}, timeout=grace + STOP_MARGIN, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done() and not stopping.done():
            await asyncio.wait({stopping, asyncio.create_task(server.hasten())}, timeout=STOP_MARGIN)
        if not stopping.done():
            stopping.cancel()
            log.error("does not stop, left behind", component=server.name)
    finally:
        hurry.cancel()
