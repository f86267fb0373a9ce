"""Clients that come and go leave nothing behind: no task, no stream, no memory that grows with their number."""

import asyncio
import ctypes
import gc
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.calls import invite
from tests.fakes.waiting import until
from tests.ingress.hook.hooks import PATIENCE, Hook, a_client, a_hook, batch, request, responses_to

RAW = invite()
ROUND = 500
AT_ONCE = 50


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


@pytest.mark.parametrize("how", ["quiet", "busy", "events"])
def test_cancelled_streams_leave_no_task_and_no_python_memory(tmp_path: Path, how: str) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            await rounds(hook, client, how, ROUND)
            tasks = len(asyncio.all_tasks())
            gc.collect()
            tracemalloc.start()
            try:
                await rounds(hook, client, how, ROUND)
                gc.collect()
                before, _ = tracemalloc.get_traced_memory()
                await rounds(hook, client, how, 2 * ROUND)
                gc.collect()
                await until(lambda: len(asyncio.all_tasks()) <= tasks)
                after, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert after - before < 40 * 2 * ROUND, "bytes: less than any object per stream"

    asyncio.run(run())


class Mallinfo2(ctypes.Structure):
    _fields_ = [
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
    ]


def native_bytes() -> int:
    """What the C library has handed out and not got back."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo2
    return int(libc.mallinfo2().uordblks)
