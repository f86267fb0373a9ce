"""How a list becomes a generation: taken in, checked as agents check it, kept, signed, brought to those who need it.

Knows kinds of lists, blobs, the store and the publisher. Nothing of a list that fails is kept. Checking a list and
making deltas run in threads; what comes in waits in an anonymous temporary file, never in memory.
"""

import asyncio
import errno
import hashlib
import mmap
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from agent.deltas import DeltaError, apply_delta, make_delta
from agent.identity.certificate import ANCHORS_BYTES_MAX, Certificate, CertificateError, read_anchors
from agent.model import ConfigError
from controller.artifacts.blobs import PIECE, Blobs
from controller.artifacts.kinds import check_order, examine, kind_of
from controller.artifacts.settings import ArtifactSettings
from controller.artifacts.signing import signing
from controller.authority.signer import ArtifactSigner
from controller.errors import Busy, Conflict, Invalid, NotFound, StoreError, StoreFull
from controller.fleet.publishing import Publisher
from controller.model import Act, Artifact, Delta, Policy
from controller.names import name_fault
from controller.store import Store
from controller.store.artifacts import ArtifactDraft

AT_ONCE: Final = 2
"""Imports at a time: each may hold 256 MiB of temporary files, and a processor for some seconds."""

BUSY_SECONDS: Final = 30.0

BASES: Final = 3
"""Generations back from which there is a delta: agents that were away longer fetch the whole."""

DELTA_BYTES_MAX: Final = 64 << 20
"""Of either version. Beyond this a delta takes minutes to make."""

PUBLISH_TRIES: Final = 3

DELTA_SUFFIX: Final = ".delta"

_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True, slots=True)
class Imported:
    """`unchanged`: these bytes were the latest generation already. `policy` brings it to agents; None: no need."""

    artifact: Artifact
    unchanged: bool = False
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class ListName:
    """What a list shall be known as, and when its operator says that it ends (epoch seconds)."""

    kind: str
    name: str
    not_after: float | None = None


class Importer:
    """One for the process. `clock` is epoch seconds."""

    def __init__(
        self,
        settings: ArtifactSettings,
        store: Store,
        blobs: Blobs,
        publisher: Publisher,
        signer: Callable[[], ArtifactSigner],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._publisher = publisher
        self._signer = signer
        self._signers: Sequence[Certificate] = ()
        self._clock = clock
        self._places = AT_ONCE
        self._turn = asyncio.Lock()  # from the look at the latest generation to the one that follows it

    async def open(self) -> None:
        """Read who may sign. Raises ConfigError."""
        if self._settings.signers is not None:
            self._signers = await asyncio.to_thread(_read_signers, self._settings.signers)

    async def take(self, wanted: ListName, chunks: AsyncIterator[bytes], act: Callable[..., Act]) -> Imported:
        """Make these bytes the next generation of a list. Raises Invalid, Conflict, Busy, StoreError."""
        kind = kind_of(wanted.kind)
        if fault := name_fault(wanted.name):
            raise Invalid("name", fault)
        if wanted.not_after is not None and wanted.not_after <= self._clock():
            raise Invalid("not_after", "is in the past")
        if not self._places:
            raise Busy(f"{AT_ONCE} lists are being imported already", BUSY_SECONDS)
        self._places -= 1
        try:
            with tempfile.TemporaryFile() as file:
                await self._receive(chunks, file, kind.bytes_max)
                return await self._import(wanted, file, act)
        finally:
            self._places += 1

    # --- steps

    async def _receive(self, chunks: AsyncIterator[bytes], file: IO[bytes], most: int) -> None:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise Invalid("data", f"is larger than {most >> 20} MiB")
            await _written(file, chunk)
        if not size:
            raise Invalid("data", "is empty")
        await _written(file, b"")

    async def _import(self, wanted: ListName, file: IO[bytes], act: Callable[..., Act]) -> Imported:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # as long as it is looked at
        now = self._clock()
        found = await asyncio.to_thread(examine, wanted.kind, data, self._signers, now)
        not_after = wanted.not_after or found.not_after
        if not_after is not None and not_after <= now:
            raise Invalid("data", "has expired: nothing on it holds any more")
        location, sha256, size = await self._blobs.put(_pieces(data))
        draft = ArtifactDraft(
            kind=wanted.kind,
            name=wanted.name,
            sha256=sha256,
            size=size,
            format_version=found.format_version,
            not_after=not_after,
            location=location,
            author=_author(act),
            counts=dict(found.counts),
        )
        async with self._turn:
            latest = await self._latest(wanted)
            if latest is not None:
                check_order(wanted.kind, wanted.name, found, latest.counts)
            unchanged = latest is not None and latest.sha256 == sha256 and latest.not_after == not_after
            artifact = latest if latest is not None and unchanged else await self._add(draft, act)
        if not unchanged:
            await self._make_deltas(artifact)
        return Imported(artifact, unchanged, await self.publish(act))

    async def _latest(self, wanted: ListName) -> Artifact | None:
        try:
            return await self._store.artifacts.latest(wanted.kind, wanted.name)
        except NotFound:
            return None

    async def _add(self, draft: ArtifactDraft, act: Callable[..., Act]) -> Artifact:
        done = act("list.import", size=draft.size)
        return await self._store.artifacts.add(draft, signing(draft, self._signer()), self._clock(), done)

    async def publish(self, act: Callable[..., Act]) -> Policy | None:
        """The policy in force with the latest lists, if that makes a difference. Raises Conflict, StoreError."""
        for attempt in range(PUBLISH_TRIES):
            try:
                return await self._publisher.renew_lists(act)
            except Conflict:  # somebody has applied a policy in between: look again whether it has these lists
                if attempt == PUBLISH_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    # --- deltas

    async def _make_deltas(self, target: Artifact) -> None:
        """From the generations before. Without one an agent fetches the whole list: nothing here is worth an error."""
        key = target.key
        bases = {a.sha256: a for a in await self._store.artifacts.versions(key.kind, key.name, BASES + 1)}
        bases.pop(target.sha256, None)
        for base in bases.values():
            if max(base.size, target.size) > DELTA_BYTES_MAX:
                continue
            try:
                await self._make_delta(base, target)
            except (NotFound, StoreError):  # the old one is not kept any more, or there is no room
                continue

    async def _make_delta(self, base: Artifact, target: Artifact) -> None:
        old, new = await self._read(base), await self._read(target)
        packed = await asyncio.to_thread(_checked_delta, old, new, target.sha256)
        if packed is not None:
            location, sha256, size = await self._blobs.put([packed], DELTA_SUFFIX)
            await self._store.artifacts.add_delta(Delta(base.sha256, target.sha256, sha256, size, location))

    async def _read(self, artifact: Artifact) -> bytes:
        """Raises NotFound, StoreError."""
        return await read_blob(self._blobs, artifact)


async def read_blob(blobs: Blobs, artifact: Artifact) -> bytes:
    """All of a list. Raises NotFound, StoreError."""
    pieces, size = [], 0
    while size < artifact.size:
        piece = await blobs.read(artifact.location, size, min(PIECE, artifact.size - size))
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    data = b"".join(pieces)
    if hashlib.sha256(data).digest() != artifact.sha256:
        raise StoreError(f"{artifact.key.kind} {artifact.key.name} is damaged on disk: import it again")
    return data


def _read_signers(path: Path) -> tuple[Certificate, ...]:
    try:
        with path.open("rb") as file:
            return read_anchors(file.read(ANCHORS_BYTES_MAX + 1))
    except OSError as error:
        raise ConfigError("artifacts.signers", f"{path} cannot be read: {error.strerror}") from None
    except CertificateError as error:
        raise ConfigError("artifacts.signers", f"{path} {error}") from None


def _checked_delta(old: bytes, new: bytes, sha256: bytes) -> bytes | None:
    """One that gives what it shall, or None."""
    packed = make_delta(old, new)
    if packed is None:
        return None
    digest = hashlib.sha256()
    try:
        for piece in apply_delta(old, packed, len(new)):
            digest.update(piece)
    except DeltaError:
        return None
    return packed if digest.digest() == sha256 else None


async def _written(file: IO[bytes], chunk: bytes) -> None:
    """Raises StoreFull, StoreError."""
    try:
        await asyncio.to_thread(file.write if chunk else lambda _: file.flush(), chunk)
    except OSError as error:
        kind = StoreFull if error.errno in _FULL else StoreError
        raise kind(f"{tempfile.gettempdir()}: {error.strerror}") from error


def _pieces(data: memoryview) -> Iterator[bytes]:
    return (bytes(data[at : at + PIECE]) for at in range(0, len(data), PIECE))


def _author(act: Callable[..., Act]) -> str:
    return act("").actor.removeprefix("operator:")
