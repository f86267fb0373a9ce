"""The metrics page over real connections: what is answered, and what those get who play games."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from agent.ops import metrics_server
from agent.ops.metrics_server import CONNECTIONS_MAX, REQUEST_MAX, MetricsServer
from tests.fakes.waiting import until

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Lines:
    """A page that counts how often it was made."""

    made = 0

    def __iter__(self) -> Iterator[bytes]:
        self.made += 1
        yield b"one 1\n"
        yield b"two 2\n"


def serve(use: Callable[[MetricsServer], Awaitable[None]], host: str = "127.0.0.1") -> None:
    """Run `use` with a server that listens."""

    async def main() -> None:
        server = MetricsServer(host, 0, Lines())
        assert not server.health()[0]
        await server.start()
        try:
            await use(server)
        finally:
            await server.stop(1.0)

    asyncio.run(main())


async def ask(server: MetricsServer, request: bytes) -> bytes:
    """Everything that is answered until the connection is closed."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 5.0)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_page_is_served_whole(host: str) -> None:
    async def use(server: MetricsServer) -> None:
        answer = await ask(server, GET)
        head, body = answer.split(b"\r\n\r\n")
        assert head.split(b"\r\n")[0] == b"HTTP/1.1 200 OK"
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
        assert b"Content-Length: 12" in head
        assert body == b"one 1\ntwo 2\n"
        assert server.counters()["metrics_scrapes"] == 1
        port = server.address[1]
        assert server.health() == (True, f"http://{'[::1]' if ':' in host else host}:{port}/metrics")

    serve(use, host)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /metrics\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400 Bad Request"),
        (b"INVITE sip:x SIP/2.0\r\n\r\n", b"400 Bad Request"),
    ],
)
def test_what_is_no_scrape_gets_its_answer(request_: bytes, status: bytes) -> None:
    async def use(server: MetricsServer) -> None:
        assert (await ask(server, request_)).startswith(b"HTTP/1.1 " + status + b"\r\n")

    serve(use)


def test_head_has_no_body() -> None:
    async def use(server: MetricsServer) -> None:
        assert (await ask(server, b"HEAD /metrics HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")

    serve(use)


def test_a_request_without_end_is_cut_off() -> None:
    async def use(server: MetricsServer) -> None:
        assert await ask(server, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 3 * REQUEST_MAX) == b""
        assert server.counters()["metrics_broken_requests"] == 1

    serve(use)


def test_who_says_nothing_loses_his_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "PATIENCE_SECONDS", 0.05)

    async def use(server: MetricsServer) -> None:
        silent = [await asyncio.open_connection(*server.address) for _ in range(3)]
        await until(lambda: server.counters()["metrics_broken_requests"] == 3)
        assert (await ask(server, GET)).endswith(b"two 2\n")
        for _, writer in silent:
            writer.close()

    serve(use)


def test_who_comes_when_all_places_are_taken_is_turned_away_and_counted() -> None:
    async def use(server: MetricsServer) -> None:
        silent = [await asyncio.open_connection(*server.address) for _ in range(CONNECTIONS_MAX + 4)]
        await until(lambda: server.counters()["metrics_turned_away"] == 4)
        assert await ask(server, GET) == b""
        for _, writer in silent:
            writer.close()
        await until(lambda: server.counters()["metrics_broken_requests"] >= CONNECTIONS_MAX)
        assert (await ask(server, GET)).endswith(b"two 2\n")

    serve(use)


def test_a_scraper_that_goes_away_breaks_nothing() -> None:
    async def use(server: MetricsServer) -> None:
        _, writer = await asyncio.open_connection(*server.address)
        writer.write(GET[:10])
        writer.transport.abort()
        await until(lambda: server.counters()["metrics_broken_requests"] == 1)
        assert (await ask(server, GET)).endswith(b"two 2\n")

    serve(use)


def test_nobody_is_answered_after_the_stop() -> None:
    async def use(server: MetricsServer) -> None:
        address = server.address
        await server.stop(0.0)
        assert not server.health()[0]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    serve(use)
