"""Keys and authorities as files: made once, refused when others can read them, never replaced; the operator's own."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from agent.model import ConfigError
from controller.authority import Authority, AuthoritySettings
from controller.authority.issuer import common_name, make_authority, usage
from controller.model import Role
from controller.store import StoreSettings
from tests.controller.stores import HOUR, JANE, WHEN, opened
from tests.controller.test_authority import enrolment, pem, request_for

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey


def pem_of(key: PrivateKey, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def start(database: Path, settings: AuthoritySettings, controller: str = "c1") -> Authority:
    """Open and close a controller's authority; what it knows stays readable."""

    async def main() -> Authority:
        async with opened(StoreSettings(database), controller) as store:
            authority = Authority(settings, store)
            await authority.open(WHEN)
            return authority

    return asyncio.run(main())


# --- an authority of our own


def test_every_start_finds_the_authority_of_the_first(tmp_path: Path) -> None:
    settings = AuthoritySettings(tmp_path / "authority")
    first = start(tmp_path / "a.db", settings)
    assert start(tmp_path / "a.db", settings).trust_bundle == first.trust_bundle
    (tmp_path / "authority" / "ca.crt").unlink()
    assert start(tmp_path / "a.db", settings).trust_bundle == first.trust_bundle
    assert (tmp_path / "authority" / "ca.crt").exists()


def test_a_new_store_beside_the_old_keys_is_the_same_fleet(tmp_path: Path) -> None:
    settings = AuthoritySettings(tmp_path / "authority")
    first = start(tmp_path / "a.db", settings)
    second = start(tmp_path / "b.db", settings)
    assert second.trust_bundle == first.trust_bundle
    assert second.artifact_signer.key_id == first.artifact_signer.key_id


@pytest.mark.parametrize("left", [(), ("ca.key",), ("ca.key", "ca.crt"), ("ca.key", ".artifact.key.0a0b")])
def test_a_first_start_that_was_killed_is_continued(tmp_path: Path, left: tuple[str, ...]) -> None:
    made = start(tmp_path / "a.db", AuthoritySettings(tmp_path / "made"))
    for name in left:
        source = tmp_path / "made" / (name if not name.startswith(".") else "artifact.key")
        write(tmp_path / "authority" / name, source.read_bytes())
    authority = start(tmp_path / "b.db", AuthoritySettings(tmp_path / "authority"))
    assert ("ca.crt" in left) == (authority.trust_bundle == made.trust_bundle)
    assert sorted(path.name for path in (tmp_path / "authority").iterdir()) == ["artifact.key", "ca.crt", "ca.key"]


@pytest.mark.parametrize(("lost", "words"), [("ca.key", "the fleet has an authority"), ("artifact.key", "are signed")])
def test_a_key_that_was_lost_is_not_made_anew(tmp_path: Path, lost: str, words: str) -> None:
    settings = AuthoritySettings(tmp_path / "authority")
    start(tmp_path / "a.db", settings)
    (tmp_path / "authority" / lost).unlink()
    with pytest.raises(ConfigError, match=f"{lost}: is missing, and .*{words}"):
        start(tmp_path / "a.db", settings)
    assert not (tmp_path / "authority" / lost).exists()


def test_a_key_of_another_authority_is_refused(tmp_path: Path) -> None:
    settings = AuthoritySettings(tmp_path / "authority")
    start(tmp_path / "a.db", settings)
    write(tmp_path / "authority" / "ca.key", pem_of(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ConfigError, match=r"ca\.key: is not the key of the fleet's authority"):
        start(tmp_path / "a.db", settings)


def test_a_signing_key_can_be_changed_and_the_old_one_stays_known(tmp_path: Path) -> None:
    settings = AuthoritySettings(tmp_path / "authority")
    old = start(tmp_path / "a.db", settings).artifact_signer
    signature = old.sign(b"list")
    write(tmp_path / "authority" / "artifact.key", pem_of(ed25519.Ed25519PrivateKey.generate()))
    new = start(tmp_path / "a.db", settings).artifact_signer
    assert new.key_id != old.key_id
    assert set(new.public_keys) == {old.key_id, new.key_id}
    assert new.verify(old.key_id, b"list", signature)


@pytest.mark.parametrize("name", ["ca.key", "artifact.key"])
@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"", 0o600, "is no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "is no private key"),
        (b"x" * 100_000, 0o600, "is too large"),
        (pem_of(ec.generate_private_key(ec.SECP256R1()), b"password"), 0o600, "is encrypted"),
        (pem_of(x25519.X25519PrivateKey.generate()), 0o600, "must be a"),
        (pem_of(rsa.generate_private_key(65537, 1024)), 0o600, "must be a"),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), 0o640, "can be read by others .mode 0640"),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), 0o604, "can be read by others"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_and_stays(
    tmp_path: Path, name: str, content: bytes, mode: int, words: str
) -> None:
    path = write(tmp_path / "authority" / name, content, mode)
    with pytest.raises(ConfigError, match=words) as raised:
        start(tmp_path / "a.db", AuthoritySettings(tmp_path / "authority"))
    assert raised.value.field == str(path)
    assert path.read_bytes() == content
    assert "PRIVATE" not in str(raised.value)


def test_the_two_kinds_of_key_are_not_taken_for_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    write(folder / "ca.key", pem_of(ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(ConfigError, match=r"ca\.key: must be an EC key"):
        start(tmp_path / "a.db", AuthoritySettings(folder))
    shutil.rmtree(folder)
    write(folder / "artifact.key", pem_of(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ConfigError, match=r"artifact\.key: must be a key of Ed25519"):
        start(tmp_path / "a.db", AuthoritySettings(folder))


def test_a_link_or_folder_in_the_place_of_a_key_is_refused(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", pem_of(ec.generate_private_key(ec.SECP256R1())))
    folder = tmp_path / "authority"
    folder.mkdir()
    (folder / "ca.key").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"ca\.key: cannot be read"):
        start(tmp_path / "a.db", AuthoritySettings(folder))
    (folder / "ca.key").unlink()
    (folder / "ca.key").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=r"ca\.key: (is no file|cannot be read)"):
        start(tmp_path / "a.db", AuthoritySettings(folder))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    write(tmp_path / "file", b"")
    with pytest.raises(ConfigError, match=r"ca\.key: cannot be"):
        start(tmp_path / "a.db", AuthoritySettings(tmp_path / "file" / "authority"))


def test_keys_that_systemd_hands_over_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = tmp_path / "credentials"
    key = ec.generate_private_key(ec.SECP256R1())
    signing = ed25519.Ed25519PrivateKey.generate()
    write(credentials / "sbc-edge-ca.key", pem_of(key), 0o440)
    write(credentials / "sbc-edge-artifact.key", pem_of(signing), 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    authority = start(tmp_path / "a.db", AuthoritySettings(tmp_path / "authority"))
    root = x509.load_der_x509_certificate(authority.trust_bundle[0])
    assert root.public_key() == key.public_key()
    assert authority.artifact_signer.key is not None
    assert authority.artifact_signer.public_keys == {
        authority.artifact_signer.key_id: signing.public_key().public_bytes_raw()
    }
    assert [path.name for path in (tmp_path / "authority").iterdir()] == ["ca.crt"], "no key is copied"
    (credentials / "sbc-edge-ca.key").chmod(0o444)
    with pytest.raises(ConfigError, match="can be read by others"):
        start(tmp_path / "a.db", AuthoritySettings(tmp_path / "authority"))


def test_several_controllers_of_one_fleet_have_the_same_keys(postgres_settings: StoreSettings, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(postgres_settings, "c1") as one, opened(postgres_settings, "c2") as two:
            first = Authority(AuthoritySettings(tmp_path / "one"), one)
            await first.open(WHEN)
            with pytest.raises(ConfigError, match="the fleet has an authority already"):
                await Authority(AuthoritySettings(tmp_path / "two"), two).open(WHEN)
            for name in ("ca.key", "artifact.key"):
                write(tmp_path / "two" / name, (tmp_path / "one" / name).read_bytes())
            second = Authority(AuthoritySettings(tmp_path / "two"), two)
            await second.open(WHEN)
            assert second.trust_bundle == first.trust_bundle
            enrolled = await first.enrol(await enrolment(first), WHEN)
            assert (await second.peer(pem(enrolled.credentials), WHEN)).name == enrolled.agent_id
            _, token = await second.create_token(JANE, None, "", "", WHEN)
            assert token
            operator, login = await first.create_operator(JANE, "joe", Role.VIEWER, None, WHEN)
            assert (await second.login(login, WHEN)).name == operator.name

    asyncio.run(main())


def test_controllers_that_start_at_once_have_one_authority(postgres_settings: StoreSettings, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(postgres_settings, "c1") as one, opened(postgres_settings, "c2") as two:
            starting = [
                Authority(AuthoritySettings(tmp_path / name), store) for name, store in (("one", one), ("two", two))
            ]
            results = await asyncio.gather(*(authority.open(WHEN) for authority in starting), return_exceptions=True)
            assert sorted(type(result).__name__ for result in results) == ["ConfigError", "NoneType"]

    asyncio.run(main())


def test_a_controller_needs_a_name_that_fits_into_its_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"controller\.id: must be"):
        start(tmp_path / "a.db", AuthoritySettings(tmp_path / "authority"), "Controller 1")


@pytest.mark.parametrize("name", ["", "Example.net", "a b", "-a", "a-", "a/b", "x" * 256, "\u00e9"])
def test_a_trust_domain_is_a_plain_name(name: str) -> None:
    with pytest.raises(ConfigError, match="trust_domain"):
        AuthoritySettings(trust_domain=name)


# --- an authority that the operator has


@dataclass
class World:
    """A root, an issuing authority beneath it, and files of both."""

    folder: Path
    root_key: ec.EllipticCurvePrivateKey
    root: x509.Certificate
    key: rsa.RSAPrivateKey
    issuing: x509.Certificate

    @property
    def settings(self) -> AuthoritySettings:
        return AuthoritySettings(
            self.folder / "authority", certificate=self.folder / "chain.pem", key=self.folder / "issuing.key"
        )

    def save(self, *chain: x509.Certificate) -> None:
        write(self.folder / "chain.pem", b"".join(one.public_bytes(Encoding.PEM) for one in chain))
        write(self.folder / "issuing.key", pem_of(self.key))


KEY = rsa.generate_private_key(65537, 2048)


def issue(
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    days: int = 365,
    ca: bool | None = True,
    path_length: int | None = 0,
    may_sign: bool = True,
) -> x509.Certificate:
    """An issuing certificate for KEY."""
    now = datetime.fromtimestamp(WHEN, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name("issuing"))
        .issuer_name(issuer.subject)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(usage(key_cert_sign=may_sign, digital_signature=True), critical=True)
    )
    if ca is not None:
        length = path_length if ca else None
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=length), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def root_of(key: ec.EllipticCurvePrivateKey, path_length: int | None = None) -> x509.Certificate:
    """A root that has authorities beneath it."""
    name, now = common_name("root"), datetime.fromtimestamp(WHEN, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .sign(key, hashes.SHA256())
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    key = ec.generate_private_key(ec.SECP384R1())
    root = root_of(key)
    made = World(tmp_path, key, root, KEY, issue(root, key))
    made.save(made.issuing, root)
    return made


def test_an_authority_that_exists_issues_with_its_chain(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(StoreSettings(tmp_path / "a.db")) as store:
            authority = Authority(world.settings, store)
            await authority.open(WHEN)
            enrolled = await authority.enrol(await enrolment(authority), WHEN)
            leaf, issuing = map(x509.load_der_x509_certificate, enrolled.credentials.chain)
            assert issuing == world.issuing
            leaf.verify_directly_issued_by(issuing)
            assert enrolled.credentials.trust_bundle == (world.root.public_bytes(Encoding.DER),)
            server = await authority.server_identity(["localhost"], WHEN)
            assert x509.load_pem_x509_certificates(server.chain_pem)[1:] == [world.issuing, world.root]
            assert not (tmp_path / "authority" / "ca.key").exists()

    asyncio.run(main())


def test_agents_of_the_authority_before_can_still_come_and_renew(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(StoreSettings(tmp_path / "a.db")) as store:
            own = Authority(AuthoritySettings(tmp_path / "authority"), store)
            await own.open(WHEN)
            enrolled = await own.enrol(await enrolment(own), WHEN)
        async with opened(StoreSettings(tmp_path / "a.db")) as store:
            authority = Authority(world.settings, store)
            await authority.open(WHEN)
            assert authority.trust_bundle == (world.root.public_bytes(Encoding.DER), *own.trust_bundle)
            peer = await authority.peer(pem(enrolled.credentials), WHEN)
            renewed = await authority.renew(peer, request_for(), "00000000-0000-4000-8000-000000000001", WHEN)
            leaf, issuing = map(x509.load_der_x509_certificate, renewed.chain)
            leaf.verify_directly_issued_by(issuing)
            assert issuing == world.issuing

    asyncio.run(main())


def test_no_certificate_outlives_the_authority(world: World, tmp_path: Path) -> None:
    world.save(issue(world.root, world.root_key, days=0), world.root)
    with pytest.raises(ConfigError, match="has ended"):
        start(tmp_path / "a.db", world.settings)
    world.save(issue(world.root, world.root_key, days=1), world.root)

    async def main() -> None:
        async with opened(StoreSettings(tmp_path / "a.db")) as store:
            authority = Authority(world.settings, store)
            await authority.open(WHEN)
            server = await authority.server_identity([], WHEN)
            assert server.not_after == WHEN + 24 * HOUR, "not the week that it would be"
            assert authority.health(WHEN) == (False, "the authority is good for 1 days")

    asyncio.run(main())


def stranger(world: World) -> None:
    world.save(make_authority("x", ec.generate_private_key(ec.SECP256R1()), WHEN), world.root)


def unrelated(world: World) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    world.save(issue(root_of(other), other), world.root)


def shallow(world: World) -> None:
    root = root_of(world.root_key, 0)  # RFC 5280 4.2.1.9: no authority beneath it
    world.save(issue(root, world.root_key), root)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda world: world.save(), "holds no certificates"),
        (lambda world: write(world.folder / "chain.pem", b"x" * 300_000), "holds no certificates|no chain"),
        (lambda world: (world.folder / "chain.pem").unlink(), "cannot be read"),
        (lambda world: (world.folder / "issuing.key").unlink(), "is missing"),
        (lambda world: (world.folder / "issuing.key").chmod(0o644), "can be read by others"),
        (stranger, "is not the key of the first certificate"),
        (lambda world: world.save(world.issuing), "is no root: the last one must be"),
        (unrelated, "was not issued by the next one"),
        (lambda world: world.save(issue(world.root, world.root_key, ca=False), world.root), "may not issue"),
        (lambda world: world.save(issue(world.root, world.root_key, ca=None), world.root), "is no authority"),
        (lambda world: world.save(issue(world.root, world.root_key, may_sign=False), world.root), "may not sign"),
        (lambda world: world.save(*[world.issuing] * 9), "no chain of 8"),
        (shallow, "certificate 2: may not issue"),
    ],
)
def test_an_authority_that_would_fail_later_is_refused_at_start(
    world: World, tmp_path: Path, spoil: Callable[[World], object], words: str
) -> None:
    spoil(world)
    with pytest.raises(ConfigError, match=words):
        start(tmp_path / "a.db", world.settings)


@pytest.mark.parametrize("given", ["certificate", "key"])
def test_certificate_and_key_go_together(given: str) -> None:
    with pytest.raises(ConfigError, match="go together"):
        AuthoritySettings(**{given: Path("x")})  # type: ignore[arg-type]
