"""Records as one Parquet file, whole or not at all. Needs pyarrow, the extra `parquet`."""

import contextlib
import os
import secrets
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from agent.records.reading import Record

# Rows that are in memory at a time; also the size of a row group, which readers skip by.
ROWS: Final = 50_000

_VERIFIED: Final = [pa.field(name, pa.string()) for name in ("failure", "why", "attestation", "signer", "origid")]
_ROW: Final = pa.struct([(name, pa.string()) for name in ("ppt", "url", "failure", "why")])
_VERDICT: Final = [pa.field(name, pa.string()) for name in ("action", "rule", "category", "why", "answer")]
CALLS: Final = pa.schema(
    [
        pa.field("epoch", pa.string()),
        pa.field("sequence", pa.uint64()),
        pa.field("kind", pa.string()),
        pa.field("time", pa.timestamp("us", tz="UTC")),
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
)
_COUNTS: Final = pa.map_(pa.string(), pa.map_(pa.string(), pa.uint64()))
ROLLUPS: Final = pa.schema(
    [
        pa.field("epoch", pa.string()),
        pa.field("sequence", pa.uint64()),
        pa.field("kind", pa.string()),
        pa.field("time", pa.timestamp("us", tz="UTC")),
        pa.field("seconds", pa.float64()),
        *(pa.field(name, pa.uint64()) for name in ("attempts", "repeats", "not_decided")),
        pa.field("trunks", _COUNTS),
        pa.field("rules", _COUNTS),
    ]
)


def write_parquet(path: Path, records: Iterable[Record], *, rollups: bool = False) -> None:
    """Write records of one sort (calls, or roll-ups). Raises OSError, and then an older file is as it was."""
    schema = ROLLUPS if rollups else CALLS
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    rest = iter(records)
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while rows := [_row(record, rollups) for record in islice(rest, ROWS)]:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _row(record: Record, rollups: bool) -> dict[str, Any]:
    row = {**record, "time": _time(record.get("time"))}
    if rollups:
        for name in ("trunks", "rules"):
            row[name] = [(key, list(counts.items())) for key, counts in record.get(name, {}).items()]
    return row


def _time(text: object) -> datetime | None:
    """Records write times that no calendar has as plain numbers; a column of times has no room for those."""
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
