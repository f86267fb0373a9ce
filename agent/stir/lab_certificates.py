"""Certificates for laboratories and tests: drafts that are right as they come, and holders that sign them.

Knows how certificates of SHAKEN look; tests change a draft to get a wrong one. Writes no files and reads no clock:
times are arguments, epoch seconds. Keys are made anew each time and are worth nothing outside a laboratory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.identity.certificate import CLAIM_CONSTRAINTS, ENHANCED_CLAIM_CONSTRAINTS, TN_AUTH_LIST
from agent.identity.constraints import ClaimConstraints
from agent.identity.tnauthlist import TnAuthList

DAY: Final = 86_400.0
YEAR: Final = 365 * DAY

CRL_URL: Final = "https://sti-pa.example.net/crl"
"""Where the certificates say that the revocation list is."""

Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

# The certificate policy of the United States, 1.4. A laboratory does not follow it, but its certificates look so.
_POLICY: Final = x509.ObjectIdentifier("2.16.840.1.114569.1.1.4")
_ORGANIZATION: Final = "Laboratory"


def name(common_name: str, organization: str = _ORGANIZATION) -> x509.Name:
    """A distinguished name as the profile wants it."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


CRL_ISSUER: Final = name("STI-PA CRL", "STI-PA")


def key_usage(*granted: str) -> x509.KeyUsage:
    """A key usage that grants these, by their names in the library."""
    usages = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{usage: usage in granted for usage in usages})


@dataclass(frozen=True)
class Draft:
    """A certificate to be. Every extension can be changed or left out (None), to make one that is wrong."""

    subject: x509.Name
    not_before: float
    not_after: float
    basic: x509.BasicConstraints | None = field(
        default_factory=lambda: x509.BasicConstraints(ca=False, path_length=None)
    )
    usage: x509.KeyUsage | None = field(default_factory=lambda: key_usage("digital_signature"))
    tn_auth_list: TnAuthList | bytes | None = None
    tn_auth_list_critical: bool = False
    constraints: ClaimConstraints | None = None
    policy: bool = True
    crl_point: bool = True
    others: tuple[tuple[x509.ExtensionType, bool], ...] = ()


@dataclass(frozen=True)
class Holder:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        """The private key, unencrypted PKCS #8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def issue(
        self,
        draft: Draft,
        key: ec.EllipticCurvePrivateKey | None = None,
        algorithm: Hash | None = None,
        serial: int | None = None,
    ) -> "Holder":
        """What this authority signs: the certificate that the draft describes, with a new key if none is given."""
        return _sign(draft, self.certificate.subject, self.key, self.certificate, key, algorithm, serial)


def self_signed(draft: Draft, key: ec.EllipticCurvePrivateKey | None = None) -> Holder:
    """A root: the certificate that the draft describes, signed by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    return _sign(draft, draft.subject, key, None, key, None, None)


def _sign(
    draft: Draft,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer_certificate: x509.Certificate | None,
    key: ec.EllipticCurvePrivateKey | None,
    algorithm: Hash | None,
    serial: int | None,
) -> Holder:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(draft.subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(to_time(draft.not_before))
        .not_valid_after(to_time(draft.not_after))
    )
    for extension, critical in _extensions(draft, key.public_key(), issuer_certificate):
        builder = builder.add_extension(extension, critical)
    return Holder(builder.sign(issuer_key, algorithm or hashes.SHA256()), key)


def _extensions(
    draft: Draft, key: ec.EllipticCurvePublicKey, issuer: x509.Certificate | None
) -> list[tuple[x509.ExtensionType, bool]]:
    made: list[tuple[x509.ExtensionType, bool]] = [(x509.SubjectKeyIdentifier.from_public_key(key), False)]
    if issuer is not None:
        key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        made.append((x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False))
    if draft.basic is not None:
        made.append((draft.basic, True))
    if draft.usage is not None:
        made.append((draft.usage, True))
    if draft.policy:
        made.append((x509.CertificatePolicies([x509.PolicyInformation(_POLICY, None)]), False))
    if draft.crl_point:
        point = x509.DistributionPoint(
            [x509.UniformResourceIdentifier(CRL_URL)], None, None, [x509.DirectoryName(CRL_ISSUER)]
        )
        made.append((x509.CRLDistributionPoints([point]), False))
    if (held := draft.tn_auth_list) is not None:
        value = held.encode() if isinstance(held, TnAuthList) else held
        made.append((x509.UnrecognizedExtension(TN_AUTH_LIST, value), draft.tn_auth_list_critical))
    if draft.constraints is not None:
        oid = ENHANCED_CLAIM_CONSTRAINTS if draft.constraints.excluded else CLAIM_CONSTRAINTS
        made.append((x509.UnrecognizedExtension(oid, draft.constraints.encode()), False))
    return [*made, *draft.others]


def root_draft(common_name: str, when: float) -> Draft:
    """A root that began a year before `when` and holds for ten more."""
    return Draft(
        name(common_name),
        when - YEAR,
        when + 10 * YEAR,
        basic=x509.BasicConstraints(ca=True, path_length=None),
        usage=key_usage("key_cert_sign"),
        policy=False,
        crl_point=False,
    )


def intermediate_draft(common_name: str, when: float) -> Draft:
    """An issuing authority that began a year before `when` and holds for five more."""
    return replace(
        root_draft(common_name, when),
        not_after=when + 5 * YEAR,
        basic=x509.BasicConstraints(ca=True, path_length=0),
        policy=True,
        crl_point=True,
    )


def signer_draft(code: str, not_before: float, not_after: float) -> Draft:
    """The certificate of a service provider that signs calls."""
    return Draft(name(f"SHAKEN {code}", "Example Telephone"), not_before, not_after, tn_auth_list=TnAuthList((code,)))


def tls_draft(hosts: Sequence[str], when: float, seconds: float) -> Draft:
    """The certificate of an HTTPS server under these names and addresses."""
    return Draft(
        name(hosts[0][:64]),
        when - DAY,
        when + seconds,
        policy=False,
        crl_point=False,
        others=(
            (x509.SubjectAlternativeName([_general_name(host) for host in hosts]), False),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        ),
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def to_time(when: float) -> datetime:
    """Epoch seconds as certificates have them, whole."""
    return datetime.fromtimestamp(int(when), UTC)
