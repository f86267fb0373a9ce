"""Whether one key signed what a certificate or list says it signed; by cryptography, over the bytes as received."""

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import SignatureAlgorithmOID

PublicKey = EllipticCurvePublicKey | RSAPublicKey

# What an issuer may sign with. SHAKEN asks for ecdsa-with-SHA256 (ATIS-1000080), but the list of the STI-PA holds
# authorities of P-384, P-521 and RSA, too. SHA-1 and MD5 can be forged; RSA-PSS and EdDSA none of them uses.
SIGNATURE_HASHES: Final[dict[x509.ObjectIdentifier, hashes.HashAlgorithm]] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: hashes.SHA256(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: hashes.SHA384(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: hashes.SHA512(),
    SignatureAlgorithmOID.RSA_WITH_SHA256: hashes.SHA256(),
    SignatureAlgorithmOID.RSA_WITH_SHA384: hashes.SHA384(),
    SignatureAlgorithmOID.RSA_WITH_SHA512: hashes.SHA512(),
}
# RSA keys of an issuer: below 2048 bits they can be factored, beyond 8192 verifying becomes a way to keep us busy.
_RSA_BITS_MIN: Final = 2048
_RSA_BITS_MAX: Final = 8192
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def signed_by(key: PublicKey | None, signature: bytes, signed: bytes, algorithm: hashes.HashAlgorithm | None) -> bool:
    """Whether `signature` over `signed` is this key's.

    False, too, without key or algorithm, and for a key too weak or of an unusual kind.
    """
    if algorithm is None:
        return False
    try:
        match key:
            case EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
                key.verify(signature, signed, ec.ECDSA(algorithm))
            case RSAPublicKey() if _RSA_BITS_MIN <= key.key_size <= _RSA_BITS_MAX:
                key.verify(signature, signed, padding.PKCS1v15(), algorithm)
            case _:
                return False
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
