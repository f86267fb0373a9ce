"""Whether the agent does worse under a new policy than it did before: what sends it back while an offer soaks.

No I/O; time is an argument, monotonic seconds. The controller judges too, over many agents; this is what one agent
must find out by itself, because the controller may be away, or be wrong.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.control.messages import UpgradeReport

EVIDENCE: Final = 50
"""Call attempts below which a share of refusals says nothing."""

REFUSED_RISE: Final = 0.5
"""Of the refused share: half of the calls more than before is no policy that anybody meant. The controller's own bound
is finer; a flood that begins at this very moment is refused again as soon as the next generation comes."""

FAULTS_RISE: Final = 0.05
"""Of the share of attempts at which our own code failed, where it failed before, too. Where it did not: any."""

ILL_SECONDS: Final = 5.0
"""That a part is not well before it counts: a restart of its peer takes some."""

BEFORE_SECONDS: Final = 120.0
"""What an offer is compared with."""

LINKS: Final = frozenset({"controller", "quota", "upload"})
"""Parts that need the controller: a link that is lost says nothing of a policy."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the agent does. Counts since the start of the process; `components`: name to (healthy, in words)."""

    attempts: int = 0
    refusals: int = 0
    failures: int = 0
    components: Mapping[str, tuple[bool, str]] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    upgrade: UpgradeReport | None = None

    def ill(self) -> dict[str, str]:
        """The parts that are not well, and why."""
        return {name: words for name, (healthy, words) in self.components.items() if not healthy and name not in LINKS}


class History:
    """The last minutes, a look a second."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Vitals]] = deque(maxlen=int(BEFORE_SECONDS))

    def look(self, now: float, vitals: Vitals) -> None:
        """To be called about once a second."""
        if not self._looks or now - self._looks[-1][0] >= 0.5:
            self._looks.append((now, vitals))

    def before(self, now: float) -> Vitals | None:
        """The oldest look that is not too old; None: there was none."""
        return next((vitals for at, vitals in self._looks if now - at <= BEFORE_SECONDS), None)


class Soak:
    """One offer from its swap on."""

    def __init__(self, start: Vitals, before: Vitals | None, now: float) -> None:
        self._start = start
        self._ill_before = frozenset(start.ill())
        self._ill_since: dict[str, float] = {}
        self._share, self._faults = _shares(before, start) if before is not None else (0.0, 0.0)
        self.since = now

    def worse(self, vitals: Vitals, now: float) -> str:
        """Why the agent does worse than before; "" it does not."""
        start = self._start
        attempts = vitals.attempts - start.attempts
        faults = vitals.failures - start.failures
        if faults > 0 and (self._faults == 0 or faults / max(attempts, 1) - self._faults > FAULTS_RISE):
            return f"{faults} faults of our own while screening since it came into force"
        share = (vitals.refusals - start.refusals) / attempts if attempts else 0.0
        if attempts >= EVIDENCE and share - self._share > REFUSED_RISE:
            return f"refused share: {self._share:.2f} before, {share:.2f} of {attempts} attempts now"
        return self._newly_ill(vitals, now)

    def _newly_ill(self, vitals: Vitals, now: float) -> str:
        ill = {name: why for name, why in vitals.ill().items() if name not in self._ill_before}
        self._ill_since = {name: self._ill_since.get(name, now) for name in ill}
        for name, since in self._ill_since.items():
            if now - since >= ILL_SECONDS:
                return f"{name} is not well since it came into force: {ill[name]}"
        return ""


def _shares(before: Vitals, start: Vitals) -> tuple[float, float]:
    """Refused share and share of faults between two looks."""
    attempts = start.attempts - before.attempts
    faults = start.failures - before.failures
    share = (start.refusals - before.refusals) / attempts if attempts >= EVIDENCE else 0.0
    return share, faults / max(attempts, 1)
