"""The key that signs calls, its certificate, and how they are: loaded from files, watched for expiry, loaded again.

Knows files, their permissions and PEM. What is signed is policy (agent.policy), how is agent.identity.signing. A key
or certificate that cannot be used is a ConfigError that names its field; a running agent keeps the last good one.

Not supported, on purpose, is PKCS#11: signing there is a call into a foreign library that may take as long as its
device likes, in the thread that answers for every call. Whoever keeps the key in such a device has it sign in a
service of its own (ATIS-1000082).
"""

import asyncio
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from uuid import uuid4

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.identity.attesting import rows_to_add
from agent.identity.certificate import CHAIN_BYTES_MAX, Certificate, CertificateError, read_chain
from agent.identity.signing import Signer
from agent.model import CallAttempt, ConfigError
from agent.policy.policy import Policy
from agent.records.record import rfc3339
from agent.stir.signing_settings import SigningSettings

DAY: Final = 86_400.0
KEY_BYTES_MAX: Final = 16 << 10
"""A P-256 key is 240 bytes of PEM; a file beyond this is something else that was given by mistake."""

# OpenSSL may write the parameters of the curve as a block of their own before the key.
_KEY_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)
_DIV: Final = b";ppt=div"


def load_signer(settings: SigningSettings, environment: Mapping[str, str]) -> Signer:
    """The signer that these settings describe. `environment` may hold CREDENTIALS_DIRECTORY (systemd.exec(5)).

    Raises ConfigError naming the field: a file that cannot be read or is open to others, a key that is encrypted or
    of the wrong kind, a certificate of another key or that is not for signing calls.
    """
    if settings.credential:
        folder = environment.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ConfigError("credential", "systemd gave the agent no credentials: is LoadCredential= in its unit?")
        # systemd keeps that folder to the service, and shows the access that it grants as that of the group.
        key = read_key(Path(folder) / settings.credential, "credential", forbidden=stat.S_IRWXO)
    else:
        assert settings.key is not None
        key = read_key(settings.key, "key", forbidden=stat.S_IRWXG | stat.S_IRWXO)
    certificate = _read_certificate(settings.certificate)
    return Signer(key, settings.x5u, certificate)


def read_key(path: Path, field: str, forbidden: int = stat.S_IRWXG | stat.S_IRWXO) -> EllipticCurvePrivateKey:
    """The private key in a PEM file, whose mode must have none of the bits of `forbidden`. Raises ConfigError."""
    pem = _read(path, field, KEY_BYTES_MAX, forbidden)
    block = _KEY_BLOCK.search(pem)
    if block is None:
        raise ConfigError(field, f"{path} holds no private key in PEM")
    if b"ENCRYPTED" in block[0]:
        raise ConfigError(
            field,
            f"{path} is encrypted, and the agent has nobody to ask for the password: keep it unencrypted with mode "
            "0600, or have systemd decrypt it (systemd-creds, LoadCredentialEncrypted=)",
        )
    try:
        key = load_pem_private_key(block[0], None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(field, f"{path} holds no private key that can be read") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError(field, f"{path} holds a key of another kind; ES256 signs with ECDSA on P-256")
    return key


def _read_certificate(path: Path) -> Certificate:
    data = _read(path, "certificate", CHAIN_BYTES_MAX, 0)
    try:
        leaf = read_chain(data).leaf
    except CertificateError as error:
        raise ConfigError("certificate", f"{path} {error}") from None
    if leaf.tn_auth_list is None:
        raise ConfigError("certificate", f"{path} is not for signing calls: {leaf.fault or 'it has no TNAuthList'}")
    return leaf


def _read(path: Path, field: str, most: int, forbidden: int) -> bytes:
    """A whole file. What it says of itself is asked of the open file, so that nobody can exchange it in between."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123  (a descriptor, not a path)
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(field, f"{path} is no file")
            if status.st_mode & forbidden:
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                raise ConfigError(field, f"{path} is open to others (mode {mode}): chmod 600, and make a new key")
            if forbidden and status.st_uid not in (0, os.geteuid()):
                raise ConfigError(field, f"{path} belongs to another user (uid {status.st_uid})")
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(field, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise ConfigError(field, f"{path} is larger than {most >> 10} KiB")
    return data


class SigningKeys:
    """The part that signs, one for the process. Signs nothing until it has started, nor with an expired certificate.

    `clock` gives epoch seconds.
    """

    name: Final = "signing"

    def __init__(
        self, settings: SigningSettings, environment: Mapping[str, str], clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._clock = clock
        self._signer: Signer | None = None
        self._trouble = "not loaded yet"  # of the last load; "" for none
        self._counts = dict.fromkeys(("signed", "diversions", "not_valid", "reloads", "reload_failures"), 0)

    async def start(self) -> None:
        """Load key and certificate. Raises ConfigError."""
        await self._load(self._settings)

    async def stop(self, _grace: float) -> None:
        """Forget the key."""
        self._signer = None
        self._trouble = "stopped"

    async def reload(self, settings: SigningSettings | None = None) -> None:
        """Load again, by other settings if any are given. Raises ConfigError, and then the old key goes on signing."""
        self._counts["reloads"] += 1
        try:
            await self._load(settings or self._settings)
        except ConfigError:
            self._counts["reload_failures"] += 1
            raise

    async def _load(self, settings: SigningSettings) -> None:
        try:
            # Files may be on a disk that takes its time, and calls wait for none.
            signer = await asyncio.to_thread(load_signer, settings, self._environment)
        except ConfigError as error:
            self._trouble = str(error)
            raise
        self._signer, self._settings, self._trouble = signer, settings, ""

    @property
    def signer(self) -> Signer | None:
        """What signs now; None where there is no key, or no certificate that is valid."""
        signer = self._signer
        return signer if signer is not None and signer.valid_at(self._clock()) else None

    def rows(self, attempt: CallAttempt, policy: Policy) -> tuple[bytes, ...]:
        """The values of the Identity rows that this call gets from us, beside its own; () for most."""
        spec, signer = policy.signing, self._signer
        if spec is None or signer is None:
            return ()
        now = self._clock()
        if not signer.valid_at(now):
            self._counts["not_valid"] += 1
            return ()
        rows = rows_to_add(attempt, spec, signer, now, str(uuid4()))
        if rows:
            self._counts["diversions" if rows[0].endswith(_DIV) else "signed"] += 1
        return rows

    def health(self) -> tuple[bool, str]:
        """Not well without a key, with a certificate that is not valid or soon will not be, and after a bad reload."""
        if self._signer is None:
            return False, self._trouble
        well, how = self._validity(self._signer)
        return (False, f"{how}; last reload: {self._trouble}") if self._trouble else (well, how)

    def _validity(self, signer: Signer) -> tuple[bool, str]:
        certificate, now = signer.certificate, self._clock()
        assert certificate is not None
        whose = f"the certificate of {_codes(certificate)}"
        if now < certificate.not_before:
            return False, f"nothing is signed: {whose} is not valid before {rfc3339(certificate.not_before)}"
        if now > certificate.not_after:
            return False, f"nothing is signed: {whose} expired at {rfc3339(certificate.not_after)}"
        left = (certificate.not_after - now) / DAY
        if left < self._settings.warn_days:
            return False, f"{whose} expires in {left:.1f} days, at {rfc3339(certificate.not_after)}"
        return True, f"signs for {_codes(certificate)} until {rfc3339(certificate.not_after)}"

    def counters(self) -> dict[str, int]:
        """Counts since the start."""
        return {f"signing_{name}": count for name, count in self._counts.items()}


def _codes(certificate: Certificate) -> str:
    """Whom a certificate speaks for: its service provider code, or its subject where it has numbers instead."""
    listed = certificate.tn_auth_list
    return ", ".join(listed.codes) if listed is not None and listed.codes else certificate.subject.text
