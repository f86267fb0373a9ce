"""Lists on their way to agents: whole, from an offset on, with checksums, and only where they were offered."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from agent.checksums import crc32c
from controller.artifacts.blobs import Blobs
from controller.artifacts.settings import ArtifactSettings
from controller.errors import NotFound, StoreUnavailable
from controller.fleet.conductor import Conductor
from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc
from tests.controller.agents import PATIENCE, Controller, PlayedAgent, a_controller, a_policy
from tests.controller.artifacts.lists import Lists, dno, many

CHUNK = 256 << 10
TOML = a_policy() + '\n[do_not_originate]\nlists = ["industry"]\n'


async def offered(controller: Controller, agent: PlayedAgent, data: bytes) -> pb.ArtifactManifest:
    """The list in the hands of operators, and offered to this agent."""
    await Lists(controller).imports("industry", data)
    async with agent.session() as session:
        session.lives()
        await controller.operator().apply(TOML)
        assert (await controller.operator().rollout_ends()).state == "done"
        (offer,) = [m.offer for m in session.heard if m.WhichOneof("message") == "offer"]
        manifest: pb.ArtifactManifest
        (manifest,) = offer.artifacts
        return manifest


async def fetched(agent: PlayedAgent, sha256: bytes, offset: int = 0) -> list[pb.FetchArtifactResponse]:
    request = pb.FetchArtifactRequest(sha256=sha256, offset=offset)
    call: Any = pb_grpc.ArtifactServiceStub(agent.channel()).FetchArtifact(request, timeout=PATIENCE)
    return [response async for response in call]


async def code_of(agent: PlayedAgent, sha256: bytes, offset: int = 0) -> StatusCode:
    with pytest.raises(aio.AioRpcError) as raised:
        await fetched(agent, sha256, offset)
    return raised.value.code()


def test_a_list_comes_in_chunks_each_with_its_checksum_from_any_offset_on(
    tmp_path: Path, store_settings: StoreSettings
) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller:
            agent = await controller.enrol()
            data = dno(many(3000))
            assert len(data) > 2 * CHUNK
            manifest = await offered(controller, agent, data)
            assert (manifest.sha256, manifest.size) == (hashlib.sha256(data).digest(), len(data))
            for offset in (0, 1, CHUNK, len(data) - 1, len(data)):
                chunks = await fetched(agent, manifest.sha256, offset)
                assert b"".join(c.data for c in chunks) == data[offset:]
                assert all(c.crc32c == crc32c(c.data) and len(c.data) <= CHUNK for c in chunks)
                assert [c.offset for c in chunks] == list(range(offset, max(len(data), offset + 1), CHUNK))
                assert [c.total_size for c in chunks] == [len(data)] + [0] * (len(chunks) - 1)
            assert await code_of(agent, manifest.sha256, len(data) + 1) is StatusCode.INVALID_ARGUMENT
            assert await code_of(agent, b"short") is StatusCode.INVALID_ARGUMENT

    asyncio.run(main())


def test_what_was_offered_to_others_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent = await controller.enrol()
            manifest = await offered(controller, agent, dno(many(10)))
            conductor = next(part for part in controller.parts.running if isinstance(part, Conductor))
            await conductor.stop(0.0)
            stranger = await controller.enrol()
            assert await code_of(stranger, manifest.sha256) is StatusCode.NOT_FOUND
            assert await code_of(stranger, bytes(32)) is StatusCode.NOT_FOUND  # the same as of what is nowhere
            await conductor.start()  # gives it what the others have
            async with asyncio.timeout(PATIENCE):
                while await controller.parts.store.rollouts.offer_of(stranger.id) is None:
                    await asyncio.sleep(0.02)
            assert b"".join(c.data for c in await fetched(stranger, manifest.sha256)) == dno(many(10))

    asyncio.run(main())


def test_a_blob_that_is_gone_or_cut_is_said_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent = await controller.enrol()
            manifest = await offered(controller, agent, dno(many(10)))
            (blob,) = (tmp_path / "artifacts").iterdir()
            blob.write_bytes(blob.read_bytes()[:-1])
            assert await code_of(agent, manifest.sha256) is StatusCode.DATA_LOSS
            blob.unlink()
            assert await code_of(agent, manifest.sha256) is StatusCode.FAILED_PRECONDITION

    asyncio.run(main())


def with_blobs(folder: Path, work: Any) -> Any:
    async def main() -> Any:
        blobs = Blobs(ArtifactSettings(directory=folder / "lists"))
        await blobs.open()
        return await work(blobs)

    return asyncio.run(main())


def test_blobs_are_kept_once_by_their_content_and_read_in_pieces(tmp_path: Path) -> None:
    async def work(blobs: Blobs) -> None:
        kept = await blobs.put([b"ab", b"", b"cd"], ".list")
        assert kept == (hashlib.sha256(b"abcd").hexdigest() + ".list", hashlib.sha256(b"abcd").digest(), 4)
        assert await blobs.put([b"abcd"], ".list") == kept
        assert [p.name for p in (tmp_path / "lists").iterdir()] == [kept[0]]
        assert await blobs.read(kept[0], 1, 2) == b"bc"
        assert await blobs.read(kept[0], 3, 100) == b"d"
        path = blobs.path(kept[0])
        assert path is not None
        assert path.read_bytes() == b"abcd"

    with_blobs(tmp_path, work)


def test_what_breaks_while_it_is_kept_leaves_nothing(tmp_path: Path) -> None:
    def breaks() -> Any:
        yield b"ab"
        raise OSError(28, "No space left on device")

    async def work(blobs: Blobs) -> None:
        with pytest.raises(StoreUnavailable, match="No space left"):
            await blobs.put(breaks())
        assert list((tmp_path / "lists").iterdir()) == []

    with_blobs(tmp_path, work)


@pytest.mark.parametrize("location", ["../state.db", "/etc/passwd", "", "a/b", ".hidden", "x" * 129, "A"])
def test_a_location_that_is_none_of_ours_is_not_there(tmp_path: Path, location: str) -> None:
    async def work(blobs: Blobs) -> None:
        with pytest.raises(NotFound):
            await blobs.read(location, 0, 1)

    with_blobs(tmp_path, work)


def test_a_sweep_takes_what_nobody_needs_when_it_is_old(tmp_path: Path) -> None:
    async def work(blobs: Blobs) -> None:
        used, unused = [(await blobs.put([content]))[0] for content in (b"used", b"unused")]
        when = (tmp_path / "lists" / unused).stat().st_mtime
        assert await blobs.sweep(frozenset({used}), when + 60) == 0  # it may be of an import that is not over
        assert await blobs.sweep(frozenset({used}), when + 7200) == 1
        assert [p.name for p in (tmp_path / "lists").iterdir()] == [used]

    with_blobs(tmp_path, work)
