"""An https server for certificates, good or bad: what it does for a path is a coroutine that has the connection.

A real server with real TLS on loopback, in the event loop of the test. It counts what it is asked.
"""

import asyncio
import contextlib
import gzip
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Self

from tests.fakes.certificates import Authority, Signed

HOST = "certs.example.net"

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


class CertificateServer:
    """Serves `pages` (path to handler) until it is left; whatever is not there is 404. `asked` counts GETs by path."""

    def __init__(self, server_certificate: Signed, pages: Mapping[str, Handler] | None = None) -> None:
        self.pages = dict(pages or {})
        self.asked: Counter[str] = Counter()
        self.heads: list[bytes] = []  # of the requests, as received
        self.names: list[str | None] = []  # SNI of each handshake
        self.connections = 0  # now open
        self.most_connections = 0
        self.port = 0
        self._tls = server_context(server_certificate)
        self._tls.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str, host: str = HOST) -> str:
        """The URL of a path."""
        return f"https://{host}:{self.port}{path}"

    async def start(self, port: int = 0, address: str = "127.0.0.1") -> None:
        self._server = await asyncio.start_server(self._serve, address, port, ssl=self._tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything, in the middle of an answer too."""
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            path = head.split(b" ", 2)[1].decode()
            self.asked[path] += 1
            await self.pages.get(path, page(b"nothing here", 404))(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # the client has seen enough, or the test is over
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(pages: Mapping[str, Handler], authority: Authority) -> AsyncIterator[CertificateServer]:
    """A server whose certificate is for HOST and loopback, issued by `authority`."""
    async with CertificateServer(authority.sign(HOST, dns=(HOST, "localhost")), pages) as server:
        yield server


def server_context(signed: Signed) -> ssl.SSLContext:
    """The server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # ssl loads a key from files only
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_bytes(signed.certificate)
        key.write_bytes(signed.key)
        context.load_cert_chain(certificate, key)
    return context


# --- what it may do


def page(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Handler:
    """A whole answer."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, {"Content-Length": str(len(body)), **(headers or {})}) + body)

    return answer


def raw(*pieces: bytes) -> Handler:
    """These bytes and no others, then the end of the connection."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


def redirect(to: str, status: int = 302) -> Handler:
    """To another place."""
    return page(b"", status, {"Location": to})


def after(event: asyncio.Event, then: Handler) -> Handler:
    """Says nothing until the event is set."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await event.wait()
        await then(writer)

    return answer


async def silence(writer: asyncio.StreamWriter) -> None:
    """Never says anything."""
    await asyncio.Event().wait()


def endless(start: bytes, piece: bytes) -> Handler:
    """Never ends, as fast as it is read."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(piece)
            await writer.drain()

    return answer


def gzip_bomb(size: int = 64 << 20) -> Handler:
    """Some kilobytes that unpack to `size` bytes."""
    return page(gzip.compress(bytes(size), compresslevel=9), headers={"Content-Encoding": "gzip"})


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and headers of an answer."""
    rows = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\n{rows}\r\n".encode("latin-1")
