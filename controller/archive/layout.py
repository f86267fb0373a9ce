"""What the archive looks like from outside: tables, their columns, and the names of files. Pure.

    calls/day=2026-11-23/c1-1763913600123-9f3a61c2.parquet

Any engine that reads Parquet in Hive's layout can read it beside us, but must ask the store which files count.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import pyarrow as pa

from agent.records.columns import CALL, PLACE, ROLLUP
from agent.records.segment import Kind

CALLS: Final = "calls"
ROLLUPS: Final = "rollups"
DROPPED: Final = "dropped"
TABLES: Final = (CALLS, ROLLUPS, DROPPED)

_AGENT: Final = pa.field("agent", pa.string())
_REST: Final = pa.field("rest", pa.string())
"""JSON object of what had no column: fields of later agents, values of another type, a line that is no record."""

SCHEMAS: Final = {
    CALLS: pa.schema([_AGENT, *PLACE, *CALL, _REST]),
    ROLLUPS: pa.schema([_AGENT, *PLACE, *ROLLUP, _REST]),
    DROPPED: pa.schema(
        [
            _AGENT,
            pa.field("epoch", pa.string()),
            pa.field("first", pa.uint64()),
            pa.field("last", pa.uint64()),
            pa.field("kind", pa.string()),
            pa.field("count", pa.uint64()),
            pa.field("reason", pa.string()),
            pa.field("time", pa.timestamp("us", tz="UTC")),
        ]
    ),
}
"""`epoch` is sixteen hexadecimal digits. (agent, epoch, sequence) is there once."""

FUTURE_DAYS: Final = 2
"""Of a time that is believed: an agent's clock may be in another time zone by mistake."""

PAST_DAYS: Final = 400
"""An agent keeps records for a week, and an operator may let it keep them for long."""

DAYS_MAX: Final = 32
"""Folders that one commit writes to. An agent whose clock jumps about must not make a file for each record."""

NAME_MAX: Final = 64

_PATH: Final = re.compile(
    r"(calls|rollups|dropped)/day=([0-9]{4}-[0-9]{2}-[0-9]{2})/([A-Za-z0-9_.-]{1,64})-([0-9]{13})-[0-9a-f]{8}\.parquet"
)


@dataclass(frozen=True, slots=True)
class FileName:
    """What a path says. `made` is epoch seconds."""

    table: str
    day: date
    controller: str
    made: float

    @classmethod
    def read(cls, path: str) -> "FileName | None":
        """None for what is no file of an archive."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        table, day, controller, made = match.groups()
        try:
            return cls(table, date.fromisoformat(day), controller, int(made) / 1000)
        except ValueError:
            return None


def new_path(table: str, day: date, controller: str, when: float, token: str) -> str:
    """`token` is eight random hexadecimal digits, so that a name is never used again."""
    return f"{table}/day={day.isoformat()}/{plain_name(controller)}-{round(when * 1000):013d}-{token}.parquet"


def plain_name(controller: str) -> str:
    """A controller's name as it can stand in a file's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", controller)[:NAME_MAX] or "_"


def day_of(when: float) -> date:
    """The day of epoch seconds, UTC."""
    return datetime.fromtimestamp(when, UTC).date()


def believed(day: date, when: float) -> bool:
    """Whether a record that came at `when` can be of this day."""
    today = day_of(when)
    return today - timedelta(PAST_DAYS) <= day <= today + timedelta(FUTURE_DAYS)


def table_of(kind: Kind) -> str:
    """Where records of this kind are."""
    return ROLLUPS if kind is Kind.ROLLUP else CALLS


def epoch_text(epoch: int) -> str:
    """As it stands in columns: beyond what many readers keep exact as a number."""
    return f"{epoch:016x}"
