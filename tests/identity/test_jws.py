"""Tokens as received: strict base64url, JSON that reads one way only, raw signatures; published vectors."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.jws import der_signature, read_jws, verify_es256
from agent.model import ParseError
from tests.identity.tokens import (
    CLAIMS,
    HEADER,
    KEY,
    OTHER_KEY,
    VECTOR_KEY,
    VECTOR_TOKEN,
    base64url,
    compact,
    raw_signature,
    sign_parts,
    token,
)


def public_key(path: Path) -> EllipticCurvePublicKey:
    pem = path.read_bytes()
    if b"CERTIFICATE" in pem:
        key: Any = load_pem_x509_certificate(pem).public_key()
    elif b"PRIVATE" in pem:
        key = load_pem_private_key(pem, None).public_key()
    else:
        key = load_pem_public_key(pem)
    assert isinstance(key, EllipticCurvePublicKey)
    return key


def test_every_published_token_verifies_or_not_as_computed(shared_data: Path) -> None:
    folder = shared_data / "stir" / "token-vectors"
    vectors = json.loads((folder / "vectors.json").read_text(encoding="utf-8"))["vectors"]
    assert vectors
    for vector in vectors:
        jws = read_jws(vector["token"].encode())
        assert jws.header == vector["header"]
        assert jws.payload == vector["payload"]
        for key in vector["keys"]:
            verified = verify_es256(public_key(folder / key["file"]), jws.signed, jws.signature)
            assert verified is vector["signature_verifies"], vector["found_in"]


def test_constructed_vector_verifies_over_the_bytes_as_received() -> None:
    jws = read_jws(VECTOR_TOKEN)
    assert isinstance(VECTOR_KEY, EllipticCurvePublicKey)
    assert verify_es256(VECTOR_KEY, jws.signed, jws.signature)
    assert jws.signed == VECTOR_TOKEN.rpartition(b".")[0]
    assert jws.header == HEADER
    assert jws.payload == CLAIMS


def test_token_that_is_not_canonical_json_verifies_as_it_was_signed() -> None:
    payload = b'{ "orig" : {"tn":"12015550123"},\r\n "iat":1 }\n'
    jws = read_jws(sign_parts(b' {"alg":"ES256"} ', payload))
    assert verify_es256(KEY.public_key(), jws.signed, jws.signature)
    assert jws.payload == {"orig": {"tn": "12015550123"}, "iat": 1}


def test_other_key_and_every_flipped_bit_are_refused() -> None:
    jws = read_jws(token())
    assert not verify_es256(OTHER_KEY.public_key(), jws.signed, jws.signature)
    for bit in range(0, 512, 7):
        flipped = bytearray(jws.signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not verify_es256(KEY.public_key(), jws.signed, bytes(flipped))


@pytest.mark.parametrize("signature", [bytes(64), bytes(32) + b"\1" * 32, b"\xff" * 64, b"\1" * 32 + bytes(32)])
def test_signature_of_numbers_out_of_range_is_refused(signature: bytes) -> None:
    assert not verify_es256(KEY.public_key(), b"anything", signature)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_der_by_hand_is_that_of_the_library(r: bytes, s: bytes) -> None:
    expected = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    assert der_signature(r + s) == expected


@given(st.integers(0, 32), st.integers(0, 255), st.integers(0, 255))
def test_der_by_hand_of_short_numbers_is_that_of_the_library(zeros: int, first: int, fill: int) -> None:
    r = (bytes(zeros) + bytes([first]) + bytes([fill]) * 32)[:32]
    expected = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(r, "big"))
    assert der_signature(r + r) == expected


HEAD, BODY, SIGNATURE = VECTOR_TOKEN.split(b".")


def refused(part: bytes) -> tuple[str, str]:
    with pytest.raises(ParseError) as caught:
        read_jws(part)
    return caught.value.place, caught.value.reason


@pytest.mark.parametrize(
    ("broken", "place", "reason"),
    [
        (b"", "token", "1 parts"),
        (HEAD + b"." + BODY, "token", "2 parts"),
        (VECTOR_TOKEN + b".", "token", "4 parts"),
        (VECTOR_TOKEN + b"." + SIGNATURE, "token", "4 parts"),
        (b"." + BODY + b"." + SIGNATURE, "JWS header", "empty"),
        (HEAD + b".." + SIGNATURE, "JWS payload", "empty"),
        (HEAD + b"." + BODY + b".", "signature", "empty"),
        (HEAD + b"==." + BODY + b"." + SIGNATURE, "JWS header", "padding"),
        (HEAD + b"." + BODY + b"=." + SIGNATURE, "JWS payload", "padding"),
        (VECTOR_TOKEN + b"==", "signature", "padding"),
        (HEAD + b"." + BODY + b"." + SIGNATURE.replace(b"-", b"+"), "signature", "not base64url"),
        (HEAD + b"." + BODY + b"." + SIGNATURE.replace(b"_", b"/"), "signature", "not base64url"),
        (HEAD + b"." + BODY[:-1] + b"!." + SIGNATURE, "JWS payload", "not base64url"),
        (HEAD + b"." + BODY[:-1] + b" ." + SIGNATURE, "JWS payload", "not base64url"),
        (HEAD + b"." + BODY + b"." + SIGNATURE[:-1], "signature", "base64url"),
        (HEAD + b"." + BODY + b"." + SIGNATURE[:-4], "signature", "61 bytes"),
        (HEAD + b"." + BODY + b"." + SIGNATURE[:-1] + b"x", "signature", "bits after its end"),
    ],
)
def test_malformed_token_names_the_part(broken: bytes, place: str, reason: str) -> None:
    said = refused(broken)
    assert said[0] == place
    assert reason in said[1]


def test_der_signature_is_refused_by_name() -> None:
    signed = HEAD + b"." + BODY
    der = der_signature(raw_signature(KEY, signed))
    assert refused(signed + b"." + base64url(der)) == (
        "signature",
        "DER, where r and s must stand bare (RFC 7518 3.4)",
    )


@pytest.mark.parametrize(
    ("json_text", "reason"),
    [
        (b'{"iat":1,"iat":2}', "the same key twice"),
        (b'{"orig":{"tn":"1","tn":"2"}}', "the same key twice"),
        (b'{"a":"x","\\u0061":"y"}', "the same key twice"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":1} {}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b'{"a":1e999}', "beyond any float"),
        (b'{"a":' + b"9" * 5000 + b"}", ""),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\\udc00":1}', "surrogate"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        (b'{"a":"\x00"}', "not JSON"),
        (b'{"a":' + b"[" * 17 + b"]" * 17 + b"}", "nested deeper"),
        (b'{"a":' + b"[" * 9000, "nested deeper"),
        (b'{"a":' + b'{"a":' * 2000 + b"1" + b"}" * 2001, "nested deeper"),
    ],
)
def test_json_that_is_no_clear_object_is_refused(json_text: bytes, reason: str) -> None:
    place, said = refused(sign_parts(compact(HEADER), json_text))
    assert place == "JWS payload"
    assert reason in said


def test_many_values_that_are_not_nested_are_no_fault() -> None:
    payload = compact({"dest": {"tn": ["12015550123"] * 40}, "more": [{"a": [n]} for n in range(40)]})
    assert len(read_jws(sign_parts(compact(HEADER), payload)).payload["more"]) == 40


def test_surrogate_pairs_and_other_escapes_are_text() -> None:
    payload = b'{"nam":"\\ud83d\\ude00 \\u00e9 \\"x\\""}'
    assert read_jws(sign_parts(compact(HEADER), payload)).payload == {"nam": '\U0001f600 é "x"'}


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_parse_error(raw: bytes) -> None:
    for candidate in (raw, sign_parts(raw, raw), HEAD + b"." + BODY + b"." + raw, raw + b"." + raw + b"." + SIGNATURE):
        with suppress(ParseError):
            read_jws(candidate)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_any_json_object_reads_as_the_library_reads_it(value: dict[str, Any]) -> None:
    raw = json.dumps(value).encode()
    assert read_jws(sign_parts(compact(HEADER), raw)).payload == json.loads(raw)
