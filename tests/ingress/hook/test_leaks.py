"""Clients that come and go leave nothing behind: no task, no stream, no memory that grows with their number."""

import asyncio
import ctypes
import gc
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from grpc import aio

from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc as pb_grpc
from tests.fakes.calls import invite
from tests.fakes.waiting import until
from tests.ingress.hook.hooks import PATIENCE, Hook, a_client, a_hook, batch, request, responses_to

RAW = invite()
ROUND = 500
AT_ONCE = 50
MANY = 1000
# Steps of growing tables; the smallest object that could stay is as large.
NATIVE_BYTES_PER_STREAM = 50
ROOT = Path(__file__).parents[3]


async def come_and_go(client: Any, how: str) -> None:
    """One stream that its client cancels: at once, with requests on their way, or between two of them."""
    if how == "events":
        call = client.ReportEvents(timeout=PATIENCE)
        await call.write(pb.ReportEventsRequest(events=[pb.CallEvent()] * 3))
        call.cancel()
        return
    stream = client.ScreenStream(timeout=PATIENCE)
    await stream.write(batch([request(RAW)] * 3))
    if how == "quiet":
        await responses_to(stream, 3)
    stream.cancel()


async def rounds(hook: Hook, client: Any, how: str, count: int) -> None:
    for _ in range(count // AT_ONCE):
        await asyncio.gather(*(come_and_go(client, how) for _ in range(AT_ONCE)), return_exceptions=True)
    await until(lambda: hook.server.health()[1].endswith("; 0 calls in flight, 0 of them streams"))
    hook.records.decisions.clear()


@pytest.mark.parametrize("how", ["quiet", "busy", "events"])
def test_cancelled_streams_leave_no_task_and_no_python_memory(tmp_path: Path, how: str) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            await rounds(hook, client, how, ROUND)
            tasks = len(asyncio.all_tasks())
            tracemalloc.start()
            try:
                await rounds(hook, client, how, ROUND)
                before = python_bytes()
                await rounds(hook, client, how, 2 * ROUND)
                await until(lambda: len(asyncio.all_tasks()) <= tasks + 20)  # gRPC has some of its own
                # Tables grow in steps, but a stream that stays is a kilobyte; those on their way out are waited for.
                await until(lambda: python_bytes() - before < 150 * 2 * ROUND)
            finally:
                tracemalloc.stop()

    asyncio.run(run())


def python_bytes() -> int:
    """Bytes in Python's objects since tracemalloc began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


class Mallinfo2(ctypes.Structure):
    """What malloc_info(3) counts; `uordblks` is what is handed out and not given back."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "kc",
        )
    )


def native_bytes() -> int:
    """Bytes that the C library has handed out in this process, and not got back."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("this C library does not tell what it has handed out")
    libc.mallinfo2.restype = Mallinfo2
    gc.collect()
    return int(libc.mallinfo2().uordblks)


def client_main(path: str, how: str, count: int) -> None:
    """The client in a process of its own, so that what it leaks is not counted."""

    async def run() -> None:
        async with aio.insecure_channel(f"unix:{path}") as channel:
            client = pb_grpc.ScreeningServiceStub(channel)
            for _ in range(count // AT_ONCE):
                await asyncio.gather(*(come_and_go(client, how) for _ in range(AT_ONCE)), return_exceptions=True)

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["quiet", "busy", "events"])
def test_cancelled_streams_leave_no_native_memory(tmp_path: Path, how: str) -> None:
    async def run() -> list[int]:
        async with a_hook(tmp_path) as hook:
            held = []
            call = f"client_main({str(hook.path)!r}, {how!r}, {MANY})"
            for _ in range(6):
                code = f"from tests.ingress.hook.test_leaks import client_main; {call}"
                process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT)
                assert await process.wait() == 0
                await until(lambda: hook.server.health()[1].endswith("; 0 calls in flight, 0 of them streams"))
                hook.records.decisions.clear()
                held.append(native_bytes())
            return held

    held = asyncio.run(run())
    # The median: a connection that is not quite gone yet, or one step of a growing table, is no leak.
    per_stream = median(after - before for before, after in pairwise(held[1:])) / MANY
    assert per_stream < NATIVE_BYTES_PER_STREAM, held
