"""Settings of the operations' side, as the sections of agent.toml hold them. Open nothing, decide nothing."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from agent.ingress.hook.settings import SOCKET_PATH_MAX
from agent.model import ConfigError
from agent.settings import Range, host_and_port


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """[policy]: `file` is what the agent decides by until somebody applies another policy."""

    file: Path = Path("/etc/sbc-edge-agent/policy.toml")


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """[metrics]: `listen` is address and port of the page that Prometheus scrapes; "" serves none."""

    listen: str = "127.0.0.1:9810"

    def __post_init__(self) -> None:
        if self.listen:
            host_and_port(self.listen, "listen")


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """[admin]: the Unix socket that `sbc-agent status` and the like ask; its members may open it, too, if `group`.

    Who may ask on it: root, the agent's own user, and members of the group, or of them only `users`, where there are
    some.
    """

    socket: Path = Path("/run/sbc-edge-agent/admin.sock")
    group: str = ""
    users: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(os.fsencode(self.socket)) > SOCKET_PATH_MAX:
            raise ConfigError("socket", f"is longer than {SOCKET_PATH_MAX} bytes")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """[log]: lines of this level and above; refused calls beyond `refusals_per_second` are counted, not logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    refusals_per_second: Annotated[int, Range(0, 1000)] = 20


@dataclass(frozen=True, slots=True)
class ShutdownSettings:
    """[shutdown]: seconds that requests in flight have to finish, and then records to reach the disk."""

    grace: Annotated[float, Range(0, 300)] = 10.0
