"""Tokens: "sbce_ID_SECRET" to enrol, "sbcl_ID_SECRET" to log in. The prefix says what it is to whoever finds one.

A secret has 256 random bits, so a plain SHA-256 of it can be stored: nobody finds it by trying.
"""

import hashlib
import re
import secrets
from typing import Final

from controller.errors import Unauthenticated
from controller.store.access import Secret

ENROLMENT: Final = "sbce"
LOGIN: Final = "sbcl"

_TOKEN: Final = re.compile("(sbc[el])_([0-9a-f]{12})_([0-9a-f]{64})", re.ASCII)


def make(kind: str) -> tuple[str, Secret]:
    """A new token, and what is stored of it."""
    identifier, secret = secrets.token_hex(6), secrets.token_hex(32)
    return f"{kind}_{identifier}_{secret}", Secret(identifier, _hash(secret))


def read(kind: str, token: str) -> Secret:
    """What is stored of this token, if it is one. Raises Unauthenticated."""
    found = _TOKEN.fullmatch(token)
    if found is None or found[1] != kind:
        raise Unauthenticated("the token is not known")
    return Secret(found[2], _hash(found[3]))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
