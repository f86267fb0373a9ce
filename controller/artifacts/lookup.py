"""What the do-not-originate lists of now say of a number. Keeps the latest of each open; looks in threads."""

import asyncio
from typing import Final, NamedTuple

from agent.files import map_file
from agent.model import ConfigError, Number
from agent.numbers.dno import Assertion, DnoList
from agent.numbers.explain import as_uri
from agent.numbers.listfile import read_list, rfc3339
from agent.numbers.reading import read_number
from controller.artifacts.blobs import Blobs
from controller.artifacts.importing import read_blob
from controller.artifacts.kinds import DNO
from controller.errors import Invalid, StoreDamaged
from controller.model import Artifact
from controller.store import Store

NUMBER_MAX: Final = 256


class Found(NamedTuple):
    """`digits` as the number was read; `hits`: list name to why it is on it."""

    digits: str
    hits: dict[str, str]


class Lookup:
    """One for the process."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs
        self._open: dict[bytes, DnoList] = {}
        self._turn = asyncio.Lock()

    async def find(self, text: str, when: float) -> Found:
        """`when` is epoch seconds. Raises Invalid, StoreError."""
        if not text or len(text) > NUMBER_MAX:
            raise Invalid("number", f"must have 1 to {NUMBER_MAX} characters")
        number = read_number(as_uri(text), "1")
        if not number.digits:
            raise Invalid("number", "is no telephone number")
        latest = [a for a in await self._store.artifacts.all_latest() if a.key.kind == DNO]
        hits = {}
        for artifact in latest:
            hit = await self._hit(artifact, number, when)
            if hit is not None:
                hits[artifact.key.name] = _why(hit)
        self._open = {a.sha256: self._open[a.sha256] for a in latest if a.sha256 in self._open}
        return Found(number.digits, hits)

    async def _hit(self, artifact: Artifact, number: Number, when: float) -> Assertion | None:
        async with self._turn:
            dno = self._open.get(artifact.sha256) or await self._opened(artifact)
            self._open[artifact.sha256] = dno
        return dno.lookup(number, when)

    async def _opened(self, artifact: Artifact) -> DnoList:
        path = self._blobs.path(artifact.location)
        try:
            data = memoryview(await read_blob(self._blobs, artifact)) if path is None else map_file(path)
            return await asyncio.to_thread(read_list, data, artifact.key.name)
        except (ConfigError, OSError) as error:
            raise StoreDamaged(f"{artifact.key.name}: {error}; import it again") from None


def _why(hit: Assertion) -> str:
    """ "subscriber request, by Desk (registry), verified 2026-01-31T12:00:00Z, for good"."""
    verified = f", verified {rfc3339(hit.verified_at)}" if hit.verified_at is not None else ""
    until = f"until {rfc3339(hit.expires_at)}" if hit.expires_at is not None else "for good"
    return f"{hit.category.label}, by {hit.asserted_by} ({hit.source}){verified}, {until}"
