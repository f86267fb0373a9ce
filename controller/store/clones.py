"""Tells two machines with one identity apart from one machine that was started again.

Pure. A process has a boot id of its own. A machine that starts again comes with a new one and never with an old one;
two that have the same disk contents take turns, and so each old one returns. One return alone proves nothing: a
greeting of a process that is dead already may have been on its way, and then the living one returns after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from controller.model import Boot

RETURNS: Final = 3
"""So many old boot ids that return within RETURNS_SECONDS are two machines. Overtaking greetings make two at most."""

RETURNS_SECONDS: Final = 3600.0
"""Agents that are thrown out in turns come back within minutes."""

BOOTS_MAX: Final = 16
"""Boots of an agent that are remembered; a process that crashes at start makes more, and none of them returns."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`returns` and `returned_at` are to be noted with this boot; `banned` is the boot id that must go, "" none."""

    returns: int
    returned_at: float | None
    banned: str


def judge(boots: Sequence[Boot], boot_id: str, when: float) -> Judgement:
    """What it means that a process with this boot id opens a session, given the boots seen before."""
    own = next((boot for boot in boots if boot.boot_id == boot_id), None)
    others = [boot for boot in boots if boot.boot_id != boot_id]
    latest = max(others, key=lambda boot: boot.last_seen, default=None)
    if own is None:
        return Judgement(0, None, "")
    if latest is None or latest.last_seen <= own.last_seen:
        return Judgement(own.returns, own.returned_at, "")
    returns = _recent(own, when) + 1
    if sum(_recent(boot, when) for boot in others) + returns < RETURNS:
        return Judgement(returns, when, "")
    # The later one is the copy: what was there first is what its operator enrolled.
    return Judgement(returns, when, max(own, latest, key=lambda boot: boot.first_seen).boot_id)


def _recent(boot: Boot, when: float) -> int:
    return boot.returns if boot.returned_at is not None and when - boot.returned_at < RETURNS_SECONDS else 0
