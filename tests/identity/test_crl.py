"""Revocation lists: who signed, who revoked what, and what a list may not be."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.certificate import CertificateError, read_anchors, read_certificate
from agent.identity.crl import CRL_BYTES_MAX, Crl, read_crl
from agent.stir.lab import make_crl, make_laboratory
from agent.stir.lab_certificates import (
    CRL_ISSUER,
    DAY,
    Draft,
    Holder,
    intermediate_draft,
    key_usage,
    name,
    root_draft,
    self_signed,
    signer_draft,
)

WHEN = 1_795_000_000.0  # 2026-11-18
LAB = make_laboratory("1234", WHEN, 90 * DAY)
SIGNERS = read_anchors(LAB.crl_signer.pem)
DER = LAB.crl.public_bytes(Encoding.DER)
OURS, OTHERS = name("SHAKEN Our CA"), name("SHAKEN Other CA")

Builder = x509.CertificateRevocationListBuilder


def read(crl: x509.CertificateRevocationList, signer: Holder = LAB.crl_signer, when: float = WHEN) -> Crl:
    return read_crl(crl.public_bytes(Encoding.DER), [read_certificate(signer.der)], when)


def keys(crl: Crl) -> set[tuple[str, int]]:
    """Common name (folded) and serial number of every entry."""
    return {(str(issuer[-1][0][1]), serial) for issuer, serial in crl.revoked}


def built(change: Callable[[Builder], Builder], issuer: x509.Name = CRL_ISSUER) -> x509.CertificateRevocationList:
    now = datetime.fromtimestamp(WHEN, UTC)
    builder = Builder().issuer_name(issuer).last_update(now).next_update(now)
    return change(builder).sign(LAB.crl_signer.key, hashes.SHA256())


def entry(serial: int, *extensions: tuple[x509.ExtensionType, bool]) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(datetime.fromtimestamp(WHEN, UTC))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.build()


def test_list_of_the_laboratory_is_read() -> None:
    crl = read_crl(LAB.crl.public_bytes(Encoding.PEM), SIGNERS, WHEN)
    assert crl == read_crl(DER, SIGNERS, WHEN)
    assert crl.issuer.text == "CN=STI-PA CRL,O=STI-PA,C=US"
    assert (crl.this_update, crl.next_update, crl.number) == (WHEN - 60.0, WHEN + 90 * DAY, 1)
    assert len(crl.revoked) == 2


def test_entry_holds_the_issuer_of_the_one_before_it() -> None:
    """RFC 5280 5.3.3: an entry without certificateIssuer has that of its predecessor; the first, that of the list."""
    listed = [(CRL_ISSUER, 1), (OURS, 2), (OURS, 3), (OTHERS, 2), (OTHERS, 5)]
    made = make_crl(LAB.crl_signer, listed, WHEN, WHEN + DAY)
    assert sum(len(revoked.extensions) for revoked in made) == 2
    assert keys(read(made)) == {
        ("sti-pa crl", 1),
        ("shaken our ca", 2),
        ("shaken our ca", 3),
        ("shaken other ca", 2),
        ("shaken other ca", 5),
    }


def test_same_serial_number_of_another_issuer_is_not_revoked() -> None:
    other = LAB.foreign_root.issue(signer_draft("1234", WHEN, WHEN + DAY), serial=77)
    ours = LAB.intermediate.issue(signer_draft("1234", WHEN, WHEN + DAY), serial=77)
    crl = read(make_crl(LAB.crl_signer, [(LAB.intermediate.certificate.subject, 77)], WHEN, WHEN + DAY))
    assert crl.revokes(read_certificate(ours.der))
    assert not crl.revokes(read_certificate(other.der))


def test_issuer_in_another_spelling_is_the_same() -> None:
    """The list may write as UTF8String and in capitals what the authority wrote otherwise (RFC 5280 7.1)."""
    ours = LAB.intermediate.issue(signer_draft("1234", WHEN, WHEN + DAY), serial=77)
    spelled = name("shaken  LABORATORY issuing ca", "LABORATORY")
    assert read(make_crl(LAB.crl_signer, [(spelled, 77)], WHEN, WHEN + DAY)).revokes(read_certificate(ours.der))


def test_empty_list_revokes_nobody() -> None:
    assert read(make_crl(LAB.crl_signer, [], WHEN, WHEN + DAY)).revoked == frozenset()


def test_list_past_its_next_update_is_taken_and_says_so() -> None:
    crl = read(make_crl(LAB.crl_signer, [(OURS, 1)], WHEN - 30 * DAY, WHEN - 20 * DAY))
    assert crl.next_update == WHEN - 20 * DAY
    assert crl.revoked


def test_list_of_the_future_is_refused() -> None:
    with pytest.raises(CertificateError, match="of the future"):
        read(make_crl(LAB.crl_signer, [], WHEN + DAY, WHEN + 2 * DAY))


def test_list_of_an_unknown_signer_is_refused() -> None:
    with pytest.raises(CertificateError, match="whose certificate was not given"):
        read(LAB.crl, LAB.pa_root)
    with pytest.raises(CertificateError, match="whose certificate was not given"):
        read_crl(DER, [], WHEN)


def test_list_that_another_key_signed_is_refused() -> None:
    impostor = Holder(LAB.crl_signer.certificate, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(CertificateError, match="is not signed by CN=STI-PA CRL"):
        read(make_crl(impostor, [], WHEN, WHEN + DAY))


def test_signer_whose_key_was_renewed_is_found() -> None:
    renewed = LAB.pa_root.issue(Draft(CRL_ISSUER, WHEN - DAY, WHEN + DAY, usage=key_usage("crl_sign")))
    both = (read_certificate(renewed.der), *SIGNERS)
    assert read_crl(DER, both, WHEN) == read_crl(DER, SIGNERS, WHEN)


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (Draft(CRL_ISSUER, WHEN - DAY, WHEN + DAY, usage=key_usage("digital_signature")), "may not sign CRLs"),
        (Draft(CRL_ISSUER, WHEN - 9 * DAY, WHEN - DAY, usage=key_usage("crl_sign")), "not valid now"),
        (Draft(CRL_ISSUER, WHEN + DAY, WHEN + 9 * DAY, usage=key_usage("crl_sign")), "not valid now"),
    ],
)
def test_signer_that_is_none_is_refused(draft: Draft, reason: str) -> None:
    signer = LAB.pa_root.issue(draft)
    with pytest.raises(CertificateError, match=reason):
        read(make_crl(signer, [], WHEN, WHEN + DAY), signer)


def test_list_of_changes_is_refused() -> None:
    with pytest.raises(CertificateError, match=r"critical extension that is not understood \(2\.5\.29\.27\)"):
        read(built(lambda b: b.add_extension(x509.DeltaCRLIndicator(1), critical=True)))


def test_entry_that_is_not_understood_refuses_the_list() -> None:
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")
    assert read(built(lambda b: b.add_revoked_certificate(entry(5, (odd, False))))).revoked
    with pytest.raises(CertificateError, match="entry with a critical extension"):
        read(built(lambda b: b.add_revoked_certificate(entry(5, (odd, True)))))


@pytest.mark.parametrize(
    "names",
    [
        [x509.DNSName("ca.example.net")],
        [x509.DirectoryName(OURS), x509.DirectoryName(OTHERS)],
    ],
)
def test_entry_whose_issuer_is_not_one_name_refuses_the_list(names: list[x509.GeneralName]) -> None:
    with pytest.raises(CertificateError, match="not one name"):
        read(built(lambda b: b.add_revoked_certificate(entry(5, (x509.CertificateIssuer(names), True)))))


def test_issuer_is_taken_at_its_word_even_if_the_list_is_not_called_indirect() -> None:
    issuer = x509.CertificateIssuer([x509.DirectoryName(OURS), x509.DNSName("ca.example.net")])
    assert keys(read(built(lambda b: b.add_revoked_certificate(entry(5, (issuer, True)))))) == {("shaken our ca", 5)}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "is empty"),
        (b"<html>502</html>", "neither PEM nor DER"),
        (LAB.signer.pem, "neither PEM nor DER of one CRL"),
        (LAB.signer.der, "is no CRL that can be read"),
        (DER[:-1], "is no CRL that can be read"),
        (LAB.crl.public_bytes(Encoding.PEM) * 2, "neither PEM nor DER of one CRL"),
        (b"-----BEGIN X509 CRL-----\nA\n-----END X509 CRL-----", "not base64"),
        (b"\x00" * (CRL_BYTES_MAX + 1), "larger than 16 MiB"),
    ],
)
def test_what_is_no_list_is_refused(document: bytes, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        read_crl(document, SIGNERS, WHEN)


def test_list_of_many_entries_is_read_in_time() -> None:
    authorities = [name(f"SHAKEN Authority {i} CA") for i in range(20)]
    listed = [(authorities[i % 20], 1 + i) for i in range(5000)]
    made = make_crl(LAB.crl_signer, listed, WHEN, WHEN + DAY)
    started = time.perf_counter()
    assert len(read(made).revoked) == 5000
    assert time.perf_counter() - started < 3.0


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(CertificateError):
        read_crl(data, SIGNERS, WHEN)


@given(st.lists(st.tuples(st.integers(0, len(DER) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_list_is_refused_or_the_same(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DER)
    for place, value in changes:
        data[place] = value
    try:
        read_crl(bytes(data), SIGNERS, WHEN)
    except CertificateError:
        assert data != DER
    else:
        assert data == DER


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
def test_openssl_agrees_on_an_indirect_list(tmp_path: Path) -> None:
    """It wants the signer of the list below the same root, so this one is."""
    now = time.time()
    root = self_signed(root_draft("SHAKEN Root CA", now))
    authority = root.issue(intermediate_draft("SHAKEN Issuing CA", now))
    lists = root.issue(Draft(CRL_ISSUER, now - DAY, now + DAY, usage=key_usage("crl_sign"), crl_point=False))
    draft = signer_draft("1234", now - DAY, now + DAY)
    good, bad = authority.issue(draft), authority.issue(replace(draft, subject=name("SHAKEN 1234")))
    listed = [
        (root.certificate.subject, good.certificate.serial_number),
        (authority.certificate.subject, bad.certificate.serial_number),
    ]
    made = make_crl(lists, listed, now - 60, now + DAY)
    crl = read_crl(made.public_bytes(Encoding.DER), [read_certificate(lists.der)], now)
    (tmp_path / "root.pem").write_bytes(root.pem)
    (tmp_path / "others.pem").write_bytes(authority.pem + lists.pem)
    (tmp_path / "crl.pem").write_bytes(made.public_bytes(Encoding.PEM))
    for holder in (good, bad):
        (tmp_path / "leaf.pem").write_bytes(holder.pem)
        options = ["-CAfile", "root.pem", "-untrusted", "others.pem", "-CRLfile", "crl.pem"]
        command = ["openssl", "verify", "-crl_check", "-extended_crl", *options, "leaf.pem"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) is crl.revokes(read_certificate(holder.der)), done.stderr
        assert "certificate revoked" in done.stderr or done.returncode == 0
