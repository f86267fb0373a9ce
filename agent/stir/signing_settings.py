"""What an operator sets about signing ([signing] of agent.toml). Opens nothing, and loads no cryptographic library."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from agent.identity.x5u import PORTS, check_url
from agent.model import ConfigError
from agent.settings import Range

_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)  # a file name, and one only (systemd.exec(5))


@dataclass(frozen=True, slots=True)
class SigningSettings:
    """[signing] of agent.toml: with what is signed. Which calls are is the policy's. Raises ConfigError."""

    certificate: Path
    """PEM, the signer's certificate first, as it is served under x5u."""
    x5u: str
    """Where verifiers get it: an https URL without query. A new key needs a new URL, since they keep what they got."""
    key: Path | None = None
    """PEM, unencrypted, readable for nobody but the agent (mode 0600)."""
    credential: str = ""
    """Instead: the name of a systemd credential (LoadCredential=, LoadCredentialEncrypted=)."""
    warn_days: Annotated[float, Range(0.0, 365.0)] = 14.0
    """The agent says that it is not well when the certificate ends in less."""

    def __post_init__(self) -> None:
        if (self.key is None) is not bool(self.credential):
            raise ConfigError("key", "name either key, a file, or credential, one of systemd's")
        if self.credential and (not _CREDENTIAL.fullmatch(self.credential) or self.credential in {".", ".."}):
            raise ConfigError("credential", "must be the name of a systemd credential, without a folder")
        if why := check_url(self.x5u, PORTS):
            raise ConfigError("x5u", why)
