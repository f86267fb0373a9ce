"""Lists, as agents fetch them: whole or as a delta, from an offset on, in chunks with checksums."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from agent.checksums import crc32c
from controller.artifacts.blobs import Blobs
from controller.errors import Conflict, Invalid, NotFound, StoreDamaged
from controller.services.caller import caller
from controller.services.gate import Context
from controller.services.wire import sha256_from
from controller.store import Store
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc

CHUNK: Final = 256 << 10


class ArtifactService(pb_grpc.ArtifactServiceServicer):
    """What an agent was not offered it does not get, and it does not learn whether there is such a thing."""

    def __init__(self, store: Store, blobs: Blobs, at_once: int) -> None:
        self._store = store
        self._blobs = blobs
        self._places = asyncio.Semaphore(at_once)

    async def FetchArtifact(
        self, request: pb.FetchArtifactRequest, context: Context
    ) -> AsyncIterator[pb.FetchArtifactResponse]:
        wanted = sha256_from(request.sha256, "sha256")
        base = sha256_from(request.base_sha256, "base_sha256") if request.base_sha256 else b""
        artifact = await self._store.artifacts.offered_to(caller().name, wanted)
        if artifact is None:
            raise NotFound("list", f"of sha256 {wanted.hex()} that was offered to {caller().name}")
        delta = await self._store.artifacts.delta(base, wanted) if base else None
        location, size = (artifact.location, artifact.size) if delta is None else (delta.location, delta.size)
        if request.offset > size:
            raise Invalid("offset", f"is beyond the end ({size} bytes)")
        async with self._places:
            async for response in self._chunks(location, request.offset, size):
                if response.offset == request.offset:
                    response.total_size, response.delta = size, delta is not None
                yield response

    async def _chunks(self, location: str, offset: int, size: int) -> AsyncIterator[pb.FetchArtifactResponse]:
        """At least one, since the first one says how many bytes there are."""
        while True:
            try:
                data = await self._blobs.read(location, offset, min(CHUNK, size - offset))
            except NotFound:
                raise Conflict("this list is not kept any more") from None
            if len(data) < min(CHUNK, size - offset):
                raise StoreDamaged(f"the list in {location} is shorter than it was: import it again")
            yield pb.FetchArtifactResponse(offset=offset, data=data, crc32c=crc32c(data))
            offset += len(data)
            if offset >= size:
                return
