"""Trust lists and revocation lists: taken with the signature of those that the operator has named, and never older."""

import base64
import contextlib
import datetime
import json
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.certificate import Certificate, read_anchors
from controller.artifacts.kinds import KINDS, Found, check_order, examine
from controller.errors import Conflict, Invalid
from tests.fakes.certificates import Authority

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = time.time()


def certificate_of(key: ec.EllipticCurvePrivateKey, name: str = "policy administrator") -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    ) | {"key_cert_sign": True, "crl_sign": True}
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(key, hashes.SHA256())
    )


def signers(key: ec.EllipticCurvePrivateKey = KEY) -> tuple[Certificate, ...]:
    return read_anchors(certificate_of(key).public_bytes(serialization.Encoding.PEM))


def trust_list(sequence: int, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(json.dumps({"alg": "ES256"}).encode())
    body = {"sequence": sequence, "exp": int(NOW) + 3600, "trustList": [Authority().certificate.decode()]}
    signed = head + b"." + part(json.dumps(body).encode())
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return signed + b"." + part(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def crl(number: int) -> bytes:
    now = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    revoked = x509.RevokedCertificateBuilder().serial_number(99).revocation_date(now).build()
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate_of(KEY).subject)
        .last_update(now - datetime.timedelta(minutes=1))
        .next_update(now + datetime.timedelta(hours=1))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_revoked_certificate(revoked)
        .sign(KEY, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.DER)


def test_a_signed_trust_list_says_how_many_authorities_it_has_and_when_it_ends() -> None:
    found = examine("trust-list", memoryview(trust_list(5)), signers(), NOW)
    assert found == Found(1, float(int(NOW) + 3600), {"authorities": 1, "sequence": 5})


def test_a_signed_revocation_list_says_how_many_are_revoked() -> None:
    found = examine("crl", memoryview(crl(3)), signers(), NOW)
    assert found.counts == {"revoked": 1, "sequence": 3}
    assert found.not_after is not None


@pytest.mark.parametrize("kind", ["trust-list", "crl"])
def test_a_list_that_somebody_else_signed_is_refused(kind: str) -> None:
    data = trust_list(5, ec.generate_private_key(ec.SECP256R1())) if kind == "trust-list" else crl(3)
    others = read_anchors(
        certificate_of(ec.generate_private_key(ec.SECP256R1())).public_bytes(serialization.Encoding.PEM)
    )
    with pytest.raises(Invalid) as caught:
        examine(kind, memoryview(data), others, NOW)
    assert caught.value.field == "data"


@pytest.mark.parametrize(("kind", "data"), [("trust-list", trust_list(5)), ("crl", crl(3))])
def test_without_anybody_who_may_sign_nothing_signed_is_taken(kind: str, data: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        examine(kind, memoryview(data), (), NOW)
    assert "[artifacts] signers" in caught.value.reason


def test_a_list_of_a_lower_sequence_than_the_one_that_is_here_is_a_replay() -> None:
    older = examine("trust-list", memoryview(trust_list(4)), signers(), NOW)
    with pytest.raises(Conflict, match="sequence is 4, and 5 is here"):
        check_order("trust-list", "us", older, {"authorities": 1, "sequence": 5})
    check_order("trust-list", "us", older, {"authorities": 1, "sequence": 4})
    check_order("dno", "own", Found(1, None, {"exact": 1}), {"exact": 2})


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=300))
def test_whatever_is_imported_is_taken_or_invalid(kind: str, data: bytes) -> None:
    for shown in (data, KINDS_START[kind] + data):
        with contextlib.suppress(Invalid):
            examine(kind, memoryview(shown), SIGNERS, NOW)


SIGNERS = signers()
KINDS_START = {"dno": b"\x89DNO\r\n\x1a\n", "trust-list": b"-----BEGIN CERTIFICATE-----", "crl": b"\x30\x82"}
