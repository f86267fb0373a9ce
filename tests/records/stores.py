"""Stores of spools with small bounds, and a look at what is in them."""

import os
from pathlib import Path

from agent.records.reading import records
from agent.records.settings import SpoolSettings
from agent.records.spool_store import Group, SpoolStore

WHEN = 1_800_000_000.0
SMALL = 4096


def settings(directory: Path, **changed: float) -> SpoolSettings:
    values: dict[str, float] = {"segment_bytes": SMALL, "max_bytes": 1 << 20, "min_free_ratio": 0.0, **changed}
    return SpoolSettings(directory, **values)  # type: ignore[arg-type]


def opened(directory: Path, now: float = 0.0, when: float = WHEN, **changed: float) -> SpoolStore:
    store = SpoolStore(settings(directory, **changed))
    store.open(now, when)
    return store


def call_ids(directory: Path) -> list[str]:
    return [record["call_id"] for record in records(directory)]


def sequences(directory: Path) -> list[int]:
    return [record["sequence"] for record in records(directory)]


def ranges(store: SpoolStore) -> list[tuple[int, int, str, int, str]]:
    return [(r.first, r.last, r.kind, r.count, r.reason) for r in store.manifest.dropped]


def filled(store: SpoolStore, words: str, now: float = 0.0, *, allowed: bool = True) -> None:
    """One segment of incompressible records for each letter."""
    for word in words:
        noise = [b'{"call_id":"%c","noise":"%s"}' % (ord(word), os.urandom(SMALL).hex().encode())]
        store.write(Group(allowed=noise) if allowed else Group(refused=noise), now, WHEN)
