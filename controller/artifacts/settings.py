"""Where lists are kept, as agents fetch them: section [artifacts] of controller.toml. Opens nothing."""

from dataclasses import dataclass
from typing import Annotated, Final

from agent.model import ConfigError
from agent.settings import Range

PATH_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """`directory` is a folder, or an address that fsspec knows ("s3://bucket/lists"), the same for all controllers of
    a fleet. `fetches` is how many agents get a list at the same time; others wait for their turn.
    """

    directory: str = "/var/lib/sbc-edge-controller/artifacts"
    fetches: Annotated[int, Range(1, 1024)] = 64

    def __post_init__(self) -> None:
        if not self.directory or "\0" in self.directory or len(self.directory) > PATH_MAX:
            raise ConfigError("directory", "must be a folder, or an address of object storage")
