"""Certificate revocation lists, indirect ones above all (RFC 5280 5): who signed, what is revoked, how old it is.

Knows X.509 by the library. Performs nothing and keeps nothing: whoever fetches keeps the last good list. The STI-PA
revokes certificates of every authority in one list of its own, so an entry is an issuer and a serial number; serial
numbers alone say nothing.
"""

import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from agent.identity.certificate import Certificate, CertificateError, by_library
from agent.identity.names import Name, NameKey, key_of, name_of
from agent.identity.signatures import SIGNATURE_HASHES, signed_by

CRL_BYTES_MAX: Final = 16 << 20
"""Bytes of one list. An entry with its issuer takes about 150, so this is a hundred thousand."""

_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]*)-----END X509 CRL-----")
# Seconds that the clock of whoever signs may be ahead of ours.
_SKEW: Final = 300.0
# Critical extensions of a list and of an entry that we understand (RFC 5280 5.2: refuse a list with any other). A list
# of changes (delta CRL) is none: half a list revokes half of what it should.
_UNDERSTOOD: Final = frozenset(
    {ExtensionOID.ISSUING_DISTRIBUTION_POINT, ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.CRL_NUMBER}
)
_UNDERSTOOD_IN_ENTRY: Final = frozenset(
    {CRLEntryExtensionOID.CERTIFICATE_ISSUER, CRLEntryExtensionOID.CRL_REASON, CRLEntryExtensionOID.INVALIDITY_DATE}
)


@dataclass(frozen=True, slots=True)
class Crl:
    """A list whose signature was verified. Times in epoch seconds; `next_update` None: it does not say.

    `number` is -1 where there is none. What is past its `next_update` is old, not wrong: its entries stay revoked.
    """

    issuer: Name
    this_update: float
    next_update: float | None
    number: int
    sha256: str
    revoked: frozenset[tuple[NameKey, int]] = field(repr=False)

    def revokes(self, certificate: Certificate) -> bool:
        """Whether this very certificate is on the list: same issuer, same serial number."""
        return (certificate.issuer.key, certificate.serial) in self.revoked


def read_crl(data: bytes, signers: Sequence[Certificate], when: float) -> Crl:
    """The list in this PEM or DER, signed by one of `signers`. Raises CertificateError.

    `signers` are trusted to revoke certificates of any authority: the CRL signer of the STI-PA, as configured. Its
    certificate must be valid at `when` (epoch seconds). A list past its next update is taken; one of the future,
    and one that only holds changes, are refused.
    """
    der = _der(data)
    return by_library(lambda: _read(der, signers, when), "is no CRL that can be read")


def vouched_crl(data: bytes) -> Crl:
    """The list in this PEM or DER, for whose very bytes somebody vouches who has verified it. Raises CertificateError.

    Its own signature is not looked at, nor whether its time has come.
    """
    der = _der(data)
    return by_library(lambda: _content(x509.load_der_x509_crl(der), der), "is no CRL that can be read")


def _der(data: bytes) -> bytes:
    if len(data) > CRL_BYTES_MAX:
        raise CertificateError(f"is larger than {CRL_BYTES_MAX >> 20} MiB")
    if data[:1] == b"\x30":
        return data
    blocks = _PEM.findall(data)
    if len(blocks) != 1:
        raise CertificateError("is empty" if not data.strip() else "is neither PEM nor DER of one CRL")
    try:
        return binascii.a2b_base64(b"".join(blocks[0].split()), strict_mode=True)
    except binascii.Error:
        raise CertificateError("is PEM, but not base64") from None


def _read(der: bytes, signers: Sequence[Certificate], when: float) -> Crl:
    library = x509.load_der_x509_crl(der)
    _check_signature(library, name_of(library.issuer), signers, when)
    found = _content(library, der)
    if found.this_update > when + _SKEW:
        raise CertificateError("is of the future")
    return found


def _content(library: x509.CertificateRevocationList, der: bytes) -> Crl:
    _check_extensions(library)
    issuer = name_of(library.issuer)
    next_update = library.next_update_utc
    number = [e.value.crl_number for e in library.extensions if isinstance(e.value, x509.CRLNumber)]
    return Crl(
        issuer=issuer,
        this_update=library.last_update_utc.timestamp(),
        next_update=None if next_update is None else next_update.timestamp(),
        number=number[0] if number else -1,
        sha256=hashlib.sha256(der).hexdigest(),
        revoked=_revoked(library, issuer.key),
    )


def _check_signature(
    library: x509.CertificateRevocationList, issuer: Name, signers: Sequence[Certificate], when: float
) -> None:
    algorithm = SIGNATURE_HASHES.get(library.signature_algorithm_oid)
    named = [signer for signer in signers if signer.subject.key == issuer.key]
    if not named:
        raise CertificateError(f"is of {issuer.text}, whose certificate was not given")
    for signer in named:
        if signed_by(signer.public_key, library.signature, library.tbs_certlist_bytes, algorithm):
            break
    else:
        raise CertificateError(f"is not signed by {issuer.text}")
    if signer.key_usage is not None and not signer.key_usage.crl_sign:
        raise CertificateError(f"is signed by {issuer.text}, which may not sign CRLs")
    if not signer.not_before <= when <= signer.not_after:
        raise CertificateError(f"is signed by a certificate of {issuer.text} that is not valid now")


def _check_extensions(library: x509.CertificateRevocationList) -> None:
    """A list of some certificates or reasons only is taken: what it says is revoked, is."""
    for extension in library.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise CertificateError(f"has a critical extension that is not understood ({extension.oid.dotted_string})")


def _revoked(library: x509.CertificateRevocationList, issuer: NameKey) -> frozenset[tuple[NameKey, int]]:
    """Who revoked what: an entry's issuer is that of the entry before it until it names another (RFC 5280 5.3.3)."""
    revoked = set()
    known: dict[x509.Name, NameKey] = {}
    for entry in library:
        for extension in entry.extensions:
            if extension.critical and extension.oid not in _UNDERSTOOD_IN_ENTRY:
                raise CertificateError(
                    f"has an entry with a critical extension that is not understood ({extension.oid.dotted_string})"
                )
            if isinstance(extension.value, x509.CertificateIssuer):
                issuer = _issuer_of(extension.value, known)
        revoked.add((issuer, entry.serial_number))
    return frozenset(revoked)


def _issuer_of(names: x509.CertificateIssuer, known: dict[x509.Name, NameKey]) -> NameKey:
    directory = names.get_values_for_type(x509.DirectoryName)
    if len(directory) != 1:
        raise CertificateError("has an entry whose issuer has not one name")
    name = directory[0]
    if name not in known:
        known[name] = key_of(name)
    return known[name]
