"""Steps of the schema: they end at the tables that the code knows, alone among processes, and never go back."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from controller.errors import SchemaTooNew
from controller.store import Store, StoreSettings
from controller.store.tables import METADATA
from tests.controller.stores import JANE, WHEN, draft, opened, with_store


def test_all_steps_together_make_the_tables_that_the_code_knows(store_settings: StoreSettings) -> None:
    def differences(tx: Connection) -> list[object]:
        context = MigrationContext.configure(tx, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, METADATA))

    async def work(store: Store) -> None:
        assert await store._engine.read(differences) == []

    with_store(store_settings, work)


def test_a_store_is_as_it_was_when_it_is_opened_again(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> int:
        await store.policies.add(draft("a"), WHEN, JANE)
        return len(await store.policies.history())

    assert [with_store(store_settings, work) for _ in range(3)] == [1, 2, 3]


def test_a_store_of_a_later_release_is_left_alone(store_settings: StoreSettings) -> None:
    async def later(store: Store) -> None:
        statement = text("UPDATE alembic_version SET version_num = '9999'")
        await store._engine.write(lambda tx: tx.execute(statement).close())

    async def nothing(_store: Store) -> None:
        pass

    with_store(store_settings, later)
    with pytest.raises(SchemaTooNew, match="9999"):
        with_store(store_settings, nothing)


def test_controllers_that_start_at_once_make_the_tables_once(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        stores = [Store(postgres_settings, f"c{n}", "") for n in range(4)]
        await asyncio.gather(*(store.open(WHEN) for store in stores))
        assert len(await stores[0].sessions.controllers(WHEN)) == 4
        assert sum(store.leadership.term() is not None for store in stores) <= 1
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(main())


def test_a_database_with_tables_of_somebody_else_keeps_them(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings) as store:
            await store._engine.write(lambda tx: tx.execute(text("CREATE TABLE theirs (x INT)")).close())
        async with opened(postgres_settings) as store:
            await store._engine.read(lambda tx: tx.execute(text("SELECT * FROM theirs")).close())

    asyncio.run(main())
