"""The bootstrap file agent.toml as frozen dataclasses: what must be known before anything runs.

Knows which sections there are; what is in one is the settings dataclass of the part that it is for. Must not know what
a policy says: that is another file, and it can change while the agent runs; this one is read once.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.control.settings import ControllerSettings
from agent.documents import raise_all, read_toml
from agent.ingress.capture.settings import CaptureSettings
from agent.ingress.hook.settings import HookSettings
from agent.ingress.queue.settings import QueueSettings
from agent.ingress.redirect.settings import RedirectSettings
from agent.kernel.settings import KernelSettings
from agent.loading import read_text
from agent.model import ConfigError
from agent.ops.settings import AdminSettings, LogSettings, MetricsSettings, PolicySettings, ShutdownSettings
from agent.records.settings import SpoolSettings
from agent.restart.settings import RestartSettings
from agent.settings import fill
from agent.stir.api.settings import StirApiSettings
from agent.stir.settings import IdentitySettings
from agent.stir.signing_settings import SigningSettings

CONFIG_FILE: Final = Path("/etc/sbc-edge-agent/agent.toml")
MAX_CONFIG_BYTES: Final = 1 << 20
"""A bootstrap file has two pages; a file beyond this is something else that was given by mistake."""


@dataclass(frozen=True, slots=True)
class Config:
    """agent.toml. A section that is None was not written, and its part does not run."""

    policy: PolicySettings = field(default_factory=PolicySettings)
    hook: HookSettings | None = None
    redirect: RedirectSettings | None = None
    queue: QueueSettings | None = None
    capture: CaptureSettings | None = None
    kernel: KernelSettings | None = None
    identity: IdentitySettings | None = None
    signing: SigningSettings | None = None
    stir_api: StirApiSettings | None = None
    records: SpoolSettings | None = None
    restart: RestartSettings = field(default_factory=RestartSettings)
    controller: ControllerSettings | None = None
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    log: LogSettings = field(default_factory=LogSettings)
    shutdown: ShutdownSettings = field(default_factory=ShutdownSettings)

    def __post_init__(self) -> None:
        if not any((self.hook, self.redirect, self.queue, self.capture)):
            raise ConfigError("hook", "there is no [hook], [redirect], [queue] or [capture]: no call could be seen")
        if self.redirect is not None and not (self.redirect.udp or self.redirect.tcp or self.redirect.tls):
            raise ConfigError("redirect.udp", "it listens nowhere: give it an address, here or in tcp or tls")
        if self.stir_api is not None and self.identity is None:
            raise ConfigError("stir_api", "needs [identity]: it says whose certificates are to be trusted")


def read_config(text: str) -> Config:
    """The configuration that this TOML document describes. Raises ConfigErrors, with every error."""
    errors: list[ConfigError] = []
    config = fill(Config, read_toml(text), "", errors)
    raise_all(errors)
    assert config is not None
    return config


def load_config(path: Path) -> Config:
    """The same of a file. Raises ConfigError naming the file if it cannot be read."""
    return read_config(read_text(path, MAX_CONFIG_BYTES))
