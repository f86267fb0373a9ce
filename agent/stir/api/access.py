"""Who may ask the API: by certificate, by token, or both. Knows names and secrets; must not know what is asked.

Tokens are kept as digests, compared in constant time, and neither logged nor repeated in an answer.
"""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from agent.ingress.hook.clients import LOCAL
from agent.loading import read_text
from agent.model import ConfigError
from agent.stir.api.faults import ApiError, Fault
from agent.stir.api.settings import StirApiSettings

TOKEN_FILE_MAX: Final = 1 << 16
"""Bytes: some tokens and what is said about them. More is another file that was given by mistake."""

TOKENS_MAX: Final = 16
"""So that each SBC may have its own, and another while it is changed; every one is compared with for every request."""

TOKEN_SHORTEST: Final = 20
"""Characters: 120 bits, if it is base64 of random bytes. What is shorter was thought up, and can be guessed."""

_TOKEN: Final = re.compile(rf"[A-Za-z0-9._~+/-]{{{TOKEN_SHORTEST},512}}={{0,2}}", re.ASCII)  # RFC 6750 2.1
_BEARER: Final = re.compile(r"bearer +(\S{1,1024}) *", re.ASCII | re.IGNORECASE)
_OTHERS_READ: Final = 0o007


def read_tokens(path: Path) -> tuple[bytes, ...]:
    """The digests of the tokens in a file, one per line; empty lines and lines with "#" at their begin are none.

    Raises ConfigError that names the file, and of a token only its line.
    """
    text = read_text(path, TOKEN_FILE_MAX)
    try:
        if path.stat().st_mode & _OTHERS_READ:
            raise ConfigError("stir_api.token_file", f"{path} can be read by everybody on this host: chmod o= {path}")
    except OSError as error:
        raise ConfigError("stir_api.token_file", f"{path}: {error.strerror}") from None
    digests = []
    for number, line in enumerate(text.splitlines(), 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not _TOKEN.fullmatch(token):
            reason = f"must be {TOKEN_SHORTEST} or more characters of A-Z a-z 0-9 . _ ~ + / -"
            raise ConfigError("stir_api.token_file", f"{path}, line {number}: {reason}")
        digests.append(_digest(token))
    if not 1 <= len(digests) <= TOKENS_MAX:
        raise ConfigError("stir_api.token_file", f"{path} has {len(digests)} tokens, and must have 1 to {TOKENS_MAX}")
    return tuple(digests)


class Access:
    """The doorkeeper. `tokens` are digests."""

    def __init__(self, settings: StirApiSettings, tokens: tuple[bytes, ...]) -> None:
        self._allowed = frozenset(settings.allowed_clients)
        self._tokens = tokens

    def client(self, names: tuple[str, ...], authorization: str | None) -> str:
        """Who asks, in a word. Raises ApiError for who may not."""
        client = LOCAL
        if self._allowed:
            client = next((name for name in names if name in self._allowed), "")
            if not client:
                raise ApiError(Fault.FORBIDDEN, "certificate is not on the list of clients")
        if self._tokens:
            number = self._number(authorization)
            if not self._allowed:
                client = f"token {number}"
        return client

    def _number(self, authorization: str | None) -> int:
        """Which token it is, counted from 1."""
        presented = _BEARER.fullmatch(authorization or "")
        if presented is None:
            raise _unauthorised("token required")
        digest = _digest(presented[1])
        # All of them, whichever fits: the time that it takes tells nothing.
        fits = [n for n, token in enumerate(self._tokens, 1) if hmac.compare_digest(token, digest)]
        if not fits:
            raise _unauthorised("token unknown")
        return fits[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _unauthorised(why: str) -> ApiError:
    return ApiError(Fault.UNAUTHORISED, why, headers={"WWW-Authenticate": 'Bearer realm="stir"'})
