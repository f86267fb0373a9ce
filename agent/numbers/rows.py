"""Lines of a list file as text and as rows of named columns: decoding, headers, and whether the file is whole.

Lists come as exports of many programs: with a byte order mark, in CP1252, with commas, semicolons or tabs, with names
of columns in every spelling. Whatever does not look like a whole file is refused, for a half list that replaces a
whole one lets half of the calls through. Takes an iterable of lines; opens nothing.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from agent.model import ConfigError, ConfigErrors
from agent.numbers.ranges import Piece, parse_piece, parse_prefix, parse_range

# So many faults are shown before a file is given up; the first few tell what is wrong with the rest.
MAX_FAULTS: Final = 20

_BOM: Final = b"\xef\xbb\xbf"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_TRAILER: Final = re.compile(r"#\s*rows\s*[:=]\s*([0-9]{1,12})\s*", re.ASCII | re.IGNORECASE)
_DELIMITERS: Final = ",;\t|"
_ALIASES: Final = {
    "number": "number",
    "tn": "number",
    "phone_number": "number",
    "telephone_number": "number",
    "prefix": "prefix",
    "npa_nxx": "prefix",
    "npa_nxx_x": "prefix",
    "npa": "npa",
    "nxx": "nxx",
    "x": "x",
    "first": "first",
    "range_start": "first",
    "from": "first",
    "last": "last",
    "range_end": "last",
    "to": "last",
    "category": "category",
    "source": "source",
    "asserted_by": "asserted_by",
    "verified_at": "verified_at",
    "expires_at": "expires_at",
}
_PIECE_COLUMNS: Final = ("number", "prefix", "npa", "nxx", "x", "first", "last")


class Faults:
    """Collects what is wrong with a file, and gives up when it is too much."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._errors: list[ConfigError] = []

    def add(self, row: int, column: str, reason: str) -> None:
        """Note a fault. Raises ConfigErrors when it is one too many."""
        where = f"{self._name} row {row}, column {column}" if column else f"{self._name} row {row}"
        self._errors.append(ConfigError(where, reason))
        if len(self._errors) >= MAX_FAULTS:
            self._errors.append(ConfigError(self._name, f"given up after {MAX_FAULTS} faults"))
            raise ConfigErrors(self._errors)

    def fail(self) -> None:
        """Raises ConfigErrors when there was any fault."""
        if self._errors:
            raise ConfigErrors(self._errors)


class TextLines:
    """The lines of a file as text: UTF-8, else CP1252, without byte order mark; iterate once.

    After the last line, `whole` says whether it ended with a line end, and `stated_rows` what a trailer
    ("# rows: 2300000", the last line of the file) says of their number, -1 without one. Raises ConfigError for
    UTF-16 and for NUL bytes.
    """

    def __init__(self, lines: Iterable[bytes], name: str) -> None:
        self._lines = lines
        self._name = name
        self.whole = True
        self.count = 0
        self.stated_rows = -1

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.count += 1
            raw = line
            if self.count == 1:
                if line.startswith(_UTF16):
                    raise ConfigError(self._name, "is UTF-16: save it as UTF-8")
                raw = line.removeprefix(_BOM)
            if b"\0" in raw:
                raise ConfigError(f"{self._name} row {self.count}", "holds a NUL byte: damaged, or no text file")
            self.whole = raw.endswith((b"\n", b"\r"))
            text = _decode(raw)
            if text.startswith("#"):
                trailer = _TRAILER.fullmatch(text.strip())
                self.stated_rows = int(trailer[1]) if trailer else -1
            elif not text.isspace():
                self.stated_rows = -1
            yield text

    def check_whole(self) -> None:
        """Raises ConfigError when the file was cut off."""
        if not self.count:
            raise ConfigError(self._name, "is empty")
        if not self.whole:
            raise ConfigError(f"{self._name} row {self.count}", "ends without a line end: the file may be cut off")


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # CP1252 leaves five bytes undefined; names that hold them are not worth refusing a list for.
        return raw.decode("cp1252", "replace")


class Header(NamedTuple):
    """The columns: their names as `column_name` makes them, the positions of those that mean something to us by our
    names (see _ALIASES), and the names of the others.
    """

    row: int
    names: tuple[str, ...]
    positions: dict[str, int]
    ignored: tuple[str, ...]


class Row(NamedTuple):
    """One row of a table: its number in the file (of its last line, if it has several) and its cells."""

    number: int
    cells: Sequence[str]


def column_name(text: str) -> str:
    """A column's name as it is compared: lower case, words joined by "_"."""
    return re.sub(r"[\s_\-/.]+", "_", text.strip().lower())


class Table:
    """A CSV file whose first row names its columns. Comment lines start with "#"; empty lines are skipped."""

    def __init__(self, lines: Iterable[bytes], name: str, faults: Faults) -> None:
        """Reads the header. Raises ConfigError when there is none, or a name comes twice."""
        self._name = name
        self._faults = faults
        self.text = TextLines(lines, name)
        self.rows_read = 0
        source = iter(self.text)
        first = next((line for line in source if line.strip() and not line.startswith("#")), None)
        if first is None:
            raise ConfigError(name, "is empty")
        delimiter = max(_DELIMITERS, key=first.count)
        names = [column_name(cell) for cell in next(csv.reader([first], delimiter=delimiter))]
        self.header = Header(
            self.text.count,
            tuple(names),
            _positions(names, f"{name} row {self.text.count}"),
            tuple(column for column in names if column not in _ALIASES),
        )
        self._first_line = self.text.count
        self._reader = csv.reader(source, delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[Row]:
        """The rows that have as many cells as the header; the others are faults."""
        return self.rows(len(self.header.names))

    def rows(self, least: int) -> Iterator[Row]:
        """The rows; those with fewer cells than `least` are faults, and so are, unless it is less than the header has,
        those with more than the header.
        """
        width, offset, reader = len(self.header.names), self._first_line, self._reader
        try:
            for cells in reader:
                if not cells or cells[0].startswith("#"):
                    continue
                self.rows_read += 1
                if len(cells) < least or (len(cells) > width == least):
                    self._faults.add(offset + reader.line_num, "", f"has {len(cells)} cells, the header has {width}")
                    continue
                yield Row(offset + reader.line_num, cells)
        except csv.Error as error:
            raise ConfigError(f"{self._name} row {offset + reader.line_num}", str(error)) from None
        self.text.check_whole()
        stated = self.text.stated_rows
        if stated not in {-1, self.rows_read}:
            raise ConfigError(self._name, f"states {stated} rows in its last line, and has {self.rows_read}")


def _positions(names: Sequence[str], where: str) -> dict[str, int]:
    positions: dict[str, int] = {}
    for position, name in enumerate(names):
        ours = _ALIASES.get(name)
        if ours is None:
            continue
        if ours in positions:
            raise ConfigError(where, f"columns {names[positions[ours]]} and {name} mean the same")
        positions[ours] = position
    return positions


def piece_columns(header: Header, name: str) -> tuple[str, ...]:
    """The columns that say which numbers a row is about. Raises ConfigError unless there is one way to say it."""
    found = tuple(column for column in _PIECE_COLUMNS if column in header.positions)
    where = f"{name} row {header.row}"
    if ("first" in found) != ("last" in found):
        raise ConfigError(where, "a range needs both columns first and last")
    if ("nxx" in found and "npa" not in found) or ("x" in found and "nxx" not in found):
        raise ConfigError(where, "nxx needs the column npa before it, and x needs nxx")
    if not found:
        raise ConfigError(where, "no column number, prefix (npa_nxx, npa_nxx_x), npa (with nxx, x), or first and last")
    return found


def row_piece(cells: Sequence[str], header: Header, columns: Sequence[str]) -> tuple[Piece | None, str, str]:
    """The numbers of a row, as (piece, column, reason): without piece, the column at fault and what is wrong there."""
    filled = [column for column in columns if cells[header.positions[column]].strip()]
    try:
        match filled:
            case ["number"]:
                return parse_piece(cells[header.positions["number"]]), "", ""
            case ["prefix"]:
                return parse_prefix(cells[header.positions["prefix"]].strip()), "", ""
            case ["npa"] | ["npa", "nxx"] | ["npa", "nxx", "x"]:
                if missing := [column for column in ("nxx", "x") if column in columns and column not in filled]:
                    return None, missing[0], "empty: that would list everything in the area code"
                return _joined(cells, header, filled), "", ""
            case ["first", "last"]:
                return parse_range(cells[header.positions["first"]], cells[header.positions["last"]]), "", ""
            case []:
                return None, columns[0], "empty"
            case _:
                return None, filled[0], f"a row names its numbers in one way, not by {' and '.join(filled)}"
    except ValueError as error:
        return None, filled[0], f"{cells[header.positions[filled[0]]]!r:.70}: {error}"


def _joined(cells: Sequence[str], header: Header, columns: Sequence[str]) -> Piece:
    """The prefix that NPA, NXX and X make, each in a column of its own. Raises ValueError with the reason."""
    parts = [cells[header.positions[column]].strip() for column in columns]
    if not all(re.fullmatch(r"[0-9]+", part) for part in parts) or [*map(len, parts)] != [3, 3, 1][: len(parts)]:
        raise ValueError("NPA and NXX have three digits, X has one")
    return parse_prefix("".join(parts))


def read_text_pieces(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, Piece]]:
    """One text form of agent.numbers.ranges in each line, as (row number, piece); "#" starts a comment.

    Raises ConfigErrors for lines that are no such form, ConfigError for a file that is empty or cut off.
    """
    text, faults = TextLines(lines, name), Faults(name)
    rows = 0
    for line in text:
        content = line.partition("#")[0].strip()
        if not content:
            continue
        rows += 1
        try:
            yield text.count, parse_piece(content)
        except ValueError as error:
            faults.add(text.count, "", f"{content!r:.70}: {error}")
    faults.fail()
    text.check_whole()
    if text.stated_rows not in {-1, rows}:
        raise ConfigError(name, f"states {text.stated_rows} rows in its last line, and has {rows}")


def read_csv_pieces(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, Piece]]:
    """The numbers of a CSV file, as (row number, piece), by its columns number, prefix, first and last.

    Raises ConfigErrors for rows that are wrong, ConfigError for a file that is.
    """
    faults = Faults(name)
    table = Table(lines, name, faults)
    columns = piece_columns(table.header, name)
    for row in table:
        piece, column, reason = row_piece(row.cells, table.header, columns)
        if piece is None:
            faults.add(row.number, column, reason)
        else:
            yield row.number, piece
    faults.fail()
