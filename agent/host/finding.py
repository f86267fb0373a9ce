"""What a check of this host comes to, and how it is said. Knows no check."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How grave a finding is."""

    OK = "ok"
    WARNING = "warning"  # it works, and something of it will not, or not as well as it could
    FAULT = "fault"  # something that agent.toml asks for does not work
    SKIPPED = "skipped"  # could not be looked at; the advice says how it can


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` says what to do about it, as a command where there is one."""

    about: str
    state: State
    found: str
    advice: str = ""


def ok(about: str, found: str) -> Finding:
    """All is well."""
    return Finding(about, State.OK, found)


def warning(about: str, found: str, advice: str) -> Finding:
    """Not a fault yet."""
    return Finding(about, State.WARNING, found, advice)


def fault(about: str, found: str, advice: str) -> Finding:
    """Something does not work."""
    return Finding(about, State.FAULT, found, advice)


def skipped(about: str, found: str, advice: str) -> Finding:
    """Could not be looked at."""
    return Finding(about, State.SKIPPED, found, advice)
