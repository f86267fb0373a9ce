"""Private keys on disk: made once, readable by the controller alone, or handed over by systemd as a credential.

Knows PEM and files. A key is never replaced: whatever lies in its place that is no key is the operator's to look at.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.model import ConfigError

KEY_BYTES_MAX: Final = 64 << 10
"""A PEM file of an RSA key of 16384 bits has 13 kB."""

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def find(directory: Path, name: str) -> Path:
    """Where the key of this name is, or would be made: systemd's credential `sbc-edge-NAME` comes first."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials and (handed := Path(credentials) / f"sbc-edge-{name}").exists():
        return handed
    return directory / name


def load(path: Path) -> Key | None:
    """The key in this file; None: there is no file. Raises ConfigError naming the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _check_mode(path, os.fstat(descriptor))
            pem = os.read(descriptor, KEY_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    if len(pem) > KEY_BYTES_MAX:
        raise ConfigError(str(path), "is too large for a private key")
    return read(path, pem)


def read(path: Path, pem: bytes) -> Key:
    """The key that this PEM text holds. Raises ConfigError naming the file, and never a byte of it."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(str(path), "is encrypted: the controller starts without anybody to type a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(str(path), "is no private key in PEM") from None
    if not isinstance(key, Key):
        raise ConfigError(str(path), "must be a key of EC, RSA or Ed25519")
    return key


def _check_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(str(path), "is no file")
    # systemd's credentials are 0440 and belong to a group of nobody else's.
    others = stat.S_IRWXO if path.parent == Path(os.environ.get("CREDENTIALS_DIRECTORY", "/")) else 0o077
    if status.st_mode & others:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(str(path), f"can be read by others (mode {mode:04o}): chmod 600, and consider a new key")


def save_new(path: Path, key: Key) -> None:
    """Write a key that was made just now, durable on return. Raises ConfigError; FileExistsError: there is one."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a start that was killed in here
            left.unlink()
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, not a path)
                file.write(pem)
                file.flush()
                os.fsync(descriptor)
            os.link(temporary, path)  # fails where a key is, which a rename would not
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        _sync(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigError(str(path), f"cannot be made: {error.strerror}") from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
