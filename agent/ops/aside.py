"""Work that would take the interpreter away from calls, in a process of its own: low priority, bounded, ended in time.

Knows processes and pipes. What is run is `main` of one of our modules.
"""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import agent

CHUNK: Final = 1 << 16

_ROOT: Final = str(Path(agent.__file__).parents[1])

# Started the same way from an installed package and from a source tree: with the modules that we have.
_BOOT: Final = """\
import importlib, json, os, sys
os.nice(10)
sys.path[:] = json.loads(sys.argv[1])
sys.exit(importlib.import_module(sys.argv[2]).main(sys.argv[3:]))
"""


async def run_aside(
    module: str, arguments: Sequence[str], seconds: float, most: int, given: bytes = b""
) -> tuple[bytes, bytes]:
    """What the process says on stdout and stderr, `given` being its stdin. It is gone when this returns or raises.

    Raises TimeoutError after so many seconds, and LookupError when it says more than `most` bytes.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-IBS", "-c", _BOOT, json.dumps([_ROOT, *sys.path]), module, *arguments),
        stdin=PIPE if given else DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(seconds):
            said = await asyncio.gather(
                _all_of(process.stdout, process, most), _all_of(process.stderr, process, most), _give(process, given)
            )
    finally:
        _kill(process)
        for stream in (process.stdout, process.stderr):
            while await stream.read(CHUNK):  # until its end, or the pipe stays open
                pass
        await process.wait()
    if max(len(said[0]), len(said[1])) > most:
        raise LookupError(f"more than {most} bytes")
    return said[0], said[1]


async def _give(process: Process, data: bytes) -> None:
    if process.stdin is None:
        return
    with contextlib.suppress(ConnectionError):  # it ended without reading: its stderr says why
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _all_of(stream: asyncio.StreamReader, process: Process, most: int) -> bytes:
    """What comes until its end. When it is too much, the process is ended."""
    pieces = bytearray()
    while len(pieces) <= most and (piece := await stream.read(CHUNK)):
        pieces += piece
    if len(pieces) > most:
        _kill(process)
    return bytes(pieces)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
