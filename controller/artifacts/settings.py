"""Where lists are kept, as agents fetch them: section [artifacts] of controller.toml. Opens nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from agent.model import ConfigError
from agent.settings import Range

DEFAULT_DIRECTORY: Final = Path("/var/lib/sbc-edge-controller/artifacts")


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """`url` is a place that fsspec knows ("s3://bucket/lists"), the same for all controllers of a fleet; "" is
    `directory`. `fetches` is how many agents get a list at the same time; others wait for their turn.
    """

    directory: Path = DEFAULT_DIRECTORY
    url: str = ""
    fetches: Annotated[int, Range(1, 1024)] = 64

    def __post_init__(self) -> None:
        if self.url and "://" not in self.url:
            raise ConfigError("url", 'must begin with a protocol: "s3://bucket/lists"')
