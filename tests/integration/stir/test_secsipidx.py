"""The command secsipidx, of other authors in another language: what one signs the other verifies, and refuses alike."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.identity.model import Failure
from tests.integration.peers import need
from tests.integration.stir.laboratory import CALLED, CALLING, CODE, ORIGID, Lab, make_lab
from tests.integration.stir.secsipidx import signed_by_them, signed_by_them_before, verified_by_them

pytestmark = pytest.mark.slow
MANY = 40  # enough for an r or s that begins with a zero bit, which DER and bare integers write differently


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    need("secsipidx")
    return make_lab(tmp_path)


@pytest.mark.parametrize("attest", ["A", "B", "C"])
def test_what_they_sign_we_verify(lab: Lab, attest: str) -> None:
    found = lab.verify(signed_by_them(lab, attest=attest))
    assert (found.failure, found.why) == (None, f"attested {attest} by {CODE}")
    assert (found.attestation, found.spc, found.origid) == (attest, CODE, ORIGID)


@pytest.mark.parametrize("attest", ["A", "B", "C"])
def test_what_we_sign_they_verify(lab: Lab, attest: str) -> None:
    assert verified_by_them(lab, lab.sign(attest=attest))


def test_both_agree_on_many_signatures(lab: Lab) -> None:
    for n in range(MANY):
        calling = f"120155501{n:02d}"
        assert verified_by_them(lab, lab.sign(calling)), n
        assert lab.verify(signed_by_them(lab, calling=calling), calling=calling).valid, n


def test_the_same_claims_are_written_in_the_same_bytes(lab: Lab) -> None:
    theirs = signed_by_them(lab)
    ours = lab.sign()
    assert theirs.split(".")[0] == ours.split(".")[0]
    assert len(theirs) == len(ours)
    assert theirs.partition(";")[2] == ours.partition(";")[2]


def test_they_fetch_our_certificate_and_find_its_authority(lab: Lab) -> None:
    chain = (
        "-cert-verify",
        "13",
        "-ca-file",
        str(lab.file("root.pem")),
        "-ca-inter",
        str(lab.file("intermediate.pem")),
    )

    async def run() -> None:
        async with lab.served() as server:
            for name, good in (("signer", True), ("expired", False), ("foreign", False)):
                identity = lab.sign(url=name)
                verdict = await asyncio.to_thread(verified_by_them, lab, identity, lab.url(name), *chain)
                assert verdict is good, name
                assert lab.verify(identity).valid is good, name
                assert server.asked[f"/{name}.pem"] == 1

    asyncio.run(run())


@pytest.mark.parametrize("name", ["expired", "foreign"])
def test_we_do_not_rely_on_their_token_under_a_certificate_that_is_not_to_be_trusted(lab: Lab, name: str) -> None:
    assert lab.verify(signed_by_them(lab, url=name)).failure is Failure.CREDENTIAL


def test_neither_takes_another_key(lab: Lab) -> None:
    assert not verified_by_them(lab, lab.sign(key="foreign"))
    assert lab.verify(signed_by_them(lab, key="foreign")).failure is Failure.INVALID


@pytest.mark.parametrize("part", [0, 1, 2])
def test_neither_takes_a_changed_token(lab: Lab, part: int) -> None:
    for identity in (signed_by_them(lab), lab.sign()):
        token, _, rest = identity.partition(";")
        parts = token.split(".")
        middle = len(parts[part]) // 2
        other = "A" if parts[part][middle] != "A" else "B"
        parts[part] = parts[part][:middle] + other + parts[part][middle + 1 :]
        changed = ".".join(parts) + ";" + rest
        assert not verified_by_them(lab, changed)
        assert not lab.verify(changed).valid


def test_neither_takes_an_old_token(lab: Lab) -> None:
    assert lab.verify(signed_by_them_before(lab, 120)).failure is Failure.STALE
    assert lab.verify(signed_by_them_before(lab, 5)).valid
    assert not verified_by_them(lab, lab.sign(age=120))


def test_our_command_verifies_what_theirs_signs(lab: Lab) -> None:
    identity = signed_by_them(lab)
    rows = [
        f"INVITE sip:+{CALLED}@sbc.example.net SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK1",
        f"From: <sip:+{CALLING}@example.com>;tag=1",
        f"To: <sip:+{CALLED}@sbc.example.net>",
        "Call-ID: 1@192.0.2.10",
        "CSeq: 1 INVITE",
        f"Identity: {identity}",
        "Content-Length: 0",
    ]
    lab.file("invite.sip").write_text("\r\n".join(rows) + "\r\n\r\n")
    command = [sys.executable, "-m", "agent.cli.main", "identity", "verify", str(lab.file("invite.sip"))]
    command += ["--trust-anchor", str(lab.file("root.pem")), "--x5u", f"{lab.url('signer')}={lab.file('signer.pem')}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["spc"] == CODE
