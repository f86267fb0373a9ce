"""Signing lists with Ed25519 (RFC 8032), so that an agent takes only what its controller made."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def key_id_of(public_key: bytes) -> str:
    """The name of a key, from its 32 bytes."""
    return hashlib.sha256(public_key).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ArtifactSigner:
    """`public_keys` are all keys that lists of this fleet were ever signed with, by id."""

    key: Ed25519PrivateKey
    public_keys: Mapping[str, bytes]

    @property
    def key_id(self) -> str:
        return key_id_of(self.key.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self.key.sign(data)

    def verify(self, key_id: str, data: bytes, signature: bytes) -> bool:
        """Whether a key of ours made this signature."""
        public_key = self.public_keys.get(key_id)
        if public_key is None:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
        except InvalidSignature:
            return False
        return True
