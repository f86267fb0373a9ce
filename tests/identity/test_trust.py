"""What a chain is worth: paths to anchors, revocation, and what a certificate of SHAKEN must be."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.certificate import TN_AUTH_LIST, Chain, read_anchors, read_certificate, read_chain
from agent.identity.constraints import ClaimConstraints
from agent.identity.crl import Crl, read_crl
from agent.identity.model import Credential
from agent.identity.paths import PATH_MAX, SIGNATURES_MAX
from agent.identity.tnauthlist import NumberRange, TnAuthList
from agent.identity.trust import TrustStore, refused
from agent.stir.lab import make_crl, make_laboratory
from agent.stir.lab_certificates import (
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
)

WHEN = 1_795_000_000.0  # 2026-11-18
LAB = make_laboratory("1234", WHEN, 90 * DAY)
SIGNER = signer_draft("1234", WHEN - DAY, WHEN + 90 * DAY)


def chain(*holders: Holder) -> Chain:
    return read_chain(b"".join(holder.pem for holder in holders))


def store(*anchors: Holder, crls: tuple[Crl, ...] = (), known: tuple[Holder, ...] = ()) -> TrustStore:
    return TrustStore(
        tuple(read_certificate(anchor.der) for anchor in anchors),
        crls,
        intermediates=tuple(read_certificate(holder.der) for holder in known),
    )


def assess(*holders: Holder, anchors: tuple[Holder, ...] = (LAB.root,), when: float = WHEN) -> Credential:
    return store(*anchors).assess(chain(*holders), when)


def signer(change: Callable[[Draft], Draft]) -> Credential:
    return assess(LAB.intermediate.issue(change(SIGNER)), LAB.intermediate)


def crl() -> Crl:
    return read_crl(LAB.crl.public_bytes(Encoding.PEM), read_anchors(LAB.crl_signer.pem), WHEN)


def test_good_chain_is_a_credential() -> None:
    credential = assess(LAB.signer, LAB.intermediate)
    assert credential.fault == ""
    assert credential.spc == "1234"
    assert credential.issuer == "CN=SHAKEN Laboratory Issuing CA,O=Laboratory,C=US"
    assert credential.public_key == LAB.signer.key.public_key()
    assert (credential.not_before, credential.not_after) == (WHEN - DAY, WHEN + 90 * DAY)
    assert credential.sha256 == LAB.signer.certificate.fingerprint(hashes.SHA256()).hex()


def test_chain_of_a_root_and_a_signer_is_good() -> None:
    assert assess(LAB.root.issue(SIGNER)).fault == ""


def test_order_of_all_but_the_signer_does_not_count() -> None:
    lower = self_signed(root_draft("SHAKEN Other Root", WHEN))
    assert assess(LAB.signer, lower, LAB.root, LAB.intermediate).fault == ""


def test_chain_that_begins_with_an_authority_is_refused() -> None:
    assert "that of an authority" in assess(LAB.intermediate, LAB.signer).fault


def test_signer_alone_needs_an_authority_that_is_known() -> None:
    assert assess(LAB.signer).fault == f"no anchor of trust vouches for its issuer, {issuer_text()}"
    known = store(LAB.root, known=(LAB.intermediate,))
    assert known.assess(chain(LAB.signer), WHEN).fault == ""


def issuer_text() -> str:
    return read_certificate(LAB.intermediate.der).subject.text


def test_foreign_authority_is_refused() -> None:
    credential = assess(LAB.foreign, LAB.foreign_root)
    assert "no anchor of trust" in credential.fault
    assert credential.spc == "1234"  # said, not vouched for


def test_nobody_is_trusted_without_anchors() -> None:
    assert assess(LAB.signer, LAB.intermediate, LAB.root, anchors=()).fault != ""


def test_root_of_the_same_name_with_another_key_is_refused() -> None:
    impostor = self_signed(root_draft("SHAKEN Laboratory Root CA", WHEN))
    assert assess(LAB.signer, LAB.intermediate, anchors=(impostor,)).fault != ""


def test_earlier_key_of_the_same_authority_did_not_sign() -> None:
    """Two certificates of one name are told apart by their key identifiers, before any signature is verified."""
    earlier = LAB.root.issue(intermediate_draft("SHAKEN Laboratory Issuing CA", WHEN))
    assert "no anchor of trust" in assess(LAB.signer, earlier).fault
    assert assess(LAB.signer, earlier, LAB.intermediate).fault == ""


def test_changed_signature_is_refused() -> None:
    der = bytearray(LAB.signer.der)
    der[-1] ^= 1
    changed = Chain((read_certificate(bytes(der)), read_certificate(LAB.intermediate.der)))
    fault = store(LAB.root).assess(changed, WHEN).fault
    assert fault == f"{issuer_text()} did not sign CN=SHAKEN 1234,O=Example Telephone,C=US"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda d: replace(d, basic=x509.BasicConstraints(ca=True, path_length=None)), "that of an authority"),
        (lambda d: replace(d, usage=key_usage("key_encipherment")), "key usage does not allow digital signatures"),
        (lambda d: replace(d, tn_auth_list=None), "it has no TNAuthList"),
        (lambda d: replace(d, tn_auth_list=TnAuthList(("1234", "5678"))), "2 service provider codes and 0 numbers"),
        (
            lambda d: replace(d, tn_auth_list=TnAuthList(numbers=(NumberRange("12015550123"),))),
            "0 service provider codes and 1 numbers",
        ),
        (
            lambda d: replace(d, tn_auth_list=TnAuthList(("1234",), (NumberRange("12015550123"),))),
            "1 service provider codes and 1 numbers",
        ),
        (lambda d: replace(d, tn_auth_list=b"\x30\x00"), "its TNAuthList is empty"),
        (
            lambda d: replace(d, others=((x509.NameConstraints([x509.DNSName("example.net")], None), True),)),
            "critical extension that is not understood (2.5.29.30)",
        ),
        (
            lambda d: replace(
                d, others=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), True),)
            ),
            "critical extension that is not understood (1.2.3)",
        ),
    ],
)
def test_signer_that_is_none_is_refused(change: Callable[[Draft], Draft], fault: str) -> None:
    assert fault in signer(change).fault


@pytest.mark.parametrize(
    "change",
    [
        lambda d: replace(d, tn_auth_list_critical=True),  # some authorities do
        lambda d: replace(d, usage=None),  # RFC 5280 4.2.1.3: any use
        lambda d: replace(d, basic=None),
        lambda d: replace(d, policy=False, crl_point=False),
        lambda d: replace(d, usage=key_usage("digital_signature", "content_commitment", "key_encipherment")),
        lambda d: replace(d, others=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), False),)),
    ],
)
def test_signer_beside_the_profile_is_taken(change: Callable[[Draft], Draft]) -> None:
    assert signer(change).fault == ""


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256K1())])
def test_key_of_another_curve_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    credential = assess(LAB.intermediate.issue(SIGNER, key=key), LAB.intermediate)
    assert credential.fault == "its key is not of P-256, which ES256 needs"
    assert credential.public_key is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda d: replace(d, basic=x509.BasicConstraints(ca=False, path_length=None)), "is no authority"),
        (lambda d: replace(d, basic=None), "is no authority"),
        (lambda d: replace(d, usage=key_usage("digital_signature")), "may not sign certificates"),
        (lambda d: replace(d, others=((x509.PolicyConstraints(0, None), True),)), "is not understood (2.5.29.36)"),
        (lambda d: replace(d, tn_auth_list=b"\x30\x00"), "is faulty: its TNAuthList is empty"),
    ],
)
def test_authority_that_is_none_is_refused(change: Callable[[Draft], Draft], fault: str) -> None:
    authority = LAB.root.issue(change(intermediate_draft("SHAKEN Laboratory Issuing CA", WHEN)))
    assert fault in assess(authority.issue(SIGNER), authority).fault


def test_signer_certifies_nobody() -> None:
    """A service provider's certificate is no authority, whatever it signs."""
    victim = signer_draft("9999", WHEN - DAY, WHEN + DAY)
    assert "is no authority" in assess(LAB.signer.issue(victim), LAB.signer, LAB.intermediate).fault


def test_path_length_is_kept() -> None:
    below = LAB.intermediate.issue(intermediate_draft("SHAKEN Lower CA", WHEN))  # the intermediate allows none
    fault = assess(below.issue(SIGNER), below, LAB.intermediate).fault
    assert fault == f"its issuer, {issuer_text()}, may have 0 authorities below it, and has 1"


def test_path_length_counts_no_certificate_that_names_itself() -> None:
    """RFC 5280 6.1.4 l: an authority that renewed its own key is one authority."""
    draft = replace(intermediate_draft("SHAKEN One CA", WHEN), basic=x509.BasicConstraints(ca=True, path_length=0))
    old = LAB.root.issue(draft)
    new = old.issue(draft)
    assert assess(new.issue(SIGNER), new, old).fault == ""


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
        (ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()),
    ],
)
def test_stronger_authorities_are_taken(
    key: ec.EllipticCurvePrivateKey, algorithm: hashes.SHA384 | hashes.SHA512
) -> None:
    root = self_signed(root_draft("SHAKEN Strong Root", WHEN), key)
    assert assess(root.issue(SIGNER, algorithm=algorithm), anchors=(root,)).fault == ""


def test_authority_of_an_unusual_curve_is_refused() -> None:
    root = self_signed(root_draft("SHAKEN Odd Root", WHEN), ec.generate_private_key(ec.SECP256K1()))
    assert "did not sign" in assess(root.issue(SIGNER), anchors=(root,)).fault


def issued_by_rsa(bits: int) -> tuple[bytes, bytes]:
    """A root with an RSA key of so many bits, and a signer that it issued."""
    key = rsa.generate_private_key(65537, bits)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(name("SHAKEN RSA Root"))
        .serial_number(x509.random_serial_number())
        .not_valid_before(LAB.root.certificate.not_valid_before_utc)
        .not_valid_after(LAB.root.certificate.not_valid_after_utc)
    )
    root = builder.subject_name(name("SHAKEN RSA Root")).public_key(key.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    leaf = builder.subject_name(name("SHAKEN 1234")).public_key(LAB.signer.key.public_key())
    held = x509.UnrecognizedExtension(TN_AUTH_LIST, TnAuthList(("1234",)).encode())
    leaf = leaf.add_extension(held, critical=False)
    made, signed = (draft.sign(key, hashes.SHA256()).public_bytes(Encoding.DER) for draft in (root, leaf))
    return made, signed


@pytest.mark.parametrize(("bits", "fault"), [(2048, ""), (1024, "did not sign")])
def test_authority_of_rsa_is_taken_unless_it_is_weak(bits: int, fault: str) -> None:
    """The list of the STI-PA has one of 2048 bits."""
    root, leaf = issued_by_rsa(bits)
    found = TrustStore((read_certificate(root),)).assess(read_chain(leaf), WHEN).fault
    assert found == fault or (fault and fault in found)


def test_validity_is_what_all_certificates_have_in_common() -> None:
    root = self_signed(replace(root_draft("SHAKEN Short Root", WHEN), not_after=WHEN + DAY))
    credential = assess(root.issue(SIGNER), anchors=(root,))
    assert credential.fault == ""
    assert (credential.not_before, credential.not_after) == (WHEN - DAY, WHEN + DAY)


def test_expired_certificate_is_no_fault_and_carries_its_end() -> None:
    credential = assess(LAB.expired, LAB.intermediate)
    assert credential.fault == ""
    assert credential.not_after == WHEN - 30 * DAY


def test_expired_anchor_ends_the_credential() -> None:
    root = self_signed(replace(root_draft("SHAKEN Old Root", WHEN - 20 * YEAR), not_before=WHEN - 30 * YEAR))
    assert assess(root.issue(SIGNER), anchors=(root,)).not_after < WHEN


def test_of_two_anchors_of_one_key_the_valid_one_is_taken() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    draft = root_draft("SHAKEN Renewed Root", WHEN)
    old = self_signed(replace(draft, not_after=WHEN - DAY), key)
    new = self_signed(draft, key)
    leaf = new.issue(SIGNER)
    for anchors in ((old, new), (new, old)):
        assert assess(leaf, anchors=anchors).not_after == WHEN + 90 * DAY
        assert assess(leaf, anchors=anchors, when=WHEN - 2 * DAY).fault == ""


def test_of_two_paths_the_one_that_is_not_revoked_is_taken() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    draft = intermediate_draft("SHAKEN Cross CA", WHEN)
    first, second = LAB.root.issue(draft, key), LAB.root.issue(draft, key)
    listed = make_crl(
        LAB.crl_signer, [(LAB.root.certificate.subject, first.certificate.serial_number)], WHEN, WHEN + DAY
    )
    revoked = read_crl(listed.public_bytes(Encoding.DER), read_anchors(LAB.crl_signer.pem), WHEN)
    leaf = first.issue(SIGNER)
    for order in ((first, second), (second, first)):
        assert store(LAB.root, crls=(revoked,)).assess(chain(leaf, *order), WHEN).fault == ""
    assert "its issuer, CN=SHAKEN Cross CA" in store(LAB.root, crls=(revoked,)).assess(chain(leaf, first), WHEN).fault


def test_revoked_signer_is_refused() -> None:
    trusted = store(LAB.root, crls=(crl(),))
    fault = trusted.assess(chain(LAB.revoked, LAB.intermediate), WHEN).fault
    assert fault.startswith("it was revoked (serial ")
    assert fault.endswith(", list of CN=STI-PA CRL,O=STI-PA,C=US)")


def test_serial_number_revoked_for_another_authority_is_good() -> None:
    """The laboratory's list names the good signer's serial number as one of another authority."""
    listed = crl()
    assert LAB.signer.certificate.serial_number in {serial for _, serial in listed.revoked}
    assert store(LAB.root, crls=(listed,)).assess(chain(LAB.signer, LAB.intermediate), WHEN).fault == ""


def test_anchor_that_was_revoked_vouches_for_nobody() -> None:
    root = LAB.root.certificate
    listed = make_crl(LAB.crl_signer, [(root.subject, root.serial_number)], WHEN, WHEN + DAY)
    revoked = read_crl(listed.public_bytes(Encoding.DER), read_anchors(LAB.crl_signer.pem), WHEN)
    assert "was revoked" in store(LAB.root, crls=(revoked,)).assess(chain(LAB.signer, LAB.intermediate), WHEN).fault


def test_old_list_still_revokes() -> None:
    trusted = store(LAB.root, crls=(crl(),))
    assert "revoked" in trusted.assess(chain(LAB.revoked, LAB.intermediate), WHEN + 1000 * DAY).fault


def delegate(held: TnAuthList | None, below: TnAuthList | None, *, between: bool = False) -> Credential:
    draft = replace(
        intermediate_draft("SHAKEN Delegating Provider", WHEN),
        tn_auth_list=held,
        basic=x509.BasicConstraints(ca=True, path_length=None),
    )
    parent = LAB.root.issue(draft)
    path = [parent]
    if between:  # an authority that leaves the list out, to get out of it
        path.insert(0, parent.issue(intermediate_draft("SHAKEN Lower CA", WHEN)))
    return assess(path[0].issue(replace(SIGNER, tn_auth_list=below)), *path)


def test_delegate_certificate_inside_its_issuers_list_is_good() -> None:
    assert delegate(TnAuthList(("1234", "5678")), TnAuthList(("1234",))).fault == ""


@pytest.mark.parametrize("held", [TnAuthList(("5678",)), TnAuthList(numbers=(NumberRange("12015550100", 100),))])
def test_delegate_certificate_for_more_than_its_issuer_has_is_refused(held: TnAuthList) -> None:
    assert "speaks for more than its issuer does" in delegate(held, TnAuthList(("1234",))).fault


def test_list_is_not_escaped_by_an_authority_without_one() -> None:
    assert (
        "speaks for more than its issuer does"
        in delegate(TnAuthList(("1234",)), TnAuthList(("1234",)), between=True).fault
    )


def test_constraints_of_the_whole_path_bind() -> None:
    parent = LAB.root.issue(
        replace(intermediate_draft("SHAKEN Strict CA", WHEN), constraints=ClaimConstraints(excluded=("rcd",)))
    )
    ours = ClaimConstraints(("attest",), (("attest", ("A",)),))
    credential = assess(parent.issue(replace(SIGNER, constraints=ours)), parent)
    assert credential.fault == ""
    assert credential.mandatory == ("attest",)
    assert credential.permitted == (("attest", ("A",)),)
    assert credential.excluded == ("rcd",)


def test_loop_of_authorities_ends() -> None:
    one = self_signed(root_draft("SHAKEN Loop", WHEN))
    two = one.issue(root_draft("SHAKEN Loop", WHEN))
    three = two.issue(root_draft("SHAKEN Loop", WHEN), key=one.key)
    assert "no anchor of trust" in assess(two.issue(SIGNER), one, two, three).fault


def test_path_has_an_end() -> None:
    holders = [LAB.root]
    for i in range(PATH_MAX - 2):
        draft = replace(root_draft(f"SHAKEN Level {i} CA", WHEN), not_after=WHEN + 5 * YEAR)
        holders.append(holders[-1].issue(draft))
    assert assess(holders[-1].issue(SIGNER), *reversed(holders[1:])).fault == ""
    holders.append(holders[-1].issue(root_draft("SHAKEN Too Low CA", WHEN)))
    assert assess(holders[-1].issue(SIGNER), *reversed(holders[1:])).fault != ""


def test_dozens_of_authorities_of_one_name_cost_a_bounded_time() -> None:
    """Each could have issued for each; without a bound the number of paths is factorial."""
    key = ec.generate_private_key(ec.SECP256R1())
    draft = replace(root_draft("SHAKEN Same CA", WHEN), usage=None)
    same = [self_signed(draft, key) for _ in range(9)]
    document = same[0].issue(SIGNER).pem + b"".join(holder.pem for holder in same)
    started = time.perf_counter()
    fault = store(LAB.root).assess(read_chain(document), WHEN).fault
    assert time.perf_counter() - started < 0.5
    assert f"more than {SIGNATURES_MAX} signatures" in fault


def test_document_that_is_no_chain_has_a_credential_that_says_so() -> None:
    assert refused("is empty") == Credential(None, "", "", 0.0, 0.0, "", "is empty")
