"""What an operator may set about caller-ID authentication ([identity] of agent.toml), with defaults and their reasons.

What the agent makes of a call that does or does not verify is policy, and not here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from agent.identity.x5u import check_url
from agent.model import ConfigError
from agent.settings import Range
from agent.stir.addresses import Network, read_network

# Where the package keeps state (systemd StateDirectory=sbc-edge-agent).
DEFAULT_DIRECTORY: Final = Path("/var/lib/sbc-edge-agent/identity")
DAY: Final = 86400.0

Seconds = Annotated[float, Range(0.1, 60.0)]
Count = Annotated[int, Range(1, 1_000_000)]


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Whom to trust, where certificates may come from, and what is kept. Raises ConfigError that names the field."""

    trust_lists: tuple[str, ...] = ()
    """Files or https URLs: the signed list of an STI-PA (JWS), or, as a file only, PEM certificates to trust. Several
    where calls of other countries are to verify, too. Without one nobody is trusted."""
    pa_roots: Path | None = None
    """PEM file: the roots of the policy administrators, by which signed trust lists are checked."""
    crls: tuple[str, ...] = ()
    """Files or https URLs: certificate revocation lists, PEM or DER."""
    directory: Path = DEFAULT_DIRECTORY
    """What survives a restart: certificates, the last good trust lists and revocation lists."""

    ports: tuple[Annotated[int, Range(1, 65_535)], ...] = (443, 8443)
    """Ports that an x5u may name (ATIS-1000074 5.3.1)."""
    allow_addresses: tuple[str, ...] = ()
    """Networks in which special-purpose addresses (RFC 6890) are taken, too: "10.1.2.0/24". For private mirrors and
    labs: a stranger's URL can reach whatever is allowed here."""
    https_ca: Path | None = None
    """PEM file: who may issue the certificates of https servers. Default: the system's authorities."""

    fetch_seconds: Seconds = 5.0
    """From the beginning of a fetch to its end, redirects included. Calls do not wait so long: policy says how long."""
    connect_seconds: Seconds = 2.0
    """For one address of a host: what does not connect by then is down or drops packets."""
    max_fetches: Annotated[int, Range(2, 1024)] = 32
    """At one time; a quarter of them is for hosts that have served a trusted certificate before."""
    max_fetches_per_host: Count = 8
    """At one time; a slow repository must leave room for others."""
    max_certificates: Count = 8192
    """In memory. The US have some thousand signers, each with a few current certificates."""
    max_bytes: Annotated[int, Range(65_536, 1 << 32)] = 32 << 20
    """Of certificates in memory, as fetched; a chain has some 3 kB."""
    max_disk_bytes: Annotated[int, Range(0, 1 << 40)] = 64 << 20
    """Of certificates on disk; 0 keeps none."""
    max_age_seconds: Annotated[float, Range(60.0, DAY)] = DAY
    """After which a certificate is fetched again, whatever its server says (ATIS-1000074: 24 hours)."""

    trust_refresh_seconds: Annotated[float, Range(60.0, 7 * DAY)] = 4 * 3600.0
    """Between two fetches of a trust list."""
    crl_refresh_seconds: Annotated[float, Range(60.0, 7 * DAY)] = 3600.0
    """Between two fetches of a revocation list."""
    trust_max_age_seconds: Annotated[float, Range(60.0, 365 * DAY)] = 3 * DAY
    """Without a successful fetch of a list; then the last good one is still used, and the agent says it is not well."""

    def __post_init__(self) -> None:
        if not self.ports:
            raise ConfigError("ports", "is empty: no certificate could be fetched")
        for i, text in enumerate(self.allow_addresses):
            _network(text, f"allow_addresses[{i}]")
        for name in ("trust_lists", "crls"):
            for i, source in enumerate(getattr(self, name)):
                self._check_source(source, f"{name}[{i}]")
        if self.pa_roots is None and any(map(is_url, self.trust_lists)):
            raise ConfigError("pa_roots", "is needed: a trust list from a URL is taken only with a signature of these")

    @property
    def networks(self) -> tuple[Network, ...]:
        """`allow_addresses`, read."""
        return tuple(map(read_network, self.allow_addresses))

    def _check_source(self, source: str, field: str) -> None:
        if not source or "\0" in source:
            raise ConfigError(field, "must be the name of a file or an https URL")
        if "://" in source and (why := check_url(source, self.ports)):
            raise ConfigError(field, why)


def is_url(source: str) -> bool:
    """Whether a list is fetched; otherwise it is a file."""
    return "://" in source


def _network(text: str, field: str) -> Network:
    try:
        return read_network(text)
    except ValueError as error:
        raise ConfigError(field, str(error)) from None
