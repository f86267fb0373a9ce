"""The thread on which strangers' servers are talked to: what they send is parsed there, and no call waits for it.

Its event loop is another one than that of the calls, so that a thousand TLS handshakes cost those some switches of the
interpreter and not a thousand turns. A daemon thread: nothing out there can keep the process from ending.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agent.identity.x5u import locate
from agent.stir.fetch import Fetched, Fetcher, FetchError, FetchRules, Trouble
from agent.stir.lanes import Lane
from agent.stir.resolver import GetAddresses

KNOWN_SHARE: Final = 4
"""One place of so many is for hosts that have served a good certificate."""

SPARE_SECONDS: Final = 5.0
"""Beyond the times for a place and for the fetch: the thread is not well."""


class Network:
    """Fetches on a thread of its own between `start` and `stop`, at the most `places` at one time."""

    def __init__(
        self,
        rules: FetchRules,
        tls: ssl.SSLContext,
        places: int,
        per_host: int,
        look_up: GetAddresses | None = None,
    ) -> None:
        self._fetcher = Fetcher(rules, tls)
        self._patience = rules.seconds
        known = max(1, places // KNOWN_SHARE)
        # Lanes belong to the thread. They bind to its loop when they are first used there.
        self._known = Lane(known, per_host, look_up)
        self._strangers = Lane(max(1, places - known), per_host, look_up)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: Callable[[], None] | None = None
        self._ended: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Begin. Raises OSError if there can be no more threads."""
        here = asyncio.get_running_loop()
        begun: asyncio.Future[None] = here.create_future()
        ended: asyncio.Future[None] = here.create_future()

        async def live() -> None:
            self._loop = asyncio.get_running_loop()
            end = asyncio.Event()
            self._end = end.set
            here.call_soon_threadsafe(begun.set_result, None)
            await end.wait()

        def run() -> None:
            asyncio.run(live())  # at its end it cancels what is left
            with suppress(RuntimeError):  # nobody waits any more
                here.call_soon_threadsafe(ended.set_result, None)

        try:
            threading.Thread(target=run, name="certificates-network", daemon=True).start()
        except RuntimeError as error:
            raise OSError(str(error)) from None
        self._ended = ended
        await begun

    async def stop(self, grace: float) -> None:
        """Give up what is under way, and wait for the thread at the most `grace` seconds."""
        if self._loop is None or self._end is None or self._ended is None:
            return
        loop, self._loop = self._loop, None
        loop.call_soon_threadsafe(self._end)
        await asyncio.wait({self._ended}, timeout=grace)

    async def fetch(self, url: str, *, known: bool = False) -> Fetched:
        """The body at a URL that `check_url` passes; `known`: its host served good ones before. Raises FetchError."""
        if self._loop is None:
            raise FetchError(Trouble.OVERLOAD, "nothing is fetched any more")
        try:
            async with asyncio.timeout(2 * self._patience + SPARE_SECONDS):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._fetch(url, known), self._loop))
        except TimeoutError:
            raise FetchError(Trouble.OVERLOAD, "the thread that fetches does not answer") from None

    async def _fetch(self, url: str, known: bool) -> Fetched:
        """On the thread."""
        lane = self._lane(known)
        try:
            async with lane.place(locate(url).host, self._patience):
                return await self._fetcher.fetch(url, lane.resolve)
        except TimeoutError:
            raise FetchError(Trouble.OVERLOAD, f"no place to fetch it within {self._patience:g} s") from None

    def _lane(self, known: bool) -> Lane:
        """Known hosts may use the strangers' places, too, while nobody waits for those."""
        if not known or (self._known.is_busy and not self._strangers.is_busy):
            return self._strangers
        return self._known
