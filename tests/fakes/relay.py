"""The way between two processes: TCP through here, to one of several ends, that can be cut, and cut in the middle."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Final, Self

PIECE: Final = 1 << 14


class Relay:
    """Listens as long as its `async with`. A connection goes to the next of `ends` ("127.0.0.1:7443") that answers."""

    def __init__(self, ends: Sequence[str]) -> None:
        self.ends = list(ends)
        self.address = ""
        self.is_cut = False
        self.connections = 0
        self.attempts = 0
        """Also those that a cut way refused."""
        self.on_bytes: Callable[[int], bool] = lambda _: False
        """Asked with what a connection has brought back so far; True: it ends here."""
        self._numbers = count()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """As a pulled cable with a switch that refuses."""
        self.is_cut = True
        for task in self._tasks:
            task.cancel()

    def mend(self) -> None:
        self.is_cut = False

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self.is_cut and (further := await self._further()) is not None:
                self.connections += 1
                await self._carry((reader, writer), further)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()

    async def _further(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._numbers)
        for n in range(len(self.ends)):
            host, _, port = self.ends[(first + n) % len(self.ends)].rpartition(":")
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(host, int(port))
        return None

    async def _carry(
        self,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        ways = {
            asyncio.create_task(self._pump(here[0], there[1], lambda _: False)),
            asyncio.create_task(self._pump(there[0], here[1], self.on_bytes)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            there[1].transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: Callable[[int], bool]
    ) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                carried += len(data)
                writer.write(data)
                await writer.drain()
                if ends(carried):
                    return
