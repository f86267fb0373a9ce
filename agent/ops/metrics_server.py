"""Serves the metrics page by HTTP, in the event loop. Knows as much of HTTP as a scrape needs.

One request per connection, bounded in size, time and number: whoever opens connections and says nothing is cut off,
and who comes when all places are taken is turned away and counted.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

REQUEST_MAX: Final = 8192
"""Bytes of a request; that of Prometheus has some 400."""

PATIENCE_SECONDS: Final = 5.0
"""For a whole exchange. Prometheus gives up after 10 s by default."""

CONNECTIONS_MAX: Final = 16
"""Scrapers at once; two servers and a person are usual."""

PLAIN: Final = "text/plain; charset=utf-8"


class MetricsServer:
    """`page` is iterated anew for every scrape, and the loop runs between its pieces."""

    name = "metrics"

    def __init__(self, host: str, port: int, page: Iterable[bytes]) -> None:
        self.address = (host, port)
        self._page = page
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()
        self._scrapes = self._turned_away = self._broken = 0

    def health(self) -> tuple[bool, str]:
        """Whether it listens, and where."""
        host, port = self.address
        where = f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
        return (True, where) if self._server is not None else (False, "does not listen")

    def counters(self) -> Mapping[str, int]:
        """Scrapes, connections turned away because too many were open, and requests that came to nothing."""
        return {
            "metrics_scrapes": self._scrapes,
            "metrics_turned_away": self._turned_away,
            "metrics_broken_requests": self._broken,
        }

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, *self.address, limit=REQUEST_MAX)
        bound = self._server.sockets[0].getsockname()
        self.address = (bound[0], bound[1])

    async def stop(self, grace: float) -> None:
        """Listen no more; a scrape in progress has `grace` seconds."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._busy:
            _, late = await asyncio.wait(set(self._busy), timeout=grace)
            for task in late:
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._busy) >= CONNECTIONS_MAX:
            self._turned_away += 1
            writer.transport.abort()
            return
        self._busy.add(task)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._exchange(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._broken += 1
            writer.transport.abort()
        finally:
            self._busy.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].split(b" ")
        status = _status(words)
        if status is not HTTPStatus.OK:
            self._broken += 1
            await _answer(writer, status, [f"{status.value} {status.phrase}\n".encode()], PLAIN, words[0])
            return
        pieces = []
        for piece in self._page:
            pieces.append(piece)
            await asyncio.sleep(0)
        await _answer(writer, status, pieces, CONTENT_TYPE_PLAIN_0_0_4, words[0])
        self._scrapes += 1


def _status(words: list[bytes]) -> HTTPStatus:
    """What a request line deserves (RFC 9112 3)."""
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return HTTPStatus.BAD_REQUEST
    if words[0] not in (b"GET", b"HEAD"):
        return HTTPStatus.METHOD_NOT_ALLOWED
    return HTTPStatus.OK if words[1].split(b"?")[0] == b"/metrics" else HTTPStatus.NOT_FOUND


async def _answer(
    writer: asyncio.StreamWriter, status: HTTPStatus, body: list[bytes], content_type: str, method: bytes
) -> None:
    rows = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {sum(map(len, body))}",
        "Connection: close",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        rows.append("Allow: GET, HEAD")
    writer.write("\r\n".join([*rows, "", ""]).encode())
    if method != b"HEAD":
        writer.writelines(body)
    await writer.drain()
