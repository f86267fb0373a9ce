"""Fleet-wide limits in the store."""

import pytest

from controller.errors import Invalid, NotFound
from controller.model import FleetLimit, Partition
from controller.store import Store, StoreSettings
from tests.controller.stores import JANE, WHEN, with_store


def test_a_limit_is_there_until_it_is_deleted(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        limit = await store.limits.put(FleetLimit("international", 100.0, 20.0, Partition.HOLD, "jane"), WHEN, JANE)
        await store.limits.put(FleetLimit("all", 1000.0, 0.0), WHEN, JANE)
        assert [one.name for one in await store.limits.all()] == ["all", "international"]
        assert await store.limits.get("international") == limit
        await store.limits.put(FleetLimit("international", 50.0, 20.0), WHEN + 1, JANE)
        assert (await store.limits.get("international")).rate == 50.0
        await store.limits.delete("international", WHEN + 2, JANE)
        with pytest.raises(NotFound):
            await store.limits.get("international")
        with pytest.raises(NotFound):
            await store.limits.delete("international", WHEN + 2, JANE)

    with_store(store_settings, work)


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        (FleetLimit("", 1.0, 1.0), "limit.name"),
        (FleetLimit("x" * 129, 1.0, 1.0), "limit.name"),
        (FleetLimit("a\0b", 1.0, 1.0), "limit.name"),
        (FleetLimit("a", 0.0, 1.0), "limit.rate"),
        (FleetLimit("a", float("nan"), 1.0), "limit.rate"),
        (FleetLimit("a", float("inf"), 1.0), "limit.rate"),
        (FleetLimit("a", 1.0, -1.0), "limit.burst"),
    ],
)
def test_a_limit_that_is_none_is_refused_with_its_field(
    sqlite_settings: StoreSettings, limit: FleetLimit, field: str
) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(Invalid) as raised:
            await store.limits.put(limit, WHEN, JANE)
        assert raised.value.field == field
        assert not await store.limits.all()
        assert (await store.audit.verify()).entries == 0, "what did not happen is not in the log"

    with_store(sqlite_settings, work)
