"""Waiting for what another task, thread or process is about to do, with an end to the patience."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Final

# Short beside a test, long beside one turn of the event loop.
POLL_SECONDS: Final = 0.002


async def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Return as soon as `condition()` holds; AssertionError that names it when `timeout` seconds have gone by."""
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
