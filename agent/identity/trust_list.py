"""The trust list of a policy administrator (STI-PA, ATIS-1000084): the authorities of SHAKEN, as a signed JWS.

Knows the document and who may sign it. Fetches and keeps nothing: whoever does passes what it has seen (`lowest
sequence`) and keeps the last good list when a new one is refused.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from agent.identity.certificate import (
    ANCHORS_MAX,
    Certificate,
    CertificateError,
    read_certificate,
    split_pem,
)
from agent.identity.jws import Jws, read_jws, verify_es256
from agent.identity.paths import by_subject, find_path
from agent.model import ParseError

TRUST_LIST_BYTES_MAX: Final = 4 << 20
"""Bytes of a list. That of the United States has some fifty certificates, 100 kB in base64 twice over."""

_COMPACT: Final = re.compile(rb"[A-Za-z0-9_.-]+")
_X5C_MAX: Final = 5
# The largest integer that every JSON reader keeps exact (RFC 8259 6).
_INTEGER_MAX: Final = (1 << 53) - 1


@dataclass(frozen=True, slots=True)
class TrustList:
    """A list whose signature was verified. `expires` in epoch seconds, None: it does not say.

    `unread` are entries that are no certificate that we can read, and why: they are not trusted, the others are.
    """

    anchors: tuple[Certificate, ...]
    sequence: int
    expires: float | None
    unread: tuple[str, ...] = ()


def read_trust_list(
    document: bytes,
    pa_roots: Sequence[Certificate],
    when: float,
    lowest_sequence: int = 0,
    *,
    signers: Sequence[Certificate] = (),
    expired_too: bool = False,
) -> TrustList:
    """The list in a JWS, bare or in the answer of the administrator's API ({"caList": JWS}). Raises CertificateError.

    It must be signed (ES256) by one of `pa_roots`, or by a certificate that one of them issued and that is valid at
    `when` (epoch seconds): of x5c in its header, or of `signers`, what its x5u names. Refused are: a `sequence` below
    `lowest_sequence`, a list past its `exp`, a list without a single readable certificate. `expired_too` takes a list
    past its `exp`: the last good one, kept on disk.
    """
    jws = _read(document)
    _verify(jws, pa_roots, signers, when)
    found = _content(jws)
    if found.sequence < lowest_sequence:
        raise CertificateError(f"has sequence {found.sequence}, and {lowest_sequence} was seen before")
    if found.expires is not None and found.expires < when and not expired_too:
        raise CertificateError(f"expired at {found.expires:.0f} (epoch seconds)")
    return found


def vouched_trust_list(document: bytes) -> TrustList:
    """The list in a JWS whose very bytes somebody vouches for who has verified it. Raises CertificateError.

    Its own signature is not looked at, and it may be past its `exp`.
    """
    return _content(_read(document))


def _content(jws: Jws) -> TrustList:
    sequence = _integer(jws.payload, "sequence")
    if sequence is None:
        raise CertificateError("has no sequence")
    expires = _integer(jws.payload, "exp")
    anchors, unread = _anchors(jws.payload.get("trustList"))
    return TrustList(anchors, sequence, None if expires is None else float(expires), unread)


def signer_url(document: bytes) -> str:
    """Where the certificate is that signed this list (x5u of its header), "" if it does not say.

    Nothing is verified: whether to fetch from there is the caller's to say. Raises CertificateError.
    """
    url = _read(document).header.get("x5u", "")
    return url if isinstance(url, str) else ""


def _read(document: bytes) -> Jws:
    if len(document) > TRUST_LIST_BYTES_MAX:
        raise CertificateError(f"is larger than {TRUST_LIST_BYTES_MAX >> 20} MiB")
    token = document.strip()
    if token[:1] == b"{":
        token = _wrapped(token)
    if _COMPACT.fullmatch(token) is None:
        raise CertificateError("is no JWS")
    try:
        return read_jws(token)
    except ParseError as error:
        raise CertificateError(f"is no JWS of ours: {error}") from None


def _wrapped(document: bytes) -> bytes:
    try:
        answer = json.loads(document)
    except (ValueError, RecursionError):
        raise CertificateError("is no JSON") from None
    token = answer.get("caList") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not token.isascii():
        raise CertificateError("has no caList")
    return token.encode("ascii")


def _verify(jws: Jws, pa_roots: Sequence[Certificate], signers: Sequence[Certificate], when: float) -> None:
    if jws.header.get("alg") != "ES256":
        raise CertificateError("is not signed with ES256")
    if "crit" in jws.header:
        raise CertificateError("has a crit header, none of which is understood (RFC 7515 4.1.11)")
    known = (*_x5c(jws.header), *signers)
    found = by_subject(pa_roots)
    for certificate in dict.fromkeys((*pa_roots, *known)):
        key = certificate.public_key
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            continue
        if not verify_es256(key, jws.signed, jws.signature):
            continue
        if not certificate.not_before <= when <= certificate.not_after:
            raise CertificateError(f"is signed by a certificate that is not valid now, {certificate.subject.text}")
        if certificate in pa_roots:
            return
        if certificate.key_usage is not None and not certificate.key_usage.digital_signature:
            raise CertificateError(f"is signed by {certificate.subject.text}, which may not sign documents")
        path = find_path(certificate, known, found, when)
        if path.fault:
            raise CertificateError(f"is signed by {certificate.subject.text}, but {path.fault}")
        if not path.not_before <= when <= path.not_after:
            raise CertificateError(f"is signed by {certificate.subject.text}, whose issuer is not valid now")
        return
    raise CertificateError("is not signed by the policy administrator whose root was given")


def _x5c(header: dict[str, Any]) -> tuple[Certificate, ...]:
    """The certificates in the header (RFC 7515 4.1.6: base64, not base64url)."""
    listed = header.get("x5c", [])
    if not isinstance(listed, list) or len(listed) > _X5C_MAX:
        raise CertificateError("has an x5c that is none")
    pem = "".join([f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n" for text in listed])
    return tuple([read_certificate(der) for der in split_pem(pem.encode())]) if listed else ()


def _anchors(listed: object) -> tuple[tuple[Certificate, ...], tuple[str, ...]]:
    if not isinstance(listed, list):
        raise CertificateError("has no trustList")
    if len(listed) > ANCHORS_MAX:
        raise CertificateError(f"holds more than {ANCHORS_MAX} certificates")
    anchors: dict[Certificate, None] = {}
    unread = []
    for place, text in enumerate(listed):
        try:
            if not isinstance(text, str):
                raise CertificateError("is no text")
            anchors.update(dict.fromkeys([read_certificate(der) for der in split_pem(text.encode())]))
        except CertificateError as error:
            unread.append(f"trustList[{place}] {error}")
    if not anchors:
        raise CertificateError("holds not a single certificate that can be read, and an empty list trusts nobody")
    return tuple(anchors), tuple(unread)


def _integer(payload: dict[str, Any], name: str) -> int | None:
    value = payload.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _INTEGER_MAX:
        raise CertificateError(f"has a {name} that is no integer")
    return value
