"""UploadRecords by hand, over mTLS: acknowledgements, repetitions, holes, windows, two streams, strangers."""

import asyncio
import json
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from agent.records.segment import Kind, encode_batches
from controller.archive.layout import DROPPED
from controller.errors import StoreError, StoreFull, StoreUnavailable
from controller.model import Act, Advance
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from sbcedge.report.v1 import report_pb2 as pb
from sbcedge.report.v1 import report_pb2_grpc as pb_grpc
from tests.controller.agents import PATIENCE, Controller, a_controller
from tests.controller.archive.lines import call
from tests.controller.ingest.uploads import EPOCH, FAST, Stream, archive_of, archived, batch, dropped, duplicates
from tests.fakes.waiting import until

SLOW = "[ingest]\ncommit_seconds = 30.0\nwindow_kb = 64\n[archive]\nmin_free_ratio = 0.0\n"


def test_an_answer_says_what_is_durable_and_the_next_stream_goes_on_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            stream, first = await Stream.opened(agent)
            assert (first.spool_epoch, first.committed_through) == (EPOCH, 0)
            assert first.window >= 65536
            await stream.says(batch=batch(1, 50))
            await stream.reaches(50)
            assert len(await archive_of(controller, tmp_path / "c")) == 50
            code, _, _ = await stream.done()
            assert code is StatusCode.OK
            again, first = await Stream.opened(agent)
            assert first.committed_through == 50
            await again.says(batch=batch(1, 50))
            await again.says(batch=batch(41, 20))
            await again.says(dropped=dropped(61, 70))
            await again.says(batch=batch(71, 10))
            code, _, heard = await again.done()
            assert code is StatusCode.OK
            assert heard[-1].committed_through == 80
            rows = await archive_of(controller, tmp_path / "c")
            assert sorted(row["sequence"] for row in rows) == [*range(1, 61), *range(71, 81)]
            (lost,) = await archived(controller.parts.store, tmp_path / "c", DROPPED)
            assert (lost["first"], lost["last"], lost["reason"]) == (61, 70, "queue full")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        ({"batch": batch(12, 5)}, StatusCode.FAILED_PRECONDITION, "12 came where 11 is next"),
        ({"dropped": dropped(13, 15)}, StatusCode.FAILED_PRECONDITION, "13 came where 11 is next"),
        ({"dropped": dropped(11, 3)}, StatusCode.INVALID_ARGUMENT, "dropped.last_sequence"),
        ({"hello": pb.UploadHello(spool_epoch=9)}, StatusCode.FAILED_PRECONDITION, "hello"),
        ({}, StatusCode.INVALID_ARGUMENT, "message"),
        (
            {"batch": pb.RecordBatch(first_sequence=11, count=1, data=b"noise")},
            StatusCode.INVALID_ARGUMENT,
            "batch.data",
        ),
    ],
)
def test_what_is_wrong_ends_the_stream_and_what_came_before_is_kept(
    tmp_path: Path, message: dict[str, object], code: StatusCode, words: str
) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            stream, _ = await Stream.opened(agent)
            await stream.says(batch=batch(1, 10))
            await stream.says(**message)
            ended, details, heard = await stream.done()
            assert ended is code
            assert words in details
            assert heard[-1].committed_through == 10
            assert len(await archive_of(controller, tmp_path / "c")) == 10

    asyncio.run(main())


def test_a_stream_begins_with_hello(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            stub = pb_grpc.ReportServiceStub(agent.channel())
            for first, code in (
                ({"batch": batch(1, 1)}, StatusCode.FAILED_PRECONDITION),
                ({"hello": pb.UploadHello(spool_epoch=0)}, StatusCode.INVALID_ARGUMENT),
            ):
                stream = Stream(stub.UploadRecords(timeout=PATIENCE))
                await stream.says(**first)
                assert (await stream.done())[0] is code

    asyncio.run(main())


def test_a_batch_whose_payload_is_not_its_count_is_refused_and_others_are_not_held_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            bad, good = await controller.enrol(), await controller.enrol()
            lines = [json.dumps(call(n)).encode() for n in range(4)]
            ((_, data),) = encode_batches(Kind.ALLOWED, 4, [b"\n".join(lines[:2]), *lines[2:]], 0.0)
            one, _ = await Stream.opened(bad)
            two, _ = await Stream.opened(good)
            await asyncio.gather(one.says(batch=batch(1, 3, "bad")), two.says(batch=batch(1, 50, "good")))
            await one.says(batch=pb.RecordBatch(first_sequence=4, count=3, data=data))
            await one.says(batch=batch(7, 3, "bad"))
            await two.says(batch=batch(51, 50, "good"))
            await two.reaches(100)
            code, details, heard = await one.done()
            assert code is StatusCode.INVALID_ARGUMENT
            assert "records 4 to 6" in details
            assert max(answer.committed_through for answer in heard) == 3
            rows = await archive_of(controller, tmp_path / "c")
            assert len(rows) == 103
            assert not duplicates(rows)

    asyncio.run(main())


def test_lines_that_are_no_records_are_kept_and_spoil_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            bad, good = await controller.enrol(), await controller.enrol()
            lines = [
                b"null",
                b'{"a":1}{"b":2}',
                b"\xff",
                json.dumps(call(4, time="9999-12-31T23:59:59-09:00")).encode(),
            ]
            ((_, data),) = encode_batches(Kind.REFUSED, 1, lines, 0.0)
            one, _ = await Stream.opened(bad)
            two, _ = await Stream.opened(good)
            await one.says(batch=pb.RecordBatch(first_sequence=1, count=4, data=data))
            await two.says(batch=batch(1, 50, "good"))
            await one.reaches(4)
            await two.reaches(50)
            operator = fleet_pb2_grpc.RecordServiceStub(controller.channel())
            found = [
                json.loads(line)
                async for page in operator.QueryRecords(
                    fleet_pb2.QueryRecordsRequest(),
                    metadata=(("authorization", f"Bearer {controller.admin}"),),
                    timeout=PATIENCE,
                )
                for line in page.json
            ]
            assert len(found) == 54
            assert sorted(r["unreadable"] for r in found if "unreadable" in r) == ["\\xff", "null", '{"a":1}{"b":2}']

    asyncio.run(main())


def test_who_sends_more_than_the_window_waits_and_the_memory_is_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(
            tmp_path / "c", more=FAST.replace("[archive]", "window_kb = 512\n[archive]")
        ) as controller:
            agent = await controller.enrol()
            store, gate = controller.parts.store, asyncio.Event()
            commit = store.records.commit

            async def held(*arguments: object) -> None:
                await gate.wait()
                await commit(*arguments)  # type: ignore[arg-type]

            store.records.commit = held  # type: ignore[method-assign, assignment]
            stream, _ = await Stream.opened(agent)

            written = 0

            async def flood() -> None:
                nonlocal written
                for n in range(200):
                    message = batch(n * 10 + 1, 10, noise=10_000)
                    await stream.says(batch=message)
                    written += len(message.data)

            flooding = asyncio.create_task(flood())
            ingest = controller.parts.ingest
            await until(lambda: ingest.counters()["ingest_waiting_bytes"] > 0)
            most = 0
            for _ in range(200):
                await asyncio.sleep(0.005)
                most = max(most, ingest.counters()["ingest_waiting_bytes"])
            assert most <= 3 * 524_288
            assert not flooding.done()
            assert written <= 4 * 524_288, "what nobody reads is not sent, either"
            gate.set()
            await flooding
            code, _, heard = await stream.done()
            assert code is StatusCode.OK
            assert heard[-1].committed_through == 2000
            rows = await archive_of(controller, tmp_path / "c")
            assert sorted(row["sequence"] for row in rows) == list(range(1, 2001))

    asyncio.run(main())


def test_a_newer_stream_of_the_same_agent_takes_over_and_nothing_is_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=SLOW) as controller:
            agent = await controller.enrol()
            older, _ = await Stream.opened(agent)
            await older.says(batch=batch(1, 40))
            await until(lambda: controller.parts.ingest.counters()["ingest_waiting_bytes"] > 0)
            newer, first = await Stream.opened(agent)
            assert first.committed_through == 40, "what the older one had sent is settled first"
            code, _, heard = await older.done()
            assert code is StatusCode.OK
            assert heard[-1].HasField("retry_after")
            await newer.says(batch=batch(1, 60))
            assert (await newer.done())[2][-1].committed_through == 60
            rows = await archive_of(controller, tmp_path / "c")
            assert sorted(row["sequence"] for row in rows) == list(range(1, 61))

    asyncio.run(main())


def test_an_agent_that_comes_and_goes_at_once_makes_progress(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=SLOW) as controller:
            agent = await controller.enrol()
            for n in range(20):
                stream, first = await Stream.opened(agent)
                await stream.says(batch=batch(first.committed_through + 1, 7, f"c{n}"))
                await until(lambda: controller.parts.ingest.counters()["ingest_waiting_bytes"] > 0)
                stream.call.cancel()
            _, first = await Stream.opened(agent)
            assert first.committed_through == 140
            assert not duplicates(await archive_of(controller, tmp_path / "c"))

    asyncio.run(main())


@pytest.mark.parametrize("failure", [StoreFull("full"), StoreUnavailable("gone"), StoreError("?"), OSError("a fault")])
def test_when_it_cannot_be_kept_the_agent_is_asked_to_come_again(tmp_path: Path, failure: Exception) -> None:
    async def main(controller: Controller) -> None:
        agent = await controller.enrol()
        store = controller.parts.store
        commit = store.records.commit
        failing = True

        async def breaks(*arguments: object) -> None:
            if failing:
                raise failure
            await commit(*arguments)  # type: ignore[arg-type]

        store.records.commit = breaks  # type: ignore[method-assign, assignment]
        stream, _ = await Stream.opened(agent)
        await stream.says(batch=batch(1, 10))
        await stream.says(batch=batch(11, 10))
        code, _, heard = await stream.done()
        assert code is StatusCode.OK
        assert heard[-1].committed_through == 0
        assert heard[-1].retry_after.ToMilliseconds() >= 1000
        assert not controller.parts.ingest.health()[0]
        failing = False
        again, first = await Stream.opened(agent)
        assert first.committed_through == 0
        await again.says(batch=batch(1, 20))
        await again.reaches(20)
        assert controller.parts.ingest.health()[0]
        rows = await archive_of(controller, tmp_path / "c")
        assert sorted(row["sequence"] for row in rows) == list(range(1, 21))

    async def run() -> None:
        try:
            async with a_controller(tmp_path / "c", more=FAST) as controller:
                await main(controller)
        except AssertionError as error:
            # A fault of ours is in the log, and that is right here.
            if not isinstance(failure, OSError) or '"event": "fault"' not in str(error):
                raise

    asyncio.run(run())


def test_a_commit_of_another_controller_in_between_ends_only_that_upload(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            moved, other = await controller.enrol(), await controller.enrol()
            one, _ = await Stream.opened(moved)
            two, _ = await Stream.opened(other)
            await controller.parts.store.records.commit([], [Advance(moved.id, EPOCH, 0, 5, 5)], [], 1.0)
            await asyncio.gather(one.says(batch=batch(1, 10, "one")), two.says(batch=batch(1, 10, "two")))
            code, _, _ = await one.done()
            assert code is StatusCode.ABORTED
            await two.reaches(10)
            again, first = await Stream.opened(moved)
            assert first.committed_through == 5
            await again.says(batch=batch(1, 10, "one"))
            await again.reaches(10)
            rows = await archive_of(controller, tmp_path / "c")
            assert sorted(row["sequence"] for row in rows if row["agent"] == moved.id) == [6, 7, 8, 9, 10]
            assert not duplicates(rows)

    asyncio.run(main())


def test_records_are_those_of_who_has_the_certificate(tmp_path: Path) -> None:
    """There is no name in the messages to lie with; and questions are for operators."""

    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            one, other = await controller.enrol(), await controller.enrol()
            stream, _ = await Stream.opened(one)
            await stream.says(batch=batch(1, 10))
            await stream.reaches(10)
            _, first = await Stream.opened(other)
            assert first.committed_through == 0, "the same epoch of another agent is another spool"
            asking = fleet_pb2_grpc.RecordServiceStub(other.channel()).QueryRecords(
                fleet_pb2.QueryRecordsRequest(agent_id=one.id), timeout=PATIENCE
            )
            with pytest.raises(aio.AioRpcError) as raised:
                await asking.read()
            assert raised.value.code() is StatusCode.PERMISSION_DENIED
            # An operator has no spool.
            operator = pb_grpc.ReportServiceStub(controller.channel()).UploadRecords(
                metadata=(("authorization", f"Bearer {controller.admin}"),), timeout=PATIENCE
            )
            assert await operator.code() in (StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED)

    asyncio.run(main())


def test_the_stream_of_a_revoked_agent_is_cut(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", more=FAST) as controller:
            agent = await controller.enrol()
            parts = controller.parts
            watching = asyncio.create_task(parts.gate.watch())
            stream, _ = await Stream.opened(agent)
            await stream.says(batch=batch(1, 10))
            await stream.reaches(10)
            await parts.store.agents.revoke(agent.id, "stolen", parts.clock(), Act("operator:admin", "agent.revoke"))
            async with asyncio.timeout(5.0):
                code, _, _ = await stream.ends()
            assert code is StatusCode.PERMISSION_DENIED
            watching.cancel()

    asyncio.run(main())


def test_both_databases_keep_the_watermark_with_the_file(tmp_path: Path, store_settings: "object") -> None:
    async def main() -> None:
        async with a_controller(tmp_path / "c", store_settings, more=FAST) as controller:  # type: ignore[arg-type]
            agent = await controller.enrol()
            stream, _ = await Stream.opened(agent, (1 << 64) - 1)
            for n in range(10):
                await stream.says(batch=batch(n * 30 + 1, 30))
            code, _, heard = await stream.done()
            assert code is StatusCode.OK
            assert heard[-1].committed_through == 300
            rows = await archive_of(controller, tmp_path / "c")
            assert len(rows) == 300
            assert {row["epoch"] for row in rows} == {"f" * 16}
            store: Store = controller.parts.store
            (mark,) = await store.records.watermarks(agent.id)
            assert (mark.spool_epoch, mark.records) == ((1 << 64) - 1, 300)

    asyncio.run(main())
