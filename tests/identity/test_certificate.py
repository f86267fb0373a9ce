"""PEM and DER to certificates: everything read at once, anything else refused."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.certificate import (
    CHAIN_BYTES_MAX,
    CHAIN_MAX,
    CLAIM_CONSTRAINTS,
    ENHANCED_CLAIM_CONSTRAINTS,
    CertificateError,
    read_anchors,
    read_certificate,
    read_chain,
)
from agent.identity.constraints import ClaimConstraints
from agent.identity.der import SEQUENCE, read_element, read_elements, write_element
from agent.identity.signatures import signed_by
from agent.stir.lab import make_laboratory
from agent.stir.lab_certificates import DAY, Draft, Holder, name, root_draft, self_signed, signer_draft

WHEN = 1_795_000_000.0  # 2026-11-18
LAB = make_laboratory("1234", WHEN, 90 * DAY)
CHAIN = LAB.signer.pem + LAB.intermediate.pem


def issued(draft: Draft) -> Holder:
    return LAB.intermediate.issue(draft)


def test_chain_is_read_leaf_first() -> None:
    leaf, authority = read_chain(CHAIN).certificates
    assert leaf.subject.text == "CN=SHAKEN 1234,O=Example Telephone,C=US"
    assert leaf.issuer == authority.subject
    assert leaf.tn_auth_list is not None
    assert leaf.tn_auth_list.codes == ("1234",)
    assert (leaf.not_before, leaf.not_after) == (WHEN - DAY, WHEN + 90 * DAY)
    assert not leaf.is_authority
    assert authority.is_authority
    assert authority.path_length == 0
    assert leaf.authority_key_id == authority.key_id
    assert leaf.sha256 == LAB.signer.certificate.fingerprint(hashes.SHA256()).hex()


def test_one_certificate_may_come_as_der() -> None:
    assert read_chain(LAB.signer.der).leaf == read_chain(LAB.signer.pem).leaf


@pytest.mark.parametrize(
    "dress",
    [
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: b"\xef\xbb\xbf" + pem,
        lambda pem: b"subject=CN = SHAKEN 1234\n\n" + pem + b"\n\nthat was all\n",
        lambda pem: pem.replace(b"\n", b"").replace(b"CATE-----", b"CATE-----\n"),
    ],
)
def test_pem_may_be_dressed(dress: Callable[[bytes], bytes]) -> None:
    assert read_chain(dress(LAB.signer.pem)).leaf == read_chain(LAB.signer.pem).leaf


def test_certificate_that_is_there_twice_is_one() -> None:
    assert len(read_chain(CHAIN + LAB.signer.pem).certificates) == 2


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"<html>404</html>", "neither PEM nor DER"),
        (b"\x30\x82", "ends inside"),
        (LAB.signer.der + b"\n", "bytes after its end"),
        (LAB.signer.pem[:300], "no end"),
        (LAB.signer.pem.replace(b"-----END", b"----END"), "no end"),
        (b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----", "not base64"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", "is no certificate"),
        (LAB.signer.key_pem, "neither PEM nor DER of a certificate"),
        (b"\xff" * (1 << 20), "larger than 128 KiB"),
        (b"-----BEGIN CERTIFICATE-----" * 1000, "no end"),
        (LAB.crl.public_bytes(Encoding.DER), "is no certificate"),
    ],
)
def test_what_is_no_chain_is_refused(document: bytes, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        read_chain(document)


def test_chain_of_too_many_certificates_is_refused() -> None:
    pem = b"".join(issued(signer_draft("1234", WHEN, WHEN + DAY)).pem for _ in range(CHAIN_MAX + 1))
    with pytest.raises(CertificateError, match="more than 10 certificates"):
        read_chain(pem)
    assert len(read_anchors(pem)) == CHAIN_MAX + 1


@pytest.mark.parametrize("filler", [b"A", b"-", b"\n", b"-----BEGIN CERTIFICATE-----\n", b"\x30\x80"])
def test_garbage_of_the_largest_size_is_refused_at_once(filler: bytes) -> None:
    garbage = (filler * CHAIN_BYTES_MAX)[:CHAIN_BYTES_MAX]
    started = time.perf_counter()
    with pytest.raises(CertificateError):
        read_chain(garbage)
    assert time.perf_counter() - started < 0.5


def null_parameters(der: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The certificate with NULL in both AlgorithmIdentifiers, signed again."""
    algorithm = write_element(SEQUENCE, bytes.fromhex("06082a8648ce3d0403020500"))
    tbs = list(read_elements(read_element(read_element(der).content).content, 10))
    signed = write_element(SEQUENCE, *(algorithm if i == 2 else part.encoded for i, part in enumerate(tbs)))
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return write_element(SEQUENCE, signed, algorithm, write_element(0x03, b"\x00", signature))


def test_null_parameters_of_ecdsa_are_read_and_verified_as_received() -> None:
    """RFC 5758 3.2 forbids them, the library refuses them, and a large authority writes them."""
    der = null_parameters(LAB.signer.der, LAB.intermediate.key)
    with pytest.raises(ValueError, match="signature_alg"):
        x509.load_der_x509_certificate(der)
    read = read_certificate(der)
    authority = read_certificate(LAB.intermediate.der)
    assert read.sha256 != read_certificate(LAB.signer.der).sha256
    assert signed_by(authority.public_key, read.signature, read.signed, read.hash)


def test_two_algorithms_for_one_signature_are_refused() -> None:
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    other = bytes.fromhex("300a06082a8648ce3d040303")
    assert LAB.signer.der.count(algorithm) == 2
    for changed in (LAB.signer.der.replace(algorithm, other, 1), other.join(LAB.signer.der.rsplit(algorithm, 1))):
        with pytest.raises(CertificateError, match="two algorithms"):
            read_certificate(changed)


def test_signature_of_broken_bytes_is_refused() -> None:
    """A BIT STRING begins with the number of its unused bits."""
    parts = list(read_elements(read_element(LAB.signer.der).content, 3))
    signature = write_element(0x03, b"\x04" + parts[2].content[1:-1] + b"\xf0")
    with pytest.raises(CertificateError, match="broken bytes"):
        read_certificate(write_element(SEQUENCE, parts[0].encoded, parts[1].encoded, signature))


def test_serial_number_that_is_not_positive_is_refused() -> None:
    made = LAB.intermediate.issue(signer_draft("1234", WHEN, WHEN + DAY), serial=0x1234567890)
    der = made.der.replace(bytes.fromhex("02051234567890"), bytes.fromhex("0205f234567890"), 1)
    with pytest.raises(CertificateError, match="not positive"):
        read_certificate(der)


def test_malformed_tnauthlist_is_a_fault_and_the_rest_is_read() -> None:
    draft = replace(signer_draft("1234", WHEN, WHEN + DAY), tn_auth_list=b"\x30\x06\x13\x04755J")
    read = read_certificate(issued(draft).der)
    assert read.tn_auth_list is None
    assert read.fault.startswith("its TNAuthList has an entry of tag 0x13")
    assert read.issuer.text == "CN=SHAKEN Laboratory Issuing CA,O=Laboratory,C=US"


@pytest.mark.parametrize("excluded", [(), ("rcd",)])
def test_claim_constraints_are_read(excluded: tuple[str, ...]) -> None:
    wanted = ClaimConstraints(("attest",), (("attest", ("A", "B")),), excluded)
    draft = replace(signer_draft("1234", WHEN, WHEN + DAY), constraints=wanted)
    assert read_certificate(issued(draft).der).constraints == wanted


def test_both_kinds_of_claim_constraints_are_a_fault() -> None:
    plain, enhanced = ClaimConstraints(mandatory=("attest",)), ClaimConstraints(excluded=("rcd",))
    others = (
        (x509.UnrecognizedExtension(CLAIM_CONSTRAINTS, plain.encode()), False),
        (x509.UnrecognizedExtension(ENHANCED_CLAIM_CONSTRAINTS, enhanced.encode()), False),
    )
    read = read_certificate(issued(replace(signer_draft("1234", WHEN, WHEN + DAY), others=others)).der)
    assert "RFC 9118" in read.fault


def test_exclusion_in_the_plain_extension_is_a_fault() -> None:
    value = ClaimConstraints(excluded=("rcd",)).encode()
    others = ((x509.UnrecognizedExtension(CLAIM_CONSTRAINTS, value), False),)
    read = read_certificate(issued(replace(signer_draft("1234", WHEN, WHEN + DAY), others=others)).der)
    assert read.fault.startswith("its JWTClaimConstraints")


def test_names_compare_as_people_read_them() -> None:
    """RFC 5280 7.1: case and repeated spaces do not count."""
    one, two = (read_certificate(self_signed(Draft(name(cn), WHEN, WHEN + DAY)).der) for cn in ("Lab  CA", "lab ca"))
    assert one.subject.key == two.subject.key
    assert one.subject.text != two.subject.text


def test_names_of_strangers_are_printable() -> None:
    draft = Draft(name("\x1b[31m red \x07", "O" * 64), WHEN, WHEN + DAY)
    shown = read_certificate(self_signed(draft).der).subject.text
    assert shown.isprintable()


def test_key_of_another_kind_is_read_as_none() -> None:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("x"))
        .issuer_name(name("x"))
        .serial_number(5)
        .not_valid_before(LAB.signer.certificate.not_valid_before_utc)
        .not_valid_after(LAB.signer.certificate.not_valid_after_utc)
    )
    edwards = ed25519.Ed25519PrivateKey.generate()
    made = read_certificate(builder.public_key(edwards.public_key()).sign(edwards, None).public_bytes(Encoding.DER))
    assert made.public_key is None
    assert made.hash is None
    weak = rsa.generate_private_key(65537, 1024)
    made = read_certificate(
        builder.public_key(weak.public_key()).sign(weak, hashes.SHA256()).public_bytes(Encoding.DER)
    )
    assert not signed_by(made.public_key, made.signature, made.signed, made.hash)


def test_root_signs_itself() -> None:
    read = read_certificate(self_signed(root_draft("SHAKEN Root", WHEN)).der)
    assert read.self_issued
    assert signed_by(read.public_key, read.signature, read.signed, read.hash)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(CertificateError):
        read_chain(data)


@given(st.lists(st.tuples(st.integers(0, len(LAB.signer.der) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_certificates_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    der = bytearray(LAB.signer.der)
    for place, value in changes:
        der[place] = value
    with contextlib.suppress(CertificateError):
        read_certificate(bytes(der))


@given(st.integers(0, len(CHAIN)), st.integers(0, 40), st.binary(max_size=40))
def test_changed_pem_is_read_or_refused(place: int, removed: int, inserted: bytes) -> None:
    with contextlib.suppress(CertificateError):
        assert read_chain(CHAIN[:place] + inserted + CHAIN[place + removed :]).certificates
