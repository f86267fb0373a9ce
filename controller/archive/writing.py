"""Tables as files: one for each day, small for what it holds. Blocks; runs in threads only.

What is written here counts only when the store names it. Whoever writes either commits the files or takes them back.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from secrets import token_hex
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from controller.archive.layout import DAYS_MAX, believed, day_of, new_path
from controller.archive.storage import Storage
from controller.errors import StoreError
from controller.model import ArchivedFile

# Readers skip by it; also what one reader holds in memory.
ROW_GROUP: Final = 65_536
# Level 3 takes twice the time for two per cent; compaction has that time.
LEVEL: Final = 1
COMPACT_LEVEL: Final = 3

# Numbers that mostly rise by little: their differences take a third of the room.
RISING: Final = ("time", "sequence")
# Nearly every value is another one. A dictionary of them is made in vain: a sixth of the time, a tenth of the room.
VARIED: Final = frozenset(
    (*RISING, "call_id", "calling", "from_uri", "asserted.list.element", "identity.list.element.sha256")
)


class Writer:
    """Writes for one controller."""

    def __init__(self, storage: Storage, controller_id: str) -> None:
        self._storage = storage
        self._controller_id = controller_id

    def write(self, tables: Mapping[str, pa.Table], when: float) -> list[ArchivedFile]:
        """The rows of each table, in files by day. Raises StoreError, and then none of the files is there."""
        written: list[ArchivedFile] = []
        try:
            for name, table in tables.items():
                for day, rows in by_day(table, when):
                    written.append(self.write_one(name, day, rows, when, LEVEL))
        except StoreError:
            self.take_back(written)
            raise
        return written

    def write_one(self, name: str, day: date, rows: pa.Table, when: float, level: int) -> ArchivedFile:
        """One file. Raises StoreError."""
        data = encoded(rows, level)
        path = new_path(name, day, self._controller_id, when, token_hex(4))
        self._storage.put(path, data)
        first, last = _span(rows)
        return ArchivedFile(path, name, rows.num_rows, data.size, first, last, when)

    def take_back(self, files: list[ArchivedFile]) -> None:
        """Remove what was not committed. What cannot be removed is an orphan, and goes with the next sweep."""
        for file in files:
            try:
                self._storage.remove(file.path)
            except StoreError:
                return


def by_day(table: pa.Table, when: float) -> Iterator[tuple[date, pa.Table]]:
    """The rows of each day. A day beyond belief, or one too many, counts as the day of `when`."""
    days = pc.cast(table["time"], pa.date32(), safe=False)
    found = pc.unique(days).to_pylist()
    today = day_of(when)
    good = sorted((day for day in found if believed(day, when)), reverse=True)[:DAYS_MAX]
    if len(found) == 1:
        yield (found[0] if good else today), table
        return
    own = [day for day in good if day != today]
    for day in own:
        yield day, table.filter(pc.equal(days, pa.scalar(day, pa.date32())))
    rest = table.filter(pc.invert(pc.is_in(days, pa.array(own, pa.date32()))))
    if rest.num_rows:
        yield today, rest


def encoded(rows: pa.Table, level: int) -> pa.Buffer:
    """A Parquet file."""
    sink = pa.BufferOutputStream()
    leaves = [leaf for field in rows.schema for leaf in _leaves(field.name, field.type)]
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        compression_level=level,
        row_group_size=ROW_GROUP,
        use_dictionary=[leaf for leaf in leaves if leaf not in VARIED],
        column_encoding={leaf: "DELTA_BINARY_PACKED" for leaf in RISING if leaf in leaves},
    )
    return sink.getvalue()


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """The columns that Parquet makes of one, by their paths."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    elif pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path


def _span(rows: pa.Table) -> tuple[float, float]:
    """The earliest and the latest time, epoch seconds."""
    spread = pc.min_max(pc.cast(rows["time"], pa.int64()))
    return spread["min"].as_py() / 1e6, spread["max"].as_py() / 1e6
