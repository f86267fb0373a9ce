"""What is signed is deterministic to the byte, and verifies; what cannot be signed is refused by the claim's name."""

import json
from base64 import urlsafe_b64decode

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.certificate import Certificate, read_chain
from agent.identity.model import Credential, SignalledCall
from agent.identity.replay import ReplayCache
from agent.identity.signing import Signer, _raw
from agent.identity.verification import Verifier, VerifierSettings
from agent.model import ConfigError
from agent.stir.lab_certificates import self_signed, signer_draft

URL = "https://certs.example.net/sti/1234.pem"
ORIGID = "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c"
WHEN = 1_791_987_300
KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
SIGNER = Signer(KEY, URL)

# Constructed beforehand by another program, and verified by it.
HEADER = (
    "eyJhbGciOiJFUzI1NiIsInBwdCI6InNoYWtlbiIsInR5cCI6InBhc3Nwb3J0IiwieDV1IjoiaHR0cHM6Ly9jZXJ0cy5leGFtcGxlLm5ldC9zdGkv"
    "MTIzNC5wZW0ifQ"
)
PAYLOAD = (
    "eyJhdHRlc3QiOiJCIiwiZGVzdCI6eyJ0biI6WyIxMzAzNTU1MDE5OSJdfSwiaWF0IjoxNzkxOTg3MzAwLCJvcmlnIjp7InRuIjoiMTIwMTU1NTAx"
    "MjMifSwib3JpZ2lkIjoiOGY0YzFmNWUtM2YwYS00YTU3LTliMGUtMGM1ZjhkMWEyYjNjIn0"
)
PARAMETERS = ";info=<https://certs.example.net/sti/1234.pem>;alg=ES256;ppt=shaken"


def signed(dest: tuple[str, ...] = ("13035550199",), iat: int = WHEN) -> str:
    return SIGNER.sign("12015550123", dest, "B", ORIGID, iat).decode()


def decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def certificate(
    key: ec.EllipticCurvePrivateKey, not_before: float = WHEN - 10, not_after: float = WHEN + 10
) -> Certificate:
    return read_chain(self_signed(signer_draft("1234", not_before, not_after), key).der).leaf


def test_header_payload_and_parameters_are_the_bytes_of_the_constructed_vector() -> None:
    token, _, parameters = signed().partition(";")
    header, payload, _ = token.split(".")
    assert (header, payload) == (HEADER, PAYLOAD)
    assert f";{parameters}" == PARAMETERS


def test_the_signature_is_r_and_s_over_the_first_two_parts() -> None:
    token = signed().partition(";")[0]
    covered, _, signature = token.rpartition(".")
    raw = decoded(signature)
    assert len(raw) == 64
    assert "=" not in token
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    KEY.public_key().verify(der, covered.encode(), ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        KEY.public_key().verify(der, covered.encode() + b".", ec.ECDSA(SHA256()))


def test_a_diversion_has_its_keys_in_order_and_its_own_type() -> None:
    row = SIGNER.sign_diversion("12015550123", ("13035550142",), "13035550199", WHEN).decode()
    token, _, parameters = row.partition(";")
    header, payload, _ = map(decoded, token.split("."))
    assert json.loads(header) == {"alg": "ES256", "ppt": "div", "typ": "passport", "x5u": URL}
    assert payload == (
        b'{"dest":{"tn":["13035550142"]},"div":{"tn":"13035550199"},"iat":1791987300,"orig":{"tn":"12015550123"}}'
    )
    assert parameters == PARAMETERS[1:].replace("shaken", "div")


@given(
    st.from_regex(r"[0-9*#]{1,32}", fullmatch=True),
    st.lists(st.from_regex(r"[0-9*#]{1,32}", fullmatch=True), min_size=1, max_size=16),
    st.sampled_from("ABC"),
    st.uuids(),
    st.integers(0, 2**53 - 1),
)
def test_what_is_written_is_what_deterministic_json_is(
    orig: str, dest: list[str], attest: str, origid: object, iat: int
) -> None:
    row = SIGNER.sign(orig, tuple(dest), attest, str(origid), iat)
    payload = decoded(row.decode().split(".")[1])
    claims = {"attest": attest, "dest": {"tn": dest}, "iat": iat, "orig": {"tn": orig}, "origid": str(origid)}
    assert payload == json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()


@given(st.integers(1, 2**256 - 1), st.integers(1, 2**256 - 1))
def test_r_and_s_of_any_size_become_64_bytes(r: int, s: int) -> None:
    assert _raw(encode_dss_signature(r, s)) == r.to_bytes(32, "big") + s.to_bytes(32, "big")


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=3), st.text(max_size=40), st.integers())
def test_whatever_else_is_refused_by_name_and_never_written(
    orig: str, dest: str, attest: str, origid: str, iat: int
) -> None:
    with pytest.raises(ValueError, match=r"^(attest|origid|orig|dest|iat): "):
        SIGNER.sign(orig, (dest,), attest, origid, iat)


@pytest.mark.parametrize(
    ("orig", "dest", "attest", "origid", "iat", "claim"),
    [
        ("+12015550123", ("13035550199",), "A", ORIGID, WHEN, "orig"),
        ("12015550123", ("1-303-555-0199",), "A", ORIGID, WHEN, "dest"),
        ("12015550123", ("13035550199\n",), "A", ORIGID, WHEN, "dest"),
        ("12015550123", (), "A", ORIGID, WHEN, "dest"),
        ("12015550123", ("1",) * 17, "A", ORIGID, WHEN, "dest"),
        ("12015550123", ("13035550199",), "D", ORIGID, WHEN, "attest"),
        ("12015550123", ("13035550199",), "a", ORIGID, WHEN, "attest"),
        ("12015550123", ("13035550199",), "A", ORIGID + "0", WHEN, "origid"),
        ("12015550123", ("13035550199",), "A", "x", WHEN, "origid"),
        ("12015550123", ("13035550199",), "A", ORIGID, -1, "iat"),
        ("12015550123", ("13035550199",), "A", ORIGID, 2**53, "iat"),
        ("١٢٣", ("13035550199",), "A", ORIGID, WHEN, "orig"),
    ],
)
def test_a_claim_that_cannot_be_signed_is_named(
    orig: str, dest: tuple[str, ...], attest: str, origid: str, iat: int, claim: str
) -> None:
    with pytest.raises(ValueError, match=f"^{claim}: "):
        SIGNER.sign(orig, dest, attest, origid, iat)


def test_a_key_of_another_curve_cannot_sign() -> None:
    with pytest.raises(ConfigError, match="secp384r1; ES256 signs with P-256") as caught:
        Signer(ec.generate_private_key(ec.SECP384R1()), URL)
    assert caught.value.field == "key"


@pytest.mark.parametrize(
    "url", ["http://certs.example.net/1.pem", "https://certs.example.net:9000/1", "", "https://a/>"]
)
def test_a_url_that_no_verifier_may_fetch_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Signer(KEY, url)
    assert caught.value.field == "x5u"


def test_the_certificate_must_be_that_of_the_key_and_bounds_when_may_be_signed() -> None:
    with pytest.raises(ConfigError, match="is of another key"):
        Signer(KEY, URL, certificate(ec.generate_private_key(ec.SECP256R1())))
    signer = Signer(KEY, URL, certificate(KEY))
    assert [signer.valid_at(WHEN + n) for n in (-10.5, -10, 0, 10, 10.5)] == [False, True, True, True, False]
    assert SIGNER.valid_at(0)


CREDENTIAL = Credential(KEY.public_key(), "1234", "CN=Test", WHEN - 10, WHEN + 10, "ab" * 32)


def verified(rows: list[bytes], called: str, to: str) -> tuple[object, str, str]:
    verifier = Verifier(VerifierSettings(), ReplayCache())
    claimed = verifier.read(rows)
    call = SignalledCall(("12015550123",), called, to, b"1@a.example", b"t")
    found = verifier.judge(claimed, dict.fromkeys(claimed.urls, CREDENTIAL), call, float(WHEN))
    return found.failure, found.attestation, found.origid


def test_what_we_sign_our_strict_verifier_accepts() -> None:
    rows = [signed().encode()]
    assert verified(rows, "13035550199", "13035550199") == (None, "B", ORIGID)
    assert verified(rows, "13035550142", "13035550142")[0] is not None


def test_a_diversion_of_ours_leads_the_verifier_to_the_new_destination() -> None:
    div = SIGNER.sign_diversion("12015550123", ("13035550142",), "13035550199", WHEN)
    assert verified([signed().encode(), div], "13035550142", "13035550142") == (None, "B", ORIGID)
    assert verified([div, signed().encode()], "13035550143", "13035550143")[0] is not None
