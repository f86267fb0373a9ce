"""Where call records are kept, and for how long: section [archive] of controller.toml. Opens nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from agent.settings import Range
from controller.names import check_place

# Where the package keeps state (systemd StateDirectory=sbc-edge-controller).
DEFAULT_DIRECTORY: Final = Path("/var/lib/sbc-edge-controller/archive")


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """`url` is a place on object storage ("s3://bucket/records", see controller/objects.py); "" is `directory`.

    Days are those of the calls. What is older than its `..._days` goes, within an hour.
    """

    directory: Path = DEFAULT_DIRECTORY
    url: str = ""
    # Tracebacks ask about the last weeks; 47 CFR 64.1200 and contracts ask for proof of what was blocked for longer.
    calls_days: Annotated[int, Range(1, 3660)] = 400
    rollups_days: Annotated[int, Range(1, 3660)] = 800
    # The rest of the disk is for the state, which must be written whatever becomes of records.
    min_free_ratio: Annotated[float, Range(0.0, 0.9)] = 0.05
    # Of one question; several run at a time.
    query_memory_mb: Annotated[int, Range(64, 65_536)] = 512
    queries: Annotated[int, Range(1, 64)] = 2
    # Small files are made into large ones this often.
    compact_seconds: Annotated[float, Range(1.0, 86_400.0)] = 300.0

    def __post_init__(self) -> None:
        if self.url:
            check_place(self.url)
