"""The signing key is taken from a file that is nobody else's, and its certificate is watched."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agent.identity.passport import read_passport
from agent.identity.rows import read_rows
from agent.model import CallAttempt, ConfigError
from agent.policy.document import from_toml
from agent.policy.policy import Policy
from agent.screening import attempt_of
from agent.settings import fill
from agent.sip.scan import scan
from agent.stir.keys import DAY, KEY_BYTES_MAX, SigningKeys, load_signer, read_key
from agent.stir.lab_certificates import Draft, Holder, name, self_signed, signer_draft
from agent.stir.signing_settings import SigningSettings
from tests.fakes.calls import PEER, invite, observe, policy

URL = "https://certs.example.net/818H.pem"
WHEN = 1_800_000_000.0
KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
PEM = serialization.Encoding.PEM


def private(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY,
    form: PrivateFormat = PrivateFormat.PKCS8,
    password: bytes = b"",
) -> bytes:
    return key.private_bytes(PEM, form, BestAvailableEncryption(password) if password else NoEncryption())


def holder(days: float = 90.0, key: ec.EllipticCurvePrivateKey = KEY) -> Holder:
    return self_signed(signer_draft("818H", WHEN - DAY, WHEN + days * DAY), key)


@pytest.fixture
def files(tmp_path: Path) -> SigningSettings:
    private(tmp_path / "key.pem", pem())
    (tmp_path / "certificate.pem").write_bytes(holder().pem)
    return SigningSettings(tmp_path / "certificate.pem", URL, tmp_path / "key.pem")


def refused(load: Callable[[], object], field: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load()
    assert caught.value.field == field
    return caught.value.reason


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        pem(),
        pem(form=PrivateFormat.TraditionalOpenSSL),
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        + pem(form=PrivateFormat.TraditionalOpenSSL),
        b"the key of 818H\n" + pem().replace(b"\n", b"\r\n"),
    ],
    ids=["pkcs8", "sec1", "with parameters", "text around it"],
)
def test_a_key_is_read_in_the_forms_that_openssl_writes(tmp_path: Path, written: bytes) -> None:
    assert read_key(private(tmp_path / "key", written), "key").private_numbers() == KEY.private_numbers()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    reason = refused(lambda: read_key(private(tmp_path / "key", pem(), mode), "key"), "key")
    assert f"mode {mode:04o}" in reason
    assert "chmod 600" in reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = private(tmp_path / "key", pem())
    os.chown(path, 4711, 4711)
    assert "uid 4711" in refused(lambda: read_key(path, "key"), "key")


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_is_refused_and_the_way_out_named(tmp_path: Path, form: PrivateFormat) -> None:
    path = private(tmp_path / "key", pem(form=form, password=b"secret"))
    assert "LoadCredentialEncrypted" in refused(lambda: read_key(path, "key"), "key")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no private key in PEM"),
        (holder().pem, "no private key in PEM"),
        (pem()[:150] + b"\n-----END PRIVATE KEY-----\n", "can be read"),
        (pem(rsa.generate_private_key(65537, 2048)), "another kind"),
        (b"x" * (KEY_BYTES_MAX + 1), "larger than 16 KiB"),
    ],
)
def test_what_is_no_key_that_signs_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refused(lambda: read_key(private(tmp_path / "key", data), "key"), "key")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    assert "cannot be read" in refused(lambda: read_key(tmp_path / "absent", "key"), "key")
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "is no file" in refused(lambda: read_key(tmp_path / "fifo", "key"), "key")
    assert refused(lambda: read_key(tmp_path, "key"), "key")


@given(st.binary(max_size=300))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_of_a_key_file_raise_anything_else(tmp_path: Path, data: bytes) -> None:
    for written in (data, b"-----BEGIN PRIVATE KEY-----\n" + data + b"\n-----END PRIVATE KEY-----"):
        refused(lambda written=written: read_key(private(tmp_path / "key", written), "key"), "key")  # type: ignore[misc]


# -- settings ----------------------------------------------------------------------------------------------------------


def filled(**table: object) -> SigningSettings | list[str]:
    errors: list[ConfigError] = []
    made = fill(SigningSettings, {"certificate": "c.pem", "x5u": URL, **table}, "signing", errors)
    return made if made is not None else [error.field for error in errors]


def test_settings_are_filled_from_the_configuration() -> None:
    assert filled(key="k.pem") == SigningSettings(Path("c.pem"), URL, Path("k.pem"))
    assert filled(credential="sti-key", warn_days=3) == SigningSettings(Path("c.pem"), URL, None, "sti-key", 3.0)


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({}, "signing.key"),
        ({"key": "k", "credential": "c"}, "signing.key"),
        ({"credential": "../key"}, "signing.credential"),
        ({"credential": ".."}, "signing.credential"),
        ({"key": "k", "x5u": "http://certs.example.net/1.pem"}, "signing.x5u"),
        ({"key": "k", "warn_days": 366}, "signing.warn_days"),
    ],
)
def test_settings_that_cannot_be_are_refused(table: dict[str, object], field: str) -> None:
    assert filled(**table) == [field]


def test_a_key_can_be_a_credential_of_systemd(files: SigningSettings, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    private(folder / "sti-key", pem(), 0o440)  # what it shows for an access control list
    settings = SigningSettings(files.certificate, URL, credential="sti-key")
    assert load_signer(settings, {"CREDENTIALS_DIRECTORY": str(folder)}).url == URL
    assert "LoadCredential=" in refused(lambda: load_signer(settings, {}), "credential")
    private(folder / "sti-key", pem(), 0o444)
    refused(lambda: load_signer(settings, {"CREDENTIALS_DIRECTORY": str(folder)}), "credential")


def test_the_certificate_must_be_one_for_signing_calls_and_of_this_key(files: SigningSettings) -> None:
    def reason() -> str:
        return refused(lambda: load_signer(files, {}), "certificate")

    files.certificate.write_bytes(holder(key=ec.generate_private_key(ec.SECP256R1())).pem)
    assert "another key" in reason()
    files.certificate.write_bytes(self_signed(Draft(name("x"), WHEN - DAY, WHEN + DAY), KEY).pem)
    assert "no TNAuthList" in reason()
    files.certificate.write_bytes(b"no PEM")
    assert str(files.certificate) in reason()
    files.certificate.unlink()
    assert "cannot be read" in reason()


# -- the part ----------------------------------------------------------------------------------------------------------


class Clock:
    """A wall clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = WHEN

    def __call__(self) -> float:
        return self.now


def started(settings: SigningSettings) -> tuple[SigningKeys, Clock]:
    clock = Clock()
    keys = SigningKeys(settings, {}, clock)
    asyncio.run(keys.start())
    return keys, clock


SIGNING = policy(from_toml(f'[[trunks]]\nid = "peer"\nsources = ["{PEER}"]\n[signing]\ngateway_trunks = ["peer"]\n'))


def attempt(of: Policy = SIGNING) -> CallAttempt:
    raw, trunk = invite(), of.addresses.sender(PEER)
    assert trunk is not None
    return attempt_of(observe(raw), scan(raw), trunk)


def test_calls_are_signed_with_the_key_now_and_each_has_an_origid_of_its_own(files: SigningSettings) -> None:
    keys, _ = started(files)
    rows = read_rows([*keys.rows(attempt(), SIGNING), *keys.rows(attempt(), SIGNING)])
    first, second = (read_passport(row.token).claims for row in rows)
    assert (first.attest, first.iat) == ("C", int(WHEN))
    assert first.origid != second.origid
    assert keys.counters()["signing_signed"] == 2
    assert keys.rows(attempt(), policy()) == ()


def test_nothing_is_signed_before_the_start_and_after_the_stop(files: SigningSettings) -> None:
    keys = SigningKeys(files, {}, Clock())
    assert keys.rows(attempt(), SIGNING) == ()
    assert keys.health() == (False, "not loaded yet")
    asyncio.run(keys.start())
    assert keys.health() == (True, "signs for 818H until 2027-04-15T08:00:00.000000Z")
    asyncio.run(keys.stop(0))
    assert keys.rows(attempt(), SIGNING) == ()
    assert keys.health() == (False, "stopped")


def test_a_certificate_that_ends_soon_raises_the_alarm_and_still_signs(files: SigningSettings) -> None:
    keys, clock = started(files)
    clock.now = WHEN + 76.5 * DAY
    well, words = keys.health()
    assert (well, words.startswith("the certificate of 818H expires in 13.5 days")) == (False, True)
    assert keys.rows(attempt(), SIGNING)


def test_an_expired_certificate_signs_nothing(files: SigningSettings) -> None:
    keys, clock = started(files)
    clock.now = WHEN + 91 * DAY
    assert keys.rows(attempt(), SIGNING) == ()
    assert keys.signer is None
    assert "nothing is signed: the certificate of 818H expired" in keys.health()[1]
    assert keys.counters()["signing_not_valid"] == 1
    clock.now = WHEN - 2 * DAY
    assert "is not valid before" in keys.health()[1]
    assert not keys.health()[0]


def test_a_key_that_cannot_be_loaded_is_told_and_can_be_loaded_later(files: SigningSettings) -> None:
    assert files.key is not None
    files.key.chmod(0o644)
    keys = SigningKeys(files, {}, Clock())
    with pytest.raises(ConfigError, match="mode 0644"):
        asyncio.run(keys.start())
    assert "mode 0644" in keys.health()[1]
    files.key.chmod(0o600)
    asyncio.run(keys.start())
    assert keys.health()[0]


def test_a_reload_takes_the_next_key_and_the_url_that_goes_with_it(files: SigningSettings, tmp_path: Path) -> None:
    keys, _ = started(files)
    other = ec.generate_private_key(ec.SECP256R1())
    private(tmp_path / "next.pem", pem(other))
    (tmp_path / "next.crt").write_bytes(holder(30, other).pem)
    later = SigningSettings(tmp_path / "next.crt", "https://certs.example.net/next.pem", tmp_path / "next.pem")
    asyncio.run(keys.reload(later))
    (row,) = read_rows(keys.rows(attempt(), SIGNING))
    assert row.url == later.x5u
    assert keys.health()[0]


def test_after_a_reload_that_fails_the_old_key_signs_and_the_agent_says_why(files: SigningSettings) -> None:
    keys, _ = started(files)
    files.certificate.write_bytes(b"")
    with pytest.raises(ConfigError):
        asyncio.run(keys.reload())
    assert keys.rows(attempt(), SIGNING)
    well, words = keys.health()
    assert not well
    assert "last reload: certificate: " in words
    assert keys.counters() == {
        "signing_signed": 1,
        "signing_diversions": 0,
        "signing_not_valid": 0,
        "signing_reloads": 1,
        "signing_reload_failures": 1,
    }
    files.certificate.write_bytes(holder().pem)
    asyncio.run(keys.reload())
    assert keys.health()[0]
