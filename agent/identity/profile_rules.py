"""The single rules that a SHAKEN certificate has to keep: each is a function that says how it is broken, or "".

Knows what ATIS-1000080 and the certificate policy of the United States ask of a certificate. Knows neither when a rule
came into force nor whom it binds: agent.identity.profile has the table.
"""

import re
from collections.abc import Sequence
from enum import Flag, auto
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from agent.identity.certificate import TN_AUTH_LIST, Certificate

_POLICY_13: Final = x509.ObjectIdentifier("2.16.840.1.114569.1.1.3")
_POLICY_14: Final = x509.ObjectIdentifier("2.16.840.1.114569.1.1.4")

_SPECIFIED: Final = frozenset(
    {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        TN_AUTH_LIST,
    }
)
_SERIAL_BITS_MIN: Final = 64
_KEY_ID_BYTES: Final = 20

_E = TypeVar("_E", bound=x509.ExtensionType)


class Role(Flag):
    """What kind of certificate it is."""

    SIGNER = auto()
    INTERMEDIATE = auto()
    ROOT = auto()


def role_of(certificate: Certificate) -> Role:
    """What kind of certificate it is; one of an authority that names itself as issuer is a root."""
    if not certificate.is_authority:
        return Role.SIGNER
    return Role.ROOT if certificate.self_issued else Role.INTERMEDIATE


def version(certificate: Certificate) -> str:
    return "" if certificate.library.version is x509.Version.v3 else "is not of version 3"


def serial_size(certificate: Certificate) -> str:
    bits = certificate.serial.bit_length()
    return f"serial number of {bits} bits, not {_SERIAL_BITS_MIN} or more" if bits < _SERIAL_BITS_MIN else ""


def signature_algorithm(certificate: Certificate) -> str:
    # Certificate Policy 1.4 allows P-384 with SHA-384, ATIS-1000080 does not; what the policy allows is let be.
    oid = certificate.library.signature_algorithm_oid
    allowed = [SignatureAlgorithmOID.ECDSA_WITH_SHA256]
    if _is_cp14(certificate) or role_of(certificate) is Role.ROOT:
        allowed.append(SignatureAlgorithmOID.ECDSA_WITH_SHA384)
    return "" if oid in allowed else f"signed with {oid.dotted_string}, not ecdsa-with-SHA256"


def public_key(certificate: Certificate) -> str:
    key = certificate.public_key
    curve = key.curve if isinstance(key, EllipticCurvePublicKey) else None
    if isinstance(curve, SECP256R1):
        return ""
    if isinstance(curve, SECP384R1) and role_of(certificate) is Role.INTERMEDIATE and _is_cp14(certificate):
        return ""
    return f"key of {curve.name if curve is not None else 'another kind'}, not of P-256"


def subject(certificate: Certificate) -> str:
    wrong = [
        f"{len(values)} {name}"
        for name, oid in (("C", NameOID.COUNTRY_NAME), ("CN", NameOID.COMMON_NAME))
        if len(values := _attributes(certificate, oid)) != 1
    ]
    return f"subject with {' and '.join(wrong)}, not one of each" if wrong else ""


def common_name(certificate: Certificate) -> str:
    return "" if re.search(r"\bSHAKEN\b", _cn(certificate)) else 'no "SHAKEN" in the common name'


def common_name_root(certificate: Certificate) -> str:
    return "" if re.search(r"\bROOT\b", _cn(certificate), re.IGNORECASE) else 'no "ROOT" in the common name'


def common_name_code(certificate: Certificate) -> str:
    codes = certificate.tn_auth_list.codes if certificate.tn_auth_list is not None else ()
    if not codes:
        return "no service provider code to be in the common name"
    wanted = f"SHAKEN {codes[0]}"
    return "" if re.search(rf"\b{re.escape(wanted)}\b", _cn(certificate)) else f'no "{wanted}" in the common name'


def organization(certificate: Certificate) -> str:
    count = len(_attributes(certificate, NameOID.ORGANIZATION_NAME))
    return "" if count == 1 else f"subject with {count} O, not one"


def country_code(certificate: Certificate) -> str:
    countries = _attributes(certificate, NameOID.COUNTRY_NAME)
    good = len(countries) == 1 and re.fullmatch(r"[A-Z]{2}", countries[0])
    return "" if good else "country that is not one code of ISO 3166-1"


def country_us(certificate: Certificate) -> str:
    return (
        ""
        if not _is_cp14(certificate) or _attributes(certificate, NameOID.COUNTRY_NAME) == ["US"]
        else "country not US"
    )


def serial_attribute(certificate: Certificate) -> str:
    # Policy 1.4 made it optional again.
    needed = _POLICY_13 in _policies(certificate) and certificate.library.version is x509.Version.v3
    if not needed or _attributes(certificate, NameOID.SERIAL_NUMBER) not in ([], [""]):
        return ""
    return "subject without serialNumber"


def key_id(certificate: Certificate) -> str:
    return "" if certificate.key_id else "no subject key identifier"


def key_id_size(certificate: Certificate) -> str:
    size = len(certificate.key_id)
    return "" if size == _KEY_ID_BYTES else f"subject key identifier of {size} bytes, not {_KEY_ID_BYTES}"


def authority_key_id(certificate: Certificate) -> str:
    return "" if _extension(certificate, x509.AuthorityKeyIdentifier) else "no authority key identifier"


def authority_key_id_root(certificate: Certificate) -> str:
    present = _extension(certificate, x509.AuthorityKeyIdentifier) is not None
    differs = present and certificate.authority_key_id != certificate.key_id
    return "authority key identifier that is not its own key's" if differs else ""


def basic_constraints(certificate: Certificate) -> str:
    return _critical(certificate, x509.BasicConstraints, "basic constraints")


def key_usage(certificate: Certificate) -> str:
    return _critical(certificate, x509.KeyUsage, "key usage")


def key_usage_signer(certificate: Certificate) -> str:
    usage = _usages(certificate)
    return "" if usage in ([], ["digital_signature"]) else f"key usage {', '.join(usage)}, not digital_signature alone"


def key_usage_authority(certificate: Certificate) -> str:
    usage = _usages(certificate)
    optional = set() if _is_cp14(certificate) else {"digital_signature", "crl_sign"}
    if not usage or set(usage) - optional == {"key_cert_sign"}:
        return ""
    return f"key usage {', '.join(usage)}, not key_cert_sign"


def policy(certificate: Certificate) -> str:
    extension = _extension(certificate, x509.CertificatePolicies)
    if extension is None:
        return "no certificate policy"
    if extension.critical:
        return "certificate policies marked critical"
    count = len(_policies(certificate))
    return "" if count == 1 else f"{count} certificate policies, not one"


def policy_id(certificate: Certificate) -> str:
    policies = _policies(certificate)
    if len(policies) == 1 and policies[0] in (_POLICY_13, _POLICY_14):
        return ""
    named = ", ".join(policy.dotted_string for policy in policies) or "none"
    return f"certificate policy {named}, not that of SHAKEN in the United States"


def policy_root(certificate: Certificate) -> str:
    return "certificate policies in a root" if _extension(certificate, x509.CertificatePolicies) else ""


def crl_point(certificate: Certificate) -> str:
    extension = _extension(certificate, x509.CRLDistributionPoints)
    if extension is None:
        return "no CRL distribution point"
    urls = [name.value for point in extension.value for name in point.full_name or ()]
    if len(urls) != 1 or not str(urls[0]).startswith("http"):
        return "CRL distribution points that are not one HTTP URL"
    return ""


def crl_issuer(certificate: Certificate) -> str:
    extension = _extension(certificate, x509.CRLDistributionPoints)
    if extension is None or not _is_cp14(certificate) or all(point.crl_issuer for point in extension.value):
        return ""
    return "CRL distribution point that does not name the issuer of the CRL"


def crl_root(certificate: Certificate) -> str:
    return "CRL distribution point in a root" if _extension(certificate, x509.CRLDistributionPoints) else ""


def not_specified(certificate: Certificate) -> str:
    odd = [e.oid.dotted_string for e in certificate.library.extensions if e.oid not in _SPECIFIED]
    return f"extensions that the profile does not name: {', '.join(odd)}" if odd else ""


def tn_auth_list(certificate: Certificate) -> str:
    held = certificate.tn_auth_list
    if held is None:
        return certificate.fault or "no TNAuthList"
    if any(e.critical for e in certificate.library.extensions if e.oid == TN_AUTH_LIST):
        return "TNAuthList marked critical"
    if len(held.codes) == 1 and not held.numbers:
        return ""
    return f"TNAuthList with {len(held.codes)} codes and {len(held.numbers)} numbers or ranges, not one code"


def code_format(certificate: Certificate) -> str:
    held = certificate.tn_auth_list
    codes: Sequence[str] = held.codes if held is not None else ()
    good = codes and all(re.fullmatch(r"[0-9A-Z]+", code, re.ASCII) for code in codes)
    return "" if good else "no service provider code of digits and capital letters"


def tn_auth_list_authority(certificate: Certificate) -> str:
    held = any(e.oid == TN_AUTH_LIST for e in certificate.library.extensions)
    return "TNAuthList in the certificate of an authority" if held else ""


def _attributes(certificate: Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(part.value) for part in certificate.library.subject.get_attributes_for_oid(oid)]


def _cn(certificate: Certificate) -> str:
    return next(reversed(_attributes(certificate, NameOID.COMMON_NAME)), "")


def _extension(certificate: Certificate, kind: type[_E]) -> x509.Extension[_E] | None:
    try:
        return certificate.library.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _critical(certificate: Certificate, kind: type[x509.ExtensionType], what: str) -> str:
    extension = _extension(certificate, kind)
    if extension is None:
        return f"no {what}"
    return "" if extension.critical else f"{what} not marked critical"


def _policies(certificate: Certificate) -> list[x509.ObjectIdentifier]:
    extension = _extension(certificate, x509.CertificatePolicies)
    return [policy.policy_identifier for policy in extension.value] if extension is not None else []


def _is_cp14(certificate: Certificate) -> bool:
    return _POLICY_14 in _policies(certificate)


_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def _usages(certificate: Certificate) -> list[str]:
    return [name for name in _USAGES if certificate.key_usage is not None and getattr(certificate.key_usage, name)]
