"""Settings of the hook, as the section [hook] of agent.toml holds them. Open nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from agent.model import ConfigError
from agent.settings import Range, host_and_port

CLIENT_KINDS: Final = ("URI:", "DNS:", "CN:")
"""What of a certificate may name a client: a subject alternative name, or the common name where it has none."""

SOCKET_PATH_MAX: Final = 80
"""A Unix socket's address has 108 bytes (unix(7)); the rest is for the name under which it is made."""


@dataclass(frozen=True, slots=True)
class HookSettings:
    """[hook]: a Unix socket, and TCP with certificates on both sides if `listen` is given.

    Who may open the socket: `mode`, `group` and the folder decide it. Who may ask on it: root, the agent's own user,
    and members of the group, or of them only `users`, where there are some. `allowed_clients` are the clients
    of TCP, by certificate: "URI:spiffe://example.net/sbc1", "DNS:sbc1.example.net" or "CN:sbc1".
    """

    socket: Path = Path("/run/sbc-edge-agent/hook.sock")
    mode: Annotated[int, Range(0, 0o777)] = 0o660
    group: str = ""
    users: tuple[str, ...] = ()
    listen: str = ""
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    allowed_clients: tuple[str, ...] = ()
    # Per client: calls and streams at one time. An SBC needs one stream per worker, or a call per call in setup.
    max_in_flight: Annotated[int, Range(1, 65_536)] = 1024
    # Per way in: a fleet of SBCs, each with some workers.
    max_connections: Annotated[int, Range(1, 65_536)] = 256

    def __post_init__(self) -> None:
        if len(str(self.socket).encode()) > SOCKET_PATH_MAX:
            raise ConfigError("socket", f"is longer than {SOCKET_PATH_MAX} bytes")
        if self.mode & 0o002:
            raise ConfigError("mode", f"{self.mode:#o} lets everybody on this host ask; use a group")
        for n, client in enumerate(self.allowed_clients):
            if not client.startswith(CLIENT_KINDS) or client in CLIENT_KINDS:
                raise ConfigError(f"allowed_clients[{n}]", f'"{client}" must begin with {", ".join(CLIENT_KINDS)}')
        if self.listen:
            host_and_port(self.listen, "listen")
            for field in ("certificate", "key", "client_ca", "allowed_clients"):
                if not getattr(self, field):
                    raise ConfigError(field, "is needed with listen: TCP is for clients with a certificate only")
