"""What the capture looks at. Knows no file format and opens nothing."""

import re
from dataclasses import dataclass
from typing import Annotated, Final

from agent.kernel.bpf import MAX_METHODS, MAX_PORTS
from agent.kernel.links import NAME_MAX
from agent.model import ConfigError
from agent.settings import Range

MAX_INTERFACES: Final = 16
"""Each has a ring of its own; an SBC has two or four."""

_METHOD: Final = re.compile(r"[A-Za-z0-9.!%*_+`'~-]{1,32}", re.ASCII)  # RFC 3261 25.1, token


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """Everything an operator may say about the capture. Raises ConfigError that names the field."""

    interfaces: tuple[str, ...]
    """Names; one that is not there, or not any more, is waited for."""
    ports: tuple[int, ...] = (5060,)
    """SIP ports of the SBC, by UDP and TCP."""
    methods: tuple[str, ...] = ("INVITE", "CANCEL", "BYE")
    """Requests that are looked at, by UDP; responses always are. Empty: everything on the ports. By TCP everything
    comes, since nobody can tell where in a segment a message begins."""
    tunnels: bool = False
    """Also take all GRE, VXLAN, GTP-U, MPLS and PPPoE, and look for the ports inside. IP in IP always is."""
    promiscuous: bool = False
    """Also take what is not for this host: a mirror port. Then only the policy's local addresses tell directions."""
    ring_bytes: Annotated[int, Range(1 << 20, 1 << 30)] = 16 << 20
    """Memory per interface for packets not yet read: 10,000 INVITEs, a second and more of a busy trunk."""
    cpu_share: Annotated[float, Range(0.05, 1.0)] = 0.5
    """How much of the agent's one core it may take in a flood, beside the calls that wait for an answer. What comes
    faster is lost, and counted."""
    transit: bool = True
    """Whether to pair incoming with outgoing calls and compare their Identity."""

    def __post_init__(self) -> None:
        if not 0 < len(self.interfaces) <= MAX_INTERFACES:
            raise ConfigError("interfaces", f"name 1 to {MAX_INTERFACES} interfaces")
        for number, name in enumerate(self.interfaces):
            if not 0 < len(name.encode()) <= NAME_MAX or name in (".", "..") or re.search(r"[\s/\0:]", name):
                raise ConfigError(f"interfaces[{number}]", f"{name!r} is no name of an interface")
            if name in self.interfaces[:number]:
                raise ConfigError(f"interfaces[{number}]", f"{name!r} is there twice")
        if not 0 < len(self.ports) <= MAX_PORTS:
            raise ConfigError("ports", f"name 1 to {MAX_PORTS} ports")
        for number, port in enumerate(self.ports):
            if not 0 < port <= 0xFFFF:
                raise ConfigError(f"ports[{number}]", f"{port} is not within 1..65535")
        if len(self.methods) > MAX_METHODS:
            raise ConfigError("methods", f"name up to {MAX_METHODS} methods")
        for number, method in enumerate(self.methods):
            if not _METHOD.fullmatch(method):
                raise ConfigError(f"methods[{number}]", f"{method!r} is no SIP method")
