"""The words of the controller: agents, generations, rollouts, lists, limits, watermarks, who may do what.

Immutable and without behaviour but for what follows from their own fields. Imports nothing of ours. Times are epoch
seconds, durations seconds; an absent time is None. Bytes named `sha256` have 32 bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Final


class Role(IntEnum):
    """Of an operator; each may do what the one before may. Numbers as in the contract."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        return self.name.lower()


class PeerKind(StrEnum):
    """Who has a certificate of ours; the first part of the path of its name."""

    AGENT = "agent"
    OPERATOR = "operator"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection. `serial` is that of the certificate, or "login-ID" of the token."""

    kind: PeerKind
    name: str
    role: Role | None = None
    serial: str = ""
    not_after: float | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Act:
    """Something that somebody does; becomes an entry of the audit log. `actor` is "operator:jane", "controller:a"."""

    actor: str
    action: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One link of the chain. `detail` is JSON text, as it was hashed; `at` is whole microseconds since the epoch."""

    sequence: int
    at: int
    actor: str
    action: str
    detail: str
    hash: bytes


# --- problems


@dataclass(frozen=True, slots=True)
class FieldViolation:
    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where. `code` is a gRPC status code."""

    code: int
    message: str
    fields: tuple[FieldViolation, ...] = ()


# --- agents


@dataclass(frozen=True, slots=True)
class Session:
    """One OpenSession of one agent at one controller. `boot_id` is new at every start of the agent's process."""

    id: str
    agent_id: str
    controller_id: str
    instance_uid: str
    boot_id: str
    version: str
    capabilities: frozenset[str]
    address: str
    opened_at: float


@dataclass(frozen=True, slots=True)
class Boot:
    """One run of an agent's process as the controller saw it: when it first and last opened a session.

    `returns` is how often it came back after another one had been there, lately; `returned_at` when it last did.
    """

    boot_id: str
    instance_uid: str
    address: str
    first_seen: float
    last_seen: float
    returns: int = 0
    returned_at: float | None = None


@dataclass(frozen=True, slots=True)
class UpgradeNote:
    """What an agent says of the last upgrade that a controller asked it for. `id` is the upgrade's `key`."""

    id: str
    version: str
    phase: "OfferPhase"
    why: str = ""


@dataclass(frozen=True, slots=True)
class HealthNote:
    """The last that an agent said of itself. `counters` since the start of its process.

    `attempts` and `refusals` since `active_generation` came into force there, as far as its session has heard.
    """

    at: float
    active_generation: int = 0
    active_sha256: bytes = b""
    trouble: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    attempts_per_second: float = 0.0
    refused_share: float = 0.0
    clock_offset: float = 0.0
    attempts: int = 0
    refusals: int = 0
    upgrade: UpgradeNote | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """`session` is None when no living controller holds one. `offer` is the latest made to it."""

    id: str
    instance_uid: str
    hostname: str
    version: str
    enrolled_at: float
    certificate_not_after: float
    revoked_at: float | None = None
    revoked_why: str = ""
    last_seen: float | None = None
    health: HealthNote | None = None
    session: Session | None = None
    offer: "Offer | None" = None
    records_committed: int = 0

    @property
    def revoked(self) -> bool:
        return self.revoked_at is not None


@dataclass(frozen=True, slots=True)
class Controller:
    """A process that serves the fleet. `address` is host:port at which the others reach its services."""

    id: str
    address: str
    started_at: float
    last_seen: float


@dataclass(frozen=True, slots=True)
class Term:
    """In which one controller leads. `epoch` fences the leaders before it; `since` is on the monotonic clock."""

    epoch: int
    since: float


# --- policy and rollouts


@dataclass(frozen=True, slots=True)
class ArtifactKey:
    """Names one immutable artifact: ("dno", "industry", 17)."""

    kind: str
    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class PolicyDraft:
    """What becomes a generation: the TOML as written, the serialised Policy that agents get, the lists it needs."""

    name: str
    toml: str
    document: bytes
    author: str
    comment: str = ""
    rolled_back_to: int = 0
    artifacts: tuple[ArtifactKey, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """A generation without its content. `sha256` is of its document. `rollout` is the state of its rollout, or None."""

    generation: int
    sha256: bytes
    name: str
    author: str
    comment: str
    created_at: float
    rolled_back_to: int
    artifacts: tuple[ArtifactKey, ...]
    rollout: "RolloutState | None" = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A generation."""

    info: PolicyInfo
    toml: str
    document: bytes


class RolloutState(StrEnum):
    """As the contract spells them."""

    RUNNING = "running"
    HALTED = "halted"
    DONE = "done"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """`steps` are shares of the fleet, rising, the last 1. `refusal_rise` is of the refused share, 0 to 1."""

    steps: tuple[float, ...]
    soak: float
    refusal_rise: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a generation has come. `memory` is JSON that only the rollout's state machine understands."""

    generation: int
    state: RolloutState
    plan: RolloutPlan
    started_at: float
    why: str = ""
    step: int = 0
    step_started_at: float = 0.0
    memory: Mapping[str, Any] = field(default_factory=dict)


class OfferPhase(IntEnum):
    """Of one generation at one agent. OFFERED: it shall have it, and has not answered. Others as in the contract."""

    OFFERED = 0
    RECEIVED = 1
    VALIDATED = 2
    APPLIED = 3
    CONFIRMED = 4
    REJECTED = 5
    ROLLED_BACK = 6

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Offer:
    """One generation for one agent."""

    agent_id: str
    generation: int
    step: int
    phase: OfferPhase
    offered_at: float
    updated_at: float
    problem: Problem | None = None


# --- upgrades


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Another version of the agent for the fleet. `rollout.generation` is its number, `key` what agents know it by.

    `takes_back` is the number of the upgrade whose agents get back what they had, 0 none; then `version` is "".
    """

    version: str
    key: str
    author: str
    rollout: Rollout
    takes_back: int = 0

    @property
    def number(self) -> int:
        return self.rollout.generation


@dataclass(frozen=True, slots=True)
class UpgradeOffer:
    """To one agent: `offer.generation` is the number of the upgrade. `before` is the version that it had."""

    offer: Offer
    version: str
    before: str


# --- artifacts


@dataclass(frozen=True, slots=True)
class Artifact:
    """A list as agents get it. `location` is the blob's name in the artifact folder; `manifest` is what was signed."""

    key: ArtifactKey
    sha256: bytes
    size: int
    format_version: int
    not_after: float | None
    key_id: str
    signature: bytes
    manifest: bytes
    location: str
    author: str
    created_at: float
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """Bytes that make the artifact `target_sha256` of the artifact `base_sha256`."""

    base_sha256: bytes
    target_sha256: bytes
    sha256: bytes
    size: int
    location: str


@dataclass(frozen=True, slots=True)
class FetchState:
    """How the scheduled fetch of one source went last. `fetched_at` is of the last that succeeded."""

    source: str
    tried_at: float
    fetched_at: float | None = None
    validator: str = ""  # ETag or Last-Modified, to ask for changes only
    problem: str = ""


# --- limits


class Partition(StrEnum):
    """What agents do with a fleet-wide limit while no controller answers."""

    SAFE = "safe"
    HOLD = "hold"
    OPEN = "open"


WARN_AT: Final = 0.8
"""Of a limit that does not say, as in policies."""


@dataclass(frozen=True, slots=True)
class FleetLimit:
    """Attempts per second of the whole fleet, and how many more at once.

    `warn_at` is the share of it from which on operators are told that it is nearly used up; 1: never.
    """

    name: str
    rate: float
    burst: float
    partition: Partition = Partition.SAFE
    author: str = ""
    updated_at: float = 0.0
    warn_at: float = WARN_AT


# --- records


@dataclass(frozen=True, slots=True)
class Watermark:
    """Everything of this spool up to and with `committed_through` is archived or known to be lost."""

    agent_id: str
    spool_epoch: int
    committed_through: int
    records: int
    updated_at: float


@dataclass(frozen=True, slots=True)
class Advance:
    """A watermark's move from `expected` (0: a new spool) to `through`; `records` of them are in the files beside."""

    agent_id: str
    spool_epoch: int
    expected: int
    through: int
    records: int


@dataclass(frozen=True, slots=True)
class DroppedRange:
    """`count` records of a kind, with sequences within `first` to `last`, that the agent had to let go."""

    agent_id: str
    spool_epoch: int
    first: int
    last: int
    kind: str
    count: int
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A Parquet file. `path` is relative to the archive; `first_at` to `last_at` are the times of its records."""

    path: str
    kind: str
    records: int
    bytes: int
    first_at: float
    last_at: float
    created_at: float


# --- access


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """`agent_id` names the agent that it is for, "" a new one. `used_by` is the agent that came of it, "" none."""

    id: str
    note: str
    created_by: str
    created_at: float
    expires_at: float
    agent_id: str = ""
    used_at: float | None = None
    used_by: str = ""
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    name: str
    role: Role
    created_by: str
    created_at: float
    expires_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate that the authority gave out. `serial` is lower-case hexadecimal."""

    serial: str
    kind: PeerKind
    name: str
    not_before: float
    not_after: float
    key_sha256: bytes
    issued_at: float
    revoked_at: float | None = None
    revoked_why: str = ""


class Topic(StrEnum):
    """What may have changed; each has a number in the store that rises with every change. Health and records: none."""

    AGENTS = "agents"  # enrolled, revoked, sessions
    POLICIES = "policies"
    ROLLOUTS = "rollouts"  # offers too
    ARTIFACTS = "artifacts"
    LIMITS = "limits"
    ACCESS = "access"  # tokens, operators, revoked certificates
