"""`sbc-agent identity inspect` and `verify`: what they print, what they complain about, and their exit codes."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.cli.main import main
from agent.stir.lab import make_crl
from agent.stir.lab_certificates import key_usage, root_draft, self_signed, signer_draft
from tests.identity.tokens import IAT, KEY, URL, VECTOR, VECTOR_TOKEN, div, rcd, row, rph, shaken

DAY = 86_400.0


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """A root, a certificate of the key that signs here, and a list that revokes it with who signed that list."""
    root = self_signed(root_draft("Example Root", IAT))
    leaf = root.issue(signer_draft("1234", IAT - DAY, IAT + DAY), KEY)
    revoker = self_signed(replace(root_draft("STI-PA CRL", IAT), usage=key_usage("crl_sign")))
    crl = make_crl(revoker, [(leaf.certificate.issuer, leaf.certificate.serial_number)], IAT - DAY, IAT + DAY)
    for name, pem in (("root", root.pem), ("leaf", leaf.pem), ("revoker", revoker.pem)):
        (tmp_path / f"{name}.pem").write_bytes(pem)
    (tmp_path / "sti.crl").write_bytes(crl.public_bytes(Encoding.PEM))
    return tmp_path


def invite(*identity: bytes, rows: tuple[str, ...] = (), uri: str = "sip:+13035550199@sbc.example.net") -> bytes:
    head = [
        f"INVITE {uri} SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKa1",
        "From: <sip:+12015550123@a.example;user=phone>;tag=9f",
        "To: <sip:+13035550199@sbc.example.net;user=phone>",
        "Call-ID: 7c1@192.0.2.10",
        "CSeq: 1 INVITE",
        *rows,
    ]
    lines = [line.encode() for line in head] + [b"Identity: " + value for value in identity] + [b"", b""]
    return b"\r\n".join(lines)


def verify(pki: Path, message: bytes, *options: str, now: str = str(IAT + 5)) -> int:
    (pki / "message.sip").write_bytes(message)
    arguments = [f"--trust-anchor={pki / 'root.pem'}", f"--x5u={URL}={pki / 'leaf.pem'}", f"--now={now}", *options]
    return main(["identity", "verify", str(pki / "message.sip"), *arguments])


def out(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_authenticated_call_is_accepted(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(pki, invite(shaken(attest="A"))) == 0
    shown = out(capsys)
    assert shown == {
        "result": "accept",
        "class": None,
        "code": None,
        "phrase": None,
        "why": "attested A by 1234",
        "attestation": "A",
        "spc": "1234",
        "origid": "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c",
        "psap_callback": False,
        "time": "2026-10-14T14:15:05.000000Z",
        "call": {"calling": ["12015550123"], "called": "13035550199", "to": "13035550199", "date": None},
        "rows": [{"ppt": "shaken", "url": URL, "class": None, "code": None, "phrase": None, "why": "", "spc": "1234"}],
    }


@pytest.mark.parametrize(
    "now", [str(IAT + 60), "2026-10-14T14:16:00Z", "2026-10-14T16:16:00+02:00", "2026-10-14T14:16:00"]
)
def test_time_is_epoch_seconds_or_a_date(pki: Path, now: str) -> None:
    assert verify(pki, invite(shaken()), now=now) == 0
    assert verify(pki, invite(shaken()), "--freshness=59", now=now) == 1


def test_rejected_call_names_class_and_sip_code(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(pki, invite(shaken()), now=str(IAT + 61)) == 1
    shown = out(capsys)
    assert (shown["result"], shown["class"], shown["code"], shown["phrase"]) == ("reject", "stale", 403, "Stale Date")
    assert shown["rows"][0]["class"] == "stale"


def test_revoked_certificate_is_a_bad_credential(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--crl={pki / 'sti.crl'}", f"--crl-signer={pki / 'revoker.pem'}"]
    assert verify(pki, invite(shaken()), *options) == 1
    shown = out(capsys)
    assert (shown["class"], shown["code"]) == ("credential", 437)
    assert "revoked" in shown["why"]


def test_revocation_list_of_a_signer_that_nobody_named_cannot_be_used(
    pki: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(pki, invite(shaken()), f"--crl={pki / 'sti.crl'}") == 2
    assert "sti.crl" in capsys.readouterr().err


def test_url_without_a_file_serves_nothing(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = row(x5u="https://certs.example.org/other.pem")
    assert verify(pki, invite(other)) == 1
    assert out(capsys)["class"] == "unreachable"


def test_url_that_serves_no_certificate_is_a_bad_credential(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pki / "leaf.pem").write_bytes(b"<html>not found</html>")
    assert verify(pki, invite(shaken())) == 1
    shown = out(capsys)
    assert (shown["class"], shown["code"]) == ("credential", 437)


def test_port_of_the_url_may_be_allowed(pki: Path) -> None:
    url = "https://certs.example.net:8080/a.pem"
    options = [f"--x5u={url}={pki / 'leaf.pem'}"]
    assert verify(pki, invite(row(x5u=url)), *options) == 1
    assert verify(pki, invite(row(x5u=url)), *options, "--port=8080") == 0


def test_diverted_call_and_call_back_are_seen(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diverted = invite(shaken(), div("13035550199", "13035550142"), uri="sip:+13035550142@sbc.example.net")
    assert verify(pki, diverted) == 0
    assert [shown["ppt"] for shown in out(capsys)["rows"]] == ["shaken", "div"]
    assert verify(pki, invite(shaken(), rph(sph="psap-callback"), rows=("Priority: psap-callback",))) == 0
    assert out(capsys)["psap_callback"]


def test_lenient_takes_a_row_with_other_parameters(pki: Path) -> None:
    message = invite(shaken() + b";toto=titi")
    assert verify(pki, message) == 1
    assert verify(pki, message, "--lenient") == 0


def test_message_from_stdin(pki: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(invite(shaken()))))
    anchor = f"--trust-anchor={pki / 'root.pem'}"
    assert main(["identity", "verify", "-", anchor, f"--x5u={URL}={pki / 'leaf.pem'}", f"--now={IAT}"]) == 0
    assert out(capsys)["result"] == "accept"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "no start line"),
        (b"hello", "start-line"),
        (b"SIP/2.0 200 OK\r\n\r\n", "is no INVITE but a response"),
        (b"OPTIONS sip:a.example SIP/2.0\r\n\r\n", "is no INVITE but a OPTIONS"),
        (b"a" * 70_000, "longer than"),
    ],
)
def test_what_is_no_invite_is_wrong_usage(
    pki: Path, message: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(pki, message) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("missing", ["root.pem", "leaf.pem", "message.sip"])
def test_file_that_cannot_be_read_is_wrong_usage(pki: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    (pki / "message.sip").write_bytes(invite(shaken()))
    (pki / missing).unlink()
    arguments = [f"--trust-anchor={pki / 'root.pem'}", f"--x5u={URL}={pki / 'leaf.pem'}"]
    assert main(["identity", "verify", str(pki / "message.sip"), *arguments]) == 2
    error = capsys.readouterr().err
    assert missing in error
    assert "No such file" in error


def test_trust_anchor_that_is_no_certificate_is_wrong_usage(pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pki / "root.pem").write_bytes(b"junk")
    assert verify(pki, invite(shaken())) == 2
    assert "root.pem" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        "--now=yesterday",
        "--now=nan",
        "--freshness=-1",
        "--freshness=x",
        "--x5u=https://a.example/",
        "--x5u==f",
        "--port=x",
    ],
)
def test_wrong_argument_is_wrong_usage(pki: Path, option: str) -> None:
    with pytest.raises(SystemExit) as caught:
        verify(pki, invite(shaken()), option)
    assert caught.value.code == 2


def inspect(tmp_path: Path, raw: bytes, *options: str) -> int:
    (tmp_path / "file").write_bytes(raw)
    return main(["identity", "inspect", str(tmp_path / "file"), *options])


def test_every_row_and_claim_is_shown_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (
        shaken(),
        div("13035550199", "13035550142"),
        rph(sph="psap-callback"),
        rcd(rcd={"nam": "Example Caller", "icn": "https://a.example/i.png"}),
    )
    assert inspect(tmp_path, invite(*rows)) == 0
    shown = capsys.readouterr().out
    for expected in (
        "Identity row 1 of 4",
        "1791987300 (2026-10-14 14:15:00 UTC)",
        "B: the signer knows the customer, not his right to the number",
        "payload div.tn",
        "payload rph.auth",
        "esnet.1",
        "psap-callback",
        "payload rcd.nam",
        "Example Caller",
        "https://a.example/i.png",
    ):
        assert expected in shown


def test_vector_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(tmp_path, invite(VECTOR), "--json") == 0
    (shown,) = out(capsys)
    assert shown["header"] == {"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": URL}
    assert shown["payload"]["orig"] == {"tn": "12015550123"}
    assert shown["parameters"] == {"info": URL, "alg": "ES256", "ppt": "shaken"}
    assert shown["signature"]["r"].startswith("b86ccc")
    assert (shown["faults"], shown["objections"]) == ([], {})


@pytest.mark.parametrize("prefix", [b"", b"Identity: ", b"y :", b"IDENTITY:\r\n "])
def test_bare_rows_are_shown_too(tmp_path: Path, prefix: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folded = VECTOR.replace(b";alg", b"\r\n ;alg")
    assert inspect(tmp_path, prefix + folded + b"\r\n" + prefix + VECTOR + b"\r\n", "--json") == 0
    assert [shown["faults"] for shown in out(capsys)] == [[], []]


def test_broken_part_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, payload, signature = VECTOR_TOKEN.split(b".")
    broken = header + b".!" + payload + b"." + signature + b";ppt=shaken;alg=ES256;info=<http://a.example/>;x=y"
    assert inspect(tmp_path, broken, "--json") == 0
    (shown,) = out(capsys)
    assert shown["header"]["ppt"] == "shaken"
    assert shown["payload"] is None
    assert shown["signature"] is not None
    assert shown["faults"] == ["payload: not base64url"]
    assert shown["objections"]["strict"] == 'parameter "x" besides info, alg and ppt'
    assert "not base64url" in shown["objections"]["lenient"]


def test_what_is_odd_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(tmp_path, shaken(origid="toto"), "--json") == 0
    assert out(capsys)[0]["objections"] == {"origid": "not a UUID (RFC 8588 4)"}
    assert inspect(tmp_path, row(ppt="msec"), "--json") == 0
    assert "not supported" in out(capsys)[0]["objections"]["strict"]


def test_terminal_is_not_written_to_by_a_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = rcd(rcd={"nam": "\x1b[2J\x9bBob\r\n"}, **{"\x1b[1m": "\x07"})
    assert inspect(tmp_path, invite(hostile + b';a="\x1b[2J"')) == 0
    assert not {"\x1b", "\x9b", "\x07", "\r"} & set(capsys.readouterr().out)


@pytest.mark.parametrize("raw", [b"", b"\r\n\r\n", invite()])
def test_nothing_to_show_is_told(tmp_path: Path, raw: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(tmp_path, raw) == 1
    assert "no Identity header" in capsys.readouterr().err
    assert inspect(tmp_path, raw, "--json") == 1
    assert out(capsys) == []


def test_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identity", "inspect", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "raw", [b"\xff\x00;ppt=\xff", b"." * 500, b"a.b.c;info=<" + b"x" * 20_000, b"Identity:" * 2000]
)
def test_any_bytes_are_shown_or_refused(tmp_path: Path, raw: bytes) -> None:
    assert inspect(tmp_path, raw) in {0, 1}
    assert inspect(tmp_path, raw, "--json") in {0, 1}
