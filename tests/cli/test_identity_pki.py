"""`sbc-agent identity make-test-pki`: what it writes is what the verifier of calls makes of it."""

import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.cli.main import main
from agent.identity.certificate import read_anchors, read_chain
from agent.identity.crl import read_crl
from agent.identity.trust import TrustStore
from agent.identity.trust_list import read_trust_list


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "new" / "lab"
    options = ["--spc", "709J", "--host", "certs.example.net", "--host", "127.0.0.1", "--days", "30"]
    assert main(["identity", "make-test-pki", str(path), *options]) == 0
    out = capsys.readouterr().out
    assert all(file.name in out for file in path.iterdir())
    return path


def test_files_are_what_they_are_called(folder: Path) -> None:
    now = time.time()
    listed = read_trust_list((folder / "trust-list.jws").read_bytes(), read_anchors(_read(folder, "pa-root.pem")), now)
    crl = read_crl(_read(folder, "crl.pem"), read_anchors(_read(folder, "crl-signer.pem")), now)
    store = TrustStore(listed.anchors, (crl,), listed.sequence, listed.expires)
    found = {
        name: store.assess(read_chain(_read(folder, f"{name}.pem")), now)
        for name in ("signer", "expired", "revoked", "foreign")
    }
    assert {credential.spc for credential in found.values()} == {"709J"}
    assert found["signer"].fault == ""
    assert now < found["signer"].not_after < now + 31 * 86_400
    assert found["expired"].fault == ""
    assert found["expired"].not_after < now
    assert "was revoked" in found["revoked"].fault
    assert "no anchor of trust" in found["foreign"].fault


def test_every_certificate_has_its_key_for_the_owner_alone(folder: Path) -> None:
    pairs = 0
    for path in folder.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600
        key = load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        certificate = read_chain(path.with_suffix(".pem").read_bytes()).leaf
        assert certificate.public_key == key.public_key()
        pairs += 1
    assert pairs == 12


def test_certificate_of_the_server_serves_its_hosts(folder: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "https-server.pem", folder / "https-server.key")
    for host, good in (("certs.example.net", True), ("127.0.0.1", True), ("other.example.net", False)):
        client = ssl.create_default_context(cafile=folder / "https-root.pem")
        try:
            _handshake(client, server, host)
        except ssl.SSLCertVerificationError:
            assert not good
        else:
            assert good


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    """TLS without a network: what one side writes the other reads, until the client is content."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.version() is not None
    assert ours.getpeercert()


def test_files_that_are_there_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["identity", "make-test-pki", str(folder)]) == 1
    assert "is there already; --force replaces it" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_force_replaces_them_and_keeps_keys_private(folder: Path) -> None:
    before = _read(folder, "root.key")
    (folder / "root.key").chmod(0o644)
    assert main(["identity", "make-test-pki", str(folder), "--force"]) == 0
    assert _read(folder, "root.key") != before
    assert (folder / "root.key").stat().st_mode & 0o777 == 0o600


def test_folder_that_cannot_be_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["identity", "make-test-pki", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--spc", ""],
        ["--spc", "12 34"],
        ["--host", "a/b"],
        ["--host", ""],
        ["--host", "localhost:8443"],
        ["--days", "0"],
        ["--days", "1e3"],
        [],
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["identity", "make-test-pki", *([str(tmp_path)] if options else []), *options])
    assert ended.value.code == 2
    assert list(tmp_path.iterdir()) == []


def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()
