"""Back-ups of a controller whose state is in PostgreSQL: by pg_dump and pg_restore, into another database."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from agent.model import ConfigError
from controller.backup import DUMP, BackupError, make_backup, read_backup
from controller.restoring import put_back
from controller.store import StoreSettings
from tests.controller.agents import a_config, a_controller, a_policy
from tests.controller.artifacts.lists import Lists, dno
from tests.controller.ingest.uploads import archived
from tests.controller.keeping import sbc_controller, well
from tests.controller.stores import opened
from tests.controller.test_backup import FAST, an_agent, calls, shown, until_so
from tests.fakes.controller_process import ControllerProcess
from tests.fakes.postgres import PostgresServer

NEEDS = '\n[do_not_originate]\nlists = ["industry"]\n'


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("b")


@pytest.mark.slow
def test_an_agent_goes_on_with_a_restored_database_and_no_record_is_lost_or_there_twice(
    folder: Path, postgres: PostgresServer
) -> None:
    state, saved, token = folder / "c", folder / "saved", folder / "token"
    state.mkdir()
    first, second = postgres.database(), postgres.database()

    async def main() -> None:
        with ControllerProcess(state, StoreSettings(postgresql=first), more=FAST) as controller:
            admin = controller.admin
            token.write_text(admin)
            operator = controller.operator(admin)
            await Lists(controller, admin).imports("industry", dno(["2015550177"]))  # type: ignore[arg-type]
            async with an_agent(controller, folder / "a", token) as agent:
                await operator.apply(a_policy("first", 100_000) + NEEDS, steps=(1.0,), soak=0.2)
                await operator.sees(lambda agents: any(one.active_generation == 1 for one in agents))
                everything = await calls(agent, "before", 20)

                async def has(count: int) -> bool:
                    return bool((await shown(controller, admin)).records_committed >= count)

                await until_so(lambda: has(20))
                well(await asyncio.to_thread(sbc_controller, controller, "backup", "--with-keys", str(saved)))
                await operator.apply(a_policy("second", 100_000) + NEEDS, steps=(1.0,), soak=0.2)
                await operator.sees(lambda agents: any(one.active_generation == 2 for one in agents))
                everything |= await calls(agent, "after", 20)
                await until_so(lambda: has(40))
                await controller.close()
                controller.kill()

                configuration = (state / "c1.toml").read_text()
                state.rename(folder / "lost")
                state.mkdir()
                (state / "c1.toml").write_text(configuration)
                for _ in range(2):  # the second time as well
                    done = await asyncio.to_thread(sbc_controller, controller, "restore", str(saved))
                    assert done.returncode == 1
                    assert "the database of [store] holds the state of a controller: name an empty one" in done.stderr
                (state / "c1.toml").write_text(configuration.replace(first, second))
                said = well(await asyncio.to_thread(sbc_controller, controller, "restore", str(saved)))
                assert "agents get what was in force as generation 1002" in said
                everything |= await calls(agent, "meanwhile", 20)
                await asyncio.to_thread(controller.start)

                async def is_back() -> bool:
                    found = await shown(controller, admin)
                    return bool(found.active_generation == 1002 and found.records_committed >= 60)

                await until_so(is_back)
                assert (await asyncio.to_thread(agent.status)).policy_name == "first"
            await controller.close()
            controller.kill()
        async with opened(StoreSettings(postgresql=second), "c1") as store:
            rows = await archived(store, state)
        found_calls = Counter(str(row["call_id"]) for row in rows if row.get("call_id"))
        assert set(found_calls) == everything
        assert set(found_calls.values()) == {1}

    try:
        asyncio.run(main())
    finally:
        postgres.drop(first)
        postgres.drop(second)


def test_a_back_up_is_of_one_snapshot_and_is_put_back_as_a_whole_or_not_at_all(
    tmp_path: Path, postgres: PostgresServer, postgres_settings: StoreSettings
) -> None:
    saved = tmp_path / "saved"

    async def make() -> None:
        async with a_controller(tmp_path / "c", postgres_settings) as controller:
            config, lists = controller.parts.config, Lists(controller)
            await lists.imports("first", dno(["2015550177"]))  # there is something to save from the beginning
            done = asyncio.Event()

            async def write() -> None:
                n = 0
                while not done.is_set():
                    await lists.imports(f"l{n % 3}", dno([str(2_015_550_100 + n)]))
                    n += 1

            writing = asyncio.create_task(write())
            for _ in range(2):
                await asyncio.to_thread(make_backup, config, saved, 1.0, with_keys=True)
            done.set()
            await writing

    asyncio.run(make())
    backup = read_backup(saved)
    assert backup.state == DUMP
    assert not [path for path in saved.iterdir() if path.suffix == ".new"]
    assert (saved / DUMP).stat().st_mode & 0o077 == 0
    with pytest.raises(BackupError, match="another kind of database"):
        put_back(a_config(tmp_path / "sqlite"), saved)
    target = StoreSettings(postgresql=postgres.database())
    config = a_config(tmp_path / "new", target)
    whole = (saved / DUMP).read_bytes()
    (saved / DUMP).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackupError, match="is not what was saved"):
        put_back(config, saved)
    (saved / DUMP).write_bytes(whole)
    postgres.sql("CREATE TABLE operators (mine int)", target.url().database or "")  # in the way of pg_restore
    with pytest.raises(BackupError, match=r"pg_restore: .*operators"):
        put_back(config, saved)
    postgres.sql("DROP TABLE operators", target.url().database or "")
    put_back(config, saved)  # it goes on
    with_names = "SELECT location FROM artifacts UNION SELECT location FROM artifact_deltas"
    named = {str(name) for (name,) in postgres.sql(with_names, target.url().database or "")}
    assert named
    assert named == {path.name for path in config.artifacts.directory.iterdir()}
    postgres.drop(target.postgresql)


def test_where_the_programs_or_the_server_are_not_there_it_says_so(
    tmp_path: Path, postgres_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = StoreSettings(postgresql="postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(BackupError, match="PostgreSQL: "):
        make_backup(a_config(tmp_path / "c", away), tmp_path / "saved", 1.0, with_keys=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    async def main() -> None:
        async with a_controller(tmp_path / "c", postgres_settings) as controller:
            config = controller.parts.config
            with pytest.raises(ConfigError, match="pg_dump: is not here: install postgresql-client"):
                await asyncio.to_thread(make_backup, config, tmp_path / "saved", 1.0, with_keys=False)

    asyncio.run(main())
