"""Checks of certificates and private keys: there, readable, belonging together, and not about to end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from agent.config import Config
from agent.host.finding import Finding, fault, ok, warning
from agent.host.unit import CREDENTIALS, KEYS
from agent.model import ConfigError
from agent.records.record import rfc3339
from agent.stir.keys import load_signer
from agent.tls import server_context

DAY: Final = 86_400.0
WARN_DAYS: Final = 14.0
SECTIONS: Final = ("hook", "redirect", "stir_api")
"""Those that listen with TLS, if they have a certificate."""


def certificates(config: Config, when: float) -> Iterator[Finding]:
    """Every one that agent.toml names, at epoch second `when`."""
    for name in SECTIONS:
        section: Any = getattr(config, name)
        if section is not None and section.certificate is not None and section.key is not None:
            yield from _server(name, section, when)
    if config.signing is not None:
        yield from _signing(config, when)


def _server(name: str, section: Any, when: float) -> Iterator[Finding]:
    certificate, key = where_root_sees(section.certificate), where_root_sees(section.key)
    ca = section.client_ca and where_root_sees(section.client_ca)
    try:
        server_context(certificate, key, ca)
    except ConfigError as error:
        yield fault(f"{name}.{error.field}", error.reason, "give it a certificate and its key, in PEM")
        return
    yield from _ends(f"{name}.certificate", certificate, when, WARN_DAYS)


def _signing(config: Config, when: float) -> Iterator[Finding]:
    assert config.signing is not None
    try:
        # As root sees them: what systemd hands over lies in the folder of keys.
        load_signer(config.signing, {"CREDENTIALS_DIRECTORY": str(KEYS)})
    except ConfigError as error:
        yield fault(
            f"signing.{error.field}", error.reason, "calls go on unsigned until it is mended: see signing in agent.toml"
        )
        return
    yield from _ends("signing.certificate", config.signing.certificate, when, config.signing.warn_days)


def where_root_sees(path: Path) -> Path:
    """A credential exists only while the service runs; before, it is the file that systemd will read."""
    return KEYS / path.name if path.parent == CREDENTIALS and not path.exists() else path


def _ends(about: str, file: Path, when: float, warn_days: float) -> Iterator[Finding]:
    try:
        first = x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError, IndexError) as error:
        yield fault(about, f"{file}: {error}", "give it a certificate in PEM")
        return
    begins, ends = first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()
    days = (ends - when) / DAY
    if when < begins:
        yield fault(about, f"{file} is valid only from {rfc3339(begins)}", "is the clock right?")
    elif days < 0:
        yield fault(about, f"{file} ended at {rfc3339(ends)}", "renew it, then: systemctl restart sbc-edge-agent")
    elif days < warn_days:
        yield warning(about, f"{file} ends in {days:.0f} days", "renew it, then: systemctl restart sbc-edge-agent")
    else:
        yield ok(about, f"{file} is valid for {days:.0f} days")
