"""PostgreSQL and what can happen to it: restarted, gone, cut connections, deadlocks; and who leads meanwhile."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from agent.model import ConfigError
from controller.errors import StaleEpoch, StoreFull, StoreUnavailable
from controller.store import Store, StoreSettings
from controller.store.leadership import LEASE, fence
from controller.store.postgres import LEADER_LOCK
from tests.controller.stores import JANE, PLAN, WHEN, draft, opened
from tests.fakes.disks import fill, small_disk
from tests.fakes.postgres import PostgresServer
from tests.fakes.waiting import until

ROOT = Path(__file__).resolve().parents[2]


async def until_leading(store: Store, seconds: float) -> int:
    """The epoch in which it leads, in so many seconds."""
    await until(lambda: store.leadership.term() is not None, seconds)
    term = store.leadership.term()
    assert term is not None
    return term.epoch


# --- transactions


def test_a_deadlock_is_resolved_by_running_one_again(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings) as store:
            first, second = asyncio.Event(), asyncio.Event()
            loop = asyncio.get_running_loop()
            runs: list[str] = []

            def crossing(
                name: str, order: tuple[str, str], mine: asyncio.Event, other: asyncio.Event
            ) -> Callable[[Connection], None]:
                def work(tx: Connection) -> None:
                    runs.append(name)
                    lock = text("UPDATE revisions SET revision = revision + 1 WHERE topic = :topic")
                    tx.execute(lock, {"topic": order[0]})
                    loop.call_soon_threadsafe(mine.set)
                    asyncio.run_coroutine_threadsafe(other.wait(), loop).result(10)
                    tx.execute(lock, {"topic": order[1]})

                return work

            before = await store.changes.seen()
            await asyncio.gather(
                store._engine.write(crossing("a", ("limits", "access"), first, second)),
                store._engine.write(crossing("b", ("access", "limits"), second, first)),
            )
            after = await store.changes.seen()
            assert len(runs) == 2 + store.counters()["store_retries"]
            assert sum(after.values()) - sum(before.values()) == 4, "each has happened once"
            assert store.counters()["store_retries"] >= 1

    asyncio.run(main())


def test_a_pause_within_a_transaction_ends_it(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings) as store:

            def work(tx: Connection) -> None:
                tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = 50"))
                time.sleep(0.3)
                tx.execute(text("SELECT 1"))

            with pytest.raises(StoreUnavailable):
                await store._engine.write(work)
            await store.ping()

    asyncio.run(main())


def test_connections_that_the_server_ended_are_made_anew(
    postgres: PostgresServer, postgres_settings: StoreSettings
) -> None:
    async def main() -> None:
        async with opened(postgres_settings) as store:
            await asyncio.gather(*(store.ping() for _ in range(20)))
            name = postgres_settings.url().database
            postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            await store.audit.append(JANE, WHEN)
            assert (await store.audit.verify()).entries == 1

    asyncio.run(main())


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(StoreSettings(postgresql=f"postgresql://postgres@/x?host={tmp_path}"), "c1", "")
        with pytest.raises(StoreUnavailable, match="PostgreSQL: "):
            await store.open(WHEN)
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.ping()

    asyncio.run(main())


def test_a_database_that_is_not_there_is_told(postgres: PostgresServer) -> None:
    async def main() -> None:
        with pytest.raises(StoreUnavailable, match='database "none" does not exist'):
            await Store(StoreSettings(postgresql=postgres.url("none")), "c1", "").open(WHEN)

    asyncio.run(main())


def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    postgres.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")

    async def main() -> None:
        with pytest.raises(ConfigError, match="encoding LATIN1; UTF8 is needed"):
            await Store(StoreSettings(postgresql=postgres.url("latin")), "c1", "").open(WHEN)

    asyncio.run(main())


def test_a_server_that_only_reads_is_told(postgres: PostgresServer, postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings) as store:
            name = postgres_settings.url().database
            postgres.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # as on a standby
            postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            with pytest.raises(StoreUnavailable, match="read-only transaction"):
                await store.audit.append(JANE, WHEN)
            assert (await store.audit.verify()).entries == 0
            postgres.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    asyncio.run(main())


@pytest.mark.parametrize(
    "url", ["", "x", "mysql://a/b", "postgresql://", "postgresql://host", "postgresql://host:port/x", "sqlite:///x"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="postgresql"):
        StoreSettings(postgresql=url or " ")


@pytest.fixture
def small_database(postgres: PostgresServer) -> Iterator[tuple[StoreSettings, Path]]:
    """A database on a file system of 24 megabytes, and that file system."""
    with small_disk(postgres.folder / "small", 24) as disk:
        (disk / "space").mkdir()
        shutil.chown(disk / "space", postgres.folder.owner())
        postgres.sql(f"CREATE TABLESPACE small LOCATION '{disk / 'space'}'")
        postgres.sql("CREATE DATABASE small TABLESPACE small")
        yield StoreSettings(postgresql=postgres.url("small")), disk
        postgres.sql("DROP DATABASE small WITH (FORCE)")
        postgres.sql("DROP TABLESPACE small")


@pytest.mark.kernel
def test_a_full_disk_of_the_server_is_told_reading_goes_on_and_it_recovers(
    small_database: tuple[StoreSettings, Path],
) -> None:
    settings, disk = small_database

    async def main() -> None:
        async with opened(settings) as store:
            before = await store.policies.add(draft("before"), WHEN, JANE)
            fill(disk / "ballast")
            noise = os.urandom(3_000_000)  # PostgreSQL would make less of anything else
            asked = (store.policies.add(draft(document=noise), WHEN, JANE) for _ in range(5))
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(result) for result in results] == [StoreFull] * 5, results
            assert await store.policies.history() == [before.info]
            assert (await store.audit.verify()).entries == 1
            (disk / "ballast").unlink()
            after = await store.policies.add(draft(document=noise), WHEN, JANE)
            assert after.info.generation == 2
            assert (await store.audit.verify()).intact

    asyncio.run(main())


# --- who leads


def test_one_leads_and_the_next_follows_at_once_when_it_resigns(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings, "c2") as two, opened(postgres_settings, "c1") as one:
            assert await until_leading(two, 30.0) == 1
            assert one.leadership.term() is None
            leader = await one.leader()
            assert leader is not None
            assert (leader.controller_id, leader.address) == ("c2", "c2.example.net:7443")
            waiting = asyncio.create_task(one.leadership.wait(None, 10.0))
            started = time.monotonic()
            await two.leadership.stop()
            assert two.leadership.term() is None
            term = await waiting
            assert time.monotonic() - started < LEASE, "who resigned needs not be waited for"
            assert term is not None
            assert term.epoch == 2

    asyncio.run(main())


@pytest.mark.slow
def test_a_leader_that_loses_its_connection_is_followed_and_never_beside_another(
    postgres: PostgresServer, postgres_settings: StoreSettings
) -> None:
    async def main() -> None:
        async with opened(postgres_settings, "c1") as one, opened(postgres_settings, "c2") as two:
            assert await until_leading(one, 30.0) == 1
            policy = await one.policies.add(draft("a"), WHEN, JANE, plan=PLAN)
            old = one.leadership.term()
            assert old is not None
            name = postgres_settings.url().database
            lock = (
                "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database "
                f"WHERE locktype = 'advisory' AND granted AND objid = {LEADER_LOCK} AND datname = '{name}'"
            )
            both, end = 0, time.monotonic() + 20
            assert postgres.sql(f"SELECT pg_terminate_backend(pid) FROM ({lock}) holders") == [(True,)]
            while (two.leadership.term() or one.leadership.term()) in (None, old) and time.monotonic() < end:
                both += one.leadership.term() is not None and two.leadership.term() is not None
                await asyncio.sleep(0.01)
            assert not both
            leaders = [store for store in (one, two) if store.leadership.term() is not None]
            assert len(leaders) == 1
            new = leaders[0].leadership.term()
            assert new is not None
            assert new.epoch == old.epoch + 1
            rollout = await one.rollouts.get(policy.info.generation)
            with pytest.raises(StaleEpoch):
                await one.rollouts.save(rollout, old)
            await leaders[0].rollouts.save(rollout, new)

    asyncio.run(main())


@pytest.mark.slow
def test_a_leader_that_is_stopped_is_followed_and_wakes_up_as_none(postgres_settings: StoreSettings) -> None:
    assert postgres_settings.postgresql
    command = [sys.executable, "-m", "tests.controller.leading", postgres_settings.postgresql, "stopped"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            while process.stdout.readline() != "1\n":
                assert process.poll() is None

            async def main() -> None:
                async with opened(postgres_settings, "c2") as two:
                    assert two.leadership.term() is None
                    process.send_signal(signal.SIGSTOP)
                    assert await until_leading(two, 3 * LEASE + 5) == 2

            asyncio.run(main())
            os.set_blocking(process.stdout.fileno(), False)
            while process.stdout.readline():
                pass  # what it said before it was stopped
            process.send_signal(signal.SIGCONT)
            os.set_blocking(process.stdout.fileno(), True)
            assert process.stdout.readline() == "0\n", "the first thing that it does is not to lead"
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_all_go_on_when_the_server_comes_back(own_server: PostgresServer) -> None:
    settings = StoreSettings(postgresql=own_server.database())

    async def main() -> None:
        async with opened(settings, "c1") as one, opened(settings, "c2") as two:
            assert await until_leading(one, 30.0) == 1
            before = await one.policies.add(draft("before"), WHEN, JANE)
            await asyncio.to_thread(own_server.stop)
            with pytest.raises(StoreUnavailable):
                await two.policies.add(draft("lost"), WHEN, JANE)
            await until(lambda: one.leadership.term() is None, LEASE + 1)
            await until(lambda: not two.health()[0], 60.0)
            await asyncio.to_thread(own_server.start)
            await until(lambda: one.leadership.term() is not None or two.leadership.term() is not None, 60.0)
            await until(lambda: two.health()[0], 60.0)
            assert await two.policies.history() == [before.info]
            await two.policies.add(draft("after"), WHEN, JANE)
            assert (await one.audit.verify()).intact

    asyncio.run(main())


def test_a_new_term_waits_for_what_the_last_one_is_writing(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings, "c1") as one, opened(postgres_settings, "c2") as two:
            await until_leading(one, 30.0)
            term = one.leadership.term()
            assert term is not None
            fenced, may_end = asyncio.Event(), asyncio.Event()
            loop = asyncio.get_running_loop()

            def slow(tx: Connection) -> None:
                fence(tx, term)
                loop.call_soon_threadsafe(fenced.set)
                asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(10)

            writing = asyncio.create_task(one._engine.write(slow))
            await fenced.wait()
            bump = text("UPDATE leadership SET epoch = epoch + 1")
            beginning = asyncio.create_task(two._engine.write(lambda tx: tx.execute(bump).close()))
            await asyncio.wait([beginning], timeout=0.2)
            assert not beginning.done()
            may_end.set()
            await asyncio.gather(writing, beginning)

    asyncio.run(main())
