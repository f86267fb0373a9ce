"""Certificates of STIR as they come off the wire: PEM or DER to what trusting them needs to know.

Knows X.509 (RFC 5280) by the library, TNAuthList and JWT claim constraints by our own readers. Knows no trust: whether
a certificate is one to rely on is said by agent.identity.trust. Everything here is read at once, so that a certificate
that was read raises nothing later.
"""

import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtensionOID

from agent.identity.constraints import ClaimConstraints, read_constraints
from agent.identity.der import (
    BIT_STRING,
    CONSTRUCTED,
    INTEGER,
    NULL,
    SEQUENCE,
    DerError,
    Element,
    read_element,
    read_elements,
    read_integer,
    read_only,
    write_element,
)
from agent.identity.names import Name, name_of
from agent.identity.signatures import SIGNATURE_HASHES, PublicKey
from agent.identity.tnauthlist import TnAuthList, read_tnauthlist

CHAIN_BYTES_MAX: Final = 128 << 10
"""Bytes of what an x5u serves. A chain of four is 4 kB; a delegate certificate of 5,000 numbers is 80 kB."""

CHAIN_MAX: Final = 10
"""Certificates that an x5u serves. The longest path in use has four."""

ANCHORS_BYTES_MAX: Final = 4 << 20
"""Bytes of a file of trust anchors. The list of the United States has some fifty, 60 kB."""

ANCHORS_MAX: Final = 1000

TN_AUTH_LIST: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.26")
CLAIM_CONSTRAINTS: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.27")
ENHANCED_CLAIM_CONSTRAINTS: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.33")

# Critical extensions that we understand, or that restrict nothing here: RFC 5280 4.2 has us refuse all others. We ask
# for no certificate policy, so any will do (RFC 5280 6.1.1 c); name constraints would have to be enforced.
_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        TN_AUTH_LIST,
        CLAIM_CONSTRAINTS,
        ENHANCED_CLAIM_CONSTRAINTS,
    }
)

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----")
_UTF8_MARK: Final = b"\xef\xbb\xbf"

# ecdsa-with-SHA224 to SHA512 (RFC 5758 3.2) are this and one byte.
_ECDSA_WITH_SHA2: Final = bytes.fromhex("06082a8648ce3d0403")
_NULL_DER: Final = write_element(NULL)
# A TBSCertificate has at most ten parts (RFC 5280 4.1).
_TBS_PARTS: Final = 10

_T = TypeVar("_T")


class CertificateError(ValueError):
    """What was given is no certificate, chain, revocation list or trust list that can be used. Says why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate, read. Equal to another of the same bytes.

    `signed` and `signature` are as received; `hash` is None for a signature of no kind that we accept, `public_key`
    None for a key of no kind that we accept. Times in epoch seconds, both included. `path_length` None: any. Key
    identifiers are b"" where absent, `key_usage` None where absent. `fault` says what is wrong with the extensions of
    STIR ("" nothing): the certificate can be shown, but not relied on. `critical` are the extensions marked critical
    that we do not understand.
    """

    der: bytes
    sha256: str = field(compare=False)
    signed: bytes = field(compare=False, repr=False)
    signature: bytes = field(compare=False, repr=False)
    hash: hashes.HashAlgorithm | None = field(compare=False, repr=False)
    subject: Name = field(compare=False)
    issuer: Name = field(compare=False)
    serial: int = field(compare=False)
    not_before: float = field(compare=False)
    not_after: float = field(compare=False)
    public_key: PublicKey | None = field(compare=False, repr=False)
    is_authority: bool = field(compare=False)
    path_length: int | None = field(compare=False)
    key_usage: x509.KeyUsage | None = field(compare=False)
    key_id: bytes = field(compare=False)
    authority_key_id: bytes = field(compare=False)
    tn_auth_list: TnAuthList | None = field(compare=False)
    constraints: ClaimConstraints = field(compare=False)
    fault: str = field(compare=False)
    critical: tuple[str, ...] = field(compare=False)
    library: x509.Certificate = field(compare=False, repr=False)

    @property
    def self_issued(self) -> bool:
        """Whether it names itself as its issuer."""
        return self.subject.key == self.issuer.key


@dataclass(frozen=True, slots=True)
class Chain:
    """What an x5u served: the signer's certificate first, then what helps to trust it, in any order."""

    certificates: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        """The signer's certificate."""
        return self.certificates[0]


def read_chain(data: bytes) -> Chain:
    """The chain in this PEM (RFC 8555 9.1: leaf first) or the one certificate in this DER. Raises CertificateError."""
    return Chain(_read_many(data, CHAIN_BYTES_MAX, CHAIN_MAX))


def read_anchors(data: bytes) -> tuple[Certificate, ...]:
    """The certificates of a PEM file that the operator gave, such as trust anchors. Raises CertificateError."""
    return _read_many(data, ANCHORS_BYTES_MAX, ANCHORS_MAX)


def _read_many(data: bytes, most_bytes: int, most: int) -> tuple[Certificate, ...]:
    if len(data) > most_bytes:
        raise CertificateError(f"is larger than {most_bytes >> 10} KiB")
    ders = split_pem(data)
    if len(ders) > most:
        raise CertificateError(f"holds more than {most} certificates")
    # One that is there twice is one: some servers send the root again.
    return tuple([read_certificate(der) for der in dict.fromkeys(ders)])


def split_pem(data: bytes) -> list[bytes]:
    """The DER of each certificate in a document of PEM, or of one DER. Text around PEM blocks is let be (RFC 7468 2).

    Raises CertificateError.
    """
    if data[:1] == b"\x30":
        return [data]
    blocks = _BLOCK.findall(data)
    if len(blocks) != data.count(_BEGIN):
        raise CertificateError("has a PEM block that is damaged or has no end")
    if not blocks:
        raise CertificateError("is empty" if not data.strip() else "is neither PEM nor DER of a certificate")
    return [_base64(block) for block in blocks]


def _base64(block: bytes) -> bytes:
    try:
        return binascii.a2b_base64(b"".join(block.split()), strict_mode=True)
    except binascii.Error:
        raise CertificateError("has a PEM block that is not base64") from None


def read_certificate(der: bytes) -> Certificate:
    """One certificate. Raises CertificateError."""
    try:
        signed, signature = _envelope(der)
    except DerError as error:
        raise CertificateError(f"is no certificate: {error}") from None
    library = _sound(lambda: _library(der, signed), "cannot be read")
    extensions = _sound(lambda: library.extensions, "has extensions that cannot be read")
    basic = _extension(extensions, x509.BasicConstraints)
    key_id = _extension(extensions, x509.SubjectKeyIdentifier)
    authority_key_id = _extension(extensions, x509.AuthorityKeyIdentifier)
    tn_auth_list, constraints, fault = _stir_extensions(extensions)
    not_before, not_after = _sound(lambda: _validity(library), "has a validity that cannot be read")
    subject, issuer = _sound(lambda: (name_of(library.subject), name_of(library.issuer)), "has names that are none")
    return Certificate(
        der=der,
        sha256=hashlib.sha256(der).hexdigest(),
        signed=signed,
        signature=signature,
        hash=SIGNATURE_HASHES.get(library.signature_algorithm_oid),
        subject=subject,
        issuer=issuer,
        serial=library.serial_number,
        not_before=not_before,
        not_after=not_after,
        public_key=_public_key(library),
        is_authority=basic is not None and basic.ca,
        path_length=basic.path_length if basic is not None else None,
        key_usage=_extension(extensions, x509.KeyUsage),
        key_id=key_id.digest if key_id is not None else b"",
        authority_key_id=(authority_key_id.key_identifier or b"") if authority_key_id is not None else b"",
        tn_auth_list=tn_auth_list,
        constraints=constraints,
        fault=fault,
        critical=tuple([e.oid.dotted_string for e in extensions if e.critical and e.oid not in _UNDERSTOOD]),
        library=library,
    )


def _sound(read: Callable[[], _T], what: str) -> _T:
    """What the library reads. It raises a handful of kinds for bytes that it does not like, and they have no base."""
    try:
        return read()
    except (
        ValueError,
        TypeError,
        OverflowError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        x509.InvalidVersion,
    ) as error:
        raise CertificateError(f"{what} ({type(error).__name__})") from None


def _envelope(der: bytes) -> tuple[bytes, bytes]:
    """The signed bytes as received, and the signature over them (RFC 5280 4.1.1). Raises DerError."""
    parts = list(read_elements(read_only(der, SEQUENCE), 3))
    if [part.tag for part in parts] != [SEQUENCE, SEQUENCE, BIT_STRING]:
        raise DerError("has not the three parts of a certificate")
    tbs, algorithm, signature = parts
    fields = list(read_elements(tbs.content, _TBS_PARTS))
    serial = 1 if fields and fields[0].tag == CONSTRUCTED else 0
    if len(fields) < serial + 2 or fields[serial].tag != INTEGER:
        raise DerError("has no serial number")
    if read_integer(fields[serial].content) <= 0:
        raise DerError("has a serial number that is not positive")
    if fields[serial + 1].encoded != algorithm.encoded:
        raise DerError("names two algorithms for one signature")
    if signature.content[:1] != b"\x00":
        raise DerError("has a signature of broken bytes")
    return tbs.encoded, signature.content[1:]


def _library(der: bytes, signed: bytes) -> x509.Certificate:
    """The certificate as the library reads it.

    The library refuses NULL parameters of an ECDSA signature, and RFC 5758 3.2 says they must be absent. Yet an
    authority of the STI-PA list (T-Mobile USA, root valid until 2044) writes them into every certificate. The fields
    are read from a copy without them; what is verified and hashed stays as received.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        plain = _without_null(der, signed)
        if plain == der:
            raise
        return x509.load_der_x509_certificate(plain)


def _without_null(der: bytes, signed: bytes) -> bytes:
    tbs = [_absent_parameters(part) for part in read_elements(read_only(signed, SEQUENCE), _TBS_PARTS)]
    _, algorithm, signature = read_elements(read_element(der).content, 3)
    return write_element(SEQUENCE, write_element(SEQUENCE, *tbs), _absent_parameters(algorithm), signature.encoded)


def _absent_parameters(part: Element) -> bytes:
    if part.tag == SEQUENCE and part.content.startswith(_ECDSA_WITH_SHA2) and part.content[10:] == _NULL_DER:
        return write_element(SEQUENCE, part.content[:10])
    return part.encoded


_E = TypeVar("_E", bound=x509.ExtensionType)


def _extension(extensions: x509.Extensions, kind: type[_E]) -> _E | None:
    for extension in extensions:
        if isinstance(extension.value, kind):
            return extension.value
    return None


def _stir_extensions(extensions: x509.Extensions) -> tuple[TnAuthList | None, ClaimConstraints, str]:
    """What RFC 8226 and RFC 9118 added, and what is wrong with it."""
    values = {
        extension.oid: extension.value.value
        for extension in extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    tn_auth_list, constraints = None, ClaimConstraints()
    try:
        if (value := values.get(TN_AUTH_LIST)) is not None:
            tn_auth_list = read_tnauthlist(value)
    except DerError as error:
        return None, constraints, f"its TNAuthList {error}"
    if CLAIM_CONSTRAINTS in values and ENHANCED_CLAIM_CONSTRAINTS in values:
        return tn_auth_list, constraints, "it has JWTClaimConstraints and EnhancedJWTClaimConstraints (RFC 9118 4)"
    try:
        if (value := values.get(CLAIM_CONSTRAINTS)) is not None:
            constraints = read_constraints(value, enhanced=False)
        if (value := values.get(ENHANCED_CLAIM_CONSTRAINTS)) is not None:
            constraints = read_constraints(value, enhanced=True)
    except DerError as error:
        return tn_auth_list, constraints, f"its JWTClaimConstraints {error}"
    return tn_auth_list, constraints, ""


def _validity(library: x509.Certificate) -> tuple[float, float]:
    return library.not_valid_before_utc.timestamp(), library.not_valid_after_utc.timestamp()


def _public_key(library: x509.Certificate) -> PublicKey | None:
    try:
        key = library.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, EllipticCurvePublicKey | RSAPublicKey) else None
