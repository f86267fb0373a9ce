"""What follows from offers: the effects, for whoever performs them, and what must be remembered. No behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.control.messages import Offer, OfferReport, Phase, Problem
from agent.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class Rejection:
    """A generation that is not taken again, and what was answered."""

    sha256: bytes
    phase: Phase
    problem: Problem


@dataclass(frozen=True, slots=True)
class Journal:
    """What must survive the process, beside the policies. `floors`: the confirmed generation of each list.

    `begun` is the offer that was begun and not ended: generation, and how often the process ended at it.
    """

    rejected: Mapping[int, Rejection]
    floors: Mapping[tuple[str, str], int]
    begun: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Standing:
    """What an agent starts with. `offer` None: `policy` is that of the file, or the empty one. `problems` are for
    people."""

    policy: Policy
    offer: Offer | None
    journal: Journal
    problems: tuple[str, ...]


# --- effects


@dataclass(frozen=True, slots=True)
class Report:
    """To the controller, if there is one."""

    report: OfferReport


@dataclass(frozen=True, slots=True)
class SayHealth:
    """To the controller, now: how things are under what is in force."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch, check, compile; then `prepared`, `refused` or `postponed`. What is being prepared is given up."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Apply:
    """Put what was prepared into force; then `applied`."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Reinstate:
    """Put what was in force before into force again, under this number; None: what was there before any offer."""

    offer: Offer | None


@dataclass(frozen=True, slots=True)
class Keep:
    """Make it the last known good on disk; then `kept`, or `not_kept`."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Note:
    """Write this down, durably, before what follows."""

    journal: Journal


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody waits any more for what is being prepared."""


Effect = Report | SayHealth | Prepare | Apply | Reinstate | Keep | Note | GiveUp
