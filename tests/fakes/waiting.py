"""Waiting for what another task, thread or process is about to do, with an end to the patience."""

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from typing import Final

# Short beside a test, long beside one turn of the event loop.
POLL_SECONDS: Final = 0.002

PATIENCE: Final = float(os.environ.get("SBC_EDGE_PATIENCE", "1"))
"""How many times as slow as ours a machine may be: one that is emulated is by twenty."""


async def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Return as soon as `condition()` holds; AssertionError that names it when `timeout` seconds have gone by,
    more on a machine that is slow."""
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for: {_words(condition)}")
        await asyncio.sleep(POLL_SECONDS)


def _words(condition: Callable[[], bool]) -> str:
    """The condition as it stands in the test."""
    try:
        lines = inspect.getsource(condition).split()
    except (OSError, TypeError):
        return repr(condition)
    return " ".join(lines)
