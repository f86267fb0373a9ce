"""Area codes and countries, against what others published."""

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agent.numbers.areas import AREAS, NANPA_ALLOCATES, UNKNOWN_AREA, area_of, is_foreign_to_nanpa

# Names in NANPA's report, where they are other than ours.
REPORT_NAMES = {
    "CANADA": "CA",
    "ANGUILLA": "AI",
    "ANTIGUA/BARBUDA": "AG",
    "BAHAMAS": "BS",
    "BARBADOS": "BB",
    "BERMUDA": "BM",
    "BRITISH VIRGIN ISLANDS": "VG",
    "CAYMAN ISLANDS": "KY",
    "DOMINICA": "DM",
    "DOMINICAN REPUBLIC": "DO",
    "GRENADA": "GD",
    "JAMAICA": "JM",
    "MONTSERRAT": "MS",
    "SINT MAARTEN": "SX",
    "ST. KITTS AND NEVIS": "KN",
    "ST. LUCIA": "LC",
    "ST. VINCENT & GRENADINES": "VC",
    "TRINIDAD AND TOBAGO": "TT",
    "TURKS & CAICOS ISLANDS": "TC",
}


@pytest.fixture(scope="module")
def report(shared_data: Path) -> list[dict[str, str]]:
    lines = (shared_data / "numbering/nanpa-npa-report-2020/npa_report.csv").read_text().splitlines()
    return list(csv.DictReader(lines[1:]))


@pytest.fixture(scope="module")
def territories(shared_data: Path) -> dict[str, ElementTree.Element]:
    text = (shared_data / "numbering/libphonenumber-nanp/PhoneNumberMetadata.NANP.xml").read_text()
    root = ElementTree.fromstring("<r>" + re.sub(r"<\?xml.*?\?>", "", text) + "</r>")
    return {t.attrib["id"]: t for t in root.iter("territory")}


def test_every_country_of_the_report_has_its_area_codes_in_the_table(report: list[dict[str, str]]) -> None:
    for row in report:
        if row["COUNTRY"] not in {"", "US"}:
            assert area_of(int(row["NPA_ID"])).code == REPORT_NAMES[row["COUNTRY"]], row["NPA_ID"]


def test_no_us_area_code_in_service_is_foreign_or_unknown(report: list[dict[str, str]]) -> None:
    for row in report:
        if row["COUNTRY"] == "US" and row["IN_SERVICE"] == "Y":
            assert area_of(int(row["NPA_ID"])).code in NANPA_ALLOCATES, row["NPA_ID"]


def test_area_codes_of_numbering_metadata_belong_to_the_same_country(
    territories: dict[str, ElementTree.Element],
) -> None:
    for code, territory in territories.items():
        pattern = re.sub(r"\s", "", territory.findtext("fixedLine/nationalNumberPattern") or "")
        leading = re.compile(territory.attrib.get("leadingDigits", ""))
        for npa in range(200, 1000):
            if re.fullmatch(pattern, f"{npa}2345678") and leading.match(f"{npa}2345678"):
                assert area_of(npa).code == code, npa


def test_all_25_countries_and_territories_are_there(territories: dict[str, ElementTree.Element]) -> None:
    assert {area.code for area in AREAS.values()} == set(territories)


CARIBBEAN = [264, 268, 242, 246, 441, 284, 345, 767, 809, 829, 849, 473, 876, 658, 664, 721, 869, 758, 784, 868, 649]


@pytest.mark.parametrize("npa", [*CARIBBEAN, 204, 416, 514, 604, 867, 902, 600, 622])
def test_canada_and_the_caribbean_are_foreign_to_nanpa(npa: int) -> None:
    assert is_foreign_to_nanpa(npa)


@pytest.mark.parametrize("npa", [201, 787, 939, 340, 671, 670, 684, 800, 500, 232, 555, 0, 999])
def test_us_territories_shared_and_unknown_codes_are_not_foreign(npa: int) -> None:
    assert not is_foreign_to_nanpa(npa)


def test_unknown_area_code_is_unknown() -> None:
    assert area_of(232) is UNKNOWN_AREA
    assert area_of(800) is UNKNOWN_AREA


def test_every_area_code_is_valid_and_named_once() -> None:
    from agent.numbers import areas
    from agent.numbers.plan import VALID_NPA

    listed = [int(npa) for _, _, npas in areas._COUNTRIES for npa in npas.split()]
    assert len(listed) == len(set(listed)) == len(AREAS)
    assert all(VALID_NPA[npa] for npa in listed)
