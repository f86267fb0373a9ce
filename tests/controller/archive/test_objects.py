"""Records and lists on object storage: an S3 server, asked over HTTP, that goes away, hangs, and is cut off."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from agent.model import ConfigError
from controller import objects
from controller.archive.keeping import ORPHAN_SECONDS
from controller.archive.settings import ArchiveSettings
from controller.archive.storage import storage_of
from controller.archive.tables import tables_of
from controller.artifacts.blobs import YOUNG_SECONDS, Blobs
from controller.artifacts.settings import ArtifactSettings
from controller.errors import NotFound, StoreUnavailable
from tests.controller.archive.lines import call, kept, lines
from tests.controller.archive.test_keeping import DAY, fill
from tests.controller.stores import WHEN
from tests.fakes.object_store import KEYS, ObjectStore
from tests.fakes.relay import Relay

LARGE = 24 << 20
"""Bytes of an object that goes up in several parts."""


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    made = ObjectStore()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def s3(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """With keys for it in the environment."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.parametrize("place", ["s3", "memory://records-{}", "file://{}/objects"])
def test_object_storage_has_the_same_layout(tmp_path: Path, s3: ObjectStore, place: str) -> None:
    async def main() -> None:
        where = str(tmp_path).replace("/", "-") if place.startswith("memory") else tmp_path
        url = s3.url(s3.bucket()) if place == "s3" else place.format(where)
        async with kept(tmp_path, url=url) as archive:
            await fill(archive, 12)
            await archive.archive.write(lambda: tables_of([lines([call(999)], first=999)], WHEN), WHEN)
            assert len(await archive.ask(limit=1000)) == 120
            assert await archive.archive.keeper.compact() == 1
            assert len(await archive.ask(limit=1000)) == 120
            archive.now += 2 * ORPHAN_SECONDS
            await archive.archive.keeper._remove_replaced()
            assert len(await archive.ask(limit=1000)) == 120
        async with kept(tmp_path, url=url) as archive:
            found = [file.path for file in archive.archive.storage.listing()]
            assert len(found) == 2
            assert sum(path.startswith("orphans/") for path in found) == 1
            assert len(await archive.ask(limit=1000)) == 120

    asyncio.run(main())


def test_old_days_go_from_object_storage_too(tmp_path: Path, s3: ObjectStore) -> None:
    async def main() -> None:
        async with kept(tmp_path, url=s3.url(s3.bucket()), calls_days=30) as archive:
            await archive.put(lines([call(1, WHEN - 31 * DAY), call(2, WHEN - 29 * DAY), call(3, WHEN)]))
            assert await archive.archive.keeper.forget() == 1
            assert [r["call_id"] for r in await archive.ask()] == ["3@192.0.2.1", "2@192.0.2.1"]
            archive.now += 2 * ORPHAN_SECONDS
            await archive.archive.keeper._remove_replaced()
            assert len(list(archive.archive.storage.listing())) == 2

    asyncio.run(main())


def test_storage_that_goes_away_refuses_and_is_there_again_with_all_that_was_acknowledged(
    tmp_path: Path, s3: ObjectStore
) -> None:
    async def main() -> None:
        async with Relay([s3.address]) as way:
            url = s3.url(s3.bucket(), address=way.address)
            way.cut()
            async with kept(tmp_path, url=url) as archive:  # it is away already when the controller starts
                assert not archive.archive.health()[0]
                with pytest.raises(StoreUnavailable, match="NETWORK_CONNECTION"):
                    await archive.put(lines([call(1)]))
                way.mend()
                await fill(archive, 10)
                way.cut()
                with pytest.raises(StoreUnavailable, match="s3://"):
                    await archive.put(lines([call(101)], first=101))
                with pytest.raises(StoreUnavailable, match="the archive cannot be read"):
                    await archive.ask()
                assert await archive.archive.keeper.compact() == 0
                assert "housekeeping" in archive.archive.health()[1]
                way.mend()
                await archive.put(lines([call(101)], first=101))
                assert len(await archive.ask(limit=1000)) == 101
                assert await archive.archive.keeper.compact() == 1
                assert len(await archive.ask(limit=1000)) == 101

    asyncio.run(main())


def test_an_upload_that_is_cut_off_leaves_no_object(s3: ObjectStore) -> None:
    async def main() -> None:
        bucket = s3.bucket()
        data = pa.py_buffer(random.Random(1).randbytes(LARGE))
        direct = storage_of(ArchiveSettings(url=s3.url(bucket)))
        direct.open()
        async with Relay([s3.address]) as way:
            storage = storage_of(ArchiveSettings(url=s3.url(bucket, address=way.address)))
            await asyncio.to_thread(storage.open)

            def cut(_: int) -> bool:
                way.cut()
                return True

            way.on_bytes = cut  # with the first answer: to the beginning of an upload in parts
            with pytest.raises(StoreUnavailable):
                await asyncio.to_thread(storage.put, "calls/large", data)
            assert list(direct.listing()) == []
            way.on_bytes = lambda _: False
            way.mend()
            await asyncio.to_thread(storage.put, "calls/large", data)
        (file,) = direct.listing()
        assert (file.path, file.size) == ("calls/large", LARGE)

    asyncio.run(main())


@pytest.mark.slow
def test_storage_that_hangs_is_given_up_on(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(objects, "ATTEMPTS", 1)
    storage = storage_of(ArchiveSettings(url=s3.url(s3.bucket())))
    storage.open()
    s3.freeze()
    try:
        with pytest.raises(StoreUnavailable, match="Timeout"):
            list(storage.listing())
        with pytest.raises(StoreUnavailable, match="Timeout"):
            storage.put("calls/x", pa.py_buffer(b"x"))
    finally:
        s3.thaw()


def test_a_bucket_that_is_not_there_is_named(tmp_path: Path, s3: ObjectStore) -> None:
    async def main() -> None:
        async with kept(tmp_path, url=s3.url("nobodys")) as archive:
            assert "there is no bucket nobodys" in archive.archive.health()[1]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("bucket/records", "must begin with a protocol"),
        ("s3://key:secret@bucket/records", "must not hold a key"),
        ("s3://[bucket/records", "is no URL"),
        ("s3:///records", "names no bucket"),
        ("s3://bucket/records?regoin=x", "regoin is not known"),
        ("abfs://bucket/records", "adlfs"),
        ("nonsense://bucket", "Protocol not known"),
    ],
)
def test_a_url_that_is_no_place_is_an_error_of_its_key(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        storage_of(ArchiveSettings(url=url)).open()
    assert raised.value.field in ("url", "archive.url")

    async def lists() -> None:
        await Blobs(ArtifactSettings(url=url)).open()

    with pytest.raises(ConfigError, match=words) as raised:
        asyncio.run(lists())
    assert raised.value.field in ("url", "artifacts.url")
    assert "secret" not in str(raised.value)


def test_lists_lie_on_object_storage_which_may_be_away_when_the_controller_starts(s3: ObjectStore) -> None:
    async def main() -> None:
        async with Relay([s3.address]) as way:
            blobs = Blobs(ArtifactSettings(url=s3.url(s3.bucket(), "lists", way.address)))
            way.cut()
            await blobs.open()
            with pytest.raises(StoreUnavailable):
                await blobs.put([b"list"])
            way.mend()
            location, _, size = await blobs.put([b"a list", b" in pieces"], ".delta")
            assert (size, blobs.path(location)) == (16, None)
            assert await blobs.read(location, 2, 100) == b"list in pieces"
            other, _, _ = await blobs.put([b"of nobody"])
            assert await blobs.sweep(frozenset({location}), time.time()) == 0  # they are young
            later = time.time() + DAY + YOUNG_SECONDS
            assert await blobs.sweep(frozenset({location}), later) == 1
            assert await blobs.read(location, 0, 6) == b"a list"
            with pytest.raises(NotFound, match=other):
                await blobs.read(other, 0, 1)

    asyncio.run(main())
