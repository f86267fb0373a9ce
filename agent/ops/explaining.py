"""Finds the records of one call for whoever asks the running agent. Knows how to ask `sbc-agent explain`, and bounds.

A look-up reads the whole spool, gigabytes of it, and would take the interpreter away from calls: so it is done by a
process of its own, with low priority, one at a time, and ended when nobody waits any more.
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

SECONDS_MAX: Final = 60.0
"""A full spool of 2 GiB is read in about that."""

BYTES_MAX: Final = 16 << 20
"""Of JSON: some ten thousand records. A caller may use one Call-ID as often as he likes."""

CHUNK: Final = 1 << 16

_ROOT: Final = str(Path(agent.__file__).parents[1])

# Started the same way from an installed package and from a source tree: with the modules that we have.
_BOOT: Final = """\
import json, os, sys
os.nice(10)
sys.path[:] = json.loads(sys.argv[1])
from agent.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


class Finder:
    """Looks in the spool at `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._busy = False

    async def find(self, call_id: str) -> Sequence[str]:
        """The records of this Call-ID as JSON objects, oldest first. Raises LookupError, saying why it did not look."""
        if self._busy:
            raise LookupError("another call is being looked up; ask again")
        if "\0" in call_id:
            return ()  # a header cannot hold it, nor can the argument of a process
        self._busy = True
        try:
            text, complaints = await self._ask(call_id)
        finally:
            self._busy = False
        try:
            return [json.dumps(record, ensure_ascii=False) for record in json.loads(text)]
        except ValueError:
            raise LookupError(complaints.decode(errors="replace").strip()[-300:] or "the look-up ended early") from None

    async def _ask(self, call_id: str) -> tuple[bytes, bytes]:
        """What the process says on stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-IBS", "-c", _BOOT, json.dumps([_ROOT, *sys.path])),
            *("explain", "--json", "--dir", str(self._directory), "--", call_id),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(SECONDS_MAX):
                said = await asyncio.gather(_all_of(process.stdout, process), _all_of(process.stderr, process))
        except TimeoutError:
            raise LookupError(f"not found within {SECONDS_MAX:g} s") from None
        finally:
            _kill(process)
            for stream in (process.stdout, process.stderr):
                while await stream.read(CHUNK):  # until its end, or the pipe stays open
                    pass
            await process.wait()
        if max(map(len, said)) > BYTES_MAX:
            raise LookupError("there are too many records of this call; see `sbc-agent records`")
        return said[0], said[1]


async def _all_of(stream: asyncio.StreamReader, process: Process) -> bytes:
    """What comes until its end. When it is too much, the process is ended."""
    pieces = bytearray()
    while len(pieces) <= BYTES_MAX and (piece := await stream.read(CHUNK)):
        pieces += piece
    if len(pieces) > BYTES_MAX:
        _kill(process)
    return bytes(pieces)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
