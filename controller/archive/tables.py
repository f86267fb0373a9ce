"""Batches of many spools as the tables of one commit: fast what agents write, and with care what they do not."""

from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agent.records.segment import Kind
from controller.archive.columns import Columns
from controller.archive.layout import CALLS, SCHEMAS, epoch_text, table_of
from controller.archive.rows import FIELDS, Lines, rows_of

_STRING: Final = pa.string()
_NUMBER: Final = pa.uint64()
_ONE: Final = pa.scalar(1, _NUMBER)
_CALL_FIELDS: Final = [pa.field(name, kind) for name, kind in FIELDS[CALLS].items()]


def tables_of(parts: Iterable[Lines], when: float) -> dict[str, pa.Table]:
    """The rows of all, by table, in their order. A row without a time that can be read has `when` as its time.

    Never raises, but for what `parts` raises. Each part is done with before the next is asked for.
    """
    calls = _Calls(when)
    rollups: list[pa.Table] = []
    for part in parts:
        if part.kind is Kind.ROLLUP:
            rollups.append(rows_of(part, when))
        else:
            calls.add(part)
    made = {CALLS: calls.tables(), table_of(Kind.ROLLUP): rollups}
    return {name: pa.concat_tables(tables) for name, tables in made.items() if tables}


class _Calls:
    """Together what is plain, each by itself what is not."""

    def __init__(self, when: float) -> None:
        self._when = when
        self._made: list[pa.Table] = []
        self._columns = Columns(_CALL_FIELDS)
        self._places: list[list[pa.Array]] = []

    def add(self, part: Lines) -> None:
        if self._columns.add(part.text, part.count):
            self._places.append(_places(part))
            return
        self._settle()
        self._made.append(rows_of(part, self._when))

    def tables(self) -> list[pa.Table]:
        self._settle()
        return self._made

    def _settle(self) -> None:
        """What was plain up to here is a table."""
        if not self._places:
            return
        place = [pa.concat_arrays(column) for column in zip(*self._places, strict=True)]
        columns = self._columns.take()
        rest = pa.nulls(len(columns[0]), pa.string())
        self._made.append(pa.table([*place, *columns, rest], schema=SCHEMAS[CALLS]))
        self._places = []


def _places(part: Lines) -> list[pa.Array]:
    """Which records they are. (Scalars with their type: to guess it takes longer than all the rest.)"""
    said = (part.agent, epoch_text(part.epoch), part.kind.word)
    agent, epoch, kind = (pa.repeat(pa.scalar(word, _STRING), part.count) for word in said)
    behind = pa.scalar(part.first - 1, _NUMBER)
    return [agent, epoch, pc.cumulative_sum(pa.repeat(_ONE, part.count), start=behind), kind]
