"""The authentication service of RFC 8224 6.1: writes PASSporTs and signs them. Knows a key and words; no file, no call.

Deterministic JSON (RFC 8225 9): keys in their order, no white space, so every claim is checked before it is written
and needs no escape. ES256 as RFC 7518 3.4 has it, r and s bare. The part before the first dot is the same for every
call of a signer, and is made once.
"""

import json
import re
from base64 import urlsafe_b64encode
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from agent.identity.certificate import Certificate
from agent.identity.claims import DIV, SHAKEN
from agent.identity.x5u import PORTS, check_url
from agent.model import ConfigError

ATTESTATIONS: Final = frozenset({"A", "B", "C"})

# tn-spec = 1*tn-char ; tn-char = "#" / "*" / DIGIT (RFC 8224 8.3). E.164 has 15 of them, dialled codes may have more.
_TN: Final = re.compile(r"[0-9*#]{1,32}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_DESTINATIONS_MAX: Final = 16
"""Numbers in one dest. A call has one; a request for a group names a few, and each makes the row longer."""
_IAT_MAX: Final = 2**53 - 1
_ES256: Final = ECDSA(SHA256())


class Signer:
    """Signs PASSporTs with one key, whose certificate is found at one URL.

    `certificate` is that of the key, and its validity bounds when may be signed; None where nobody has it at hand.
    """

    __slots__ = ("_div", "_key", "_shaken", "certificate", "url")

    def __init__(self, key: EllipticCurvePrivateKey, url: str, certificate: Certificate | None = None) -> None:
        """Raises ConfigError: `key` (not P-256), `x5u` (not a URL that a verifier may fetch), `certificate`."""
        if not isinstance(key.curve, SECP256R1):
            raise ConfigError("key", f"is of curve {key.curve.name}; ES256 signs with P-256")
        if why := check_url(url, PORTS):
            raise ConfigError("x5u", why)
        if certificate is not None and certificate.public_key != key.public_key():
            raise ConfigError("certificate", "is of another key")
        self.url = url
        self.certificate = certificate
        self._key = key
        self._shaken = _Template(SHAKEN, url)
        self._div = _Template(DIV, url)

    def valid_at(self, when: float) -> bool:
        """Whether the certificate is valid at `when` (epoch seconds); RFC 8224 6.1 step 3."""
        certificate = self.certificate
        return certificate is None or certificate.not_before <= when <= certificate.not_after

    def sign(self, orig: str, dest: tuple[str, ...], attest: str, origid: str, iat: int) -> bytes:
        """The value of an Identity header with a SHAKEN PASSporT (RFC 8588).

        Numbers are canonical, without "+" (RFC 8224 8.3); `attest` is A, B or C, `origid` a UUID, `iat` epoch seconds.
        Raises ValueError naming the claim that cannot be signed.
        """
        if attest not in ATTESTATIONS:
            raise ValueError(f"attest: {attest!r} is not A, B or C")
        if not _UUID.fullmatch(origid):
            raise ValueError(f"origid: {origid!r} is no UUID")
        payload = (
            f'{{"attest":"{attest}","dest":{{"tn":[{_numbers(dest)}]}},"iat":{_iat(iat)},'
            f'"orig":{{"tn":"{_number(orig, "orig")}"}},"origid":"{origid}"}}'
        )
        return self._row(self._shaken, payload)

    def sign_diversion(self, orig: str, dest: tuple[str, ...], div: str, iat: int) -> bytes:
        """The value of an Identity header with a div PASSporT (RFC 8946): calls to `div` go to `dest` now.

        `orig` and `iat` are those of the PASSporT that the call brought. Raises ValueError like `sign`.
        """
        payload = (
            f'{{"dest":{{"tn":[{_numbers(dest)}]}},"div":{{"tn":"{_number(div, "div")}"}},"iat":{_iat(iat)},'
            f'"orig":{{"tn":"{_number(orig, "orig")}"}}}}'
        )
        return self._row(self._div, payload)

    def _row(self, template: "_Template", payload: str) -> bytes:
        signed = template.head + _base64url(payload.encode())
        return b"".join((signed, b".", _base64url(_raw(self._key.sign(signed, _ES256))), template.tail))


class _Template:
    """What is the same in all PASSporTs of one type: the JOSE header with its dot, and the row's parameters."""

    __slots__ = ("head", "tail")

    def __init__(self, ppt: str, url: str) -> None:
        header = {"alg": "ES256", "ppt": ppt, "typ": "passport", "x5u": url}
        self.head = _base64url(json.dumps(header, separators=(",", ":"), sort_keys=True).encode()) + b"."
        self.tail = f";info=<{url}>;alg=ES256;ppt={ppt}".encode()


def _numbers(numbers: tuple[str, ...]) -> str:
    if not 1 <= len(numbers) <= _DESTINATIONS_MAX:
        raise ValueError(f"dest: {len(numbers)} numbers; 1 to {_DESTINATIONS_MAX} can be called")
    return ",".join([f'"{_number(number, "dest")}"' for number in numbers])


def _number(number: str, claim: str) -> str:
    if not _TN.fullmatch(number):
        raise ValueError(f"{claim}: {number!r} is not a canonical number (digits without +, RFC 8224 8.3)")
    return number


def _iat(iat: int) -> int:
    if not 0 <= iat <= _IAT_MAX:
        raise ValueError(f"iat: {iat} is no time")
    return iat


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _raw(der: bytes) -> bytes:
    """r and s, 32 bytes each, of a DER signature that we made: SEQUENCE of two INTEGERs, lengths of one byte each."""
    end = 4 + der[3]
    r, s = der[4:end], der[end + 2 :]
    # An INTEGER has a zero byte before a first bit that is set, and none of those that it could do without.
    return r[-32:].rjust(32, b"\0") + s[-32:].rjust(32, b"\0")
