"""`sbc-agent dno`: from files to a list and back, with the exit codes that scripts rely on."""

import json
import time
from pathlib import Path

import pytest

from agent.cli.main import main

HEADER = "number,category,source,asserted_by,verified_at,expires_at\n"
NOW = 1_795_000_000.0  # 2026-11-18


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "dno.csv"
    path.write_text(
        HEADER
        + "2015550123,1,registry,IRS,2026-01-01,\n"
        + "201-555-2*,4,carrier,Carrier A,2026-11-10,2026-12-01\n"
        + "+442079460123,1,letters,Bank,,\n"
    )
    return path


@pytest.fixture
def built(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "dno.list"
    assert main(["dno", "build", str(path), "--csv", str(source)]) == 0
    capsys.readouterr()
    return path


def result(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)


def test_list_is_built_and_described(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.list"
    assert main(["dno", "build", str(path), "--csv", str(source), "--expect-rows", "3", "--json"]) == 0
    assert result(capsys) == {
        "list": str(path),
        "generation": 1,
        "bytes": path.stat().st_size,
        "counts": {
            "numbers": 1002,
            "subscriber-request": 2,
            "invalid": 0,
            "unallocated": 0,
            "unused": 1000,
            "blocks": 1,
            "exact": 1,
            "others": 1,
        },
        "inputs": [{"name": str(source), "rows": 3, "expired": 0, "ignored_columns": []}],
    }


def test_build_for_people_is_a_table(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dno", "build", str(tmp_path / "new.list"), "--csv", str(source)]) == 0
    out, err = capsys.readouterr()
    assert "subscriber request" in out
    assert err == ""


def test_numbers_are_looked_up(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ["2015550123", "sip:+12015552345@gw", "2015550124", "+442079460123", "911", "alice"]
    assert main(["dno", "lookup", str(built), *numbers, "--json"]) == 0
    found = result(capsys)
    assert isinstance(found, list)
    assert [entry["listed"] for entry in found] == [True, True, False, True, False, False]
    assert found[0]["hit"] == {
        "category": "subscriber-request",
        "source": "registry",
        "asserted_by": "IRS",
        "verified_at": "2026-01-01T00:00:00Z",
        "expires_at": None,
    }
    assert [entry["kind"] for entry in found] == ["NANP", "NANP", "NANP", "FOREIGN", "SHORT", "NOT_A_NUMBER"]


def test_lookup_as_of_another_time_and_country(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dno", "lookup", str(built), "2015552345", "--at", "2026-12-01", "--json"]) == 0
    assert '"listed": false' in capsys.readouterr().out
    assert main(["dno", "lookup", str(built), "2079460123", "--country", "44"]) == 0
    assert "letters" in capsys.readouterr().out
    assert main(["dno", "lookup", str(built), "2015550123", "--country", "none", "--json"]) == 0
    assert '"AMBIGUOUS"' in capsys.readouterr().out


def test_list_is_inspected(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dno", "inspect", str(built), "--json"]) == 0
    shown = result(capsys)
    assert isinstance(shown, dict)
    assert (shown["kind"], shown["generation"], shown["first_expiry"]) == ("dno-list", 1, "2026-12-01T00:00:00Z")
    assert shown["assertions"][0] == {
        "category": "unused",
        "source": "carrier",
        "asserted_by": "Carrier A",
        "verified_at": "2026-11-10T00:00:00Z",
        "expires_at": "2026-12-01T00:00:00Z",
        "numbers": 1000,
        "holds": True,
    }
    assert main(["dno", "inspect", str(built)]) == 0
    assert "Carrier A" in capsys.readouterr().out


def test_refused_rows_are_told_and_nothing_is_written(
    tmp_path: Path, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = built.read_bytes()
    bad = tmp_path / "bad.csv"
    bad.write_text(HEADER + "2015550123,spam,s,a,,\n204*,3,s,a,,\n")
    assert main(["dno", "build", str(built), "--csv", str(bad)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"sbc-agent: {bad} row 2, column category: 'spam'" in err
    assert f"sbc-agent: {bad} row 3, column number: area code 204 belongs to Canada" in err
    assert f"{built} was not written" in err
    assert built.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.csv", "dno.csv", "dno.list"]


def test_generation_follows_the_list_that_is_replaced(
    built: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for generation in (2, 3):
        assert main(["dno", "build", str(built), "--csv", str(source), "--json"]) == 0
        assert f'"generation": {generation}' in capsys.readouterr().out
    assert main(["dno", "build", str(built), "--csv", str(source), "--json", "--generation", "9"]) == 0
    assert '"generation": 9' in capsys.readouterr().out


def test_list_that_shrinks_is_refused_unless_that_is_allowed(
    tmp_path: Path, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    less = tmp_path / "less.csv"
    less.write_text(HEADER + "2015550123,1,registry,IRS,2026-01-01,\n")
    for arguments in ([str(built)], [str(tmp_path / "other.list"), "--previous", str(built)]):
        assert main(["dno", "build", *arguments, "--csv", str(less)]) == 1
        assert "1 single numbers, the previous list has 2" in capsys.readouterr().err
    assert main(["dno", "build", str(built), "--csv", str(less), "--allow-shrink"]) == 0


def test_damaged_previous_list_is_refused_when_named_and_replaced_when_not(
    built: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built.write_bytes(built.read_bytes()[:-1])
    assert main(["dno", "build", str(built), "--previous", str(built), "--csv", str(source)]) == 1
    assert "should have" in capsys.readouterr().err
    assert main(["dno", "build", str(built), "--csv", str(source)]) == 0
    assert "is not compared with, and will be replaced" in capsys.readouterr().err


def test_row_count_that_is_not_as_expected_is_refused(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dno", "build", str(tmp_path / "x"), "--csv", str(source), "--expect-rows", "4"]) == 1
    assert "3 rows, expected 4" in capsys.readouterr().err


def test_text_file_needs_its_ground(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "numbers.txt"
    text.write_text("2015550123\n2015550200-2015550299\n")
    out = str(tmp_path / "x.list")
    assert main(["dno", "build", out, "--text", str(text)]) == 2
    assert "needs --category" in capsys.readouterr().err
    ground = ["--category", "1", "--source", "letters", "--asserted-by", "Desk"]
    assert main(["dno", "build", out, "--text", str(text), *ground, "--json"]) == 0
    assert '"subscriber-request": 101' in capsys.readouterr().out
    ground[1] = "unused"
    assert main(["dno", "build", out, "--text", str(text), *ground]) == 1
    assert "verified-at: missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["build"],
        ["build", "x"],
        ["build", "x", "--csv"],
        ["lookup", "x"],
        ["diff", "x"],
        ["nothing"],
        ["build", "x", "--text", "y", "--category", "spam"],
        ["lookup", "x", "1", "--at", "noon"],
        ["lookup", "x", "1", "--country", "usa"],
        ["lookup", "x", "1", "--at", ""],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["dno", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("command", [["inspect"], ["lookup", "NUMBER"], ["diff", "OTHER"]])
@pytest.mark.parametrize("content", [None, b"", b"not a list at all\n" * 10])
def test_list_that_cannot_be_used_is_1(
    tmp_path: Path, command: list[str], content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.list"
    if content is not None:
        path.write_bytes(content)
    rest = [str(path) if a == "OTHER" else "2015550123" for a in command[1:]]
    assert main(["dno", command[0], str(path), *rest]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sbc-agent: {path}: ")


@pytest.mark.parametrize(("option", "extra"), [("--csv", []), ("--npa-report", [])])
def test_input_that_is_not_there_is_1(
    tmp_path: Path, option: str, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dno", "build", str(tmp_path / "x"), option, str(tmp_path / "no.csv"), *extra]) == 1
    assert "no.csv: No such file or directory" in capsys.readouterr().err


def test_place_that_cannot_be_written_is_1(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dno", "build", str(tmp_path / "no" / "x"), "--csv", str(source)]) == 1
    assert "cannot be written: No such file" in capsys.readouterr().err


def test_list_of_nothing_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "2015550123,1,registry,IRS,2026-01-01,2026-02-01\n")
    assert main(["dno", "build", str(tmp_path / "x"), "--csv", str(path)]) == 1
    err = capsys.readouterr().err
    assert "1 entries have expired" in err
    assert "no entry is left" in err


def test_equal_lists_have_no_difference(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dno", "diff", str(built), str(built), "--json"]) == 0
    nothing = {"numbers": 0, "samples": []}
    assert result(capsys) == {"added": nothing, "removed": nothing, "changed": nothing}


def test_lists_that_differ_show_samples_and_exit_1(
    tmp_path: Path, built: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    other.write_text(source.read_text().replace("2015550123,1", "2015550199,1").replace("Carrier A", "Carrier B"))
    new = tmp_path / "new.list"
    assert main(["dno", "build", str(new), "--csv", str(other)]) == 0
    capsys.readouterr()
    assert main(["dno", "diff", str(built), str(new), "--json"]) == 1
    assert result(capsys) == {
        "added": {"numbers": 1, "samples": ["+12015550199"]},
        "removed": {"numbers": 1, "samples": ["+12015550123"]},
        "changed": {"numbers": 1000, "samples": ["+12015552000-+12015552999"]},
    }
    assert main(["dno", "diff", str(built), str(new), "--samples", "0"]) == 1
    assert "changed" in capsys.readouterr().out


def test_stale_area_code_report_is_refused_unless_that_is_allowed(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = str(shared_data / "numbering/nanpa-npa-report-2020/npa_report.csv")
    path = str(tmp_path / "npa.list")
    assert main(["dno", "build", path, "--npa-report", report]) == 1
    assert "is of 2020-03-04, older than 180 days" in capsys.readouterr().err
    assert main(["dno", "build", path, "--npa-report", report, "--allow-stale", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["counts"]["unallocated"] == 170_000_000
    assert "another country's" in err
    assert main(["dno", "lookup", path, "2272340123", "2042340123", "2012340123", "--json"]) == 0
    assert [entry["listed"] for entry in json.loads(capsys.readouterr().out)] == [True, False, False]


def test_line_without_end_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(HEADER.encode() + bytes(2 << 20))
    assert main(["dno", "build", str(tmp_path / "x"), "--csv", str(path)]) == 1
    assert f"{path}: line 2 is longer" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["build"], ["inspect"], ["lookup"], ["diff"]])
def test_help_tells_the_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["dno", *command, "--help"])
    assert stop.value.code == 0
    assert "exit codes:" in capsys.readouterr().out
