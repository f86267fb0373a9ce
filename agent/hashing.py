"""Hashes of identifiers: what the tables remember of Call-IDs, tags, branches and the keys of limits.

64 bits under a key that nobody outside knows, so that a peer cannot construct two calls that collide; by chance it
happens to one attempt in 10^13. The key is not the interpreter's (which ends with the process), since what is
remembered must mean the same after a restart: it is kept with what it was used for. Knows no SIP, performs nothing.

The compiled twin (agent/native/hashing.c) is SipHash-1-3; this one is BLAKE2b, for want of anything quick in Python.
What one of them has hashed is of no use to the other: `SCHEME` says whose it is.
"""

import os
from hashlib import blake2b
from typing import Final

from agent import native

KEY_BYTES: Final = 16


class _Key:
    """The key of the Python twin."""

    value = os.urandom(KEY_BYTES)


def identify_py(*texts: bytes | str) -> int:
    """64 bits of these texts, in this order."""
    parts = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in texts]
    seed = b"".join([b"%d:" % len(part) + part for part in parts])
    return int.from_bytes(blake2b(seed, digest_size=8, key=_Key.value).digest(), "little")


def set_key_py(key: bytes) -> None:
    """Go on with the key of a process before this one. Before anything is remembered. Raises ValueError."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key is {KEY_BYTES} bytes")
    _Key.value = key


def get_key_py() -> bytes:
    """The key in use: a secret, for the agent's own files."""
    return _Key.value


SCHEME: Final = "blake2b" if native.hashing is None else "siphash-1-3"
if native.hashing is None:
    identify, set_key, get_key = identify_py, set_key_py, get_key_py
else:
    identify, set_key, get_key = native.hashing.identify, native.hashing.set_key, native.hashing.get_key
