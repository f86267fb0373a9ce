"""`sbc-agent parse`: what it prints, what it complains about, and its exit codes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from tests.sip.texts import REQUEST


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    def feed(raw: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))

    return feed


def corpus_messages() -> list[str]:
    folder = Path(__file__).resolve().parent.parent / "corpus" / "sip"
    return sorted(path.stem for path in folder.glob("parse-*.sip"))


@pytest.mark.parametrize("name", corpus_messages())
def test_message_of_the_corpus_is_shown_as_expected(
    corpus: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parse", str(corpus / "sip" / f"{name}.sip")]) == 0
    expected = json.loads((corpus / "sip" / f"{name}.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == expected


def test_message_from_stdin(stdin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(REQUEST)
    assert main(["parse", "-", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["start_line"] == {"method": "INVITE", "request_uri": "sip:+13035550199@sbc.example.net;user=phone"}
    assert shown["body_length"] == 4
    assert shown["defects"] == []


def test_stream_flag_asks_for_content_length(stdin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    raw = REQUEST.replace(b"Content-Length: 4\r\n", b"")
    for arguments, expected in (([], []), (["--stream"], ["Content-Length"])):
        stdin(raw)
        assert main(["parse", *arguments, "-"]) == 0
        assert [d["place"] for d in json.loads(capsys.readouterr().out)["defects"]] == expected


def test_bytes_that_are_no_message_are_complained_about_with_place_and_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.sip"
    file.write_bytes(b"\r\nINVITE sip:a@b SIP/7.0\r\n\r\n")
    assert main(["parse", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"sbc-agent: {file}: start-line: version is not SIP/2.0, at byte 17\n"


@pytest.mark.parametrize("raw", [b"", b"\x00\xff", REQUEST.ljust(100_000, b"x")])
def test_nothing_garbage_and_too_much_are_bad_input(raw: bytes, stdin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(raw)
    assert main(["parse", "-"]) == 1
    assert capsys.readouterr().err.startswith("sbc-agent: stdin: ")


def test_unreadable_file_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "absent.sip", tmp_path):
        assert main(["parse", str(path)]) == 1
        assert f"cannot read {path}" in capsys.readouterr().err


def test_table_shows_headers_and_defects(stdin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(REQUEST.replace(b"Call-ID: 7c1@192.0.2.10\r\n", b"Subject: \x1b[31m\r\n"))
    assert main(["parse", "-", "--table"]) == 0
    out = capsys.readouterr().out
    assert "Max-Forwards" in out
    assert "body: 4 bytes" in out
    assert "is missing" in out
    assert "\x1b" not in out


def test_json_is_utf8_whatever_the_locale_says(tmp_path: Path) -> None:
    file = tmp_path / "names.sip"
    file.write_bytes(REQUEST.replace(b'"Bo"', '"Renée 電話"'.encode() + b" ").replace(b"v=0", b"\xff\xfe0"))
    run = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", "parse", str(file)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert json.loads(run.stdout.decode("utf-8"))["addresses"]["From"][0]["display"] == "Renée 電話"
