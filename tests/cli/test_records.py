"""`sbc-agent records` and `sbc-agent explain`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.records.rows import RowEncoder, plain_row
from agent.records.settings import SpoolSettings
from agent.records.spool_store import Group, SpoolStore
from tests.records.decisions import REFUSAL, allowed, refused, segments

WHEN = 1_800_000_000.0
ROLLUP = {"time": "2027-01-15T08:00:10.000000Z", "seconds": 10.0, "attempts": 3, "rules": {"": {"allow": 3}}}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Three refused calls, three allowed ones with a shadow refusal on the last, one roll-up."""
    store = SpoolStore(SpoolSettings(tmp_path / "spool", min_free_ratio=0.0))
    store.open(0.0, WHEN)
    encoder = RowEncoder()
    shadowed = allowed("a-2", WHEN + 5)
    shadowed.shadow = (REFUSAL,)
    shadowed.attempt.notes = ("called number is premium rate",)
    store.write(
        Group(
            [encoder.row(refused(f"r-{i}", WHEN + i)) for i in range(3)],
            [plain_row(ROLLUP)],
            [encoder.row(d) for d in (allowed("a-0", WHEN + 3), allowed("a-1", WHEN + 4), shadowed)],
        ),
        0.0,
        WHEN,
    )
    return tmp_path / "spool"  # still open: the commands read beside a running agent


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_tail_shows_who_called_whom_and_why(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "tail", "--dir", str(spool)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 6
    assert out[0].startswith("2027-01-15T08:00:00.000000Z  refuse     12015550123 -> 13035550199")
    assert "603 Decline  provider-block: blocked by order  r-0" in out[0]
    assert "[shadow provider-block: blocked by order]" in out[5]


def test_tail_of_some_as_json(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "tail", "--dir", str(spool), "-n", "2", "--json"]) == 0
    assert [r["call_id"] for r in lines(capsys)] == ["a-1", "a-2"]
    assert main(["records", "tail", "--dir", str(spool), "-n", "2", "--json", "--refused"]) == 0
    assert [r["call_id"] for r in lines(capsys)] == ["r-1", "r-2"]


def test_tail_of_roll_ups(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "tail", "--dir", str(spool), "--rollups"]) == 0
    assert capsys.readouterr().out == "2027-01-15T08:00:10.000000Z  10.0 s  3 attempts  no rule: 3 allow\n"


def test_follow_shows_what_comes_until_it_is_interrupted(tmp_path: Path) -> None:
    store = SpoolStore(SpoolSettings(tmp_path / "spool", min_free_ratio=0.0))
    store.open(0.0, WHEN)
    encoder = RowEncoder()
    store.write(Group([encoder.row(refused("first"))]), 0.0, WHEN)
    command = ["-m", "agent.cli.main", "records", "tail", "--follow", "--json", "--dir", str(tmp_path / "spool")]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["call_id"] == "first"
        store.write(Group([encoder.row(refused("second"))]), 1.0, WHEN)
        assert json.loads(process.stdout.readline())["call_id"] == "second"
        process.send_signal(2)
        assert process.wait(10) == 130


def test_export_as_json_lines(spool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "export", "--dir", str(spool)]) == 0
    shown = lines(capsys)
    assert [r["call_id"] for r in shown] == ["r-0", "r-1", "r-2", "a-0", "a-1", "a-2"]
    output = tmp_path / "out.jsonl"
    assert main(["records", "export", "--dir", str(spool), "-o", str(output)]) == 0
    assert [json.loads(line) for line in output.read_text().splitlines()] == shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--since", "2027-01-15T08:00:02Z"], ["r-2", "a-0", "a-1", "a-2"]),
        (["--since", "2027-01-15T09:00:02+01:00", "--until", "2027-01-15T08:00:04"], ["r-2", "a-0"]),
        (["--until", "2027-01-15T08:00:01"], ["r-0"]),
        (["--refused"], ["r-0", "r-1", "r-2"]),
    ],
)
def test_export_of_a_time(
    spool: Path, arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["records", "export", "--dir", str(spool), *arguments]) == 0
    assert [r["call_id"] for r in lines(capsys)] == expected


def test_export_of_the_last_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, now = SpoolStore(SpoolSettings(tmp_path / "spool", min_free_ratio=0.0)), time.time()
    store.open(0.0, now)
    encoder = RowEncoder()
    store.write(Group([encoder.row(refused("old", now - 3600)), encoder.row(refused("new", now - 60))]), 0.0, now)
    assert main(["records", "export", "--dir", str(tmp_path / "spool"), "--since", "15m"]) == 0
    assert [r["call_id"] for r in lines(capsys)] == ["new"]


def test_export_as_parquet(spool: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "out.parquet"
    assert main(["records", "export", "--dir", str(spool), "--format", "parquet", "-o", str(output)]) == 0
    rows = parquet.read_table(output).to_pylist()
    assert [(r["sequence"], r["call_id"], r["action"]) for r in rows][::3] == [
        (1, "r-0", "refuse"),
        (5, "a-0", "allow"),
    ]
    assert rows[1]["time"].timestamp() == WHEN + 1
    assert rows[5]["shadow"][0]["rule"] == "provider-block"
    assert rows[5]["notes"] == ["called number is premium rate"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_export_of_roll_ups_as_parquet(spool: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "out.parquet"
    arguments = ["--rollups", "--format", "parquet", "-o", str(output)]
    assert main(["records", "export", "--dir", str(spool), *arguments]) == 0
    (row,) = parquet.read_table(output).to_pylist()
    assert (row["attempts"], row["rules"]) == (3, [("", [("allow", 3)])])


def test_parquet_that_fails_leaves_the_old_file(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    output = tmp_path / "out.parquet"
    output.write_bytes(b"yesterday")

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device", str(output))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["records", "export", "--dir", str(spool), "--format", "parquet", "-o", str(output)]) == 1
    assert output.read_bytes() == b"yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "spool"]
    assert "No space left" in capsys.readouterr().err


def test_without_pyarrow_it_says_what_to_install(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "agent.cli.records_parquet", None)
    output = tmp_path / "out.parquet"
    assert main(["records", "export", "--dir", str(spool), "--format", "parquet", "-o", str(output)]) == 2
    assert "pip install 'sbc-edge-agent[parquet]'" in capsys.readouterr().err


def test_parquet_needs_a_file(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "export", "--dir", str(spool), "--format", "parquet"]) == 2
    assert "-o FILE" in capsys.readouterr().err


def test_damage_is_named_and_the_rest_shown(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = segments(spool, "allowed")[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert main(["records", "tail", "--dir", str(spool), "--json"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["call_id"] for line in captured.out.splitlines()] == ["r-0", "r-1", "r-2"]
    assert captured.err == (
        f"sbc-agent: {path.name}: bytes 44 to {len(data)}: a damaged batch, 3 records from 5 lost\n"
    )


def test_a_spool_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["records", "tail"], ["records", "export"], ["explain", "x"]):
        assert main([*command, "--dir", str(tmp_path / "none")]) == 1
        what, next_step = capsys.readouterr().err.splitlines()
        assert what == f"sbc-agent: {tmp_path / 'none'}: No such file or directory"
        assert "agent.toml" in next_step


@pytest.mark.parametrize("arguments", [["--since", "yesterday"], ["--until", "15 minutes"], ["--since", ""]])
def test_a_time_that_is_none_is_wrong_usage(
    spool: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["records", "export", "--dir", str(spool), *arguments])
    assert stopped.value.code == 2
    assert "is no time" in capsys.readouterr().err


# --- explain


def test_explain_says_what_was_decided_why_and_by_what(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "r-1", "--dir", str(spool)]) == 0
    out = capsys.readouterr().out
    for words in (
        "refuse with 603 Decline, by rule provider-block (provider-block)",
        "blocked by order",
        "12015550123",
        "13035550199",
        "2027-01-15T08:00:01.000000Z",
        "192.0.2.10",
        "policy generation",
    ):
        assert words in out


def test_explain_shows_shadow_refusals_and_what_was_noticed(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "a-2", "--dir", str(spool)]) == 0
    out = capsys.readouterr().out
    assert "in shadow" in out
    assert "called number is premium rate" in out
    assert "not verified" not in out


def test_explain_as_json(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "r-1", "--json", "--dir", str(spool)]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["call_id"], record["sequence"]) == ("r-1", 2)


def test_explain_of_an_unknown_call_says_so(spool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nobody", "--dir", str(spool)]) == 1
    assert "no record of a call with Call-ID nobody" in capsys.readouterr().err
