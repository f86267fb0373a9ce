"""`sbc-agent identity certificate`: what it shows, and the exit codes that scripts rely on."""

import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.identity.constraints import ClaimConstraints
from agent.identity.tnauthlist import NumberRange, TnAuthList
from agent.stir.lab import make_laboratory
from agent.stir.lab_certificates import DAY, signer_draft

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z
LAB = make_laboratory("1234", NOW, 90 * DAY)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "root.pem").write_bytes(LAB.root.pem)
    (tmp_path / "signer.pem").write_bytes(LAB.signer.pem + LAB.intermediate.pem)
    (tmp_path / "signer.der").write_bytes(LAB.signer.der)
    (tmp_path / "expired.pem").write_bytes(LAB.expired.pem + LAB.intermediate.pem)
    (tmp_path / "foreign.pem").write_bytes(LAB.foreign.pem)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


def test_chain_is_shown_as_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identity", "certificate", str(files / "signer.pem"), "--json"]) == 0
    result = shown(capsys)
    assert result["trusted"] is None
    signer, authority = result["certificates"]
    assert signer == {
        "role": "signer",
        "subject": "CN=SHAKEN 1234,O=Example Telephone,C=US",
        "issuer": "CN=SHAKEN Laboratory Issuing CA,O=Laboratory,C=US",
        "serial": f"{LAB.signer.certificate.serial_number:x}",
        "codes": ["1234"],
        "numbers": [],
        "not_before": "2026-11-17T11:06:40Z",
        "not_after": "2027-02-16T11:06:40Z",
        "validity": "valid",
        "key": "EC secp256r1",
        "sha256": signer["sha256"],
        "mandatory_claims": [],
        "permitted_values": [],
        "excluded_claims": [],
        "fault": "",
        "findings": [],
        "sound": True,
    }
    assert authority["role"] == "intermediate"


def test_der_is_shown_in_a_table(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identity", "certificate", str(files / "signer.der")]) == 0
    out = capsys.readouterr().out
    for text in ("SHAKEN 1234", "service provider code", "SHAKEN Laboratory Issuing CA", "2027-02-16", "secp256r1"):
        assert text in out


def test_chain_is_assessed_against_anchors(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anchor = ["--trust-anchor", str(files / "root.pem"), "--json"]
    assert main(["identity", "certificate", str(files / "signer.pem"), *anchor]) == 0
    assert shown(capsys)["trusted"] is True
    assert main(["identity", "certificate", str(files / "foreign.pem"), *anchor]) == 1
    result = shown(capsys)
    assert result["trusted"] is False
    assert "no anchor of trust" in result["fault"]
    assert main(["identity", "certificate", str(files / "signer.pem"), "--trust-anchor", str(files / "root.pem")]) == 0
    assert "trusted" in capsys.readouterr().out


def test_expired_certificate_is_told(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identity", "certificate", str(files / "expired.pem"), "--json"]) == 1
    signer, authority = shown(capsys)["certificates"]
    assert (signer["validity"], authority["validity"]) == ("expired", "valid")


def test_broken_rule_and_constraints_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = replace(
        signer_draft("1234", NOW - DAY, NOW + DAY),
        tn_auth_list=TnAuthList(("1234",), tuple(NumberRange(f"1201555{i:04}") for i in range(100, 125))),
        constraints=ClaimConstraints(("attest",), (("attest", ("A", "B")),), ("rcd",)),
    )
    path = tmp_path / "delegate.pem"
    path.write_bytes(LAB.intermediate.issue(draft).pem)
    assert main(["identity", "certificate", str(path)]) == 1
    out = capsys.readouterr().out
    for text in (
        "tn-auth-list",
        "12015550119 and 5 more",
        "must have claims",
        "may have attest",
        "A, B",
        "must not have",
    ):
        assert text in out
    assert main(["identity", "certificate", str(path), "--json"]) == 1
    (described,) = shown(capsys)["certificates"]
    assert len(described["numbers"]) == 25
    assert [finding["code"] for finding in described["findings"]] == ["extensions", "tn-auth-list"]
    assert described["permitted_values"] == [{"claim": "attest", "values": ["A", "B"]}]


def test_standard_input_is_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LAB.signer.pem)))
    assert main(["identity", "certificate", "-"]) == 0
    assert "SHAKEN 1234" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"hello", "neither PEM nor DER"), (b"x" * (200 << 10), "larger than 128 KiB")],
)
def test_file_that_is_no_certificate_is_named(
    tmp_path: Path, content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main(["identity", "certificate", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"sbc-agent: {path}: ")
    assert reason in captured.err


def test_files_that_cannot_be_read_are_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, signer = str(files / "missing.pem"), str(files / "signer.pem")
    assert main(["identity", "certificate", missing]) == 1
    assert capsys.readouterr().err == f"sbc-agent: {missing}: cannot be read: No such file or directory\n"
    assert main(["identity", "certificate", signer, "--trust-anchor", missing]) == 1
    assert missing in capsys.readouterr().err
    (files / "empty.pem").write_bytes(b"")
    assert main(["identity", "certificate", signer, "--trust-anchor", str(files / "empty.pem")]) == 1
    assert "empty.pem: is empty" in capsys.readouterr().err


def test_file_must_be_named() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["identity", "certificate"])
    assert ended.value.code == 2
