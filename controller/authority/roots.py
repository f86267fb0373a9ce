"""Where the issuing authority comes from: an own one, made at the first start, or one that the operator has.

An edge: reads and writes key and certificate files, and asks the store which authority the fleet knows. Every order of
"key written, certificate stored, process killed" is continued by the next start.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.files import replace_file
from agent.model import ConfigError
from controller.authority import keys
from controller.authority.issuer import Issuer, SigningKey, make_authority
from controller.authority.settings import AuthoritySettings

CHAIN_BYTES_MAX: Final = 256 << 10
CHAIN_MAX: Final = 8
CA_KEY: Final = "ca.key"
NEXT_KEY: Final = "ca-next.key"


def open_key(settings: AuthoritySettings, known: bytes | None) -> SigningKey:
    """The key of our own authority, made where there is none. Raises ConfigError; also when `known` needs another."""
    path = keys.find(settings.directory, CA_KEY)
    if known is not None:
        path = settle_keys(settings, known)
    key = keys.load(path)
    if key is None and known is not None:
        mark = hashlib.sha256(known).hexdigest()[:16]
        raise ConfigError(str(path), f"is missing, and the fleet has an authority already ({mark}): put its key there")
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            keys.save_new(path, key)
        except FileExistsError:
            raise ConfigError(str(path), "was made by another process just now: start again") from None
    return signing_key(path, key)


def settle_keys(settings: AuthoritySettings, known: bytes) -> Path:
    """Where the key of this authority is. One that was staged and issues by now takes the usual place, and the one
    before it stays beside it under another name. Raises ConfigError."""
    usual, staged = keys.find(settings.directory, CA_KEY), keys.find(settings.directory, NEXT_KEY)
    certificate, key = x509.load_der_x509_certificate(known), keys.load(staged)
    if key is None or not is_for(certificate, signing_key(staged, key)):
        return usual
    if staged.parent != settings.directory or usual.parent != settings.directory:
        return staged  # a credential of systemd: its place is the operator's
    try:
        if usual.exists():
            mark = hashlib.sha256(usual.read_bytes()).hexdigest()[:16]
            usual.replace(settings.directory / f"ca-before-{mark}.key")
        staged.replace(usual)
    except OSError as error:
        raise ConfigError(str(staged), f"cannot take the place of {usual.name}: {error.strerror}") from None
    return usual


def own_certificate(settings: AuthoritySettings, key: SigningKey, known: bytes | None, when: float) -> bytes:
    """The certificate of our own authority, DER: the one that is known, else that of the file, else a new one.

    Raises ConfigError when the known one is not for this key.
    """
    if known is not None:
        if not is_for(x509.load_der_x509_certificate(known), key):
            path, mark = keys.find(settings.directory, CA_KEY), hashlib.sha256(known).hexdigest()[:16]
            raise ConfigError(str(path), f"is not the key of the fleet's authority ({mark})")
        return known
    with contextlib.suppress(OSError, ValueError):
        of_file = x509.load_pem_x509_certificate((settings.directory / "ca.crt").read_bytes())
        if is_for(of_file, key):  # the store is new, the fleet is not
            return of_file.public_bytes(Encoding.DER)
    return make_authority(settings.trust_domain, key, when).public_bytes(Encoding.DER)


def save_certificate(settings: AuthoritySettings, der: bytes) -> None:
    """Put it where people and programs find it. Raises ConfigError."""
    path = settings.directory / "ca.crt"
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != pem:
            replace_file(path, [pem])
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}") from None


def external_issuer(settings: AuthoritySettings, when: float) -> Issuer:
    """The authority that the operator has. Raises ConfigError for everything that TLS would stumble over later."""
    assert settings.certificate is not None
    assert settings.key is not None
    chain, where = _read_chain(settings.certificate), str(settings.certificate)
    key = keys.load(settings.key)
    if key is None:
        raise ConfigError(str(settings.key), "is missing")
    issuer = Issuer(settings.trust_domain, chain, signing_key(settings.key, key))
    if not is_for(chain[0], issuer.key):
        raise ConfigError(str(settings.key), f"is not the key of the first certificate in {where}")
    for n, certificate in enumerate(chain):
        _check_authority(certificate, n, f"{where}: certificate {n + 1}")
        try:
            certificate.verify_directly_issued_by(chain[min(n + 1, len(chain) - 1)])
        except (ValueError, TypeError, InvalidSignature):
            what = "is no root: the last one must be" if n + 1 == len(chain) else "was not issued by the next one"
            raise ConfigError(f"{where}: certificate {n + 1}", what) from None
    if issuer.not_after <= when:
        raise ConfigError(where, "has ended")
    return issuer


def _read_chain(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        with path.open("rb") as file:
            pem = file.read(CHAIN_BYTES_MAX + 1)
        chain = tuple(x509.load_pem_x509_certificates(pem))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(str(path), "holds no certificates in PEM") from None
    if len(pem) > CHAIN_BYTES_MAX or len(chain) > CHAIN_MAX:
        raise ConfigError(str(path), f"is no chain of {CHAIN_MAX} certificates at most")
    return chain


def _check_authority(certificate: x509.Certificate, below: int, where: str) -> None:
    """`below` authorities follow it on the way to a leaf."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        raise ConfigError(where, "is no authority (it has no basic constraints)") from None
    if not basic.ca or (basic.path_length is not None and basic.path_length < below):
        raise ConfigError(where, "may not issue certificates here (basic constraints)")
    with contextlib.suppress(x509.ExtensionNotFound):
        if not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            raise ConfigError(where, "may not sign certificates (key usage)")


def open_artifact_key(settings: AuthoritySettings, *, known: bool) -> ed25519.Ed25519PrivateKey:
    """The key that lists are signed with, made where none was before. Raises ConfigError."""
    path = keys.find(settings.directory, "artifact.key")
    key = keys.load(path)
    if key is None and known:
        raise ConfigError(
            str(path),
            "is missing, and lists of this fleet are signed already: put the key there, or change keys by "
            "`openssl genpkey -algorithm ed25519`: agents take the new one with their next certificate",
        )
    if key is None:
        key = ed25519.Ed25519PrivateKey.generate()
        try:
            keys.save_new(path, key)
        except FileExistsError:
            raise ConfigError(str(path), "was made by another process just now: start again") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(str(path), "must be a key of Ed25519")
    return key


def signing_key(path: Path, key: keys.Key) -> SigningKey:
    """One that certificates can be signed with. Raises ConfigError."""
    if isinstance(key, ed25519.Ed25519PrivateKey) or (isinstance(key, rsa.RSAPrivateKey) and key.key_size < 2048):
        raise ConfigError(str(path), "must be an EC key, or an RSA key of 2048 bits or more, for TLS to take it")
    return key


def is_for(certificate: x509.Certificate, key: SigningKey) -> bool:
    """Whether the certificate is of this key."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)
