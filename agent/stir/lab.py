"""A certificate world for laboratories and tests: authorities, signers, a policy administrator with its two lists.

Knows the trust list (ATIS-1000084) and the indirect revocation list (RFC 5280 5) as their publisher makes them. Writes
no files and reads no clock: times are arguments, epoch seconds.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from agent.stir.lab_certificates import (
    CRL_ISSUER,
    CRL_URL,
    DAY,
    YEAR,
    Draft,
    Holder,
    intermediate_draft,
    key_usage,
    name,
    root_draft,
    self_signed,
    signer_draft,
    to_time,
)


def make_crl(
    signer: Holder, revoked: Sequence[tuple[x509.Name, int]], this_update: float, next_update: float, number: int = 1
) -> x509.CertificateRevocationList:
    """An indirect list (RFC 5280 5.2.5): each entry is the issuer of a certificate and its serial number."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(to_time(this_update))
        .next_update(to_time(next_update))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
        .add_extension(
            x509.IssuingDistributionPoint(
                full_name=[x509.UniformResourceIdentifier(CRL_URL)],
                relative_name=None,
                only_contains_user_certs=False,
                only_contains_ca_certs=False,
                only_some_reasons=None,
                indirect_crl=True,
                only_contains_attribute_certs=False,
            ),
            critical=True,
        )
    )
    previous = signer.certificate.subject
    for issuer, serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(to_time(this_update))
        if issuer != previous:  # said once, holds until another is named (RFC 5280 5.3.3)
            entry = entry.add_extension(x509.CertificateIssuer([x509.DirectoryName(issuer)]), critical=True)
            previous = issuer
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(signer.key, hashes.SHA256())


def make_trust_list(signer: Holder, anchors: Sequence[bytes], sequence: int, expires: float) -> bytes:
    """A trust list (ATIS-1000084) of these certificates (PEM), signed by `signer`, whose certificate is in x5c."""
    header = {"alg": "ES256", "typ": "JWT", "x5c": [base64.b64encode(signer.der).decode()]}
    payload = {
        "version": "1.0",
        "sequence": sequence,
        "exp": int(expires),
        "trustList": [anchor.decode() for anchor in anchors],
    }
    return sign_jws(header, payload, signer.key)


def sign_jws(header: Mapping[str, object], payload: Mapping[str, object], key: ec.EllipticCurvePrivateKey) -> bytes:
    """A JWS in compact serialisation, signed with ES256 (RFC 7515, RFC 7518 3.4)."""
    signed = b".".join(
        [_base64url(json.dumps(part, separators=(",", ":"), sort_keys=True).encode()) for part in (header, payload)]
    )
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return signed + b"." + _base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@dataclass(frozen=True)
class Laboratory:
    """Everything that verifying calls in a laboratory takes, one of each kind."""

    root: Holder
    intermediate: Holder
    signer: Holder
    expired: Holder
    revoked: Holder
    foreign_root: Holder
    foreign: Holder
    pa_root: Holder
    pa_signer: Holder
    crl_signer: Holder
    trust_list: bytes
    crl: x509.CertificateRevocationList


def make_laboratory(code: str, when: float, seconds: float) -> Laboratory:
    """A laboratory whose signers, of this service provider code, and lists hold from now for so many seconds.

    Serial numbers are there to be mistaken: the list revokes that of the good signer, too, as one of another authority.
    """
    root = self_signed(root_draft("SHAKEN Laboratory Root CA", when))
    intermediate = root.issue(intermediate_draft("SHAKEN Laboratory Issuing CA", when))
    foreign_root = self_signed(root_draft("SHAKEN Foreign Root CA", when))
    good = signer_draft(code, when - DAY, when + seconds)
    signer, revoked = intermediate.issue(good), intermediate.issue(good)
    pa_root = self_signed(
        replace(root_draft("STI-PA Laboratory Root", when), usage=key_usage("key_cert_sign", "crl_sign"))
    )
    plain = Draft(
        name("STI-PA Laboratory Trust List", "STI-PA"), when - DAY, when + 5 * YEAR, policy=False, crl_point=False
    )
    pa_signer = pa_root.issue(plain)
    crl_signer = pa_root.issue(replace(plain, subject=CRL_ISSUER, usage=key_usage("crl_sign")))
    listed = [
        (foreign_root.certificate.subject, signer.certificate.serial_number),
        (intermediate.certificate.subject, revoked.certificate.serial_number),
    ]
    return Laboratory(
        root=root,
        intermediate=intermediate,
        signer=signer,
        expired=intermediate.issue(signer_draft(code, when - 60 * DAY, when - 30 * DAY)),
        revoked=revoked,
        foreign_root=foreign_root,
        foreign=foreign_root.issue(good),
        pa_root=pa_root,
        pa_signer=pa_signer,
        crl_signer=crl_signer,
        trust_list=make_trust_list(pa_signer, [root.pem], 1, when + seconds),
        crl=make_crl(crl_signer, listed, when - 60.0, when + seconds),
    )
