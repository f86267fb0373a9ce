"""How the controller treats its agents: section [fleet] of controller.toml. Opens nothing."""

from dataclasses import dataclass
from typing import Annotated

from agent.settings import Range


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Seconds but for `openings`: how many sessions are begun at the same time, while more of them wait.

    `health` is how often agents report. `session` is how long one lasts at most (less up to a tenth, by chance).
    """

    health: Annotated[float, Range(0.2, 300)] = 10.0
    session: Annotated[float, Range(60, 86_400)] = 3600.0
    openings: Annotated[int, Range(1, 1024)] = 64
