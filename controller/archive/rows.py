"""Lines of JSON as rows of a table, value by value: the reference for columns.py, and the way for what that leaves.

Nothing that an agent sends can spoil a table: what has no column, or not its type, goes into the column `rest`, and a
line that is no record has nothing else.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from agent.records.columns import time as read_time
from agent.records.segment import Kind
from controller.archive.layout import SCHEMAS, epoch_text, table_of

Row = dict[str, Any]

_PLACE: Final = ("agent", "epoch", "sequence", "kind")
FIELDS: Final = {
    table: {field.name: field.type for field in schema if field.name not in (*_PLACE, "rest")}
    for table, schema in SCHEMAS.items()
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
UNREADABLE: Final = "unreadable"


@dataclass(frozen=True, slots=True)
class Lines:
    """`count` consecutive records of one spool, from sequence `first`: one to a line."""

    agent: str
    epoch: int
    first: int
    kind: Kind
    count: int
    text: bytes


def dropped_table(rows: Iterable[Row]) -> pa.Table:
    """Of dropped ranges; `time` is epoch seconds."""
    return pa.Table.from_pylist([{**row, "time": _moment(row["time"])} for row in rows], schema=SCHEMAS["dropped"])


def rows_of(part: Lines, when: float) -> pa.Table:
    """For the table of its kind. A row without a time that can be read has `when` as its time. Never raises."""
    table = table_of(part.kind)
    rows = []
    for sequence, line in enumerate(_split(part), part.first):
        row = _row(line, FIELDS[table], when)
        row |= {"agent": part.agent, "epoch": epoch_text(part.epoch), "sequence": sequence, "kind": part.kind.word}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMAS[table])


def _split(part: Lines) -> list[bytes]:
    """Exactly `count` lines: ingest has seen to that, and what it has not seen must not move others."""
    lines = part.text.split(b"\n")
    return (lines + [b""] * part.count)[: part.count]


def _row(line: bytes, fields: dict[str, pa.DataType], when: float) -> Row:
    value = _object(line)
    if value is None:
        value = {UNREADABLE: line.decode("utf-8", "backslashreplace")}
    row: Row = {}
    rest: Row = {}
    for name, given in value.items():
        kind = fields.get(name)
        fitting = None if kind is None else _fitting(given, kind)
        if fitting is None and given is not None:
            rest[name] = given
        elif kind is not None:
            row[name] = fitting
    if row.get("time") is None:
        row["time"] = _moment(when)
    row["rest"] = _sound(json.dumps(rest, separators=(",", ":"))) if rest else None
    return row


def _object(line: bytes) -> Row | None:
    """The JSON object, None where there is none."""
    try:
        value = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """The value as pyarrow takes it for this type; None if it is not of it, as a whole."""
    if pa.types.is_string(kind):
        return _sound(value) if isinstance(value, str) else None
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if pa.types.is_uint64(kind):
        return value if type(value) is int and 0 <= value < 1 << 64 else None
    if pa.types.is_float64(kind):
        return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None
    if pa.types.is_timestamp(kind):
        when = read_time(value) if isinstance(value, str) else None
        return None if when is None or not 1 < when.year < 9999 else when
    if pa.types.is_map(kind):
        return _pairs(value, kind)
    if pa.types.is_list(kind):
        return _list(value, kind.value_type)
    return _struct(value, kind)


def _list(value: Any, kind: pa.DataType) -> list[Any] | None:
    if not isinstance(value, list):
        return None
    found = [_fitting(one, kind) for one in value]
    return None if None in found else found


def _struct(value: Any, kind: pa.DataType) -> Row | None:
    if not isinstance(value, dict):
        return None
    found: Row = {}
    for name, given in value.items():
        number = kind.get_field_index(name)
        fitting = None if number < 0 else _fitting(given, kind.field(number).type)
        if number < 0 or (fitting is None and given is not None):
            return None
        found[name] = fitting
    return found


def _pairs(value: Any, kind: pa.DataType) -> list[tuple[str, Any]] | None:
    if not isinstance(value, dict):
        return None
    found = [(_sound(key), _fitting(one, kind.item_type)) for key, one in value.items()]
    return None if any(one is None for _, one in found) else found


def _sound(text: str) -> str:
    """Text that UTF-8 can hold: JSON can spell half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def _moment(when: float) -> datetime:
    return _EPOCH + timedelta(seconds=when)
