"""Where the controller listens: section [listen] of controller.toml. Opens nothing."""

import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Final

from agent.model import ConfigError
from agent.settings import Range, host_and_port

_NAME: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_NAME_MAX: Final = 253


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """`agents` is for whoever has a certificate, `open` for enrolment and for operators with a login token.

    `names` are the names and addresses by which clients know this controller; they stand in its certificate, beside
    this host's name and the addresses that it listens on. `advertise` is where other controllers of the same fleet
    reach `agents`; "" is that address itself.
    """

    agents: str = "0.0.0.0:7443"
    open: str = "0.0.0.0:7444"
    names: tuple[str, ...] = ()
    advertise: str = ""
    connections: Annotated[int, Range(16, 100_000)] = 20_000

    def __post_init__(self) -> None:
        host_and_port(self.agents, "agents")
        host_and_port(self.open, "open")
        for n, name in enumerate(self.names):
            if not is_host(name):
                raise ConfigError(f"names[{n}]", 'must be a name or an address: "controller.example.net", "192.0.2.1"')
        host, _, port = self.advertise.rpartition(":")
        if self.advertise and not (is_host(host.strip("[]")) and port.isdecimal() and 0 < int(port) < 65_536):
            raise ConfigError("advertise", 'must be name and port: "controller-1.example.net:7443"')

    def hosts(self) -> tuple[str, ...]:
        """What the certificate of the servers is for."""
        bound = [host_and_port(address, "")[0] for address in (self.agents, self.open)]
        own = [host for host in bound if not ip_address(host).is_unspecified]
        name = socket.gethostname()
        everywhere = ["localhost", "127.0.0.1", "::1"] if len(own) < len(bound) else []
        return tuple(dict.fromkeys([*self.names, *([name] if is_host(name) else []), *own, *everywhere]))


def is_host(text: str) -> bool:
    """Whether it is a DNS name or an address."""
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= _NAME_MAX and _NAME.fullmatch(text) is not None
    return True
