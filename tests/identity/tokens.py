"""PASSporTs of any content, signed by a fixed key; the constructed vector; what a verifier is asked with."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, derive_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from agent.identity.model import Credential, SignalledCall, Unreachable, Verification
from agent.identity.replay import ReplayCache
from agent.identity.verification import Verifier, VerifierSettings

KEY: Final = derive_private_key(0x1D_E471, SECP256R1())
OTHER_KEY: Final = derive_private_key(0x07_4E12, SECP256R1())

URL: Final = "https://certs.example.net/sti/1234.pem"
ORIGID: Final = "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c"
IAT: Final = 1_791_987_300
WHEN: Final = float(IAT + 5)

CALLING: Final = "12015550123"
CALLED: Final = "13035550199"
CALL: Final = SignalledCall((CALLING,), CALLED, CALLED, b"7c1@192.0.2.10", b"9f")

HEADER: Final[Mapping[str, Any]] = {"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": URL}
CLAIMS: Final[Mapping[str, Any]] = {
    "attest": "B",
    "dest": {"tn": [CALLED]},
    "iat": IAT,
    "orig": {"tn": CALLING},
    "origid": ORIGID,
}

# Constructed beforehand by another program, with this public key.
VECTOR_KEY: Final = load_pem_public_key(
    b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEkboWjiuPgDsCmu4axdsYbmlHRaf
UDUIntCZNBkBjnoH/gsgo5ywXXgANBjF6UbTvaonelSOo0TnRam1uQhBsQ==
-----END PUBLIC KEY-----
"""
)
VECTOR_TOKEN: Final = (
    b"eyJhbGciOiJFUzI1NiIsInBwdCI6InNoYWtlbiIsInR5cCI6InBhc3Nwb3J0IiwieDV1IjoiaHR0cHM6Ly9jZXJ0cy5leGFtcGxlLm5ldC9zdGkv"
    b"MTIzNC5wZW0ifQ.eyJhdHRlc3QiOiJCIiwiZGVzdCI6eyJ0biI6WyIxMzAzNTU1MDE5OSJdfSwiaWF0IjoxNzkxOTg3MzAwLCJvcmlnIjp7InRuI"
    b"joiMTIwMTU1NTAxMjMifSwib3JpZ2lkIjoiOGY0YzFmNWUtM2YwYS00YTU3LTliMGUtMGM1ZjhkMWEyYjNjIn0.uGzMuRak8FU2hPxyCbjzFHkuJB"
    b"37pN3BlxNvSqLIq30ZdJm_z0r89W5NXqL2Txp722h3H1YF3ow8ARe0v1X-Tw"
)
PARAMETERS: Final = b";info=<https://certs.example.net/sti/1234.pem>;alg=ES256;ppt=shaken"
VECTOR: Final = VECTOR_TOKEN + PARAMETERS


def base64url(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def compact(value: object) -> bytes:
    """Deterministic JSON (RFC 8225 9)."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def raw_signature(key: EllipticCurvePrivateKey, signed: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(signed, ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def sign_parts(header: bytes, payload: bytes, key: EllipticCurvePrivateKey = KEY) -> bytes:
    """A token of these very bytes."""
    signed = base64url(header) + b"." + base64url(payload)
    return signed + b"." + base64url(raw_signature(key, signed))


def token(claims: Mapping[str, Any] = CLAIMS, key: EllipticCurvePrivateKey = KEY, **header: Any) -> bytes:
    return sign_parts(compact({**HEADER, **header}), compact(claims), key)


def row(claims: Mapping[str, Any] = CLAIMS, key: EllipticCurvePrivateKey = KEY, **header: Any) -> bytes:
    """The value of an Identity header; info and ppt as in the header of the token."""
    stated = {**HEADER, **header}
    return token(claims, key, **header) + f";info=<{stated['x5u']}>;alg=ES256;ppt={stated['ppt']}".encode()


def shaken(**claims: Any) -> bytes:
    return row({**CLAIMS, **claims})


def div(old: str, new: str, iat: int = IAT, *, key: EllipticCurvePrivateKey = KEY, **claims: Any) -> bytes:
    """The row of a diversion from one number to another."""
    held = {"dest": {"tn": [new]}, "div": {"tn": old}, "iat": iat, "orig": {"tn": CALLING}, **claims}
    return row(held, key, ppt="div")


def rph(**claims: Any) -> bytes:
    held = {"dest": {"tn": [CALLED]}, "iat": IAT, "orig": {"tn": CALLING}, "rph": {"auth": ["esnet.1"]}, **claims}
    return row(held, ppt="rph")


def rcd(**claims: Any) -> bytes:
    held = {"dest": {"tn": [CALLED]}, "iat": IAT, "orig": {"tn": CALLING}, "rcd": {"nam": "Example"}, **claims}
    return row(held, ppt="rcd")


def credential(**changes: Any) -> Credential:
    held: dict[str, Any] = {
        "public_key": KEY.public_key(),
        "spc": "1234",
        "issuer": "CN=Example CA",
        "not_before": 0.0,
        "not_after": 4e9,
        "sha256": "ab" * 32,
    }
    return Credential(**{**held, **changes})


def verifier(freshness: float = 60.0, *, lenient: bool = False) -> Verifier:
    return Verifier(VerifierSettings(freshness, lenient), ReplayCache(2 * freshness))


def judged(
    *values: bytes,
    call: SignalledCall = CALL,
    when: float = WHEN,
    found: Credential | Unreachable | None = None,
    by: Verifier | None = None,
    lenient: bool = False,
) -> Verification:
    """What these rows are worth; every URL serves `found`."""
    by = by or verifier(lenient=lenient)
    claimed = by.read(values)
    return by.judge(claimed, dict.fromkeys(claimed.urls, found or credential()), call, when)
