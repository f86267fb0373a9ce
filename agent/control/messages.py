"""What agent and controller say to each other, in our own types. Knows the contract's meaning, and no protobuf.

Times are epoch seconds, durations seconds; an absent time is None. Bytes named `sha256` have 32 bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

CAPABILITIES: Final = ("artifact.delta", "command.v1", "policy.v1", "quota.lease")
"""What this agent can do beside what is always there; a part that brings more adds it in the composition root."""

UPGRADE: Final = "upgrade.v1"
"""Capability of an agent whose host lets its controller upgrade it."""


class Code(IntEnum):
    """Statuses that we use in problems, numbered as gRPC numbers them."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    DATA_LOSS = 15


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """`field` is a path: "limits[2].rate"."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where. `code` is a gRPC status code."""

    code: int
    message: str
    fields: tuple[FieldViolation, ...] = ()

    def __str__(self) -> str:
        return "; ".join(f"{f.field}: {f.description}" for f in self.fields) or self.message


class Phase(IntEnum):
    """Of an offer at the agent; numbers as in the contract."""

    RECEIVED = 1
    VALIDATED = 2
    APPLIED = 3
    CONFIRMED = 4
    REJECTED = 5
    ROLLED_BACK = 6

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self >= Phase.CONFIRMED


@dataclass(frozen=True, slots=True)
class Manifest:
    """One immutable artifact. `signed` is what the signature is over: the serialised manifest without it."""

    kind: str
    name: str
    generation: int
    sha256: bytes
    size: int
    format_version: int
    not_after: float | None
    key_id: str
    signature: bytes
    signed: bytes

    def __str__(self) -> str:
        return f"{self.kind} {self.name} generation {self.generation}"


@dataclass(frozen=True, slots=True)
class Offer:
    """One generation: a serialised policy and what the names of lists in it stand for. `soak` in seconds."""

    generation: int
    sha256: bytes
    policy: bytes
    manifests: tuple[Manifest, ...] = ()
    soak: float = 30.0

    @property
    def content(self) -> tuple[bytes, frozenset[tuple[str, str, bytes]]]:
        """What it amounts to: two offers with the same have the same effect."""
        return self.sha256, frozenset((m.kind, m.name, m.sha256) for m in self.manifests)


@dataclass(frozen=True, slots=True)
class InForce:
    """What is decided by; 0 and b"" for a policy that no controller gave."""

    generation: int = 0
    sha256: bytes = b""


# --- from the agent


@dataclass(frozen=True, slots=True)
class Hello:
    instance_uid: str
    boot_id: str
    version: str
    capabilities: tuple[str, ...]
    active: InForce
    agent_time: float
    rejected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OfferReport:
    """What became of an offer, and what is in force after it."""

    generation: int
    sha256: bytes
    phase: Phase
    problem: Problem | None
    active: InForce


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """How far the upgrade of this id came on this host."""

    id: str
    version: str
    phase: Phase
    why: str


@dataclass(frozen=True, slots=True)
class HealthReport:
    """`components`: name to (healthy, in words). `attempts` and `refusals` since the last report."""

    at: float
    components: Mapping[str, tuple[bool, str]]
    counters: Mapping[str, int]
    active: InForce
    attempts: int
    refusals: int
    upgrade: UpgradeReport | None = None


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """A piece of what a command came to: JSON objects; `last` ends it."""

    id: str
    json: tuple[str, ...] = ()
    problem: Problem | None = None
    last: bool = False


FromAgent = Hello | OfferReport | HealthReport | CommandAnswer


# --- to the agent


@dataclass(frozen=True, slots=True)
class Welcome:
    controller_id: str
    controller_time: float | None
    capabilities: frozenset[str]
    health_interval: float


@dataclass(frozen=True, slots=True)
class Command:
    """`word` is one of the allow-list of commands.py, "" for one that this version does not know."""

    id: str
    word: str
    expires_at: float | None
    argument: str = ""
    upgrade: str = ""
    duration: float = 0.0
    refused_only: bool = False
    policy: bytes = b""


@dataclass(frozen=True, slots=True)
class Goodbye:
    problem: Problem | None
    retry_after: float


ToAgent = Welcome | Offer | Command | Goodbye


# --- certificates


@dataclass(frozen=True, slots=True)
class Issued:
    """What the authority hands out: a certificate with its issuers, leaf first, whom to trust, who signs lists. DER."""

    chain: tuple[bytes, ...]
    trust: tuple[bytes, ...]
    artifact_keys: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Enrolled:
    agent_id: str
    issued: Issued


# --- artifacts


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an artifact or of a delta to it. `total` and `delta` count on the first piece of an answer."""

    offset: int
    data: bytes
    crc32c: int
    total: int = 0
    delta: bool = False
