"""Settings of the controller's link, as the section [controller] of agent.toml holds them. Opens nothing."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from agent.documents import quoted
from agent.model import ConfigError

# Where the package keeps state (systemd StateDirectory=sbc-edge-agent).
DEFAULT_DIRECTORY: Final = Path("/var/lib/sbc-edge-agent/control")

_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Which controller manages this agent, and where is kept what it has handed out."""

    address: str
    """"controller.example.net:7443": the controller's port for agents, not the one for enrolment."""
    directory: Path = DEFAULT_DIRECTORY
    """Key and certificate of this agent, the last two policies that were good, lists."""

    def __post_init__(self) -> None:
        check_address(self.address, "address")


def check_address(text: str, field: str) -> tuple[str, int]:
    """Host and port of "controller.example.net:7443" or "[2001:db8::1]:7443". Raises ConfigError naming `field`."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (_NAME.fullmatch(host) or _is_address(bare, in_brackets=bare != host)):
        raise ConfigError(field, f"{quoted(text)} is no HOST:PORT (7443 for agents, 7444 to enrol and for operators)")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65_536):
        raise ConfigError(field, f"{quoted(text)} has no port from 1 to 65535")
    return bare, int(port)


def _is_address(text: str, *, in_brackets: bool) -> bool:
    try:
        return (ip_address(text).version == 6) == in_brackets
    except ValueError:
        return False
