"""`sbc-agent identity sign`: what it writes is accepted by `identity verify`, and what it cannot sign it says."""

import json
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.cli.main import main
from agent.identity.passport import read_passport
from agent.identity.rows import read_rows
from agent.stir.lab_certificates import root_draft, self_signed, signer_draft
from tests.fakes.calls import invite

URL = "https://certs.example.net/818H.pem"
NOW = 1_800_000_000
ORIGID = "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c"
CALL = ("--orig", "+1-201-555-0123", "--dest", "13035550199")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    root = self_signed(root_draft("Test Root", NOW))
    signer = root.issue(signer_draft("818H", NOW - 86_400, NOW + 86_400))
    (tmp_path / "root.pem").write_bytes(root.pem)
    (tmp_path / "signer.pem").write_bytes(signer.pem)
    (tmp_path / "signer.key").write_bytes(signer.key_pem)
    (tmp_path / "signer.key").chmod(0o600)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    code = main(["identity", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def signed(capsys: pytest.CaptureFixture[str], lab: Path, *more: str) -> str:
    code, out, err = run(capsys, "sign", "--key", lab / "signer.key", "--x5u", URL, "--iat", str(NOW), *more)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    return out.strip()


def verdict(capsys: pytest.CaptureFixture[str], lab: Path, *rows: str, called: str = "+13035550199") -> tuple[int, str]:
    message = lab / "invite.sip"
    message.write_bytes(invite(f"sip:{called}@sbc.example.net", headers=tuple(f"Identity: {row}" for row in rows)))
    served = f"{URL}={lab / 'signer.pem'}"
    code, out, _ = run(
        capsys, "verify", message, "--now", str(NOW), "--trust-anchor", lab / "root.pem", "--x5u", served
    )
    return code, json.dumps(json.loads(out))


@pytest.mark.parametrize("attest", ["A", "B", "C"])
def test_what_is_signed_is_accepted_by_verify(capsys: pytest.CaptureFixture[str], lab: Path, attest: str) -> None:
    row = signed(capsys, lab, *CALL, "--attest", attest, "--origid", ORIGID)
    code, found = verdict(capsys, lab, row)
    assert code == 0, found
    assert "818H" in found
    code, found = verdict(capsys, lab, row, called="+13035550198")
    assert code == 1
    assert "438" in found


def test_a_div_beside_it_leads_to_where_the_call_was_sent_on(capsys: pytest.CaptureFixture[str], lab: Path) -> None:
    original = signed(capsys, lab, *CALL)
    div = signed(capsys, lab, "--orig", "12015550123", "--dest", "13035550142", "--div", "13035550199")
    assert verdict(capsys, lab, original, div, called="+13035550142")[0] == 0
    assert verdict(capsys, lab, original, called="+13035550142")[0] == 1


def test_by_default_it_attests_a_now_with_an_origid_of_its_own(capsys: pytest.CaptureFixture[str], lab: Path) -> None:
    claims = [
        read_passport(read_rows([signed(capsys, lab, *CALL, "--dest", "14165550177").encode()])[0].token).claims
        for _ in range(2)
    ]
    assert claims[0].attest == "A"
    assert claims[0].dest == ("13035550199", "14165550177")
    assert UUID(claims[0].origid) != UUID(claims[1].origid)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--x5u", "http://certs.example.net/1.pem", *CALL), "x5u: "),
        (("--x5u", URL, "--orig", "alice", "--dest", "1"), "orig: "),
        (("--x5u", URL, *CALL, "--origid", "x"), "origid: "),
        (("--x5u", URL, *CALL, "--iat", "-1"), "iat: "),
    ],
)
def test_what_cannot_be_signed_is_said(
    capsys: pytest.CaptureFixture[str], lab: Path, arguments: tuple[str, ...], reason: str
) -> None:
    code, out, err = run(capsys, "sign", "--key", lab / "signer.key", *arguments)
    assert (code, out) == (1, "")
    assert reason in err


def test_a_key_that_others_can_read_is_not_used(capsys: pytest.CaptureFixture[str], lab: Path) -> None:
    (lab / "signer.key").chmod(0o644)
    code, out, err = run(capsys, "sign", "--key", lab / "signer.key", "--x5u", URL, *CALL)
    assert (code, out) == (1, "")
    assert "key: " in err
    assert "mode 0644" in err


def test_claims_that_a_div_does_not_have_are_wrong_usage(capsys: pytest.CaptureFixture[str], lab: Path) -> None:
    arguments = ("--key", lab / "signer.key", "--x5u", URL, *CALL, "--div", "13035550142", "--attest", "A")
    code, out, err = run(capsys, "sign", *arguments)
    assert (code, out) == (2, "")
    assert "--div" in err


def test_a_key_of_another_kind_is_not_used(capsys: pytest.CaptureFixture[str], lab: Path) -> None:
    other = self_signed(root_draft("x", NOW), ec.generate_private_key(ec.SECP384R1()))
    (lab / "signer.key").write_bytes(other.key_pem)
    code, _, err = run(capsys, "sign", "--key", lab / "signer.key", "--x5u", URL, *CALL)
    assert code == 1
    assert "secp384r1" in err
