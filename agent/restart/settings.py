"""Settings of what is carried over a restart, as the section [restart] of agent.toml holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from agent.settings import Range


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """[restart]: `directory` None is the service's own state directory, and nothing is kept where there is none."""

    keep: bool = True
    directory: Path | None = None
    # What a kill may cost of counts. Calls are followed meanwhile; a snapshot of a busy SBC takes some milliseconds of
    # its core, and never more than a fiftieth of it.
    interval_seconds: Annotated[float, Range(0.1, 3600)] = 5.0
    # 32 limits of 100,000 callers each, 100,000 calls in progress and a flood of attempts take 100 MB.
    max_bytes: Annotated[int, Range(1 << 16, 1 << 30)] = 128 << 20
    # For how long the start of the agent may take over what was kept; the rest is left.
    restore_seconds: Annotated[float, Range(0.1, 30)] = 2.0

    def place(self, environment: Mapping[str, str]) -> Path | None:
        """The directory; None where nothing is kept."""
        if not self.keep:
            return None
        if self.directory is not None:
            return self.directory
        state = environment.get("STATE_DIRECTORY", "").split(":")[0]
        return Path(state) / "restart" if state else None
