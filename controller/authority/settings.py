"""Keys and certificates of the controller: section [authority] of controller.toml. Opens nothing."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from agent.model import ConfigError
from agent.settings import Range

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class AuthoritySettings:
    """Without `certificate` the controller makes an authority of its own at its first start, and keeps it here.

    `directory` holds ca.key, ca.crt and artifact.key, unless systemd hands the keys over as credentials named
    `sbc-edge-ca.key` and `sbc-edge-artifact.key`. Several controllers of one fleet have the same keys.

    An authority that exists: `certificate` is a PEM file with the issuing certificate first and then those above it,
    up to the root; `key` is its private key. `trust_domain` is in every name: spiffe://TRUST-DOMAIN/agent/NAME.
    `hours` is how long an agent's certificate is good. Agents renew at half of what they see of it, and their clocks
    may be an hour off: of two hours, the least, one sees an hour and another one three, and both are in time.
    """

    directory: Path = Path("/var/lib/sbc-edge-controller/authority")
    trust_domain: str = "sbc-edge"
    certificate: Path | None = None
    key: Path | None = None
    hours: Annotated[float, Range(2, 168)] = 24.0

    def __post_init__(self) -> None:
        if not _TRUST_DOMAIN.fullmatch(self.trust_domain):
            raise ConfigError("trust_domain", "must be a name of a-z, 0-9, '.', '_' and '-', 255 of them at most")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("key" if self.key is None else "certificate", "certificate and key go together")
