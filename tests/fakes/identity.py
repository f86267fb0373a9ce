"""Signed calls and the certificates for them, without a network: a fixed key, and a source that a test holds back."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from agent.identity.model import Credential, Unreachable

KEY = ec.derive_private_key(0x5BC_ED6E, ec.SECP256R1())
URL = "https://certs.example.net/818H.pem"
ORIGID = "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c"
CREDENTIAL = Credential(KEY.public_key(), "818H", "CN=Test CA", 0.0, 4e9, "ab" * 32)


def encoded(part: object) -> bytes:
    text = json.dumps(part, separators=(",", ":"), sort_keys=True).encode()
    return urlsafe_b64encode(text).rstrip(b"=")


def identity(
    when: float, orig: str = "12015550123", dest: str = "13035550199", attest: str = "A", url: str = URL
) -> str:
    """The value of an Identity header for this call."""
    header = {"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": url}
    claims = {"attest": attest, "dest": {"tn": [dest]}, "iat": int(when), "orig": {"tn": orig}, "origid": ORIGID}
    signed = encoded(header) + b"." + encoded(claims)
    r, s = decode_dss_signature(KEY.sign(signed, ec.ECDSA(SHA256())))
    raw = urlsafe_b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).rstrip(b"=")
    return f"{(signed + b'.' + raw).decode()};info=<{url}>;alg=ES256;ppt=shaken"


class Certificates:
    """Knows some certificates at once, and has those of `coming` when the test says `arrive`."""

    def __init__(self, known: Iterable[str] = (), coming: Iterable[str] = (), *, trusting: bool = True) -> None:
        self.trusting = trusting
        self.asked: list[float] = []  # how long each of them would wait
        self._known = set(known)
        self._coming = set(coming)
        self._there = asyncio.Event()

    def arrive(self) -> None:
        self._known |= self._coming
        self._there.set()

    def peek(self, urls: Iterable[str]) -> dict[str, Credential | Unreachable] | None:
        wanted = list(urls)
        return dict.fromkeys(wanted, CREDENTIAL) if self._known.issuperset(wanted) else None

    async def obtain(self, urls: Iterable[str], within: float) -> dict[str, Credential | Unreachable]:
        wanted = list(urls)
        self.asked.append(within)
        try:
            async with asyncio.timeout(within):
                await self._there.wait()
        except TimeoutError:
            return dict.fromkeys(wanted, Unreachable(f"no answer within {within:g} s"))
        return self.peek(wanted) or dict.fromkeys(wanted, Unreachable("404 Not Found"))
