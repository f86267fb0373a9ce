"""The trust list of a policy administrator: signed by whom, how new, and never empty."""

import base64
import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.certificate import CertificateError, read_anchors, read_certificate
from agent.identity.trust_list import TRUST_LIST_BYTES_MAX, TrustList, read_trust_list, signer_url
from agent.stir.lab import make_laboratory, make_trust_list, sign_jws
from agent.stir.lab_certificates import DAY, YEAR, Draft, intermediate_draft, name, root_draft, self_signed

WHEN = 1_795_000_000.0  # 2026-11-18
LAB = make_laboratory("1234", WHEN, 90 * DAY)
ROOTS = read_anchors(LAB.pa_root.pem)
SIGNERS = read_anchors(LAB.pa_signer.pem)
HEADER: dict[str, Any] = {"alg": "ES256", "typ": "JWT", "x5u": "https://sti-pa.example.net/pa.pem"}
PAYLOAD: dict[str, Any] = {
    "version": "1.0",
    "sequence": 7,
    "exp": int(WHEN + DAY),
    "trustList": [LAB.root.pem.decode()],
    "extensions": {},
}


def read(payload: dict[str, Any] = PAYLOAD, header: dict[str, Any] = HEADER, lowest: int = 0) -> TrustList:
    return read_trust_list(sign_jws(header, payload, LAB.pa_signer.key), ROOTS, WHEN, lowest, signers=SIGNERS)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in PAYLOAD.items() if key != name}


def test_list_of_the_laboratory_is_read() -> None:
    found = read_trust_list(LAB.trust_list, ROOTS, WHEN)
    assert [anchor.sha256 for anchor in found.anchors] == [read_certificate(LAB.root.der).sha256]
    assert (found.sequence, found.expires, found.unread) == (1, WHEN + 90 * DAY, ())


def test_answer_of_the_administrators_api_is_unwrapped() -> None:
    answer = json.dumps({"status": "success", "message": "CA list", "caList": LAB.trust_list.decode()}).encode()
    assert read_trust_list(answer, ROOTS, WHEN) == read_trust_list(LAB.trust_list, ROOTS, WHEN)


def test_signer_may_be_the_root_itself() -> None:
    assert read_trust_list(sign_jws(HEADER, PAYLOAD, LAB.pa_root.key), ROOTS, WHEN).sequence == 7


def test_signer_may_be_fetched_from_x5u() -> None:
    token = sign_jws(HEADER, PAYLOAD, LAB.pa_signer.key)
    assert signer_url(token) == "https://sti-pa.example.net/pa.pem"
    with pytest.raises(CertificateError, match="not signed by the policy administrator"):
        read_trust_list(token, ROOTS, WHEN)
    assert read_trust_list(token, ROOTS, WHEN, signers=SIGNERS).sequence == 7


def test_list_without_x5u_names_no_url() -> None:
    assert signer_url(LAB.trust_list) == ""


def test_signer_of_another_administrator_is_refused() -> None:
    with pytest.raises(CertificateError, match="but no anchor of trust vouches for its issuer"):
        read_trust_list(LAB.trust_list, read_anchors(LAB.root.pem), WHEN)


def test_certificate_that_anybody_may_have_signs_no_list() -> None:
    """The signer of calls has a key below the list's own anchors, not below the administrator's."""
    token = make_trust_list(LAB.signer, [LAB.root.pem], 9, WHEN + DAY)
    with pytest.raises(CertificateError, match="no anchor of trust"):
        read_trust_list(token, ROOTS, WHEN)


def test_signer_of_the_revocation_list_signs_no_trust_list() -> None:
    with pytest.raises(CertificateError, match="may not sign documents"):
        read_trust_list(make_trust_list(LAB.crl_signer, [LAB.root.pem], 9, WHEN + DAY), ROOTS, WHEN)


def test_list_of_nobody_is_refused() -> None:
    with pytest.raises(CertificateError, match="not signed by the policy administrator"):
        read_trust_list(sign_jws(HEADER, PAYLOAD, ec.generate_private_key(ec.SECP256R1())), ROOTS, WHEN)
    with pytest.raises(CertificateError, match="not signed"):
        read_trust_list(sign_jws(HEADER, PAYLOAD, LAB.pa_root.key), (), WHEN)


@pytest.mark.parametrize("shift", [-30 * DAY, 6 * 365 * DAY])
def test_signer_that_is_not_valid_now_is_refused(shift: float) -> None:
    with pytest.raises(CertificateError, match="not valid now"):
        read_trust_list(LAB.trust_list, ROOTS, WHEN + shift, expired_too=True)


def test_root_that_expired_signs_no_list_any_more() -> None:
    token = sign_jws(HEADER, PAYLOAD, LAB.pa_root.key)
    with pytest.raises(CertificateError, match="a certificate that is not valid now, CN=STI-PA Laboratory Root"):
        read_trust_list(token, ROOTS, WHEN + 20 * YEAR, expired_too=True)


def test_signer_below_a_root_that_expired_is_refused() -> None:
    root = self_signed(replace(root_draft("STI-PA Old Root", WHEN), not_after=WHEN - DAY))
    signer = root.issue(Draft(name("STI-PA List"), WHEN - DAY, WHEN + DAY))
    token = make_trust_list(signer, [LAB.root.pem], 9, WHEN + DAY)
    with pytest.raises(CertificateError, match="whose issuer is not valid now"):
        read_trust_list(token, read_anchors(root.pem), WHEN)


def test_changed_payload_is_refused() -> None:
    header, payload, signature = LAB.trust_list.split(b".")
    raw = base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))
    forged = base64.urlsafe_b64encode(raw.replace(b'"sequence":1', b'"sequence":2')).rstrip(b"=")
    with pytest.raises(CertificateError, match="not signed"):
        read_trust_list(b".".join((header, forged, signature)), ROOTS, WHEN)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({**HEADER, "alg": "none"}, "not signed with ES256"),
        ({**HEADER, "alg": "HS256"}, "not signed with ES256"),
        ({"typ": "JWT"}, "not signed with ES256"),
        ({**HEADER, "crit": ["b64"], "b64": False}, "crit header"),
        ({**HEADER, "x5c": "MII"}, "x5c that is none"),
        ({**HEADER, "x5c": ["!"]}, "PEM block"),
        ({**HEADER, "x5c": [5]}, "PEM block"),
        ({**HEADER, "x5c": ["AA=="] * 6}, "x5c that is none"),
    ],
)
def test_header_that_is_none_of_ours_is_refused(header: dict[str, Any], reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        read(header=header)


def test_sequence_may_stay_and_not_fall() -> None:
    assert read(lowest=7).sequence == 7
    with pytest.raises(CertificateError, match="has sequence 7, and 8 was seen before"):
        read(lowest=8)


def test_expired_list_is_refused_unless_it_is_the_one_we_kept() -> None:
    token = make_trust_list(LAB.pa_signer, [LAB.root.pem], 3, WHEN - 1)
    with pytest.raises(CertificateError, match="expired at"):
        read_trust_list(token, ROOTS, WHEN)
    assert read_trust_list(token, ROOTS, WHEN, expired_too=True).expires == WHEN - 1


def test_list_without_expiry_is_taken() -> None:
    assert read(without("exp")).expires is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (without("sequence"), "has no sequence"),
        ({**PAYLOAD, "sequence": "7"}, "sequence that is no integer"),
        ({**PAYLOAD, "sequence": True}, "sequence that is no integer"),
        ({**PAYLOAD, "sequence": -1}, "sequence that is no integer"),
        ({**PAYLOAD, "sequence": 7.5}, "sequence that is no integer"),
        ({**PAYLOAD, "exp": 10**400}, "exp that is no integer"),
        ({**PAYLOAD, "exp": "soon"}, "exp that is no integer"),
        (without("trustList"), "has no trustList"),
        ({**PAYLOAD, "trustList": LAB.root.pem.decode()}, "has no trustList"),
        ({**PAYLOAD, "trustList": []}, "an empty list trusts nobody"),
        ({**PAYLOAD, "trustList": ["", 5, "-----BEGIN CERTIFICATE-----"]}, "an empty list trusts nobody"),
        ({**PAYLOAD, "trustList": [""] * 1001}, "more than 1000"),
    ],
)
def test_payload_that_is_no_list_is_refused(payload: dict[str, Any], reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        read(payload)


def test_entry_that_cannot_be_read_costs_nobody_else_his_trust() -> None:
    listed = ["no certificate", LAB.root.pem.decode(), LAB.foreign_root.pem.decode(), LAB.root.pem.decode()]
    found = read({**PAYLOAD, "trustList": listed})
    assert len(found.anchors) == 2
    assert found.unread == ("trustList[0] is neither PEM nor DER of a certificate",)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "is no JWS"),
        (b"<html>", "is no JWS"),
        (b"a.b", "no JWS of ours"),
        (b"{}", "has no caList"),
        (b'{"caList": 5}', "has no caList"),
        (b'{"caList": "\xc3\xa9"}', "has no caList"),
        (b"{", "is no JSON"),
        (b'{"a":' * 100_000, "is no JSON"),
        (LAB.trust_list + b"=", "is no JWS"),
        (b"." * TRUST_LIST_BYTES_MAX, "no JWS of ours"),
        (b"A" * (TRUST_LIST_BYTES_MAX + 1), "larger than 4 MiB"),
    ],
)
def test_what_is_no_list_is_refused(document: bytes, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        read_trust_list(document, ROOTS, WHEN)
    with pytest.raises(CertificateError, match=reason):
        signer_url(document)


def test_same_key_twice_is_refused() -> None:
    payload = json.dumps(PAYLOAD)[:-1] + ', "sequence": 99}'
    token = sign_jws(HEADER, PAYLOAD, LAB.pa_signer.key).split(b".")
    token[1] = base64.urlsafe_b64encode(payload.encode()).rstrip(b"=")
    with pytest.raises(CertificateError, match="same key twice"):
        read_trust_list(b".".join(token), ROOTS, WHEN)


def test_signer_below_an_intermediate_of_the_administrator_is_found() -> None:
    between = LAB.pa_root.issue(intermediate_draft("STI-PA Issuing", WHEN))
    signer = between.issue(Draft(name("STI-PA List"), WHEN - DAY, WHEN + DAY))
    token = sign_jws(HEADER, PAYLOAD, signer.key)
    both = [read_certificate(holder.der) for holder in (signer, between)]
    assert read_trust_list(token, ROOTS, WHEN, signers=both).sequence == 7
    with pytest.raises(CertificateError, match="no anchor of trust"):
        read_trust_list(token, ROOTS, WHEN, signers=both[:1])


def test_signature_of_another_curve_is_refused() -> None:
    """ES256 is P-256 (RFC 7518 3.4); a signer of P-384 is not even asked."""
    key = ec.generate_private_key(ec.SECP384R1())
    signer = LAB.pa_root.issue(Draft(name("STI-PA Strong"), WHEN - DAY, WHEN + DAY), key=key)
    token = sign_jws(HEADER, PAYLOAD, LAB.pa_signer.key)
    with pytest.raises(CertificateError, match="not signed"):
        read_trust_list(token, ROOTS, WHEN, signers=[read_certificate(signer.der)])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(document: bytes) -> None:
    with contextlib.suppress(CertificateError):
        read_trust_list(document, ROOTS, WHEN)


@given(st.integers(0, len(LAB.trust_list) - 1), st.integers(0, 255))
def test_changed_list_is_refused(place: int, value: int) -> None:
    document = bytearray(LAB.trust_list)
    document[place] = value
    if bytes(document) != LAB.trust_list and bytes(document).strip() != LAB.trust_list:
        with pytest.raises(CertificateError):
            read_trust_list(bytes(document), ROOTS, WHEN)
