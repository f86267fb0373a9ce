"""Joining a fleet: by the command, over real TLS, against a controller that loses answers and lies."""

import contextlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.control.credentials import CredentialFiles, assemble, new_key
from agent.control.errors import ControllerError
from agent.control.messages import Issued
from tests.conftest import ROOT
from tests.control.fake_controller import FakeController, LaboratoryAuthority
from tests.control.managed import enroll


def test_a_token_becomes_a_certificate_that_only_the_agent_can_read(tmp_path: Path) -> None:
    with FakeController() as controller:
        done = enroll(tmp_path, controller)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("enrolled as agent-1, certificate until ")
    files = sorted(path.name for path in (tmp_path / "control").iterdir())
    assert files == ["fleet.json", "identity.pem"]
    for name in files:
        assert stat.S_IMODE((tmp_path / "control" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o700
    credentials = CredentialFiles(tmp_path / "control").load()
    assert credentials is not None
    assert (credentials.agent_id, credentials.instance_uid) == ("agent-1", controller.questions[0].instance_uid)
    assert list(credentials.artifact_keys) == ["k1"]
    assert "PRIVATE" not in repr(credentials)


def test_a_lost_answer_costs_no_token(tmp_path: Path) -> None:
    with FakeController() as controller:
        controller.lose_answers = 2
        for _ in range(2):
            lost = enroll(tmp_path, controller)
            assert (lost.returncode, lost.stdout) == (1, "")
            assert "UNAVAILABLE: the answer is lost" in lost.stderr
            assert stat.S_IMODE((tmp_path / "control" / "pending.json").stat().st_mode) == 0o600
        assert enroll(tmp_path, controller).returncode == 0
    assert len({question.SerializeToString() for question in controller.questions}) <= 3  # ECDSA signs differently
    assert len({question.idempotency_key for question in controller.questions}) == 1
    assert not (tmp_path / "control" / "pending.json").exists()


def test_the_same_command_again_has_the_same_end_without_asking(tmp_path: Path) -> None:
    with FakeController() as controller:
        first = enroll(tmp_path, controller)
        again = enroll(tmp_path, controller)
    assert again.stdout == first.stdout
    assert len(controller.questions) == 1


def test_a_refused_token_is_forgotten_and_another_one_is_another_question_of_the_same_instance(tmp_path: Path) -> None:
    with FakeController() as controller:
        refused = enroll(tmp_path, controller, token="wrong")
        assert refused.returncode == 1
        assert "UNAUTHENTICATED: the token is not known" in refused.stderr
        assert not (tmp_path / "control" / "pending.json").exists()
        assert enroll(tmp_path, controller).returncode == 0
        controller.questions.clear()
        enroll(tmp_path, controller, token="another")
    credentials = CredentialFiles(tmp_path / "control").load()
    assert credentials is not None  # those from before stay
    assert controller.questions[0].instance_uid == credentials.instance_uid


def test_a_controller_of_another_authority_never_sees_the_token(tmp_path: Path) -> None:
    with FakeController() as controller:
        done = enroll(tmp_path, controller, pin=LaboratoryAuthority().sha256)
    assert done.returncode == 1
    assert "is not the controller that the token is for" in done.stderr
    assert controller.questions == []


def test_without_a_fingerprint_the_system_must_know_the_authority(tmp_path: Path) -> None:
    with FakeController() as controller:
        (tmp_path / "token").write_text("good-token")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "agent.cli.main", "enroll", "--controller", controller.open_address),
                *("--token-file", str(tmp_path / "token"), "--dir", str(tmp_path / "control")),
            ],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "--authority-sha256" in done.stderr
    assert controller.questions == []


def test_a_certificate_for_another_key_is_not_taken(tmp_path: Path) -> None:
    with FakeController() as controller:
        controller.issue_for_another_key = True
        done = enroll(tmp_path, controller)
    assert "the certificate is for another key" in done.stderr
    assert not (tmp_path / "control" / "identity.pem").exists()


def test_nobody_there_is_said_in_words(tmp_path: Path) -> None:
    with FakeController() as controller:
        pass
    done = enroll(tmp_path, controller)
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    assert "its open port (7444" in done.stderr


@pytest.mark.parametrize("text", ["", "two words", "x" * 5000, "caf\xe9"])
def test_what_is_no_token_is_refused_before_anybody_is_asked(tmp_path: Path, text: str) -> None:
    with FakeController() as controller:
        done = enroll(tmp_path, controller, token=text)
    assert done.returncode == 1
    assert "holds no token" in done.stderr
    assert controller.questions == []


def test_files_of_root_belong_to_whom_the_directory_belongs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    (tmp_path / "control").mkdir(mode=0o700)
    os.chown(tmp_path / "control", 65534, 65534)
    with FakeController() as controller:
        assert enroll(tmp_path, controller).returncode == 0
    assert {path.stat().st_uid for path in (tmp_path / "control").iterdir()} == {65534}


def test_damaged_files_are_told_and_never_raise_anything_else(tmp_path: Path) -> None:
    with FakeController() as controller:
        enroll(tmp_path, controller)
    files = CredentialFiles(tmp_path / "control")
    good = files.load()
    for name in ("identity.pem", "fleet.json"):
        path = tmp_path / "control" / name
        whole = path.read_bytes()
        for position in range(0, len(whole), 7):
            broken = bytearray(whole)
            broken[position] ^= 0x20
            path.write_bytes(broken)
            with contextlib.suppress(ControllerError):  # a changed letter of a name is still a name
                files.load()
            path.write_bytes(whole[:position])
            with pytest.raises(ControllerError, match="enrol again"):
                files.load()
        path.write_bytes(whole)
    assert files.load() == good


def test_credentials_need_a_chain_that_ends_in_what_is_trusted(tmp_path: Path) -> None:
    ours, other = LaboratoryAuthority(), LaboratoryAuthority()
    key = new_key()
    leaf = ours.issue(load_pem_private_key(key, None).public_key(), [], 100.0)
    assert assemble("a", "u", key, Issued((leaf,), (ours.der,))).not_after > 0
    for issued, why in (
        (Issued((leaf,), (other.der,)), "of none of the authorities"),
        (Issued((), (ours.der,)), "certificate chain has 0"),
        (Issued((leaf,), ()), "trust bundle has 0"),
        (Issued((b"x",), (ours.der,)), "is no certificate"),
        (Issued((leaf,) * 9, (ours.der,)), "may have 1 to 8"),
        (Issued((leaf,), (ours.der,), {"k": b"short"}), "32 bytes"),
    ):
        with pytest.raises(ControllerError, match=why):
            assemble("a", "u", key, issued)


def test_what_is_kept_is_json_and_pem_that_people_can_read(tmp_path: Path) -> None:
    with FakeController() as controller:
        enroll(tmp_path, controller)
    fleet = json.loads((tmp_path / "control" / "fleet.json").read_text())
    assert fleet["agent_id"] == "agent-1"
    assert fleet["trust"].startswith("-----BEGIN CERTIFICATE-----")
    assert (tmp_path / "control" / "identity.pem").read_text().startswith("-----BEGIN PRIVATE KEY-----")
