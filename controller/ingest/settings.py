"""How records are taken in: section [ingest] of controller.toml. Opens nothing."""

from dataclasses import dataclass
from typing import Annotated

from agent.settings import Range


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """Bounds of what waits to be committed; agents keep what does not fit, on their disks."""

    # So long a record waits for company: each commit is some files and four fsyncs.
    commit_seconds: Annotated[float, Range(0.01, 60.0)] = 2.0
    # Of all agents together, as they came, deflated. As text it is ten times that, but one group at a time is text.
    memory_mb: Annotated[int, Range(8, 65_536)] = 128
    # Of one agent: more than it can use in one commit helps nobody.
    window_kb: Annotated[int, Range(64, 65_536)] = 4096
    # What agents are told when the archive or the store cannot take anything.
    retry_seconds: Annotated[float, Range(1.0, 3600.0)] = 30.0
