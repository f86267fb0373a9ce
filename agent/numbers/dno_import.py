"""Do-not-originate entries out of CSV and text files; refuses what a list must not hold, and files that are cut off.

A CSV names its columns in the first row: the numbers (number; or prefix; or npa, nxx, x; or first and last), then
category, source, asserted_by, verified_at, expires_at. Refused are rows without category, unused numbers without a
fresh verification, unallocated numbers in area codes that NANPA does not allocate, foreign numbers without their
subscriber's request, and every category that means reputation. One bad row refuses the file.

Takes lines and the time; opens nothing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from agent.model import ConfigError
from agent.numbers.dno import Assertion, DnoCategory, Manifest
from agent.numbers.dno_build import Contents, DnoBuilder, refusal
from agent.numbers.ranges import NANP_FIRST, Piece
from agent.numbers.rows import Faults, Header, Row, Table, piece_columns, read_text_pieces, row_piece

T = TypeVar("T")

DAY: Final = 86_400.0
# 64.1200(o) wants unused numbers verified at the time of blocking: a verification is taken to hold so long.
MAX_UNUSED_DAYS: Final = 30
# A verification may be stamped by a clock in another zone or a little ahead of ours, not more.
MAX_AHEAD: Final = DAY
MAX_NAME: Final = 200
# A new list with less of the old one's numbers than this is more likely a broken download than news.
MIN_SHARE_OF_PREVIOUS: Final = 0.9

_ASSERTION_COLUMNS: Final = ("category", "source", "asserted_by", "verified_at", "expires_at")
_CATEGORIES: Final = {
    **{str(int(category)): category for category in DnoCategory},
    **{category.slug: category for category in DnoCategory},
    "subscriber": DnoCategory.SUBSCRIBER_REQUEST,
}
_REPUTATION: Final = re.compile(r"spam|scam|fraud|reputation|suspect|robocall|nuisance|telemarket|risk", re.IGNORECASE)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)


@dataclass(slots=True)
class ImportReport:
    """What came out of one file: rows read, rows left out because they had expired, columns that nobody knows."""

    name: str
    rows: int = 0
    expired: int = 0
    ignored_columns: tuple[str, ...] = ()


class _Known(NamedTuple):
    """An assertion that was checked, with its id in the builder; id -1: it has expired."""

    assertion: Assertion
    assertion_id: int


class _FieldError(ValueError):
    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column


def parse_category(text: str) -> DnoCategory:
    """A category by its number or its name. Raises ValueError with the reason."""
    folded = re.sub(r"[\s_]+", "-", text.strip().lower())
    category = _CATEGORIES.get(folded)
    if category is not None:
        return category
    if not folded:
        raise ValueError("missing; every entry says on what ground it is listed")
    if _REPUTATION.search(folded):
        raise ValueError(f"{text!r:.50}: reputation is no ground for a do-not-originate list; it belongs to analytics")
    raise ValueError(f"{text!r:.50} is none of " + ", ".join(f"{c.value} ({c.slug})" for c in DnoCategory))


def parse_time(text: str) -> float | None:
    """A date (its first moment in UTC) or a timestamp with zone as epoch seconds; None for "". Raises ValueError."""
    text = text.strip()
    if not text:
        return None
    if _DATE.fullmatch(text):
        text += "T00:00:00Z"
    elif not _TIMESTAMP.fullmatch(text):
        raise ValueError(f"{text!r:.50} is neither a date (2026-01-31) nor a time with its zone (2026-01-31T12:00:00Z)")
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r:.50} is no date of the calendar") from None


def make_assertion(fields: Mapping[str, str], when: float) -> Assertion:
    """An assertion from its texts, by the column names, checked as of `when`. Raises ValueError with `column` set."""
    category = _read("category", parse_category, fields)
    verified_at, expires_at = (_read(column, parse_time, fields) for column in ("verified_at", "expires_at"))
    for column in ("source", "asserted_by"):
        if fault := _name_fault(fields[column].strip()):
            raise _FieldError(column, fault)
    if verified_at is not None and verified_at > when + MAX_AHEAD:
        raise _FieldError("verified_at", "lies in the future")
    if verified_at is not None and expires_at is not None and expires_at <= verified_at:
        raise _FieldError("expires_at", "is not after verified_at")
    if category is DnoCategory.UNUSED:
        _check_unused(verified_at, expires_at)
    return Assertion(category, fields["source"].strip(), fields["asserted_by"].strip(), verified_at, expires_at)


def _read(column: str, parse: Callable[[str], T], fields: Mapping[str, str]) -> T:
    try:
        return parse(fields[column])
    except ValueError as error:
        raise _FieldError(column, str(error)) from None


def _name_fault(text: str) -> str:
    if not text:
        return "missing; it goes into the record of every call that is refused"
    if len(text) > MAX_NAME:
        return f"longer than {MAX_NAME} characters"
    return "" if text.isprintable() else "holds a control character"


def _check_unused(verified_at: float | None, expires_at: float | None) -> None:
    """Raises _FieldError unless an unused number was verified, and expires soon enough after that."""
    if verified_at is None:
        raise _FieldError("verified_at", "missing: an unused number needs its allocatee's verification")
    if expires_at is None:
        raise _FieldError("expires_at", "missing: that a number is unused does not stay true")
    if expires_at - verified_at > MAX_UNUSED_DAYS * DAY:
        raise _FieldError("expires_at", f"more than {MAX_UNUSED_DAYS} days after verified_at, for an unused number")


class Importer:
    """Puts the entries of files into a builder. `defaults` stand for columns that a CSV does not have."""

    def __init__(self, builder: DnoBuilder, when: float, defaults: Mapping[str, str] | None = None) -> None:
        self._builder = builder
        self._when = when
        self._defaults = dict.fromkeys(_ASSERTION_COLUMNS, "") | dict(defaults or {})

    def _know(self, fields: Mapping[str, str]) -> _Known:
        """Raises _FieldError."""
        assertion = make_assertion(fields, self._when)
        return _Known(assertion, self._builder.assertion_id(assertion) if assertion.holds(self._when) else -1)

    def add_csv(self, lines: Iterable[bytes], name: str) -> ImportReport:
        """All rows of a CSV file. Raises ConfigErrors with the rows that are wrong, ConfigError for a broken file."""
        faults = Faults(name)
        table = Table(lines, name, faults)
        header, columns = table.header, piece_columns(table.header, name)
        if "category" not in header.positions and not self._defaults["category"]:
            where = f"{name} row {header.row}"
            raise ConfigError(where, "no column category: every entry says on what ground it is listed")
        report = ImportReport(name, ignored_columns=header.ignored)
        places = [(column, header.positions[column]) for column in _ASSERTION_COLUMNS if column in header.positions]
        known_by_cells: dict[tuple[str, ...], _Known] = {}
        for row in table:
            key = tuple([row.cells[place] for _, place in places])
            known = known_by_cells.get(key)
            if known is None:
                stated = {column: cell for (column, _), cell in zip(places, key, strict=True) if cell.strip()}
                try:
                    known = known_by_cells[key] = self._know(self._defaults | stated)
                except _FieldError as fault:
                    faults.add(row.number, fault.column, str(fault))
                    continue
            report.expired += self._add_row(row, header, columns, known, faults)
        faults.fail()
        report.rows = table.rows_read
        return report

    def _add_row(self, row: Row, header: Header, columns: tuple[str, ...], known: _Known, faults: Faults) -> bool:
        """Add the numbers of one row, or note its fault. Returns whether it was left out because it has expired."""
        text = row.cells[header.positions[columns[0]]]
        if (
            columns == ("number",)
            and known.assertion.category is DnoCategory.SUBSCRIBER_REQUEST
            and len(text) == 10
            and text.isascii()
            and text.isdigit()
        ):  # most rows of most lists
            if known.assertion_id >= 0:
                self._builder.add_number(int(text), known.assertion_id)
            return known.assertion_id < 0
        piece, column, reason = row_piece(row.cells, header, columns)
        if piece is not None and (reason := refusal(piece, known.assertion.category)):
            column = columns[0]
        if piece is None or reason:
            faults.add(row.number, column, reason)
            return False
        return not self._add(piece, known)

    def _add(self, piece: Piece, known: _Known) -> bool:
        """Returns False when the assertion has expired, and nothing was added."""
        if known.assertion_id < 0:
            return False
        if piece.first == piece.last and piece.is_nanp:
            self._builder.add_number(piece.first - NANP_FIRST, known.assertion_id)
        else:
            self._builder.add(piece, known.assertion_id)
        return True

    def add_text(self, lines: Iterable[bytes], name: str) -> ImportReport:
        """All lines of a text file, under the assertion that `defaults` state. Raises ConfigErrors or ConfigError."""
        try:
            known = self._know(self._defaults)
        except _FieldError as fault:
            raise ConfigError(f"{name}: {fault.column.replace('_', '-')}", str(fault)) from None
        report, faults = ImportReport(name), Faults(name)
        for row, piece in read_text_pieces(lines, name):
            report.rows += 1
            if reason := refusal(piece, known.assertion.category):
                faults.add(row, "", reason)
            else:
                report.expired += not self._add(piece, known)
        faults.fail()
        return report


def shrinkage(contents: Contents, previous: Manifest) -> str:
    """How a new list has lost too much of the previous one, in words; "" when it has not.

    Single numbers and blocks are compared apart: a few area codes outnumber all single numbers of a list.
    """
    counts = contents.counts()
    for what, keys in (("single numbers", ("exact", "others")), ("blocks of a thousand", ("blocks",))):
        now, before = (sum(c.get(key, 0) for key in keys) for c in (counts, previous.counts))
        if now < before * MIN_SHARE_OF_PREVIOUS:
            return f"{now:,} {what}, the previous list has {before:,}"
    return ""
