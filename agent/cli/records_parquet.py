"""Records as one Parquet file, whole or not at all. Needs pyarrow, the extra `parquet`."""

import contextlib
import os
import secrets
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from agent.records.columns import CALLS, ROLLUPS, row
from agent.records.reading import Record

# Rows that are in memory at a time; also the size of a row group, which readers skip by.
ROWS: Final = 50_000


def write_parquet(path: Path, records: Iterable[Record], *, rollups: bool = False) -> None:
    """Write records of one sort (calls, or roll-ups). Raises OSError, and then an older file is as it was."""
    schema = ROLLUPS if rollups else CALLS
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    rest = iter(records)
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while rows := [row(record, rollups=rollups) for record in islice(rest, ROWS)]:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
