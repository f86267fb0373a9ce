"""The plain form of a SHAKEN row, which nearly every signed call has, taken apart in one go. Knows bytes only.

One token in deterministic JSON (RFC 8225 9, RFC 8588 8) and its parameters. What is not plain is None and goes the long
way (agent.identity.rows, passport, claims), which reads it alike, and knows what is wrong with what is.
`take_apart` is compiled where that is possible.
"""

from collections.abc import Callable
from typing import Final

from agent import native
from agent.identity.claims import read_plain_shaken
from agent.identity.jws import decode, read_signature, split
from agent.identity.rows import MAX_ROW
from agent.model import ParseError
from agent.sip.headers import WHITE_SPACE

Plain = tuple[bytes, bytes, bytes, bytes, bytes, str, str, int, str, str]
"""Header still encoded, payload and signature decoded, what is signed, all that follows the first ";"; then the claims
attest, dest, iat, orig and origid."""


def take_apart_py(value: bytes) -> Plain | None:
    """A header value in its parts; None if it is not plain. The parameters are not looked at, nor is the header."""
    head, semicolon, parameters = value.partition(b";")
    if not semicolon or len(value) > MAX_ROW:
        return None
    try:
        header, encoded, encoded_signature, signed = split(head.strip(WHITE_SPACE))
        payload = decode(encoded, "payload")
        claims = read_plain_shaken(payload.decode("latin-1"))
        if claims is None or not header:
            return None
        signature = read_signature(encoded_signature)
    except ParseError:
        return None
    iat, orig, dest, _, attest, origid, _, _ = claims
    return header, payload, signature, signed, parameters, attest, dest[0], iat, orig, origid


take_apart: Final[Callable[[bytes], Plain | None]] = native.identity.take_apart if native.identity else take_apart_py
