"""The spool as a part of the service: put returns at once, the disk is somebody else's worry."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.records.manifest import QUEUE_FULL
from agent.records.reading import records
from agent.records.rollup import ROLLUP_SECONDS
from agent.records.settings import SpoolSettings
from agent.records.spool import STALLED_SECONDS, Spool
from agent.screening import Decision, Screening
from agent.service import RecordSink, Service
from tests.fakes.calls import invite, observe, policy
from tests.fakes.waiting import until
from tests.records.decisions import REFUSAL, allowed, refused


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def settings(directory: Path, **changed: float) -> SpoolSettings:
    return SpoolSettings(directory, **{"min_free_ratio": 0.0, "commit_interval": 0.002, **changed})  # type: ignore[arg-type]


def run(spool: Spool, work: Callable[[Spool], Awaitable[None]]) -> None:
    """Start the spool, do the work, stop it."""

    async def main() -> None:
        await spool.start()
        try:
            await work(spool)
        finally:
            await spool.stop(5.0)

    asyncio.run(main())


def test_the_service_puts_records_into_it(directory: Path) -> None:
    sink: RecordSink = Spool(settings(directory))
    service = Service(Screening(policy()), sink)
    assert isinstance(sink, Spool)

    async def work(spool: Spool) -> None:
        raw = invite(call_id="c-1")
        for _ in range(3):  # two of them are retransmissions
            service.handle(observe(raw))
        await spool.flush()

    run(sink, work)
    assert [(r["call_id"], r["action"]) for r in records(directory)] == [("c-1", "allow")]


def test_what_was_put_is_on_disk_when_flush_returns(directory: Path) -> None:
    async def work(spool: Spool) -> None:
        for i in range(300):
            spool.put(allowed(f"a-{i}") if i % 3 else refused(f"r-{i}"))
        mark = await spool.flush()
        assert (mark.sequence, mark) == (300, spool.watermark)
        assert len(list(records(directory))) == 300
        assert spool.health()[0]
        counters = spool.counters()
        assert counters["spool_records_committed"] == 300
        assert counters["spool_queue_records"] == 0

    run(Spool(settings(directory)), work)


def test_a_group_costs_one_sync_for_each_stream(directory: Path) -> None:
    async def work(spool: Spool) -> None:
        spool.put(allowed())
        await spool.flush()
        before = spool.counters()["spool_syncs"]
        for _ in range(500):
            spool.put(allowed())
        await spool.flush()
        assert spool.counters()["spool_syncs"] == before + 1

    run(Spool(settings(directory)), work)


def test_who_waits_for_a_sequence_is_told_when_it_is_committed(directory: Path) -> None:
    async def work(spool: Spool) -> None:
        waiter = asyncio.create_task(spool.committed(2))
        spool.put(refused())
        await spool.flush()
        assert not waiter.done()
        spool.put(refused())
        await waiter
        assert spool.watermark.sequence == 2
        await spool.committed(1)

    run(Spool(settings(directory)), work)


def test_stop_writes_what_waits(directory: Path) -> None:
    async def work(spool: Spool) -> None:
        for i in range(50):
            spool.put(refused(f"{i}"))

    run(Spool(settings(directory, commit_interval=30.0)), work)
    assert len(list(records(directory))) == 50
    assert [path.suffix for path in directory.glob("refused-*")] == [".seg"]


def test_it_can_be_started_again(directory: Path) -> None:
    spool = Spool(settings(directory))

    async def work(spool: Spool) -> None:
        spool.put(refused())
        await spool.flush()

    run(spool, work)
    run(spool, work)
    assert [r["sequence"] for r in records(directory)] == [1, 2]


def test_what_comes_before_the_start_is_kept(directory: Path) -> None:
    spool = Spool(settings(directory))
    spool.put(refused("early"))

    async def work(spool: Spool) -> None:
        await spool.flush()

    run(spool, work)
    assert [r["call_id"] for r in records(directory)] == ["early"]


# --- sampling


def test_a_share_of_allowed_calls_is_recorded_and_every_call_that_a_rule_spoke_of(directory: Path) -> None:
    shadowed = allowed("shadow")
    shadowed.shadow = (REFUSAL,)

    async def work(spool: Spool) -> None:
        for i in range(100):
            spool.put(allowed(f"a-{i}"))
            spool.put(refused(f"r-{i}"))
        spool.put(shadowed)

    run(Spool(settings(directory, sample_allowed=0.25)), work)
    found = [r["call_id"] for r in records(directory)]
    assert sum(call_id.startswith("a-") for call_id in found) == 25
    assert sum(call_id.startswith("r-") for call_id in found) == 100
    assert "shadow" in found


def test_a_sample_of_nothing_records_no_allowed_call(directory: Path) -> None:
    async def work(spool: Spool) -> None:
        spool.put(allowed())

    run(Spool(settings(directory, sample_allowed=0.0)), work)
    assert list(records(directory)) == []


# --- the queue


def put_all(spool: Spool, decisions: list[Decision]) -> None:
    for decision in decisions:
        spool.put(decision)


def test_a_full_queue_gives_up_allowed_calls_first_and_says_so(directory: Path) -> None:
    spool = Spool(settings(directory, queue_records=4))
    put_all(spool, [allowed("a-0"), allowed("a-1"), refused("r-0"), refused("r-1")])
    put_all(spool, [allowed("a-2"), refused("r-2"), refused("r-3"), refused("r-4")])
    assert spool.counters()["spool_queue_overflows"] == 4
    assert spool.counters()["spool_dropped_records"] == 4

    async def work(spool: Spool) -> None:
        await spool.flush()
        assert [(r.kind, r.count, r.reason) for r in spool.dropped_ranges] == [
            ("refused", 1, QUEUE_FULL),
            ("allowed", 3, QUEUE_FULL),
        ]

    run(spool, work)
    assert [r["call_id"] for r in records(directory)] == ["r-0", "r-1", "r-2", "r-3"]


def test_the_queue_is_bounded_in_bytes_too(directory: Path) -> None:
    spool = Spool(settings(directory, queue_bytes=65536))
    size = len(allowed("a-100").attempt.message.raw)
    put_all(spool, [allowed(f"a-{i}") for i in range(100, 100 + 2 * 65536 // size)])
    assert 0 < 65536 - spool.counters()["spool_queue_records"] * size < 4 * size
    assert spool.counters()["spool_queue_overflows"] > 0


def test_the_queue_empties_when_the_disk_takes_it(directory: Path) -> None:
    async def work(spool: Spool) -> None:
        for _ in range(5):
            put_all(spool, [refused() for _ in range(10)])
            await spool.flush()
        assert spool.counters()["spool_queue_overflows"] == 0

    run(Spool(settings(directory, queue_records=10)), work)


# --- trouble


def test_a_spool_that_cannot_be_opened_stops_no_call_and_works_when_it_can(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" / "spool"

    async def work(spool: Spool) -> None:
        healthy, words = spool.health()
        assert not healthy
        assert "Not a directory" in words
        assert spool.counters()["spool_errors"] >= 1
        spool.put(refused("kept"))
        (tmp_path / "file").unlink()
        await spool.flush()
        assert spool.health()[0]

    run(Spool(settings(directory)), work)
    assert [r["call_id"] for r in records(directory)] == ["kept"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_named_and_stops_no_call(directory: Path) -> None:
    directory.mkdir(mode=0o500)

    async def work(spool: Spool) -> None:
        spool.put(refused())
        assert "Permission denied" in spool.health()[1]
        directory.chmod(0o700)
        await spool.flush()

    run(Spool(settings(directory)), work)
    assert len(list(records(directory))) == 1


def test_a_disk_that_does_not_answer_holds_nobody_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    real = os.fdatasync
    now = [100.0]
    spool = Spool(settings(directory, queue_records=10), clock=lambda: now[0])

    def hanging(file: int) -> None:
        answer.wait(20.0)
        real(file)

    async def main() -> None:
        await spool.start()
        monkeypatch.setattr(os, "fdatasync", hanging)
        spool.put(refused("first"))
        await until(lambda: spool._in_flight is not None and spool._in_flight.count == 1)
        for i in range(30):
            spool.put(refused(f"{i}"))
        now[0] += STALLED_SECONDS + 1.0
        healthy, words = spool.health()
        assert not healthy
        assert "has not answered for 6 s; 10 records wait" in words
        assert spool.counters()["spool_queue_overflows"] == 21
        answer.set()
        await until(lambda: spool.counters()["spool_queue_records"] == 0)
        assert spool.health()[0]
        await spool.stop(5.0)

    asyncio.run(main())
    assert len(list(records(directory))) == 10


def test_stop_does_not_wait_longer_than_it_may(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    real = os.fdatasync
    spool = Spool(settings(directory))

    def hanging(file: int) -> None:
        answer.wait(20.0)
        real(file)

    async def main() -> None:
        await spool.start()
        monkeypatch.setattr(os, "fdatasync", hanging)
        spool.put(refused())
        await spool.stop(0.05)
        healthy, words = spool.health()
        answer.set()
        assert not healthy
        assert "did not answer; 1 records lost" in words

    asyncio.run(main())


def test_a_record_that_cannot_be_encoded_is_counted_and_costs_no_other(directory: Path) -> None:
    broken = refused("broken")
    broken.attempt.trunk = None  # type: ignore[assignment]

    async def work(spool: Spool) -> None:
        put_all(spool, [refused("before"), broken, refused("after")])
        await spool.flush()
        assert spool.counters()["spool_unwritable_records"] == 1

    run(Spool(settings(directory)), work)
    assert [r["call_id"] for r in records(directory)] == ["before", "after"]


def test_a_fault_in_the_store_is_counted_and_the_next_group_is_written(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(spool: Spool) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(spool._store, "write", lambda *_: 1 // 0)
            spool.put(refused("lost"))
            with pytest.raises(RuntimeError, match="ZeroDivisionError"):
                await spool.flush()
            assert "ZeroDivisionError" in spool.health()[1]
        spool.put(refused("kept"))
        await spool.flush()
        assert spool.health()[0]
        assert spool.counters()["spool_unwritable_records"] == 1

    run(Spool(settings(directory)), work)
    assert [r["call_id"] for r in records(directory)] == ["kept"]


def test_a_writer_that_dies_is_reported_and_does_not_keep_the_daemon_from_stopping(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(settings(directory))
    monkeypatch.setattr(spool, "_roll_if_due", lambda: 1 // 0)

    async def main() -> None:
        await spool.start()
        spool.put(refused())
        await until(lambda: "has ended by a fault" in spool.health()[1])
        assert not spool.health()[0]
        await spool.stop(5.0)
        assert "ZeroDivisionError" in spool.health()[1]

    asyncio.run(main())


def test_before_the_start_it_says_so(directory: Path) -> None:
    assert Spool(settings(directory)).health() == (False, "not started; 0 records wait in memory")
    assert not directory.exists(), "construction does nothing"


# --- roll-ups


def test_every_ten_seconds_what_was_counted_is_recorded(directory: Path) -> None:
    now = [50.0]
    spool = Spool(settings(directory, sample_allowed=0.0), clock=lambda: now[0])
    service = Service(Screening(policy()), spool)

    async def main() -> None:
        await spool.start(service.tally)
        for _ in range(3):
            service.handle(observe(invite()))
        now[0] += ROLLUP_SECONDS
        await until(lambda: spool.watermark.sequence == 1)
        service.handle(observe(invite()))
        await spool.stop(5.0)

    asyncio.run(main())
    found = list(records(directory))
    assert [(r["kind"], r["attempts"], r["trunks"]) for r in found] == [
        ("rollup", 3, {"unknown": {"allow": 3}}),
        ("rollup", 1, {"unknown": {"allow": 1}}),
    ]
    assert found[0]["seconds"] >= ROLLUP_SECONDS
