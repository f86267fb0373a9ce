"""Lines of JSON as rows of a table, fast where they are what agents write, and with care where they are not.

Nothing that an agent sends can spoil a table: what has no column, or not its type, goes into the column `rest`, and a
line that is no record has nothing else. pyarrow reads the ordinary case several times faster than Python; but it takes
several objects on a line, and dies of a null. So it gets to see only lines that cannot be anything but one object each.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from agent.records.columns import time as read_time
from agent.records.segment import Kind
from controller.archive.layout import CALLS, SCHEMAS, epoch_text, table_of

Row = dict[str, Any]

# Where an object could end and something else begin on the same line, and where a line begins with something else.
# Inside of strings the first may be harmless; then the batch is read the slow way. (As one expression with an
# alternative in it they take ten times as long.)
_SUSPECT: Final = re.compile(rb"\}[^,\]}\n]")
_NO_OBJECT: Final = re.compile(rb"\n[^{]")
_PLACE: Final = ("agent", "epoch", "sequence", "kind")
_FIELDS: Final = {
    table: {field.name: field.type for field in schema if field.name not in (*_PLACE, "rest")}
    for table, schema in SCHEMAS.items()
}
_CALL_FIELDS: Final = pa.schema([(name, kind) for name, kind in _FIELDS[CALLS].items()])
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_TIME: Final = (datetime(2, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LAST_TIME: Final = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
# Readers of several threads work on blocks of this.
_BLOCK: Final = 4 << 20
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


def tables_of(parts: Sequence[Lines], when: float) -> dict[str, pa.Table]:
    """The rows of all, by table. A row without a time that can be read has `when` as its time. Never raises."""
    made: dict[str, pa.Table] = {}
    calls = [part for part in parts if part.kind is not Kind.ROLLUP]
    if calls:
        made[CALLS] = _calls(calls, when)
    rollups = [part for part in parts if part.kind is Kind.ROLLUP]
    if rollups:
        table = table_of(Kind.ROLLUP)
        made[table] = pa.concat_tables([_slowly(part, table, when) for part in rollups])
    return made


def dropped_table(rows: Iterable[Row]) -> pa.Table:
    """Of dropped ranges; `time` is epoch seconds."""
    return pa.Table.from_pylist([{**row, "time": _moment(row["time"])} for row in rows], schema=SCHEMAS["dropped"])


def _calls(parts: Sequence[Lines], when: float) -> pa.Table:
    """In the order of `parts`: together what is sound, each by itself what is not."""
    made: list[pa.Table] = []
    sound: list[Lines] = []
    for part in parts:
        if _is_plain(part):
            sound.append(part)
            continue
        made += _quickly(sound, when)
        made.append(_slowly(part, CALLS, when))
        sound = []
    made += _quickly(sound, when)
    return pa.concat_tables(made)


def _is_plain(part: Lines) -> bool:
    """Whether each line begins an object and nothing follows one; and the ends fit the columns, so that trying is
    worth it."""
    text = part.text
    if not (text.startswith(b"{") and text.endswith(b"}") and text.count(b"\n") == part.count - 1):
        return False
    if _NO_OBJECT.search(text) or _SUSPECT.search(text) or not (text.isascii() or _is_utf8(text)):
        return False
    ends = [text[: text.find(b"\n")] if part.count > 1 else text, text[text.rfind(b"\n") + 1 :]]
    return all(_has_columns(end) for end in ends[: part.count])


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_columns(line: bytes) -> bool:
    """Whether all of it has columns. An agent of a later release has more, on every line."""
    return _row(line, _FIELDS[CALLS], 0.0)["rest"] is None


def _quickly(parts: list[Lines], when: float) -> list[pa.Table]:
    """Plain parts as tables. Where pyarrow does not like them, each by itself; where that fails, slowly."""
    if not parts:
        return []
    table = _parsed(parts)
    if table is not None:
        return [_placed(table, parts)]
    if len(parts) == 1:
        return [_slowly(parts[0], CALLS, when)]
    half = len(parts) // 2
    return _quickly(parts[:half], when) + _quickly(parts[half:], when)


def _parsed(parts: list[Lines]) -> pa.Table | None:
    text = parts[0].text if len(parts) == 1 else b"\n".join([part.text for part in parts])
    longest = max(len(part.text) for part in parts)
    try:
        table = pj.read_json(
            pa.BufferReader(text),
            read_options=pj.ReadOptions(block_size=max(_BLOCK, longest + 1)),
            parse_options=pj.ParseOptions(explicit_schema=_CALL_FIELDS, unexpected_field_behavior="error"),
        )
    except (pa.ArrowException, ValueError):
        return None
    # No line can have made two rows, so as many rows as lines means one of each.
    sound = table.num_rows == sum(part.count for part in parts) and not table["time"].null_count
    return table if sound and _has_calendar_times(table) else None


def _has_calendar_times(table: pa.Table) -> bool:
    """With an offset a time of the year 9999 is one of the year 10000, which Python has no day for."""
    spread = pc.min_max(pc.cast(table["time"], pa.int64()))
    return bool(spread["min"].as_py() >= _FIRST_TIME and spread["max"].as_py() < _LAST_TIME)


def _placed(table: pa.Table, parts: list[Lines]) -> pa.Table:
    """With the columns that say which records they are."""
    place = [
        pa.chunked_array([pa.repeat(pa.scalar(part.agent), part.count) for part in parts]),
        pa.chunked_array([pa.repeat(pa.scalar(epoch_text(part.epoch)), part.count) for part in parts]),
        pa.chunked_array([pa.array(range(part.first, part.first + part.count), pa.uint64()) for part in parts]),
        pa.chunked_array([pa.repeat(pa.scalar(part.kind.word), part.count) for part in parts]),
    ]
    schema = SCHEMAS[CALLS]
    columns = [*place, *(table[name] for name in _FIELDS[CALLS]), pa.nulls(table.num_rows, pa.string())]
    return pa.table(columns, schema=schema)


def _slowly(part: Lines, table: str, when: float) -> pa.Table:
    """Line by line, value by value."""
    rows = []
    for sequence, line in enumerate(_split(part), part.first):
        row = _row(line, _FIELDS[table], when)
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
