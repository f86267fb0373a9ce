"""Calls of gRPC's own client, and of one that says any frames, over a real socket."""

import asyncio
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio

from agent.http2 import frames
from agent.http2.errors import Code
from agent.http2.frames import END_STREAM, Kind
from agent.http2.limits import Limits
from agent.rpc import link
from agent.rpc.call import Call
from tests.fakes.waiting import until
from tests.rpc.world import PATIENCE, World, a_raw_client, a_world, asked, request


def say(channel: Any, **options: Any) -> Any:
    return lambda data, **more: channel.unary_unary("/x/Say")(data, timeout=PATIENCE, **options, **more)


def test_messages_of_every_size_go_there_and_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, world.channel() as channel:
            for size in (0, 1, 100, 16_383, 65_536, (1 << 20) - 1, 1 << 20):
                data = bytes(range(256)) * (size // 256) + bytes(size % 256)
                assert await say(channel)(data) == data
            stream: Any = channel.stream_stream("/x/Echo")(timeout=PATIENCE)
            for size in (5, 300_000, 0, 1 << 20):
                await stream.write(bytes(size))
                assert await stream.read() == bytes(size)
            await stream.done_writing()
            assert await stream.code() is StatusCode.OK

    asyncio.run(run())


@pytest.mark.parametrize("packing", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_client_may_pack_what_he_says(tmp_path: Path, packing: grpc.Compression) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, world.channel(compression=packing) as channel:
            assert await say(channel)(b"a" * 100_000) == b"a" * 100_000
            assert world.calls[0].request.encoding in (b"gzip", b"deflate")

    asyncio.run(run())


def test_what_cannot_be_unpacked_is_unimplemented_and_says_what_can(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client:
            client.say(asked(1, request(b"/x/Say", (b"grpc-encoding", b"zstd"))))
            headers = await client.ended(1)
            assert headers[b"grpc-status"] == b"12"
            assert headers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"
            assert headers[b":status"] == b"200"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (request(b"/x/Nothing"), {b":status": b"200", b"grpc-status": b"12"}),
        (request(method=b"GET"), {b":status": b"405"}),
        (request(content_type=b"text/plain"), {b":status": b"415"}),
        (request(b"/x/Say", (b"grpc-timeout", b"soon")), {b":status": b"200", b"grpc-status": b"13"}),
    ],
)
def test_what_is_no_call_is_told_so(
    tmp_path: Path, headers: list[tuple[bytes, bytes]], expected: dict[bytes, bytes]
) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client:
            client.say(asked(1, headers))
            ended = await client.ended(1)
            assert {name: ended.get(name) for name in expected} == expected
            client.say(asked(3, request(), b"x"))
            assert (await client.until(Kind.DATA, 3))[5:] == b"x", "the connection is as good as before"

    asyncio.run(run())


def test_a_malformed_request_ends_its_stream_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client:
            client.say(asked(1, request(b"/x/Say", (b"connection", b"close"))), asked(3, request(), b"x"))
            assert frames.word_of(await client.until(Kind.RST_STREAM, 1)) == Code.PROTOCOL_ERROR
            assert (await client.until(Kind.DATA, 3))[5:] == b"x"

    asyncio.run(run())


def test_one_message_is_one_message(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client:
            client.say(asked(1, request(), None))
            assert (await client.ended(1))[b"grpc-status"] == b"12"
            client.say(asked(3, request(), b"x", ended=False), frames.frame(Kind.DATA, END_STREAM, 3, bytes(5)))
            assert (await client.ended(3))[b"grpc-status"] == b"12"
            client.say(asked(5, request(), None, ended=False), frames.frame(Kind.DATA, END_STREAM, 5, bytes(3)))
            assert (await client.ended(5))[b"grpc-status"] == b"13", "a message that is not whole"

    asyncio.run(run())


def test_metadata_comes_with_its_binary_values(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, world.channel() as channel:
            await say(channel, metadata=(("key", "v"), ("x-bin", b"\0\xff")))(b"")
            assert {("key", b"v"), ("x-bin", b"\0\xff")} <= set(world.calls[0].request.metadata)

    asyncio.run(run())


def test_an_answer_that_is_waited_for_comes_and_ends_at_the_deadline_at_the_latest(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client, world.channel() as channel:
            gate = asyncio.Event()
            cancelled: list[bytes] = []

            async def later(data: bytes) -> bytes:
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    cancelled.append(data)
                    raise
                return data

            world.answer = lambda _call, data: later(data)
            client.say(asked(1, request(b"/x/Say", (b"grpc-timeout", b"20m")), b"late"))
            assert (await client.ended(1))[b"grpc-status"] == b"4"
            patient = asyncio.create_task(_awaited(say(channel)(b"p")))
            await until(lambda: len(world.calls) == 2)
            gate.set()
            assert await patient == b"p"
            assert cancelled == [b"late"]

    asyncio.run(run())


async def _awaited(call: Any) -> Any:
    return await call


def test_who_cancels_is_waited_for_no_more(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, world.channel() as channel:
            cancelled = asyncio.Event()

            async def never() -> bytes:
                try:
                    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
                finally:
                    cancelled.set()

            world.answer = lambda _call, _data: never()
            call = say(channel)(b"")
            await until(lambda: len(world.calls) == 1)
            call.cancel()
            await asyncio.wait_for(cancelled.wait(), PATIENCE)
            assert world.calls[0].is_over

    asyncio.run(run())


def test_a_fault_of_ours_ends_its_call_and_no_other(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, world.channel() as channel:

            def broken(_call: Call, data: bytes) -> bytes:
                if data == b"break":
                    raise RuntimeError("a fault of ours")
                return data

            world.answer = broken
            with pytest.raises(aio.AioRpcError) as failed:
                await say(channel)(b"break")
            assert failed.value.code() is StatusCode.INTERNAL
            assert "of ours" not in (failed.value.details() or "")
            assert [str(fault) for fault in world.faults] == ["a fault of ours"]
            assert await say(channel)(b"x") == b"x"

    asyncio.run(run())


def test_messages_that_are_never_whole_are_bounded_over_all_streams(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path, Limits(held_bytes=200_000)) as world, a_raw_client(world.path) as client:
            part = b"\0\0\x0f\xff\xff" + bytes(60_000)
            for number in (1, 3, 5):
                client.say(asked(number, request(), None, ended=False)[:-9])
                client.say(frames.frame(Kind.DATA, 0, number, part))
            await until(lambda: world.server.held.held == 3 * len(part))
            client.say(asked(7, request(), None, ended=False)[:-9], frames.frame(Kind.DATA, 0, 7, part))
            assert (await client.ended(7))[b"grpc-status"] == b"8"
            client.say(frames.rst_stream(1, Code.CANCEL), asked(9, request(), b"x"))
            assert (await client.until(Kind.DATA, 9))[5:] == b"x"
            await until(lambda: world.server.held.held == 2 * len(part))
        assert world.server.held.held == 0

    asyncio.run(run())


def test_a_client_that_reads_nothing_costs_little_and_slows_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as deaf, world.channel() as channel:
            deaf.say(frames.settings({4: 2**31 - 1}))
            number, rounds = 1, 0
            while rounds < 200:
                deaf.say(asked(number, request(b"/x/Echo"), bytes(16_000), ended=False))
                deaf.say(frames.frame(Kind.PING, 0, 0, bytes(8)))
                number, rounds = number + 2, rounds + 1
                began = time.monotonic()
                assert await say(channel)(b"x") == b"x"
                assert time.monotonic() - began < 1.0
            (busy,) = [each for each in world.server._links if each._connection.streams]
            assert busy._transport is not None
            assert busy._transport.get_write_buffer_size() + busy._connection.out.bytes < 1 << 20
            assert sum(len(stream.waiting) for stream in busy._connection.streams.values()) < rounds * 17_000

    asyncio.run(run())


def test_a_client_that_says_nothing_is_asked_and_let_go(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client:
            client.say(asked(1, request(), b"x"))
            await client.ended(1)
            (served,) = world.server._links
            now = asyncio.get_running_loop().time()
            served.look_after(now + link.KEEPALIVE_SECONDS - 1)
            served.look_after(now + link.KEEPALIVE_SECONDS + 1)
            await client.until(Kind.PING)
            client.say(frames.frame(Kind.PING, 1, 0, bytes(8)))
            await until(lambda: served._connection.pings_answered == 1)
            served.look_after(now + link.KEEPALIVE_SECONDS + 2)
            served.look_after(now + link.KEEPALIVE_SECONDS + 3 + link.PONG_SECONDS)
            assert await client.closed() is not None
            await until(lambda: world.server.connections == 0)
            assert world.counts["silent"] == 1

    asyncio.run(run())


def test_who_never_greets_is_let_go_and_connections_are_bounded(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path, most=4) as world:
            silent = [await asyncio.open_unix_connection(world.path) for _ in range(6)]
            await until(lambda: world.counts["connections_refused"] == 2)
            assert world.server.connections == 4
            for each in tuple(world.server._links):
                each.look_after(asyncio.get_running_loop().time() + link.HANDSHAKE_SECONDS + 1)
            await until(lambda: world.server.connections == 0)
            assert world.counts["silent"] == 4
            for _, writer in silent:
                writer.close()

    asyncio.run(run())


def test_a_client_of_http_1_is_told_that_this_is_http_2(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path, greet=False) as client:
            client.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert [kind for kind, *_ in await client.closed()] == [Kind.SETTINGS, Kind.WINDOW_UPDATE, Kind.GOAWAY]
            assert world.counts["faults"] == 1

    asyncio.run(run())


def test_the_last_bytes_and_a_good_bye_go_out_before_the_end(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client:
            client.say(asked(1, request(), b"x"))
            await client.ended(1)
            await world.server.stop(1.0)
            assert [kind for kind, *_ in await client.closed()] == [Kind.GOAWAY]
            with pytest.raises(OSError, match="refused"):
                await asyncio.open_unix_connection(world.path)

    asyncio.run(run())


def h2load() -> str:
    program = shutil.which("h2load")
    if program is None:
        pytest.skip("h2load is not installed (Debian: nghttp2-client)")
    return program


def test_h2load_has_every_call_answered(tmp_path: Path) -> None:
    program = h2load()

    async def run() -> None:
        world = World(tmp_path)
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        world.server._listen(sock)
        (tmp_path / "body").write_bytes(b"\0\0\0\0\x05hello")
        try:
            command = [
                program, "-n", "20000", "-c", "10", "-m", "50", "-d", str(tmp_path / "body"),
                "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}/x/Say",
            ]  # fmt: skip
            result = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
            assert "20000 succeeded, 0 failed, 0 errored, 0 timeout" in result.stdout, result.stdout
            assert "status codes: 20000 2xx" in result.stdout
            assert len(world.calls) == 20_000
        finally:
            await world.server.stop(0.0)

    asyncio.run(run())


def test_a_fault_of_the_protocols_code_costs_its_connection_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client, world.channel() as channel:
            client.say(asked(1, request(), b"x"))
            await client.ended(1)
            (served,) = world.server._links

            def broken(_now: float) -> bool:
                raise RuntimeError("a fault of ours")

            monkeypatch.setattr(served._connection, "work", broken)
            client.say(asked(3, request(), b"x"))
            await client.closed()
            assert [str(fault) for fault in world.faults] == ["a fault of ours"]
            assert await say(channel)(b"x") == b"x"

    asyncio.run(run())
