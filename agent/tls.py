"""The server's side of TLS, one way for every listener. Knows files and versions; must not know what is served."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Never

from agent.model import ConfigError

_SAN: Final = {"URI": "URI:", "DNS": "DNS:"}


class _EncryptedError(Exception):
    """OpenSSL asks for a password."""


def _refuse() -> Never:
    raise _EncryptedError


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later with our certificate; a client must show one where `client_ca` says whose to trust.

    Raises ConfigError, its field "certificate", "key" or "client_ca", that names the file that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password to give, OpenSSL would ask the terminal for that of an encrypted key, and wait.
        context.load_cert_chain(certificate, key, password=_refuse)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("certificate", f"{certificate} with {key}: {error}") from None
    except _EncryptedError:
        raise ConfigError("key", f"{key} is encrypted; the agent has nobody to ask for the password") from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError("client_ca", f"{client_ca}: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def names_of(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The names of a client's certificate as `ssl` decodes it: URIs and DNS names of its subject, and common names."""
    if not certificate:
        return ()
    names = [_SAN[kind] + value for kind, value in certificate.get("subjectAltName", ()) if kind in _SAN]
    names += [
        f"CN:{value}" for rdn in certificate.get("subject", ()) for kind, value in rdn if kind == "commonName" and value
    ]
    return tuple(names)
