"""What the store needs of a database: transactions that run in threads, and errors in our words.

Knows neither tables nor which database it is. A `work` is a function of a connection; it runs in one transaction,
which is committed when it returns and rolled back when it raises. It may be run again from the start where the
database asks for that, so it changes nothing but the database.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from controller.model import Topic

T = TypeVar("T")
Work = Callable[[Connection], T]


class Engine(Protocol):
    """One database. `open` and `close` block; `read` and `write` do not."""

    def open(self) -> None:
        """Take it. Raises StoreBusy, StoreDamaged, StoreUnavailable, ConfigError."""
        ...

    def migrate(self, work: Work[None]) -> None:
        """Run this before anything else, alone among all processes, in one transaction; blocks."""
        ...

    def close(self) -> None:
        """Finish what runs, then let go."""
        ...

    async def read(self, work: Work[T]) -> T:
        """Run what changes nothing, on one consistent state. Raises StoreError, and whatever `work` raises."""
        ...

    async def write(self, work: Work[T], topics: Sequence[Topic] = ()) -> T:
        """Run what changes something, these topics first; on return it is durable.

        Raises StoreError, and whatever `work` raises.
        """
        ...

    def counters(self) -> dict[str, int]:
        """Since the start of the process."""
        ...


def upsert(
    tx: Connection, table: Table, rows: Sequence[dict[str, Any]], keep: Sequence[str] = (), *, update: bool = True
) -> None:
    """Insert rows; where one with the same primary key is there, replace its values, but for those in `keep`.

    With `update=False` what is there stays.
    """
    if not rows:
        return
    insert = (postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert)(table)
    keys = [column.name for column in table.primary_key]
    values = {name: insert.excluded[name] for name in rows[0] if name not in keys and name not in keep}
    if update and values:
        statement = insert.on_conflict_do_update(index_elements=keys, set_=values)
    else:
        statement = insert.on_conflict_do_nothing(index_elements=keys)
    tx.execute(statement, list(rows))
