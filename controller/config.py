"""The bootstrap file controller.toml as frozen dataclasses: what must be known before anything runs.

Knows which sections there are; what is in one is the settings dataclass of the part that it is for. Everything has a
default, so that an empty file, or none, is a configuration: one process, its state in one folder.
"""

import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from agent.documents import raise_all, read_toml
from agent.loading import read_text
from agent.model import ConfigError
from agent.ops.settings import ShutdownSettings
from agent.settings import fill, host_and_port
from controller.archive.settings import ArchiveSettings
from controller.artifacts.settings import ArtifactSettings
from controller.authority.settings import AuthoritySettings
from controller.fleet.settings import FleetSettings
from controller.ingest.settings import IngestSettings
from controller.names import name_fault
from controller.services.settings import ListenSettings
from controller.store.settings import StoreSettings

CONFIG_FILE: Final = Path("/etc/sbc-edge-controller/controller.toml")
DIRECTORY: Final = Path("/var/lib/sbc-edge-controller")
MAX_CONFIG_BYTES: Final = 1 << 20

PLACES: Final = (
    ("store", "file", "state.db"),
    ("authority", "directory", "authority"),
    ("artifacts", "directory", "artifacts"),
    ("archive", "directory", "archive"),
)
"""Section and key of everything that lies in the state folder unless the file says otherwise."""


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """[controller]: `name` tells this one from others of the same fleet; "" is this host's. Everything that it keeps
    is in `directory`, where the other sections do not say otherwise."""

    name: str = ""
    directory: Path = DIRECTORY

    def __post_init__(self) -> None:
        if self.name and (fault := name_fault(self.name)):
            raise ConfigError("name", fault)

    @property
    def id(self) -> str:
        """The name by which other controllers and certificates know it."""
        return self.name or host_name()


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """[metrics]: `listen` is address and port of the page that Prometheus scrapes; "" serves none."""

    listen: str = "127.0.0.1:9811"

    def __post_init__(self) -> None:
        if self.listen:
            host_and_port(self.listen, "listen")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """[log]: lines of this level and above."""

    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """controller.toml."""

    controller: ControllerSettings = field(default_factory=ControllerSettings)
    listen: ListenSettings = field(default_factory=ListenSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    authority: AuthoritySettings = field(default_factory=AuthoritySettings)
    fleet: FleetSettings = field(default_factory=FleetSettings)
    artifacts: ArtifactSettings = field(default_factory=ArtifactSettings)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    log: LogSettings = field(default_factory=LogSettings)
    shutdown: ShutdownSettings = field(default_factory=ShutdownSettings)


def read_config(text: str, directory: Path | None = None) -> Config:
    """The configuration that this document describes. Raises ConfigErrors, with every error.

    `directory` takes the place of [controller] directory.
    """
    errors: list[ConfigError] = []
    table = _placed(read_toml(text), directory)
    config = fill(Config, table, "", errors)
    raise_all(errors)
    assert config is not None
    return config


def load_config(path: Path, directory: Path | None = None) -> Config:
    """The same of a file. Raises ConfigError naming the file if it cannot be read."""
    return read_config(read_text(path, MAX_CONFIG_BYTES), directory)


def _placed(table: dict[str, Any], directory: Path | None) -> dict[str, Any]:
    """The table with what lies in the state folder filled in. What is no table is left for whoever complains of it."""
    own = table.setdefault("controller", {})
    if not isinstance(own, dict):
        return table
    if directory is not None:
        own["directory"] = str(directory)
    folder = own.get("directory", str(DIRECTORY))
    for section, key, name in PLACES:
        settings = table.setdefault(section, {})
        if isinstance(settings, dict) and isinstance(folder, str):
            settings.setdefault(key, str(Path(folder) / name))
    return table


def host_name() -> str:
    """This host's, as a name that certificates and logs can hold; "controller" where it has none of that kind."""
    name = re.sub(r"[^a-z0-9._-]+", "-", socket.gethostname().lower()).strip("._-")[:64]
    return name if name and not name_fault(name) else "controller"
