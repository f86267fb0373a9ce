"""NANPA's area code report: which area codes have no numbers yet, so that nothing can originate from them.

The report (`npa_report.csv`) has a row for each of the 800 codes from 200 to 999. An area code is taken for
unallocated only where the report says that it belongs to the United States and is not in service. Never taken are
codes of Canada, the Caribbean and Bermuda, whatever the report says of them, and codes that it names no country for:
those may be anybody's tomorrow. `also_unassigned` takes those of the latter that the report calls assignable, neither
assigned nor reserved.

A report is a photograph: area codes go into service every few months, announced about a year ahead. Takes lines and
the time; opens nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Final, NamedTuple

from agent.model import ConfigError
from agent.numbers.areas import NANPA_ALLOCATES, is_foreign_to_nanpa
from agent.numbers.dno import Assertion, DnoCategory
from agent.numbers.plan import NPA_REASONS
from agent.numbers.ranges import Piece, parse_prefix
from agent.numbers.rows import Faults, Table, TextLines

# A code that goes into service is announced earlier than this, so a younger report knows of it.
MAX_REPORT_DAYS: Final = 180
# 800 codes, and rows may be missing as years go by; a file with fewer was cut off.
MIN_ROWS: Final = 720

_DAY: Final = 86_400.0
_FILE_DATE: Final = re.compile(r'"?File Date"?\s*,\s*"?([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})"?[\s,]*', re.IGNORECASE)
_SERVICE_DATE: Final = re.compile(r"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{2}|[0-9]{4})", re.ASCII)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_COLUMNS: Final = ("npa_id", "assignable", "reserved", "assigned", "country", "in_service", "in_service_dt")
_UNITED_STATES: Final = frozenset({"US", "USA", "UNITED STATES"}) | NANPA_ALLOCATES


class NpaReport(NamedTuple):
    """Area codes without numbers, and from when on each may have some (None: no date known).

    `left_out` counts the codes that are not in service and were not taken, by reason.
    """

    file_date: float
    unallocated: dict[int, float | None]
    left_out: dict[str, int]

    def is_stale(self, when: float) -> bool:
        """Whether area codes may have gone into service that it does not know of."""
        return when - self.file_date > MAX_REPORT_DAYS * _DAY

    def entries(self, source: str, asserted_by: str, *, expire: bool = True) -> Iterator[tuple[Piece, Assertion]]:
        """Category 3 entries; with `expire` they hold as long as the report is not stale, at most."""
        for npa, opens_at in self.unallocated.items():
            ends = [time for time in (opens_at, self.file_date + MAX_REPORT_DAYS * _DAY if expire else None) if time]
            yield (
                parse_prefix(str(npa)),
                Assertion(DnoCategory.UNALLOCATED, source, asserted_by, self.file_date, min(ends, default=None)),
            )


def read_npa_report(lines: Iterable[bytes], name: str, *, also_unassigned: bool = False) -> NpaReport:
    """Read a report. Raises ConfigErrors for rows that are wrong, ConfigError for a file that is no whole report."""
    source = iter(lines)
    first = next(source, b"")
    heading = next(iter(TextLines([first], name)), "")
    match = _FILE_DATE.fullmatch(heading.strip())
    if match is None:
        raise ConfigError(f"{name} row 1", "no 'File Date,MM/DD/YYYY': without its date a report says nothing")
    try:
        file_date = datetime(int(match[3]), int(match[1]), int(match[2]), tzinfo=UTC)
    except ValueError:
        raise ConfigError(f"{name} row 1", "its file date is no date of the calendar") from None
    faults = Faults(name)
    # The heading stays as a comment, so that rows keep their numbers.
    table = Table(chain([b"#\n"], source), name, faults)
    report = NpaReport(file_date.timestamp(), {}, {})
    positions = _positions(table)
    if missing := [column for column in _COLUMNS if column not in positions]:
        raise ConfigError(f"{name} row {table.header.row}", f"no column {', '.join(missing)}: not an area code report")
    # The published report has places with commas in them that are not quoted, and rows that end early: a row must
    # reach as far as what is read of it.
    for row in table.rows(max(positions.values()) + 1):
        fields = {column: row.cells[position].strip() for column, position in positions.items()}
        try:
            _judge(fields, file_date, report, also_unassigned=also_unassigned)
        except ValueError as error:
            faults.add(row.number, "", str(error))
    faults.fail()
    if table.rows_read < MIN_ROWS:
        raise ConfigError(name, f"has {table.rows_read} rows; a whole report has 800")
    return report


def _positions(table: Table) -> dict[str, int]:
    return {column: position for position, column in enumerate(table.header.names) if column in _COLUMNS}


def _judge(fields: Mapping[str, str], file_date: datetime, report: NpaReport, *, also_unassigned: bool) -> None:
    """Put one area code into the report, or count why not. Raises ValueError for a row that cannot be read."""
    if not re.fullmatch(r"[2-9][0-9]{2}", fields["npa_id"], re.ASCII):
        raise ValueError(f"{fields['npa_id']!r:.20} is no area code")
    npa, in_service, country = int(fields["npa_id"]), fields["in_service"].upper(), fields["country"].upper()
    if in_service not in {"Y", "N"}:
        raise ValueError(f"in_service is {in_service!r:.20}, neither Y nor N")
    if in_service == "Y" or NPA_REASONS[npa]:
        return
    opens_at = _service_date(fields["in_service_dt"], file_date)
    unassigned = fields["assignable"] == "Yes" and fields["assigned"] == "No" and fields["reserved"] == "No"
    if is_foreign_to_nanpa(npa) or (country and country not in _UNITED_STATES):
        reason = "another country's"
    elif not country and not (also_unassigned and unassigned):
        reason = "no country stated"
    elif opens_at is not None and opens_at <= file_date.timestamp():
        reason = "in-service date has passed"
    else:
        report.unallocated[npa] = opens_at
        return
    report.left_out[reason] = report.left_out.get(reason, 0) + 1


def _service_date(text: str, file_date: datetime) -> float | None:
    """ "01-JAN-47" as epoch seconds: of the centuries, the one that brings it closest to the report. None for ""."""
    if not text:
        return None
    match = _SERVICE_DATE.fullmatch(text)
    if match is None or match[2].lower() not in _MONTHS:
        raise ValueError(f"in_service_dt {text!r:.20} is no date like 01-JAN-47")
    year, month, day = int(match[3]), _MONTHS.index(match[2].lower()) + 1, int(match[1])
    if len(match[3]) == 2:
        century = file_date.year // 100 * 100
        year = min((century + shift + year for shift in (-100, 0, 100)), key=lambda y: abs(y - file_date.year))
    return datetime(year, month, day, tzinfo=UTC).timestamp()
