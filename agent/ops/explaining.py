"""Finds the records of one call for whoever asks the running agent. Knows how to ask `sbc-agent explain`, and bounds.

A look-up reads the whole spool, gigabytes of it, and would take the interpreter away from calls: so it is done by a
process of its own, with low priority, one at a time, and ended when nobody waits any more.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.ops.aside import run_aside

SECONDS_MAX: Final = 60.0
"""A full spool of 2 GiB is read in about that."""

BYTES_MAX: Final = 16 << 20
"""Of JSON: some ten thousand records. A caller may use one Call-ID as often as he likes."""


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
        arguments = ("explain", "--json", "--dir", str(self._directory), "--", call_id)
        try:
            return await run_aside("agent.cli.main", arguments, SECONDS_MAX, BYTES_MAX)
        except TimeoutError:
            raise LookupError(f"not found within {SECONDS_MAX:g} s") from None
        except LookupError:
            raise LookupError("there are too many records of this call; see `sbc-agent records`") from None
