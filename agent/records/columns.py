"""Records as columns: the names and types that Parquet files of an agent and of a controller share.

Needs pyarrow, the extra `parquet`. Knows nothing of files.
"""

from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from agent.records.reading import Record

_VERIFIED: Final = [pa.field(name, pa.string()) for name in ("failure", "why", "attestation", "signer", "origid")]
_ROW: Final = pa.struct([(name, pa.string()) for name in ("ppt", "url", "failure", "why")])
_VERDICT: Final = [pa.field(name, pa.string()) for name in ("action", "rule", "category", "why", "answer")]
_COUNTS: Final = pa.map_(pa.string(), pa.map_(pa.string(), pa.uint64()))
_TIME: Final = pa.field("time", pa.timestamp("us", tz="UTC"))

PLACE: Final = [pa.field("epoch", pa.string()), pa.field("sequence", pa.uint64()), pa.field("kind", pa.string())]
"""Which record it is: not in the record itself, but known from where it lies."""

CALL: Final = [
    _TIME,
    *(pa.field(name, pa.string()) for name in ("call_id", "trunk", "customer", "upstream", "source")),
    *(pa.field(name, pa.string()) for name in ("calling", "called", "from_uri")),
    pa.field("asserted", pa.list_(pa.string())),
    pa.field("identity", pa.list_(pa.struct([("sha256", pa.string()), ("attestation", pa.string())]))),
    pa.field("verification", pa.struct([*_VERIFIED, pa.field("rows", pa.list_(_ROW))])),
    *_VERDICT,
    pa.field("shadow", pa.list_(pa.struct(_VERDICT))),
    pa.field("notes", pa.list_(pa.string())),
    pa.field("policy_generation", pa.uint64()),
    pa.field("lists", pa.list_(pa.string())),
    pa.field("observed", pa.bool_()),
]
"""The fields of agent/records/record.py."""

ROLLUP: Final = [
    _TIME,
    pa.field("seconds", pa.float64()),
    *(pa.field(name, pa.uint64()) for name in ("attempts", "repeats", "not_decided")),
    pa.field("trunks", _COUNTS),
    pa.field("rules", _COUNTS),
]
"""The fields of agent/records/rollup.py."""

CALLS: Final = pa.schema([*PLACE, *CALL])
ROLLUPS: Final = pa.schema([*PLACE, *ROLLUP])


def row(record: Record, *, rollups: bool) -> dict[str, Any]:
    """A record as pyarrow takes it."""
    values = {**record, "time": time(record.get("time"))}
    if rollups:
        for name in ("trunks", "rules"):
            values[name] = [(key, list(counts.items())) for key, counts in record.get(name, {}).items()]
    return values


def time(text: object) -> datetime | None:
    """Records write times that no calendar has as plain numbers; a column of times has no room for those."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
