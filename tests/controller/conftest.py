"""Both databases for every test that asks for one: `store_settings` is SQLite, then PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.store import StoreSettings
from tests.fakes.postgres import MISSING, PostgresServer, binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole run. A test that stops or breaks it makes its own."""
    if binaries() is None:
        pytest.skip(MISSING)
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that a test may stop, and that waits for the disk as a real one does."""
    if binaries() is None:
        pytest.skip(MISSING)
    server = PostgresServer(durable=True)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> StoreSettings:
    """A file of the test's own."""
    return StoreSettings(tmp_path / "state.db")


@pytest.fixture
def postgres_settings(postgres: PostgresServer) -> Iterator[StoreSettings]:
    """A database of the test's own."""
    url = postgres.database()
    yield StoreSettings(postgresql=url)
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_settings(request: pytest.FixtureRequest) -> StoreSettings:
    """An empty store of each kind."""
    name = "sqlite_settings" if request.param == "sqlite" else "postgres_settings"
    settings = request.getfixturevalue(name)
    assert isinstance(settings, StoreSettings)
    return settings
