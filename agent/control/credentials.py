"""Who this agent is: its key, its certificate, whom it trusts; on disk, by files that are replaced as a whole.

    identity.pem   0600  private key, then the certificate with its issuers: one file, so that they always fit
    fleet.json     0600  the agent's id and instance, the authorities of controllers, keys that sign lists

Knows X.509 and files. The key is made here and never leaves this host; nothing of it is in any error.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.control.errors import ControllerError, Trouble
from agent.control.messages import Issued
from agent.files import replace_file

IDENTITY: Final = "identity.pem"
FLEET: Final = "fleet.json"
PRIVATE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700

FILE_MAX: Final = 1 << 20
CHAIN_MAX: Final = 8
TRUST_MAX: Final = 32
"""Certificates: authorities of a fleet that changes them one after the other are two or three."""
KEYS_MAX: Final = 64
ED25519_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of this agent, ready for TLS; PEM. `not_before` and `not_after` are those of its certificate, epoch seconds.

    `token_sha256` is of the token that it was enrolled with last, "" after a renewal.
    """

    agent_id: str
    instance_uid: str
    key: bytes = field(repr=False)
    chain: bytes
    trust: bytes
    not_before: float
    not_after: float
    artifact_keys: Mapping[str, bytes]
    token_sha256: str = ""


def new_key() -> bytes:
    """A private key on P-256, which every TLS library takes; PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_request(key: bytes) -> bytes:
    """PKCS #10 in DER, which proves that we have the key. It asks for no name: the controller gives that."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(load_key(key), hashes.SHA256()).public_bytes(Encoding.DER)


def assemble(agent_id: str, instance_uid: str, key: bytes, issued: Issued) -> Credentials:
    """What came from the authority, with the key that it is for. Raises ControllerError for what cannot be used."""
    chain = _certificates(issued.chain, CHAIN_MAX, "certificate chain")
    trust = _certificates(issued.trust, TRUST_MAX, "trust bundle")
    leaf = chain[0]
    if _public_of(leaf) != _public(load_key(key).public_key()):
        raise _unusable("the certificate is for another key")
    if not any(_issued_by(leaf, issuer) for issuer in (*chain[1:], *trust)):
        raise _unusable("the certificate is of none of the authorities that came with it")
    keys = dict(issued.artifact_keys)
    if len(keys) > KEYS_MAX or any(len(value) != ED25519_BYTES for value in keys.values()):
        raise _unusable("keys that sign lists must have 32 bytes each")
    return Credentials(
        agent_id=agent_id,
        instance_uid=instance_uid,
        key=key,
        chain=b"".join(c.public_bytes(Encoding.PEM) for c in chain),
        trust=b"".join(c.public_bytes(Encoding.PEM) for c in trust),
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        artifact_keys=keys,
    )


class CredentialFiles:
    """In a directory of the agent's own. Blocks; run it in a thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.identity = directory / IDENTITY
        self._fleet = directory / FLEET

    def load(self) -> Credentials | None:
        """None: this agent was never enrolled. Raises ControllerError for files that cannot be used."""
        try:
            identity, fleet = read_file(self.identity), read_file(self._fleet)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ControllerError(Trouble.STRANGER, f"{error.filename}: {error.strerror}") from None
        try:
            return _parse(identity, json.loads(fleet))
        except ControllerError as error:
            raise ControllerError(Trouble.STRANGER, f"{self.directory}: {error.reason}; enrol again") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ControllerError(Trouble.STRANGER, f"{self.directory}: its files are damaged; enrol again") from None

    def save(self, credentials: Credentials) -> None:
        """Durable on return; kill -9 leaves those before it. Raises OSError."""
        fleet = {
            "agent_id": credentials.agent_id,
            "instance_uid": credentials.instance_uid,
            "trust": credentials.trust.decode(),
            "artifact_keys": {name: key.hex() for name, key in credentials.artifact_keys.items()},
            "token_sha256": credentials.token_sha256,
        }
        # Authorities first: they overlap from one to the next, and so both certificates work with them.
        write_private(self._fleet, json.dumps(fleet, indent=1).encode())
        write_private(self.identity, credentials.key + credentials.chain)

    def stamp(self) -> tuple[int, int]:
        """Changes when the files do; (0, 0) where there are none."""
        try:
            status = self.identity.stat()
        except OSError:
            return 0, 0
        return status.st_mtime_ns, status.st_ino


def write_private(path: Path, data: bytes) -> None:
    """For the agent alone, also when root enrols it: files belong to whom their directory belongs. Raises OSError."""
    make_directory(path.parent)
    replace_file(path, [data], PRIVATE_MODE)
    own_as_directory(path)


def make_directory(directory: Path) -> None:
    """The agent's own. Raises OSError."""
    if directory.is_dir():
        return
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        owner = directory.parent.stat()
        os.chown(directory, owner.st_uid, owner.st_gid)


def own_as_directory(path: Path) -> None:
    """Give a file that root made to whom the directory belongs. Raises OSError."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


# --- pieces


def _parse(identity: bytes, fleet: Any) -> Credentials:
    issued = Issued(
        tuple(c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(identity)),
        tuple(c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(fleet["trust"].encode())),
        {str(name): bytes.fromhex(key) for name, key in fleet["artifact_keys"].items()},
    )
    key = identity.partition(b"-----BEGIN CERTIFICATE-----")[0]
    credentials = assemble(str(fleet["agent_id"]), str(fleet["instance_uid"]), key, issued)
    return replace(credentials, token_sha256=str(fleet.get("token_sha256", "")))


def read_file(path: Path) -> bytes:
    """A file of ours. Raises OSError, ValueError."""
    with path.open("rb") as file:
        data = file.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise ValueError("is too large")
    return data


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key in PEM. Raises ControllerError; it says nothing of the key."""
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(pem, password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    raise _unusable("the private key cannot be read")


def _certificates(ders: Sequence[bytes], most: int, what: str) -> list[x509.Certificate]:
    if not 0 < len(ders) <= most or sum(map(len, ders)) > FILE_MAX:
        raise _unusable(f"the {what} has {len(ders)} certificates, and may have 1 to {most}")
    try:
        return [x509.load_der_x509_certificate(der) for der in ders]
    except ValueError:
        raise _unusable(f"the {what} holds what is no certificate") from None


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _public_of(certificate: x509.Certificate) -> bytes:
    try:
        return _public(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable("the certificate is for a key of no known kind") from None


def _public(key: Any) -> bytes:
    raw: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


def _unusable(reason: str) -> ControllerError:
    return ControllerError(Trouble.REFUSED, reason)
