"""Reading a certificate request (PKCS #10, RFC 2986) of a stranger: the key in it, once its possession is proven.

Pure. The names and extensions that the request asks for are not looked at: who gets a certificate is decided by the
token or the certificate that came with it.
"""

import hashlib
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controller.errors import Invalid

REQUEST_MAX: Final = 8192
"""Bytes; one with a P-384 key and some names has 600."""

CURVES: Final = ("secp256r1", "secp384r1")
"""What every TLS library takes for certificates of clients; Ed25519 is refused by gRPC's."""

_FIELD: Final = "certificate_request"


def read_request(der: bytes) -> ec.EllipticCurvePublicKey:
    """The public key whose private half signed this. Raises Invalid."""
    if not der:
        raise Invalid(_FIELD, "is missing")
    if len(der) > REQUEST_MAX:
        raise Invalid(_FIELD, f"is longer than {REQUEST_MAX} bytes")
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise Invalid(_FIELD, "is no PKCS #10 request in DER, or of an algorithm that is not known") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise Invalid(_FIELD, "must be for an EC key on P-256 or P-384")
    if not valid:
        raise Invalid(_FIELD, "is not signed by the key that it is for")
    return key


def key_sha256(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
