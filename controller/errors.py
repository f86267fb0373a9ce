# ruff: noqa: N818  (they are named for what is the matter, as gRPC statuses are)
"""What can go wrong in the controller, by whose fault it is. Services map each to one gRPC status.

Knows no library. What a driver of a database or a file system raised is the `__cause__`; the text is for operators.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class ControllerError(Exception):
    """Any of the below."""


class Invalid(ControllerError):
    """The request cannot be right, whenever it is asked (INVALID_ARGUMENT). `field` is the path of the value."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class NotFound(ControllerError):
    """There is no such thing (NOT_FOUND). `kind` is "agent", "rollout", ..."""

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"there is no {kind} {name}")
        self.kind = kind
        self.name = str(name)


class Conflict(ControllerError):
    """Right as such, but not as things stand now: look again, then ask again (FAILED_PRECONDITION)."""


class Denied(ControllerError):
    """Whoever asks is known, and may not (PERMISSION_DENIED): revoked, banned, a role that does not suffice."""


class Unauthenticated(ControllerError):
    """Nobody that we know asks (UNAUTHENTICATED): a token or certificate that is none, used, expired or revoked."""


class Busy(ControllerError):
    """Too much at once; the same may be asked again after `retry_after` seconds (RESOURCE_EXHAUSTED)."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class NoAnswer(ControllerError):
    """Whoever was to answer did not, in the time that there was (DEADLINE_EXCEEDED)."""


class StaleEpoch(ControllerError):
    """This controller has led, and another one does now (ABORTED)."""

    def __init__(self, ours: int, current: int) -> None:
        super().__init__(f"led in term {ours}; term {current} has begun")
        self.ours = ours
        self.current = current


@dataclass(frozen=True, slots=True)
class Moved:
    """A watermark that is not where the writer believed."""

    agent_id: str
    spool_epoch: int
    expected: int
    actual: int


class WatermarkMoved(ControllerError):
    """Another controller has taken records of these agents meanwhile; nothing was committed (ABORTED)."""

    def __init__(self, moved: Sequence[Moved]) -> None:
        super().__init__("; ".join(f"{m.agent_id}: watermark is {m.actual}, not {m.expected}" for m in moved))
        self.moved = tuple(moved)


class StoreError(ControllerError):
    """The store could not do its work. Unless it is StoreUnavailable, nothing of what was asked has happened."""


class StoreUnavailable(StoreError):
    """It does not answer, or not in time (UNAVAILABLE). A change may have happened or not: ask again, idempotently."""


class StoreFull(StoreError):
    """Its disk is full (RESOURCE_EXHAUSTED); the change was not made. Reading goes on."""


class StoreDamaged(StoreError):
    """What is on disk is no database, or a broken one (DATA_LOSS). Only an operator can mend it: the text says how."""


class StoreBusy(StoreError):
    """Another process has this state (start only)."""


class SchemaTooNew(StoreError):
    """A later release of the controller has migrated the store; this one would misread it (start only)."""
