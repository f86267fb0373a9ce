"""Clients that are slow, many, loud or broken: each has an end, and others are served meanwhile."""

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.certificates import Authority
from tests.fakes.waiting import until
from tests.stir.api.apis import (
    PATIENCE,
    TOKEN,
    Judge,
    Running,
    as_bytes,
    error_of,
    pem_files,
    request_of,
    serve,
    token_file,
    verification,
)

VERIFY = "/stir/v1/verification"
HASTY: dict[str, Any] = {"request_seconds": 0.3, "answer_seconds": 0.3}


@asynccontextmanager
async def connected(api: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*api.server.address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def is_served(api: Running) -> bool:
    """Whether somebody else is."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with api.client() as client:
        return (await client.post(VERIFY, json=verification(), headers=headers)).status_code == 200


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, or is reset."""
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"POST /stir/v1/verification HTTP/1.1\r\nHost: x\r\n",
        request_of(b"x" * 50)[:-20],
    ],
    ids=["nothing", "half-a-head", "half-a-body"],
)
def test_a_request_that_does_not_come_to_an_end_is_cut_off(start: bytes) -> None:
    async def use(api: Running) -> None:
        async with connected(api) as (reader, writer):
            writer.write(start)
            assert await end_of(reader) == b""
        await until(lambda: api.count("cut_slow") == 1)
        assert await is_served(api)

    serve(use, **HASTY)


def test_bytes_that_trickle_in_do_not_buy_time() -> None:
    async def use(api: Running) -> None:
        async with connected(api) as (reader, writer):

            async def trickle() -> None:
                for byte in request_of(as_bytes(verification())):
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.01)

            slow = asyncio.create_task(trickle())
            assert await end_of(reader) == b""
            slow.cancel()
        await until(lambda: api.count("cut_slow") == 1)
        assert not api.judge.asked

    serve(use, **HASTY)


def test_asking_in_vain_does_not_buy_time(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        async with connected(api) as (reader, writer):

            async def ask() -> None:
                while True:
                    writer.write(request_of(b"{}", extra=""))
                    await asyncio.sleep(0.01)

            asking = asyncio.create_task(ask())
            answers = await end_of(reader)
            asking.cancel()
        assert answers.count(b"HTTP/1.1 401") > 1
        assert await is_served(api)

    serve(use, token_file=token_file(tmp_path), **HASTY)


def test_a_silent_connection_is_closed_in_order() -> None:
    async def use(api: Running) -> None:
        async with connected(api) as (reader, writer):
            writer.write(request_of(as_bytes(verification()), extra=""))
            assert (await end_of(reader)).startswith(b"HTTP/1.1 200 OK")
        await until(lambda: api.count("cut_idle") == 1)

    serve(use, idle_seconds=0.1)


def test_who_does_not_read_his_answers_is_cut_off() -> None:
    async def use(api: Running) -> None:
        loop = asyncio.get_running_loop()
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, api.server.address)
        with deaf, contextlib.suppress(ConnectionError):
            while not api.count("cut_slow"):
                asking = loop.sock_sendall(deaf, request_of(as_bytes(verification()), extra="") * 20)
                await asyncio.wait_for(asking, PATIENCE)
        assert api.count("cut_slow") == 1
        assert await is_served(api)
        await until(lambda: "0 connections" in api.server.health()[1])

    serve(use, **HASTY)


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\r\n",
        b"POST  HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nbad header: x\0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000,
    ],
)
def test_what_is_not_http_is_told_so_and_the_connection_ends(garbage: bytes) -> None:
    async def use(api: Running) -> None:
        answer = await api.raw(garbage)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b'"variables":["not HTTP"]' in answer
        await until(lambda: api.count("cut_unreadable") == 1)
        assert await is_served(api)

    serve(use)


def test_garbage_amid_a_body_ends_the_connection() -> None:
    async def use(api: Running) -> None:
        head = request_of(b"", extra="Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
        answer = await api.raw(head + b"zz\r\ngarbage")
        assert answer.startswith((b"HTTP/1.1 411", b"HTTP/1.1 400", b""))
        await until(lambda: "0 connections" in api.server.health()[1])
        assert await is_served(api)
        assert not api.faults

    serve(use)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200) | st.sampled_from([b"\r\n", b"POST ", VERIFY.encode(), b" HTTP/1.1"])))
def test_no_bytes_harm_the_server(pieces: list[bytes]) -> None:
    async def use(api: Running) -> None:
        await api.raw(b"".join(pieces) + b"\r\n\r\n\0\r\n\r\n")
        assert await is_served(api)
        assert not api.faults

    serve(use, **HASTY)


def test_ten_megabytes_are_refused_and_not_kept(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        before = _resident()
        async with api.client() as client:
            response = await client.post(
                VERIFY, headers={"Content-Type": "application/json"}, content=bytes(10_000_000)
            )
        assert error_of(response) == (413, "SVC4006", ["longer than 65536 bytes"])
        assert _resident() - before < 12_000_000 + 4_000_000  # the client's own copy, and some
        assert not api.judge.asked

    serve(use)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_stream_without_end_has_one() -> None:
    async def use(api: Running) -> None:
        async with connected(api) as (reader, writer):
            writer.write(request_of(b"", extra="").replace(b"Content-Length: 0", b"Content-Length: 99999999999"))
            sent = 0
            try:
                while sent < 200_000_000:
                    writer.write(bytes(1 << 16))
                    await writer.drain()
                    sent += 1 << 16
            except ConnectionError:
                pass
            assert sent < 100_000_000
            del reader
        await until(lambda: api.count("cut_large") == 1)
        assert await is_served(api)

    serve(use)


@pytest.mark.parametrize(
    "headers",
    [{f"X-{n}": "x" for n in range(100)}, {"X-Large": "x" * 20_000}],
    ids=["many", "large"],
)
def test_headers_are_bounded_also_where_they_come_at_once(headers: dict[str, str]) -> None:
    async def use(api: Running) -> None:
        async with api.client() as client:
            response = await client.post(VERIFY, json=verification(), headers=headers)
        assert response.status_code in (400, 431)
        assert not api.judge.asked

    serve(use)


def test_who_leaves_before_his_answer_is_counted() -> None:
    async def use(api: Running) -> None:
        async with connected(api) as (_, writer):
            writer.write(request_of(as_bytes(verification()))[:-5])
            await until(lambda: api.count("requests") == 1)
        await until(lambda: api.count("gone") == 1)
        assert not api.faults

    serve(use)


def test_strangers_make_room_for_one_more(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        silent = [await asyncio.open_connection(*api.server.address) for _ in range(4)]
        await until(lambda: api.count("connections") == 4)
        assert await is_served(api)
        assert api.count("cut_room") == 1
        assert await end_of(silent[0][0]) == b""  # the oldest
        for _, writer in silent:
            writer.transport.abort()

    serve(use, token_file=token_file(tmp_path), max_connections=4)


def test_clients_do_not_make_room_for_a_stranger(tmp_path: Path) -> None:
    async def use(api: Running) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with api.client(headers=headers) as first, api.client(headers=headers) as second:
            for client in (first, second):
                assert (await client.post(VERIFY, json=verification())).status_code == 200
            async with connected(api) as (reader, _):
                assert await end_of(reader) == b""
            for client in (first, second):
                assert (await client.post(VERIFY, json=verification())).status_code == 200
        assert api.count("refused_connections") == 1
        assert api.count("connections") == 2

    serve(use, token_file=token_file(tmp_path), max_connections=2)


def test_many_at_once_are_all_answered() -> None:
    async def use(api: Running) -> None:
        limits = httpx.Limits(max_connections=100)
        async with api.client(limits=limits) as client:
            responses = await asyncio.gather(*(client.post(VERIFY, json=verification()) for _ in range(300)))
        assert {response.status_code for response in responses} == {200}
        assert api.count("passed") == 300

    serve(use, Judge(), max_connections=100)


def test_a_flood_of_half_open_tls_does_not_keep_clients_out(tmp_path: Path) -> None:
    authority = Authority()

    async def use(api: Running) -> None:
        silent = [await asyncio.open_connection(*api.server.address) for _ in range(100)]
        await until(lambda: api.count("connections") == 100)
        context = httpx.create_ssl_context()
        context.load_verify_locations(cadata=authority.certificate.decode())
        async with api.client(verify=context) as client:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert (await client.post(VERIFY, json=verification(), headers=headers)).status_code == 200
        for _, writer in silent:
            writer.transport.abort()

    files = pem_files(tmp_path, authority.sign("api.example.net"))
    serve(use, token_file=token_file(tmp_path), max_connections=16, **files)
