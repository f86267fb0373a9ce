"""Making certificates: what an issuing authority is, and what it signs.

Pure but for randomness: times are arguments. Every certificate has one name of ours (names.py), is good for a purpose,
and ends no later than its issuer.
"""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.authority.names import serial_of, uri
from controller.authority.requests import key_sha256
from controller.errors import Conflict
from controller.model import IssuedCertificate, PeerKind

YEAR: Final = 365 * 86_400.0
AUTHORITY_SECONDS: Final = 10 * YEAR

BACKDATED: Final = 65 * 60.0
"""Seconds before now at which a certificate begins: an agent whose clock is an hour behind can use it, too."""

_PURPOSES: Final = {
    PeerKind.AGENT: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    PeerKind.OPERATOR: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    PeerKind.CONTROLLER: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
}

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Issuer:
    """`chain` is the issuing certificate, then those above it; the last is the root, which may be the same."""

    trust_domain: str
    chain: tuple[x509.Certificate, ...]
    key: SigningKey

    @property
    def root(self) -> x509.Certificate:
        return self.chain[-1]

    @property
    def between(self) -> tuple[bytes, ...]:
        """What stands between a certificate and the root, DER."""
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in self.chain[:-1])

    @property
    def not_after(self) -> float:
        """When the first of the chain ends."""
        return min(certificate.not_valid_after_utc.timestamp() for certificate in self.chain)

    def issue(
        self,
        kind: PeerKind,
        name: str,
        key: ec.EllipticCurvePublicKey,
        seconds: float,
        when: float,
        hosts: Sequence[str] = (),
    ) -> tuple[IssuedCertificate, bytes]:
        """A certificate for this key, and what is to be noted of it. Raises Conflict: the authority has ended."""
        end = min(when + seconds, self.not_after)
        if end <= when:
            raise Conflict("the certificate of the authority has ended; the controller needs a new one")
        start = max(when - BACKDATED, self.chain[0].not_valid_before_utc.timestamp())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri(self.trust_domain, kind, name))]
        names += [general_name(host) for host in hosts]
        made = (
            x509.CertificateBuilder()
            .subject_name(common_name(name))
            .issuer_name(self.chain[0].subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(to_time(start))
            .not_valid_after(to_time(end))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_PURPOSES[kind]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority_key_identifier(self.chain[0]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        noted = IssuedCertificate(
            serial_of(made), kind, name, float(int(start)), float(int(end)), key_sha256(key), when
        )
        return noted, made.public_bytes(Encoding.DER)


def make_authority(trust_domain: str, key: SigningKey, when: float) -> x509.Certificate:
    """A root of our own for ten years, which issues directly."""
    public = key.public_key()
    # Two authorities of the same name would be hard to tell apart in a trust store.
    mark = hashlib.sha256(x509.SubjectKeyIdentifier.from_public_key(public).digest).hexdigest()[:8]
    name = common_name(f"sbc-edge authority {trust_domain[:32]} {mark}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(to_time(when - BACKDATED))
        .not_valid_after(to_time(when + AUTHORITY_SECONDS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Naming the issuer's key as the issuer itself does (RFC 5280 4.2.1.1)."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    """Only this."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def common_name(name: str) -> x509.Name:
    """For people."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def general_name(host: str) -> x509.GeneralName:
    """Of an address, or of a host. Raises ValueError for a name with letters beyond ASCII."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def to_time(when: float) -> datetime.datetime:
    """Epoch seconds as certificates have them, whole."""
    return datetime.datetime.fromtimestamp(int(when), datetime.UTC)
