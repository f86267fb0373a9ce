"""What an operator may set about the records on disk, each with its default and the reason for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.model import ConfigError

# Where the package keeps state (systemd StateDirectory=sbc-edge-agent).
DEFAULT_DIRECTORY: Final = Path("/var/lib/sbc-edge-agent/spool")


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """Bounds and habits of the spool. Raises ConfigError for a value that cannot work."""

    directory: Path = DEFAULT_DIRECTORY
    # Some 20 million calls at 100 bytes each: two days of 100 calls/s, one hour of 5,000 calls/s.
    max_bytes: int = 2 << 30
    # A traceback request names a call of the last days; what is older has long gone up to the controller.
    max_age_seconds: float = 7 * 86400.0
    # Logs and core dumps of the SBC must still fit. Below it allowed calls are neither kept nor recorded.
    min_free_ratio: float = 0.05
    # The step in which room is made, and what one look-up reads at a time.
    segment_bytes: int = 16 << 20
    # So that on a quiet host too the bounds work in steps of minutes.
    segment_seconds: float = 600.0
    # What a power cut may cost of records; at 20 groups a second a disk is busy with us for a fiftieth of the time.
    commit_interval: float = 0.05
    # Share of the calls that no rule objected to. Roll-ups count all of them; whatever a rule said is always recorded.
    sample_allowed: float = 1.0
    # What waits in memory while the disk is slow: a second of 10,000 calls/s, some 26 MB with their messages.
    queue_records: int = 10_000
    # The same in bytes of SIP messages: 64 kB INVITEs must not become a gigabyte of queue.
    queue_bytes: int = 24 << 20

    def __post_init__(self) -> None:
        for name, least in (
            ("segment_bytes", 4096),
            ("segment_seconds", 1.0),
            ("max_age_seconds", 60.0),
            ("commit_interval", 0.001),
            ("queue_records", 1),
            ("queue_bytes", 65536),
        ):
            if not getattr(self, name) >= least:
                raise ConfigError(name, f"must be at least {least}")
        if self.max_bytes < 2 * self.segment_bytes:
            raise ConfigError("max_bytes", "must hold at least two segments (segment_bytes)")
        if not 0 <= self.min_free_ratio < 1:
            raise ConfigError("min_free_ratio", "must be from 0 to below 1")
        if not 0 <= self.sample_allowed <= 1:
            raise ConfigError("sample_allowed", "must be from 0 to 1")
