"""Host names to addresses by the system's resolver, which blocks: each look-up has a thread, and threads are few.

A look-up cannot be cancelled: one that nobody waits for any more keeps its place until the resolver gives up. The
threads are daemons, so that a dead DNS server does not keep the process from ending.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

ADDRESSES_MAX: Final = 16
"""Of one host; a resolver's answer can have thousands, and some are tried in turn."""

GetAddresses = Callable[[str, int], list[str]]


class Resolver:
    """Resolves on at the most `places` threads; further look-ups wait for a place. `look_up` blocks."""

    def __init__(self, places: int, look_up: GetAddresses | None = None) -> None:
        self._free = asyncio.Semaphore(places)
        self._look_up = _system_addresses if look_up is None else look_up

    async def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of a host, in the order in which to try them. Raises OSError (socket.gaierror)."""
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def deliver(addresses: list[str], error: OSError | None) -> None:
            self._free.release()
            if answer.cancelled():
                return
            if error is None:
                answer.set_result(addresses)
            else:
                answer.set_exception(error)

        def work() -> None:
            addresses: list[str] = []
            failure: OSError | None = None
            try:
                addresses = self._look_up(host, port)[:ADDRESSES_MAX]
            except OSError as error:
                failure = error
            except (UnicodeError, ValueError) as error:  # what the codec of host names says of an odd one
                failure = OSError(str(error))
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(deliver, addresses, failure)

        try:
            threading.Thread(target=work, name="resolver", daemon=True).start()
        except RuntimeError as error:  # the process may have no more threads
            self._free.release()
            raise OSError(str(error)) from None
        return await answer


def _system_addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
