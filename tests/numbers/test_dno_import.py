"""Import of entries: what is taken, what is refused and with which words, and files that are not whole."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ConfigError, ConfigErrors
from agent.numbers.dno import Assertion, DnoCategory, Manifest
from agent.numbers.dno_build import DnoBuilder
from agent.numbers.dno_import import Importer, ImportReport, parse_category, parse_time, shrinkage
from agent.numbers.listfile import encode, read_list
from agent.numbers.ranges import Piece, nanp_range, parse_piece
from agent.numbers.rows import MAX_FAULTS, read_csv_pieces, read_text_pieces
from agent.numbers.sets import NumberSet

WHEN = 1_795_000_000.0  # 2026-11-18
HEADER = "number,category,source,asserted_by,verified_at,expires_at\n"
GOOD = "2015550123,1,registry,IRS,2026-01-01,\n"


def lines(text: str | bytes) -> Iterable[bytes]:
    return (text.encode() if isinstance(text, str) else text).splitlines(keepends=True)


def take(
    text: str | bytes, defaults: dict[str, str] | None = None
) -> tuple[list[tuple[Piece, Assertion]], ImportReport]:
    """The entries of a CSV, single numbers and runs alike."""
    builder = DnoBuilder()
    report = Importer(builder, WHEN, defaults).add_csv(lines(text), "a.csv")
    dno = read_list(memoryview(b"".join(encode(builder.finish(), 1, WHEN, "test"))), "x")
    return [*dno.runs(), *dno.singles()], report


def faults(text: str | bytes, defaults: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Importer(DnoBuilder(), WHEN, defaults).add_csv(lines(text), "a.csv")
    error = caught.value
    return [str(e) for e in (error.errors if isinstance(error, ConfigErrors) else (error,))]


def test_row_becomes_an_entry_with_its_assertion() -> None:
    entries, report = take(HEADER + GOOD)
    assertion = Assertion(DnoCategory.SUBSCRIBER_REQUEST, "registry", "IRS", 1_767_225_600.0, None)
    assert entries == [(parse_piece("2015550123"), assertion)]
    assert report == ImportReport("a.csv", rows=1)


@pytest.mark.parametrize(
    ("header", "cells", "piece"),
    [
        ("number", "2015550123", parse_piece("2015550123")),
        ("TN", "+12015550123", parse_piece("2015550123")),
        ("Phone Number", "(201) 555-0123", parse_piece("2015550123")),
        ("number", "2015550*", parse_piece("2015550*")),
        ("number", "2015550100-2015550199", parse_piece("2015550100-2015550199")),
        ("prefix", "201555", parse_piece("201555*")),
        ("NPA-NXX", "201-555", parse_piece("201555*")),
        ("NPA-NXX-X", "201-555-0", parse_piece("2015550*")),
        ("NPA", "201", parse_piece("201*")),
        ("NPA,NXX", "201,555", parse_piece("201555*")),
        ("NPA,NXX,X", "201,555,0", parse_piece("2015550*")),
        ("first,last", "2015550100,2015550199", parse_piece("2015550100-2015550199")),
        ("Range Start,Range End", "+12015550100,+12015550199", parse_piece("2015550100-2015550199")),
    ],
)
def test_every_way_to_say_which_numbers(header: str, cells: str, piece: Piece) -> None:
    text = f"{header},category,source,asserted by\n{cells},1,registry,IRS\n"
    entries, _ = take(text)
    assert NumberSet.build(found for found, _ in entries) == NumberSet.build([piece])


def test_number_and_prefix_columns_may_stand_side_by_side() -> None:
    entries, _ = take("number,prefix,category,source,asserted_by\n2015550123,,1,r,I\n,201556,1,r,I\n")
    assert [piece for piece, _ in entries] == [parse_piece("201556*"), parse_piece("2015550123")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_exports_of_many_programs_are_read(delimiter: str, line_end: str, mark: bytes) -> None:
    text = (HEADER + GOOD + '"+1 201 555 0124",1,"registry, second",IRS,,\n').replace("\n", line_end)
    if delimiter != ",":
        text = text.replace(", second", " second").replace(",", delimiter)
    entries, _ = take(mark + text.encode())
    assert [str(piece) for piece, _ in entries] == ["+12015550123", "+12015550124"]


def test_cp1252_names_are_kept() -> None:
    entries, _ = take(HEADER.encode() + b"2015550123,1,Caf\xe9 \x80,I\xd1S,,\n")
    assert (entries[0][1].source, entries[0][1].asserted_by) == ("Café €", "IÑS")


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ("2015550124,,r,IRS,,", "category", "missing"),
        ("2015550124,5,r,IRS,,", "category", "none of 1 (subscriber-request), 2 (invalid)"),
        ("2015550124,¹,r,IRS,,", "category", "none of"),
        ("2015550124,spam,r,IRS,,", "category", "belongs to analytics"),
        ("2015550124,Robocall Risk,r,IRS,,", "category", "belongs to analytics"),
        ("2015550124,low reputation,r,IRS,,", "category", "belongs to analytics"),
        ("2015550124,1,,IRS,,", "source", "missing"),
        ("2015550124,1,r,,,", "asserted_by", "missing"),
        (f"2015550124,1,{'x' * 201},IRS,,", "source", "longer than 200"),
        ('2015550124,1,"a\x07b",IRS,,', "source", "control character"),
        ("2015550124,1,r,IRS,yesterday,", "verified_at", "neither a date"),
        ("2015550124,1,r,IRS,2026-02-30,", "verified_at", "no date of the calendar"),
        ("2015550124,1,r,IRS,2026-01-01T10:00:00,", "verified_at", "time with its zone"),
        ("2015550124,1,r,IRS,٢٠٢٦-01-01,", "verified_at", "neither a date"),
        ("2015550124,1,r,IRS,2027-01-01,", "verified_at", "lies in the future"),
        ("2015550124,1,r,IRS,2026-01-02,2026-01-01", "expires_at", "not after verified_at"),
        ("2015550124,4,r,IRS,,2026-12-01", "verified_at", "needs its allocatee's verification"),
        ("2015550124,4,r,IRS,2026-11-10,", "expires_at", "does not stay true"),
        ("2015550124,4,r,IRS,2026-11-10,2026-12-11", "expires_at", "more than 30 days"),
        ("2015550124,unused,r,IRS,2026-11-10,2027-11-10", "expires_at", "more than 30 days"),
        ("2012340124,2,r,IRS,,", "number", "the numbering plan allows 201-234"),
        ("204*,3,r,IRS,,", "number", "204 belongs to Canada"),
        ("8765550123,unallocated,r,IRS,,", "number", "876 belongs to Jamaica"),
        ("2030000000-2060000000,3,r,IRS,,", "number", "204 belongs to Canada"),
        ("+442079460123,2,r,IRS,,", "number", "by subscriber request only"),
        ("+442079460123,3,r,IRS,,", "number", "by subscriber request only"),
        ("+442079460123,4,r,IRS,2026-11-10,2026-11-20", "number", "by subscriber request only"),
        ("20155501,1,r,IRS,,", "number", "neither ten digits"),
        (",1,r,IRS,,", "number", "empty"),
        ("٢٠١٥٥٥٠١٢٣,1,r,IRS,,", "number", "digits 0-9"),
        ("201555012²,1,r,IRS,,", "number", "digits 0-9"),
        ("2015550124,1,r,IRS,", "", "has 5 cells, the header has 6"),
        ("2015550124,1,r,IRS,,,", "", "has 7 cells, the header has 6"),
    ],
)
def test_row_that_a_list_must_not_hold_is_refused_with_its_place(row: str, column: str, words: str) -> None:
    found = faults(HEADER + GOOD + row + "\n" + GOOD)
    place = f"a.csv row 3, column {column}: " if column else "a.csv row 3: "
    assert len(found) == 1
    assert found[0].startswith(place)
    assert words in found[0]


@pytest.mark.parametrize(
    "row",
    [
        "2015550124,4,r,IRS,2026-11-10,2026-12-10",
        "2110550123,2,r,IRS,,",
        "2015550123,2,r,IRS,,",
        "232*,3,r,IRS,,",
        "787*,3,r,IRS,,",
        "2042340123,4,r,IRS,2026-11-10,2026-12-01",
        "+442079460123,Subscriber Request,r,IRS,,",
        "2015550124,subscriber_request,r,IRS,2026-11-18T23:00:00+01:00,2027-01-01T00:00Z",
    ],
)
def test_row_that_a_list_may_hold_is_taken(row: str) -> None:
    entries, report = take(HEADER + row + "\n")
    assert entries
    assert report.rows == 1


def test_all_faults_are_told_at_once_until_they_are_too_many() -> None:
    found = faults(HEADER + "1,1,r,IRS,,\n" * 3)
    assert [f.partition(":")[0] for f in found] == [f"a.csv row {n}, column number" for n in (2, 3, 4)]
    found = faults(HEADER + "1,1,r,IRS,,\n" * 100)
    assert len(found) == MAX_FAULTS + 1
    assert found[-1] == f"a.csv: given up after {MAX_FAULTS} faults"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "a.csv: is empty"),
        (b"\n\n# rows: 0\n", "a.csv: is empty"),
        (b"\xff\xfen\x00u\x00", "UTF-16"),
        (HEADER.encode() + b"20155501\x0023,1,r,IRS,,\n", "row 2: holds a NUL byte"),
        ((HEADER + GOOD)[:-1].encode(), "row 2: ends without a line end"),
        ((HEADER + GOOD + "201555").encode(), "row 3: ends without a line end"),
        (b"category,source\n1,r\n", "row 1: no column number"),
        (b"number,source,asserted_by\n2015550123,r,I\n", "row 1: no column category"),
        (b"number,tn,category\n", "row 1: columns number and tn mean the same"),
        (b"first,category\n", "row 1: a range needs both"),
        (b"nxx,category\n", "row 1: nxx needs the column npa"),
        (b"npa,x,category\n", "row 1: nxx needs the column npa"),
        ((HEADER + GOOD + "# rows: 2\n").encode(), "states 2 rows in its last line, and has 1"),
        ((HEADER + '2015550123,1,"r,IRS,,\n' + GOOD).encode(), "unexpected end of data"),
        ((HEADER + '2015550123,1,"r"x,IRS,,\n').encode(), "expected after"),
        (HEADER.encode() + b"2015550123,1,r," + b"x" * 200_000 + b",,\n", "field larger than field limit"),
    ],
)
def test_file_that_is_no_whole_table_is_refused(text: bytes, words: str) -> None:
    found = faults(text)
    assert any(words in fault for fault in found), found
    assert all(fault.startswith("a.csv") for fault in found)


@pytest.mark.parametrize(
    "text",
    [HEADER + GOOD + "# rows: 1\n", "# made by hand\n" + HEADER + "\n# more\n" + GOOD, HEADER + GOOD + "#Rows=1\n\n"],
)
def test_comments_empty_lines_and_a_true_trailer_are_read_over(text: str) -> None:
    assert take(text)[1].rows == 1


def test_row_number_counts_comments_and_lines_within_quotes() -> None:
    found = faults("# one\n" + HEADER + '2015550123,1,"a\nb",IRS,,\n' + "x,1,r,IRS,,\n")
    assert [f.partition(",")[0] for f in found] == ["a.csv row 4", "a.csv row 5"]


def test_row_that_says_its_numbers_twice_is_refused() -> None:
    found = faults("number,prefix,category,source,asserted_by\n2015550123,201555,1,r,I\n")
    assert "in one way, not by number and prefix" in found[0]


def test_area_code_alone_is_refused_where_the_file_has_exchange_codes() -> None:
    found = faults("npa,nxx,x,category,source,asserted_by\n201,,,1,r,I\n201,555,,1,r,I\n2O1,555,0,1,r,I\n")
    assert "would list everything in the area code" in found[0]
    assert "would list everything in the area code" in found[1]
    assert "NPA and NXX have three digits" in found[2]


def test_expired_rows_are_left_out_and_counted() -> None:
    entries, report = take(HEADER + GOOD + "2015550124,1,r,IRS,2026-01-01,2026-02-01\n201556*,1,r,IRS,,2026-02-01\n")
    assert [str(piece) for piece, _ in entries] == ["+12015550123"]
    assert (report.rows, report.expired) == (3, 2)


def test_columns_that_nobody_knows_are_reported() -> None:
    assert take("number,category,source,asserted_by,Comment\n2015550123,1,r,I,x\n")[1].ignored_columns == ("comment",)


def test_defaults_stand_for_what_rows_do_not_state() -> None:
    text = "number,category,source\n2015550123,1,\n2015550124,1,own\n"
    entries, _ = take(text, {"source": "letters", "asserted_by": "Desk"})
    assert [(a.source, a.asserted_by) for _, a in entries] == [("letters", "Desk"), ("own", "Desk")]


def test_text_file_is_taken_under_one_assertion() -> None:
    builder = DnoBuilder()
    stated = {"category": "1", "source": "letters", "asserted_by": "Desk"}
    text = "# inbound only\n2015550123  # main line\n\n2015550200-2015550201\n# rows: 2\n"
    report = Importer(builder, WHEN, stated).add_text(lines(text), "a.txt")
    assert report == ImportReport("a.txt", rows=2)
    assert builder.finish().counts()["subscriber-request"] == 3


@pytest.mark.parametrize(
    ("text", "stated", "words"),
    [
        ("2015550123\n", {"category": "4", "source": "s", "asserted_by": "a"}, "a.txt: verified-at: missing"),
        ("2015550123\n", {"source": "s", "asserted_by": "a"}, "a.txt: category: missing"),
        ("204*\n", {"category": "3", "source": "s", "asserted_by": "a"}, "row 1: area code 204 belongs to Canada"),
        ("x\n", {"category": "1", "source": "s", "asserted_by": "a"}, "a.txt row 1: 'x': a number is written"),
        ("2015550123", {"category": "1", "source": "s", "asserted_by": "a"}, "a.txt row 1: ends without a line end"),
        ("", {"category": "1", "source": "s", "asserted_by": "a"}, "a.txt: is empty"),
        ("2015550123\n# rows: 5\n", {"category": "1", "source": "s", "asserted_by": "a"}, "states 5 rows"),
    ],
)
def test_text_file_is_refused_like_a_table(text: str, stated: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        Importer(DnoBuilder(), WHEN, stated).add_text(lines(text), "a.txt")


def test_plain_readers_give_rows_and_pieces() -> None:
    assert list(read_text_pieces(lines("# x\n2015550123\n\n201*\n"), "t")) == [
        (2, parse_piece("2015550123")),
        (4, parse_piece("201*")),
    ]
    assert list(read_csv_pieces(lines("tn,comment\n2015550123,x\n+442079460123,y\n"), "c")) == [
        (2, parse_piece("2015550123")),
        (3, Piece(442079460123, 442079460123)),
    ]
    with pytest.raises(ConfigErrors):
        list(read_csv_pieces(lines("tn\nx\n"), "c"))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_config_error(raw: bytes) -> None:
    for text in (raw, HEADER.encode() + raw, HEADER.encode() + raw + b"\n"):
        try:
            Importer(DnoBuilder(), WHEN).add_csv(lines(text), "a.csv")
        except ConfigError:
            continue


@given(st.integers(0, len(HEADER + GOOD * 3) - 1))
def test_table_that_is_cut_off_anywhere_but_at_a_line_end_is_refused(length: int) -> None:
    text = (HEADER + GOOD * 3)[:length]
    if text.endswith("\n"):
        return
    assert faults(text)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("", None),
        ("  ", None),
        ("1970-01-02", 86_400.0),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01 01:00:00+01:00", 0.0),
        ("1970-01-01T00:00:00.5Z", 0.5),
    ],
)
def test_times_are_read(text: str, when: float | None) -> None:
    assert parse_time(text) == when


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1970-1-1",
        "19700101",
        "1970-W01-1",
        "1970-01-01T00:00",
        "0001-01-01T00:00+23:59",
        "01/02/2026",
        "２026-01-01",
        "1970-01-01T25:00:00Z",
    ],
)
def test_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither a date|no date of the calendar"):
        parse_time(text)


@pytest.mark.parametrize("text", ["1", "subscriber-request", "Subscriber Request", "SUBSCRIBER_REQUEST", "subscriber"])
def test_category_by_number_or_name(text: str) -> None:
    assert parse_category(text) is DnoCategory.SUBSCRIBER_REQUEST


@pytest.mark.parametrize(
    ("exact", "blocks", "lost"),
    [
        (100, 10, ""),
        (90, 9, ""),
        (89, 10, "89 single numbers, the previous list has 100"),
        (100, 8, "8 blocks of a thousand, the previous list has 10"),
        (1000, 1000, ""),
    ],
)
def test_list_that_lost_more_than_a_tenth_is_noticed(exact: int, blocks: int, lost: str) -> None:
    builder = DnoBuilder()
    assertion = builder.assertion_id(Assertion(DnoCategory.SUBSCRIBER_REQUEST, "s", "a", None, None))
    for i in range(exact):
        builder.add_number(2_015_550_000 + 1000 * i, assertion)
    builder.add(nanp_range(3_000_000_000, 3_000_000_000 + 1000 * blocks - 1), assertion)
    previous = Manifest(1, "", "", {"exact": 98, "others": 2, "blocks": 10}, (), None, None, "")
    assert shrinkage(builder.finish(), previous) == lost


def test_real_do_not_call_directory_lines_are_refused_one_by_one(shared_data: Path) -> None:
    """A directory of names is no list of numbers: every line is told, none is guessed at."""
    raw = (shared_data / "numbering/werdlists-telco/rejection-hotline-numbers.txt").read_bytes()
    with pytest.raises(ConfigErrors) as caught:
        list(read_text_pieces(raw.splitlines(keepends=True), "hotline"))
    assert len(caught.value.errors) == MAX_FAULTS + 1
