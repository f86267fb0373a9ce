"""Where the controller keeps its state: section [store] of controller.toml. Opens nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from agent.model import ConfigError
from agent.settings import Range


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`file` is the SQLite database; `postgresql`, where given, is used instead of it: "postgresql://user@host/name".

    A password does not belong into a configuration file: libpq finds it (PGPASSFILE, "?passfile=..."), or client
    certificates make it needless. `connections` is how many this process opens to PostgreSQL at most, not counting
    the one for leadership.
    """

    file: Path = Path("/var/lib/sbc-edge-controller/state.db")
    postgresql: str = ""
    connections: Annotated[int, Range(1, 64)] = 8

    def __post_init__(self) -> None:
        if self.postgresql:
            self.url()

    def url(self) -> URL:
        """The address of the PostgreSQL database. Raises ConfigError."""
        try:
            url = make_url(self.postgresql)
        except (ArgumentError, ValueError):
            raise ConfigError("postgresql", 'is no address: write "postgresql://user@host/name"') from None
        if url.get_backend_name() not in ("postgresql", "postgres") or not url.database:
            raise ConfigError("postgresql", 'is no address of a database: write "postgresql://user@host/name"')
        return url.set(drivername="postgresql+psycopg")
