"""Questions about call records: what can be asked, as SQL over the files that may hold an answer.

Blocks; runs in threads only. Values go to DuckDB as parameters, never as text. The newest come first, and files that
are older than what is found already are not read.
"""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any, Final

import duckdb

from agent.records.record import rfc3339
from controller.archive.layout import CALLS, SCHEMAS
from controller.archive.storage import Storage
from controller.errors import Busy, Invalid, StoreUnavailable
from controller.model import ArchivedFile

LIMIT: Final = 1_000
LIMIT_MAX: Final = 100_000
WORD_MAX: Final = 1_024
"""Of a Call-ID that somebody asks for; of anything else too."""

TOLERANCE_SECONDS: Final = 300.0
"""Of a traceback: clocks of two networks, and the time that a call takes from one to the other."""

THREADS: Final = 2
"""Of one question. Ingest needs the rest."""

FILES_AT_A_TIME: Final = 64
PAGE_ROWS: Final = 500

_EQUAL: Final = ("agent", "call_id", "trunk", "rule")
_NUMBER: Final = re.compile(r"\+?[0-9() .-]{1,40}")
_NANP: Final = 10
"""Digits of a North American number without its country code."""

_COLUMNS: Final = tuple(field.name for field in SCHEMAS[CALLS])


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked. "" and None are any. `since` is included, `until` is not; epoch seconds.

    Numbers are digits with country code; ten digits are North American. Raises Invalid with the field.
    """

    since: float | None = None
    until: float | None = None
    agent: str = ""
    calling: str = ""
    called: str = ""
    call_id: str = ""
    trunk: str = ""
    rule: str = ""
    refused_only: bool = False
    limit: int = LIMIT

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= LIMIT_MAX:
            raise Invalid("limit", f"must be from 1 to {LIMIT_MAX}")
        for name in _EQUAL:
            if len(getattr(self, name)) > WORD_MAX:
                raise Invalid(name, f"is longer than {WORD_MAX} characters")
        for name in ("calling", "called"):
            value = getattr(self, name)
            if value and not (_NUMBER.fullmatch(value) and re.search("[0-9]", value)):
                raise Invalid(name, 'must be a number: "12015550123"')
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise Invalid("until", "must be later than from")

    @classmethod
    def traceback(cls, calling: str, called: str, when: float, tolerance: float = TOLERANCE_SECONDS) -> "Query":
        """The calls that a traceback request can mean: both numbers, at about this time."""
        return cls(when - tolerance, when + tolerance, calling=calling, called=called)

    def condition(self) -> tuple[str, list[Any]]:
        """SQL and its parameters."""
        parts, values = ["true"], list[Any]()

        def add(sql: str, *given: Any) -> None:
            parts.append(sql)
            values.extend(given)

        if self.since is not None:
            add("time >= make_timestamptz(?)", micros(self.since))
        if self.until is not None:
            add("time < make_timestamptz(?)", micros(self.until))
        for name in _EQUAL:
            if value := getattr(self, name):
                add(f"{name} = ?", value)
        for name in ("calling", "called"):
            if value := getattr(self, name):
                add(f"{name} = ?", digits(value))
        if self.refused_only:
            add("action IN ('refuse', 'drop')")
        return " AND ".join(parts), values


def digits(number: str) -> str:
    """As records have it."""
    found = re.sub("[^0-9]", "", number)
    return f"1{found}" if len(found) == _NANP and not number.strip().startswith("+") else found


def micros(when: float) -> int:
    """For DuckDB, which knows some hundred thousand years."""
    return round(max(-1e11, min(when, 1e11)) * 1e6)


class Search:
    """One question that is being answered. `stop` may be called from any thread."""

    def __init__(self, storage: Storage, memory_mb: int) -> None:
        self._storage = storage
        self._memory_mb = memory_mb
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End it soon; whoever waits for it gets Busy."""
        self._stopped.set()
        if (connection := self._connection) is not None:
            connection.interrupt()

    def pages(self, query: Query, files: Sequence[ArchivedFile]) -> Iterator[list[str]]:
        """JSON objects, newest first. Raises FileNotFoundError for a file that has gone, StoreUnavailable, Busy."""
        if not files:
            return
        try:
            with self._connected() as connection:
                yield from self._answer(connection, query, files)
        except duckdb.InterruptException:
            raise Busy("the question was ended", 1.0) from None
        except duckdb.OutOfMemoryException as error:
            raise Busy(f"the question needs more than {self._memory_mb} MB: ask about a shorter time", 60.0) from error
        except (duckdb.IOException, duckdb.HTTPException) as error:
            if "No files found" in str(error) or "No such file" in str(error):
                raise FileNotFoundError(str(error)) from error
            raise StoreUnavailable(f"the archive cannot be read: {error}") from error
        except duckdb.Error as error:
            raise StoreUnavailable(f"the archive cannot be read: {error}") from error
        finally:
            self._connection = None

    def _connected(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(
            config={
                "memory_limit": f"{self._memory_mb}MB",
                "threads": THREADS,
                "temp_directory": "",  # what does not fit into memory is too much
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        if self._storage.file_system is not None:
            connection.register_filesystem(self._storage.file_system)
        self._connection = connection
        if self._stopped.is_set():
            connection.interrupt()
        return connection

    def _answer(
        self, connection: duckdb.DuckDBPyConnection, query: Query, files: Sequence[ArchivedFile]
    ) -> Iterator[list[str]]:
        """First how far back it goes, by the times alone; then all columns of no more than that."""
        condition, values = query.condition()
        newest = sorted(files, key=lambda file: file.last_at, reverse=True)
        times: list[int] = []
        used: list[str] = []
        while newest and not (len(times) == query.limit and micros(newest[0].last_at) < times[-1]):
            some = [self._storage.address(file.path) for file in newest[:FILES_AT_A_TIME]]
            newest = newest[FILES_AT_A_TIME:]
            used += some
            self._check()
            found = connection.execute(
                f"SELECT epoch_us(time) FROM {_SOURCE} WHERE {condition} ORDER BY time DESC LIMIT {query.limit}",  # noqa: S608
                [some, *values],
            ).fetchall()
            times = nlargest(query.limit, [*times, *(time for (time,) in found)])
        if times:
            condition = f"({condition}) AND time >= make_timestamptz({times[-1]})"
            yield from self._rows(connection, condition, [used, *values], query.limit)

    def _rows(
        self, connection: duckdb.DuckDBPyConnection, condition: str, values: list[Any], limit: int
    ) -> Iterator[list[str]]:
        columns = ", ".join("epoch_us(time)" if name == "time" else f'"{name}"' for name in _COLUMNS)
        self._check()
        result = connection.execute(
            f"SELECT {columns} FROM {_SOURCE} WHERE {condition}"  # noqa: S608  (columns and conditions of ours)
            f" ORDER BY time DESC, agent, epoch, sequence DESC LIMIT {limit}",
            values,
        )
        while rows := result.fetchmany(PAGE_ROWS):
            self._check()
            yield [_json(row) for row in rows]

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Busy("the question was ended", 1.0)


# Files of later releases may have more columns.
_SOURCE: Final = "read_parquet(?, union_by_name = true, hive_partitioning = false)"


def _json(row: tuple[Any, ...]) -> str:
    """As the agent wrote it, with the agent's name, and which record it is."""
    value = dict(zip(_COLUMNS, row, strict=True))
    value["time"] = rfc3339(value["time"] / 1e6)
    rest = value.pop("rest")
    if rest:
        value |= json.loads(rest)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
