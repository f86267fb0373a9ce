"""NANPA's area code report: what may be taken for unallocated, and what never."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.model import ConfigError
from agent.numbers.areas import is_foreign_to_nanpa
from agent.numbers.dno import DnoCategory
from agent.numbers.npa_report import MAX_REPORT_DAYS, MIN_ROWS, NpaReport, read_npa_report
from agent.numbers.plan import VALID_NPA

HEADER = "NPA_ID,type_of_code,ASSIGNABLE,EXPLANATION,RESERVED,ASSIGNED,ASSIGNMENT_DT,USE,LOCATION,COUNTRY,IN_SERVICE,IN_SERVICE_DT,NOTES"  # noqa: E501
DATE = "File Date,03/04/2020"
DAY = 86_400.0


def row(
    npa: int,
    country: str = "US",
    in_service: str = "Y",
    opens: str = "",
    assigned: str = "Yes",
    reserved: str = "No",
    assignable: str = "Yes",
) -> str:
    return f'{npa},General Purpose Code,{assignable},,{reserved},{assigned},,G,,{country},{in_service},{opens},""'


def report(*special: str, also_unassigned: bool = False, heading: str = DATE) -> NpaReport:
    """A whole report of codes in service, but for the special rows."""
    changed = {line[:3]: line for line in special}
    rows = [changed.get(str(npa), row(npa)) for npa in range(200, 1000)]
    raw = "\n".join([heading, HEADER, *rows]) + "\n"
    return read_npa_report(raw.encode().splitlines(keepends=True), "npa.csv", also_unassigned=also_unassigned)


def test_us_area_code_that_is_not_in_service_is_unallocated() -> None:
    found = report(row(227, in_service="N"), row(679, in_service="N", assigned="No", reserved="Yes"))
    assert found.unallocated == {227: None, 679: None}
    assert found.file_date == datetime(2020, 3, 4, tzinfo=UTC).timestamp()
    (piece, assertion), _ = found.entries("report", "NANPA")
    assert str(piece) == "+12270000000-+12279999999"
    assert assertion.category is DnoCategory.UNALLOCATED
    assert assertion.verified_at == found.file_date
    assert assertion.expires_at == found.file_date + MAX_REPORT_DAYS * DAY
    assert next(found.entries("report", "NANPA", expire=False))[1].expires_at is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row(204, "CANADA", "N"), "another country's"),
        (row(876, "JAMAICA", "N"), "another country's"),
        (row(263, "US", "N"), "another country's"),  # the report is wrong: the code is Canada's
        (row(263, "", "N", assigned="No"), "another country's"),
        (row(232, "ATLANTIS", "N"), "another country's"),
        (row(232, "", "N", assigned="No"), "no country stated"),
        (row(227, "US", "N", opens="01-MAR-20"), "in-service date has passed"),
    ],
)
def test_code_that_may_have_numbers_is_left_out(line: str, reason: str) -> None:
    found = report(line)
    assert found.unallocated == {}
    assert found.left_out == {reason: 1}


def test_codes_that_the_plan_does_not_allow_are_another_category() -> None:
    found = report(row(211, "US", "N"), row(299, "US", "N"), row(370, "US", "N"))
    assert found.unallocated == {}
    assert found.left_out == {}


def test_unassigned_codes_are_taken_when_asked_for_and_the_report_says_so_throughout() -> None:
    lines = [
        row(232, "", "N", assigned="No"),
        row(233, "", "N", assigned="No", reserved="Yes"),
        row(235, "", "N", assigned="No", assignable="No"),
        row(523, "", "N", assigned="Yes"),
        row(387, "", "N", assigned="No"),
    ]
    assert report(*lines, also_unassigned=True).unallocated == {232: None}


@pytest.mark.parametrize(
    ("opens", "year"), [("15-JUN-21", 2021), ("15-Jun-2021", 2021), ("15-JUN-47", 2047), ("15-JUN-60", 2060)]
)
def test_code_holds_until_its_in_service_date(opens: str, year: int) -> None:
    found = report(row(227, in_service="N", opens=opens))
    assert found.unallocated == {227: datetime(year, 6, 15, tzinfo=UTC).timestamp()}
    assertion = next(found.entries("report", "NANPA", expire=False))[1]
    assert assertion.expires_at == found.unallocated[227]


def test_earlier_of_in_service_date_and_age_ends_an_entry() -> None:
    found = report(row(227, in_service="N", opens="08-MAR-20"))
    assert next(found.entries("r", "N"))[1].expires_at == found.file_date + 4 * DAY


def test_report_is_stale_after_half_a_year() -> None:
    found = report()
    assert not found.is_stale(found.file_date + MAX_REPORT_DAYS * DAY)
    assert found.is_stale(found.file_date + MAX_REPORT_DAYS * DAY + 1)


@pytest.mark.parametrize(
    ("special", "words"),
    [
        (row(227, in_service="?"), "row 30: in_service is"),
        (row(227, in_service="N", opens="soon"), "row 30: in_service_dt 'soon' is no date"),
        (row(227, in_service="N", opens="31-FEB-21"), "row 30: day is out of range"),
        ("227,x", "row 30: has 2 cells"),
    ],
)
def test_row_that_cannot_be_read_refuses_the_report(special: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        report(special)


@pytest.mark.parametrize("heading", ["", "File Date", "File Date,2020-03-04", "File Date,13/41/2020", HEADER])
def test_report_without_its_date_is_refused(heading: str) -> None:
    with pytest.raises(ConfigError, match=r"row 1: "):
        report(heading=heading)


@pytest.mark.parametrize("heading", ['"File Date","03/04/2020"', "\ufeffFile Date,3/4/2020", "file date,03/04/2020,,,"])
def test_other_spellings_of_the_date_are_read(heading: str) -> None:
    assert report(heading=heading).file_date == datetime(2020, 3, 4, tzinfo=UTC).timestamp()


def test_report_that_was_cut_off_is_refused() -> None:
    rows = [row(npa) for npa in range(200, 200 + MIN_ROWS - 1)]
    raw = "\n".join([DATE, HEADER, *rows]) + "\n"
    with pytest.raises(ConfigError, match="a whole report has 800"):
        read_npa_report(raw.encode().splitlines(keepends=True), "npa.csv")


def test_other_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="row 2: no column npa_id, assignable"):
        read_npa_report(iter([b"File Date,03/04/2020\n", b"a,b\n"]), "npa.csv")


@pytest.fixture
def published(shared_data: Path) -> Iterator[list[bytes]]:
    with (shared_data / "numbering/nanpa-npa-report-2020/npa_report.csv").open("rb") as file:
        yield list(file)


def test_published_report_gives_only_us_codes_that_were_not_in_service(published: list[bytes]) -> None:
    found = read_npa_report(published, "npa_report.csv")
    assert {227, 274, 283, 327, 839} <= set(found.unallocated)
    assert not {201, 212, 787, 340, 671, 800, 500, 900, 710} & set(found.unallocated)
    assert found.left_out == {"another country's": 27, "no country stated": 233}
    assert len(found.unallocated) == 22


def test_published_report_never_gives_a_code_of_canada_or_the_caribbean(published: list[bytes]) -> None:
    found = read_npa_report(published, "npa_report.csv", also_unassigned=True)
    assert len(found.unallocated) > 22
    for npa in found.unallocated:
        assert not is_foreign_to_nanpa(npa)
        assert VALID_NPA[npa]
    for line in published:
        if b",CANADA," in line or b"JAMAICA" in line:
            assert int(line[:3]) not in found.unallocated
