"""Names in certificates: spiffe://TRUST-DOMAIN/agent/NAME, and the same for operators and controllers.

Pure. Reads certificates that TLS has verified already; what it does not know for certain it refuses.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509

from controller.errors import Unauthenticated
from controller.model import PeerKind
from controller.names import NAME

CERTIFICATE_MAX: Final = 16 << 10
"""Bytes of PEM."""

CACHED: Final = 20_000
"""Certificates that need not be read again: twice the agents of the largest fleet."""

_URI: Final = re.compile(rf"spiffe://([a-z0-9._-]{{1,255}})/(agent|operator|controller)/({NAME})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Named:
    """What a certificate says of its holder."""

    trust_domain: str
    kind: PeerKind
    name: str
    serial: str
    not_before: float
    not_after: float


def uri(trust_domain: str, kind: PeerKind, name: str) -> str:
    """Its one name."""
    return f"spiffe://{trust_domain}/{kind}/{name}"


@lru_cache(CACHED)
def read_name(pem: bytes) -> Named:
    """Whose certificate this is. Raises Unauthenticated: unreadable, or not of exactly one name of this form."""
    if len(pem) > CERTIFICATE_MAX:
        raise Unauthenticated("the certificate is too long")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise Unauthenticated("the certificate has no name of this fleet") from None
    found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise Unauthenticated("the certificate has no name of this fleet")
    return Named(
        found[1],
        PeerKind(found[2]),
        found[3],
        serial_of(certificate),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def serial_of(certificate: x509.Certificate) -> str:
    """As it is stored: hexadecimal, lower case."""
    return f"{certificate.serial_number:x}"
