"""Records as agents send them, and an archive with a store, for tests."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.ops.log import LineWriter, Log
from agent.records.record import rfc3339
from agent.records.segment import Kind
from controller.archive.archive import Archive
from controller.archive.query import Query
from controller.archive.rows import Lines
from controller.archive.settings import ArchiveSettings
from controller.archive.tables import tables_of
from controller.model import Advance, ArchivedFile
from controller.store import Store, StoreSettings
from tests.controller.stores import WHEN, opened

EPOCH = 0x00AB_CDEF_0123_4567


def call(number: int = 1, when: float = WHEN, **changed: Any) -> dict[str, Any]:
    """A call as an agent records it."""
    return {
        "time": rfc3339(when),
        "call_id": f"{number}@192.0.2.1",
        "trunk": "peer",
        "customer": "",
        "upstream": "carrier",
        "source": "192.0.2.1",
        "calling": "12015550123",
        "called": "13035550199",
        "from_uri": "sip:+12015550123@example.com",
        "asserted": ["sip:+12015550123@example.com"],
        "identity": [{"sha256": "ab" * 32, "attestation": "A"}],
        "verification": None,
        "action": "allow",
        "rule": "",
        "category": "none",
        "why": "no rule objects",
        "answer": "",
        "shadow": [],
        "notes": [],
        "policy_generation": 3,
        "lists": ["industry 7"],
        "observed": False,
        **changed,
    }


def rollup(when: float = WHEN, **changed: Any) -> dict[str, Any]:
    """What an agent counted in ten seconds."""
    return {
        "time": rfc3339(when),
        "seconds": 10.0,
        "attempts": 33,
        "repeats": 1,
        "not_decided": 0,
        "trunks": {"peer": {"allow": 31, "refuse": 2}},
        "rules": {"": {"allow": 31}, "provider-block": {"refuse": 2}},
        **changed,
    }


def text_of(values: Sequence[Any]) -> bytes:
    """One to a line, as agents write them."""
    return b"\n".join(json.dumps(v, separators=(",", ":"), ensure_ascii=False).encode() for v in values)


def lines(values: Sequence[Any], first: int = 1, agent: str = "a1", kind: Kind = Kind.ALLOWED) -> Lines:
    """Of one spool."""
    return Lines(agent, EPOCH, first, kind, len(values), text_of(values))


def raw(text: bytes, count: int, first: int = 1, agent: str = "a1") -> Lines:
    """Whatever these bytes are."""
    return Lines(agent, EPOCH, first, Kind.ALLOWED, count, text)


def quiet_log() -> Log:
    """Lines that nobody reads."""
    return Log(LineWriter(os.open(os.devnull, os.O_WRONLY)))


@dataclass
class Kept:
    """An archive and its store. `now` is the time on its clock."""

    archive: Archive
    store: Store
    now: float = WHEN

    async def put(self, *parts: Lines, when: float = WHEN) -> list[ArchivedFile]:
        """Write and commit, past ingest."""
        files = await self.archive.write(lambda: tables_of(parts, when), when)
        moves: dict[str, Advance] = {}
        for part in parts:
            known = await self.store.records.watermark(part.agent, part.epoch)
            through = max(moves[part.agent].through if part.agent in moves else 0, part.first + part.count - 1)
            moves[part.agent] = Advance(part.agent, part.epoch, known.committed_through, through, part.count)
        await self.store.records.commit(files, list(moves.values()), [], when)
        return files

    async def ask(self, **asked: Any) -> list[dict[str, Any]]:
        """The answer as values."""
        return [json.loads(line) async for page in self.archive.query(Query(**asked)) for line in page]


@asynccontextmanager
async def kept(folder: Path, settings: StoreSettings | None = None, **changed: Any) -> AsyncIterator[Kept]:
    """One that is open for a while."""
    values: dict[str, Any] = {"directory": folder / "archive", "compact_seconds": 3600.0, "min_free_ratio": 0.0}
    async with opened(settings or StoreSettings(folder / "state.db")) as store:
        made = Kept(None, store)  # type: ignore[arg-type]
        made.archive = Archive(ArchiveSettings(**(values | changed)), store, "c1", quiet_log(), lambda: made.now)
        await made.archive.start()
        try:
            yield made
        finally:
            await made.archive.stop(5.0)
