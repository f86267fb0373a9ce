"""Records from a spool to the archive, over mTLS: none lost, none twice, whoever goes away in between."""

import asyncio
import os
import shutil
import time
from pathlib import Path

from agent.control.upload_mark import NAME
from agent.records.manifest import QUEUE_FULL
from agent.records.reading import records
from agent.records.segment import Kind, SegmentHeader, _encode_batch, encode_batches
from controller.archive.layout import DROPPED
from tests.controller.agents import a_controller
from tests.controller.archive.lines import call, text_of
from tests.controller.ingest.uploads import FAST, a_host, archive_of, archived, bytes_in, duplicates
from tests.fakes.waiting import until


def test_what_is_in_the_spool_is_in_the_archive_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool") as host:
                for _ in range(5):
                    await host.put(100)
                await host.uploaded()
                rows = await archive_of(controller, tmp_path / "c")
                assert sorted(row["sequence"] for row in rows) == list(range(1, 501))
                assert {row["call_id"] for row in rows} == {f"call-{n}" for n in range(1, 501)}
                assert {row["agent"] for row in rows} == {agent.id}
                assert sum(row["action"] != "allow" for row in rows) == 166
                assert host.uploader.health()[0]
                (mark,) = await controller.parts.store.records.watermarks(agent.id)
                assert (mark.committed_through, mark.records) == (500, 500)
            held = {r["sequence"]: r["why"] for r in records(tmp_path / "spool")}
            assert {row["sequence"]: row["why"] for row in rows} == held

    asyncio.run(main())


def test_an_agent_that_was_away_sends_what_came_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            for _ in range(3):
                async with a_host(agent, tmp_path / "spool") as host:
                    await host.put(200, f"life{host.spool.watermark.sequence}")
                    await host.uploaded()
                async with a_host(agent, tmp_path / "spool") as host:
                    await host.uploader.stop(5.0)
                    await host.put(200, f"alone{host.spool.watermark.sequence}")
            async with a_host(agent, tmp_path / "spool") as host:
                await host.uploaded()
            rows = await archive_of(controller, tmp_path / "c")
            assert len(rows) == 1200
            assert not duplicates(rows)

    asyncio.run(main())


def test_losses_are_reported_with_their_reason_and_nothing_is_missing_without_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool", queue_records=50) as host:
                await host.uploader.stop(1.0)
                for _ in range(4):
                    await host.put(120)
                assert any(r.reason == QUEUE_FULL for r in host.spool.dropped_ranges)
                await host.uploader.start()
                await host.uploaded()
                rows = await archive_of(controller, tmp_path / "c")
                lost = await archived(controller.parts.store, tmp_path / "c", DROPPED)
                numbers = sorted(
                    [row["sequence"] for row in rows]
                    + [n for row in lost for n in range(row["first"], row["last"] + 1)]
                )
                assert numbers == list(range(1, 481))
                assert {row["reason"] for row in lost} == {QUEUE_FULL}
                assert sum(row["count"] for row in lost) == sum(r.count for r in host.spool.dropped_ranges)
                assert sum(r.count for r in await controller.parts.store.records.dropped(agent.id)) == 480 - len(rows)

    asyncio.run(main())


def test_what_was_dropped_while_the_controller_was_away_is_a_gap_without_the_refused_calls(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool", max_bytes=65536) as host:
                await host.uploader.stop(1.0)
                for _ in range(40):
                    await host.put(200, long=True)
                await until(lambda: bytes_in(tmp_path / "spool") < 80_000)
                await host.uploader.start()
                await host.uploaded()
                rows = await archive_of(controller, tmp_path / "c")
                lost = await archived(controller.parts.store, tmp_path / "c", DROPPED)
                assert lost
                assert len(rows) + sum(row["count"] for row in lost) == 8000
                assert not duplicates(rows)
                assert {(row["kind"], row["reason"]) for row in lost} <= {
                    ("allowed", "over max_bytes"),
                    ("refused", "over max_bytes"),
                }

    asyncio.run(main())


def test_uploaded_segments_go_first_and_are_no_loss(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool", max_bytes=65536) as host:
                for _ in range(5):
                    await host.put(720, long=True)
                    await host.uploaded()
                await until(lambda: bytes_in(tmp_path / "spool") < 80_000)
                assert host.spool.dropped_ranges == ()
                assert host.spool.counters()["spool_dropped_records"] == 0
                assert len(await archive_of(controller, tmp_path / "c")) == 3600

    asyncio.run(main())


def test_a_controller_that_comes_back_with_an_older_state_gets_again_what_is_still_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool") as host:
                await host.put(100)
                await host.uploaded()
        shutil.copytree(tmp_path / "c", tmp_path / "backup")
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent.controller = controller
            async with a_host(agent, tmp_path / "spool") as host:
                await host.put(100, "later")
                await host.uploaded()
        async with a_controller(tmp_path / "backup", more=FAST) as controller:
            agent.controller = controller
            async with a_host(agent, tmp_path / "spool") as host:
                await host.put(50, "last")
                await host.uploaded()
            rows = await archive_of(controller, tmp_path / "backup")
            assert len(rows) == 250
            assert not duplicates(rows)
            assert len({row["epoch"] for row in rows}) == 1

    asyncio.run(main())


def test_a_copy_of_a_spool_on_a_machine_with_another_identity_is_another_spool(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            one, other = await controller.enrol(), await controller.enrol()
            async with a_host(one, tmp_path / "one") as host:
                await host.put(100, "shared")
                await host.uploaded()
            shutil.copytree(tmp_path / "one", tmp_path / "other")
            async with a_host(one, tmp_path / "one") as host, a_host(other, tmp_path / "other") as copy:
                await asyncio.gather(host.put(100, "one"), copy.put(70, "other"))
                await host.uploaded()
                await copy.uploaded()
            rows = await archive_of(controller, tmp_path / "c")
            assert sum(row["agent"] == one.id for row in rows) == 200
            assert {row["call_id"] for row in rows if row["agent"] == other.id} >= {f"other-{n}" for n in range(1, 71)}
            assert len({(row["agent"], row["epoch"], row["sequence"]) for row in rows}) == len(rows)

    asyncio.run(main())


def test_a_machine_that_was_put_back_to_a_snapshot_loses_nothing_and_says_nothing_twice(tmp_path: Path) -> None:
    """The same identity, the same epoch, the same numbers: for other records."""

    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool") as host:
                await host.put(100, "before")
                await host.uploaded()
            shutil.copytree(tmp_path / "spool", tmp_path / "snapshot")
            async with a_host(agent, tmp_path / "spool") as host:
                await host.put(100, "forgotten")
                await host.uploaded()
            async with a_host(agent, tmp_path / "snapshot") as host:
                await host.put(130, "after")
                await host.uploaded()
                assert host.uploader.health()[0]
            rows = await archive_of(controller, tmp_path / "c")
            assert len(rows) == 330
            assert not duplicates(rows)
            assert {row["call_id"] for row in rows} >= {f"after-{n}" for n in range(1, 131)}
            assert len({row["epoch"] for row in rows}) == 2
            # And the next life goes on under the new epoch.
            async with a_host(agent, tmp_path / "snapshot") as host:
                await host.put(10, "again")
                await host.uploaded()
            assert len({row["epoch"] for row in await archive_of(controller, tmp_path / "c")}) == 2

    asyncio.run(main())


def test_a_mark_that_is_lost_or_damaged_costs_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            for n, harm in enumerate(("none", "one slot", "both slots", "empty", "gone")):
                mark = tmp_path / "spool" / NAME
                data = bytearray(mark.read_bytes()) if mark.exists() else bytearray()
                if harm == "one slot":
                    data[20] ^= 1
                if harm == "both slots":
                    data[20] ^= 1
                    data[540] ^= 1
                if harm == "gone":
                    mark.unlink()
                elif n:
                    mark.write_bytes(b"" if harm == "empty" else bytes(data))
                async with a_host(agent, tmp_path / "spool") as host:
                    await host.put(50, harm)
                    await host.uploaded()
            rows = await archive_of(controller, tmp_path / "c")
            assert len(rows) == 250
            assert not duplicates(rows)
            assert len({row["epoch"] for row in rows}) == 1

    asyncio.run(main())


def test_bit_flips_in_a_segment_are_gaps_and_everything_else_arrives(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool") as host:
                await host.uploader.stop(1.0)
                for n in range(30):
                    await host.put(40, f"g{n}")
                # Beneath a spool that runs: it finds no damage until it is opened again, we do.
                harmed = sorted((tmp_path / "spool").glob("allowed-*"))[:3]
                for n, path in enumerate(harmed):
                    data = bytearray(path.read_bytes())
                    data[(n + 1) * len(data) // 5] ^= 0x10
                    path.write_bytes(bytes(data))
                await host.uploader.start()
                await host.uploaded()
                rows = await archive_of(controller, tmp_path / "c")
                lost = await archived(controller.parts.store, tmp_path / "c", DROPPED)
                assert not duplicates(rows)
                assert 0 < sum(row["count"] for row in lost) <= 3 * 40
                assert len(rows) + sum(row["count"] for row in lost) == 1200
                assert host.uploader.health()[0]

    asyncio.run(main())


def test_a_bigger_batch_than_a_message_is_sent_in_parts(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            folder = tmp_path / "spool"
            folder.mkdir()
            noise = [text_of([call(n, from_uri=os.urandom(200_000).hex())]) for n in range(1, 7)]
            noise.append(text_of([call(7, from_uri=os.urandom(1_200_000).hex())]))
            noise.append(text_of([call(8)]))
            data = SegmentHeader(Kind.REFUSED, 77, 1, time.time()).encode() + _encode_batch(Kind.REFUSED, 1, noise, 0.0)
            assert len(list(encode_batches(Kind.REFUSED, 1, noise, 0.0))) > 1
            (folder / f"refused-{1:020d}-{8:020d}-8.seg").write_bytes(data)
            async with a_host(agent, folder, segment_bytes=8 << 20, max_bytes=64 << 20) as host:
                await host.uploaded()
            rows = await archive_of(controller, tmp_path / "c")
            (lost,) = await archived(controller.parts.store, tmp_path / "c", DROPPED)
            assert sorted(row["sequence"] for row in rows) == [1, 2, 3, 4, 5, 6, 8]
            assert (lost["first"], lost["last"], lost["reason"]) == (7, 7, "too large to send")

    asyncio.run(main())


def test_without_a_controller_nothing_grows_and_nothing_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            async with a_host(agent, tmp_path / "spool") as host:
                await host.put(10, "first")
                await host.uploaded()
                await controller.server.stop(0.0)
                await host.put(300, "alone")
                await until(lambda: not host.uploader.health()[0], 20.0)
                assert "UNAVAILABLE" in host.uploader.health()[1]
                assert host.uploader.behind == 300
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent.controller = controller
            async with a_host(agent, tmp_path / "spool") as host:
                await host.uploaded()
            rows = await archive_of(controller, tmp_path / "c")
            assert len(rows) == 310
            assert not duplicates(rows)

    asyncio.run(main())
