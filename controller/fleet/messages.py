"""What agent and controller say in a session, in our own types. Knows the contract's meaning and no protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from controller.errors import ControllerError
from controller.model import Artifact, OfferPhase, Problem, UpgradeNote

POLICY: Final = "policy.v1"
"""Capability of agents that take offers. Without it none is made: capabilities are never inferred from a version."""

UPGRADE: Final = "upgrade.v1"
"""Of agents whose host lets the controller upgrade them."""


# --- from the agent


@dataclass(frozen=True, slots=True)
class Hello:
    """`agent_time` is epoch seconds; generation 0 and no hash: it runs by a file of its own."""

    instance_uid: str
    boot_id: str
    version: str = ""
    capabilities: frozenset[str] = frozenset()
    active_generation: int = 0
    active_sha256: bytes = b""
    agent_time: float | None = None
    rejected: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class OfferReport:
    """What became of an offer, and what is in force after it."""

    generation: int
    sha256: bytes
    phase: OfferPhase
    problem: Problem | None = None
    active_generation: int = 0
    active_sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """`trouble` names the components that are not well, and why. `attempts` and `refusals` since the last report."""

    at: float | None = None
    trouble: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    active_generation: int = 0
    active_sha256: bytes = b""
    attempts: int = 0
    refusals: int = 0
    upgrade: UpgradeNote | None = None


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """A piece of what a command came to; `last` ends it."""

    id: str
    json: tuple[str, ...] = ()
    problem: Problem | None = None
    last: bool = False


FromAgent = Hello | OfferReport | HealthReport | CommandAnswer


# --- to the agent


@dataclass(frozen=True, slots=True)
class Welcome:
    health_interval: float


@dataclass(frozen=True, slots=True)
class Offering:
    """A generation as it goes to agents, with the lists that it needs."""

    generation: int
    sha256: bytes
    document: bytes
    artifacts: tuple[Artifact, ...]
    soak: float


@dataclass(frozen=True, slots=True)
class Order:
    """A command for one agent. `word` is one of the allow-list of controller/fleet/commands.py.

    Of "upgrade", `argument` is version and key, with a space between, and `duration` the soak on the host.
    """

    id: str
    word: str
    expires_at: float
    argument: str = ""
    duration: float = 0.0
    refused_only: bool = False
    policy: bytes = b""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The session ends; come back after so many seconds. Without an error nothing is wrong, and `why` says what is."""

    error: ControllerError | None
    retry_after: float
    why: str = ""


ToAgent = Welcome | Offering | Order | Goodbye
