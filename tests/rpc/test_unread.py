"""What waits for clients who do not read is bounded over all their streams, and costs nobody else anything."""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from agent.http2 import frames
from agent.http2.errors import Code
from agent.http2.limits import Limits
from agent.rpc import server
from tests.fakes.waiting import until
from tests.rpc.world import PATIENCE, RawClient, World, a_raw_client, a_world, asked, request

MEGABYTE = 1 << 20
TURN = 4 * MEGABYTE
"""What a client of these tests can make us keep in one turn, beyond a bound."""


async def every_call_is_answered(world: World, until_set: asyncio.Event) -> int:
    """Ask and be answered until then; how often."""
    count = 0
    async with world.channel() as channel:
        say: Any = channel.unary_unary("/x/Say")
        while not until_set.is_set():
            assert await say(b"%d" % count, timeout=PATIENCE) == b"%d" % count
            count += 1
    return count


def echoed(numbers: Iterable[int], size: int) -> list[bytes]:
    """Streams that each say so many bytes, which come back."""
    return [
        asked(number, request(b"/x/Echo"), None, ended=False)[:-9]
        + b"".join(frames.frame(frames.Kind.DATA, 0, number, part) for part in parted(size))
        for number in numbers
    ]


def parted(size: int) -> list[bytes]:
    message = b"\0" + size.to_bytes(4, "big") + bytes(size)
    return [message[at : at + 50_000] for at in range(0, len(message), 50_000)]


def test_a_client_that_never_reads_its_streams_loses_its_connection_and_nobody_else_notices(tmp_path: Path) -> None:
    limits = Limits(unread_bytes=4 * MEGABYTE)

    async def run() -> None:
        # Without its probes of how fast the line is, gRPC keeps to windows of 64 kB.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        address = f"unix:{tmp_path}/s"
        async with a_world(tmp_path, limits) as world, aio.insecure_channel(address, options) as deaf:
            ended = asyncio.Event()
            other = asyncio.create_task(every_call_is_answered(world, ended))
            streams: list[Any] = [deaf.stream_stream("/x/Echo")() for _ in range(40)]
            writes = [asyncio.create_task(stream.write(bytes(400_000))) for stream in streams]
            heaviest = 0

            def cut() -> bool:
                nonlocal heaviest
                heaviest = max(heaviest, world.server.unread)
                return world.counts["unread"] == 1

            await until(cut, PATIENCE)
            await asyncio.gather(*writes, return_exceptions=True)
            for stream in streams:
                assert await stream.code() is not StatusCode.OK
            await until(lambda: all(echo.is_over for echo in world.echoes), PATIENCE)
            ended.set()
            assert await other > 0
            await until(lambda: world.server.unread == 0, PATIENCE)
            assert heaviest < limits.unread_bytes + TURN
            assert (world.counts["unread"], world.faults) == (1, [])

    asyncio.run(run())


def test_of_all_who_do_not_read_the_one_for_whom_most_waits_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_BYTES", 8 * MEGABYTE)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(a_world(tmp_path))
            some, most, last = [await stack.enter_async_context(a_raw_client(world.path)) for _ in range(3)]
            await made_to_wait(world, some, 3, 900_000)
            await made_to_wait(world, most, 5, 900_000)
            assert world.counts["unread"] == 0
            last.say(*echoed((1, 3, 5), 900_000))
            assert await most.closed() is not None
            assert world.counts["unread"] == 1
            for client, count in ((some, 3), (last, 3)):
                await reads_all(client, count, 900_005)
            await until(lambda: world.server.unread == 0, PATIENCE)
            assert (world.counts["unread"], world.server.connections) == (1, 2)

    asyncio.run(run())


async def made_to_wait(world: World, client: RawClient, count: int, size: int) -> None:
    before = world.server.unread
    client.say(*echoed(range(1, 2 * count, 2), size))
    # The rest of it is on its way: in windows and in the buffers of the kernel.
    await until(lambda: world.server.unread >= before + count * (size - 66_000) - 500_000, PATIENCE)


async def reads_all(client: RawClient, count: int, size: int) -> None:
    """Widen each stream, and take all that comes."""
    client.say(*(frames.window_update(number, size) for number in range(1, 2 * count, 2)))
    left = count * size
    while left:
        frame = await client.next()
        assert frame is not None, f"closed, {left} bytes before the end"
        left -= len(frame[3]) if frame[0] == frames.Kind.DATA else 0


def test_what_a_client_takes_or_cancels_is_not_counted_any_more(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_world(tmp_path) as world, a_raw_client(world.path) as client:
            await made_to_wait(world, client, 4, 500_000)
            client.say(frames.rst_stream(7, Code.CANCEL), frames.rst_stream(5, Code.CANCEL))
            left = 2 * (500_005 - 65_535)
            await until(lambda: world.server.unread <= left, PATIENCE)
            client.say(frames.window_update(1, MEGABYTE), frames.window_update(3, MEGABYTE))
            got = 0
            while got < 2 * 500_005:
                frame = await client.next()
                assert frame is not None
                got += len(frame[3]) if frame[0] == frames.Kind.DATA and frame[2] in (1, 3) else 0
            client.say(frames.frame(frames.Kind.PING, 0, 0, bytes(8)))
            await until(lambda: world.server.unread == 0, PATIENCE)

    asyncio.run(run())
