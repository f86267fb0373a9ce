"""What can go wrong between agent and controller, and what the agent does about it. Knows statuses, and no stream.

None of it stops screening: it decides when the controller is asked again, and what an operator is told.
"""

from enum import Enum
from typing import Final

from grpc import StatusCode, aio

RETRY_KEY: Final = "sbcedge-retry-after-ms"
"""Trailing metadata of RESOURCE_EXHAUSTED: how long to stay away, milliseconds."""

PROBLEM_KEY: Final = "sbcedge-problem-bin"
"""Trailing metadata: a serialised Problem that names fields."""

RETRY_MAX: Final = 3600.0
"""Seconds; a controller that says more is not believed."""

REASON_MAX: Final = 300
"""Characters of what the other side says that are shown."""


_CUT_OFF: Final = "Internal error from Core"
"""What gRPC says where the other side ends a stream before our first message is written."""


class Trouble(Enum):
    """Whose turn it is."""

    AWAY = "away"  # nobody answers, or not in time
    BUSY = "busy"  # told to come back later
    STALE = "stale"  # a term or an epoch is over: begin anew
    STRANGER = "stranger"  # the certificate is none any more: renew it, or enrol again
    BANNED = "banned"  # revoked, or a clone: ask hourly
    REFUSED = "refused"  # what we sent is wrong, and will be next time


_TROUBLES: Final = {
    StatusCode.RESOURCE_EXHAUSTED: Trouble.BUSY,
    StatusCode.ABORTED: Trouble.STALE,
    StatusCode.UNAUTHENTICATED: Trouble.STRANGER,
    StatusCode.PERMISSION_DENIED: Trouble.BANNED,
    StatusCode.INVALID_ARGUMENT: Trouble.REFUSED,
    StatusCode.FAILED_PRECONDITION: Trouble.REFUSED,
    StatusCode.NOT_FOUND: Trouble.REFUSED,
    StatusCode.OUT_OF_RANGE: Trouble.REFUSED,
    StatusCode.UNIMPLEMENTED: Trouble.REFUSED,
    StatusCode.DATA_LOSS: Trouble.REFUSED,
}


class ControllerError(Exception):
    """The link's fault. `retry_after` is what the controller asked for, seconds; 0: it did not say."""

    def __init__(self, trouble: Trouble, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.trouble = trouble
        self.reason = reason
        self.retry_after = retry_after


def of_rpc(error: aio.AioRpcError) -> ControllerError:
    """What a failed call means. What is not in the table is trouble of the other side, or of the way: AWAY."""
    code = error.code()
    said = (error.details() or "").strip()[:REASON_MAX]
    if code is StatusCode.INTERNAL and said == _CUT_OFF:
        return ControllerError(Trouble.AWAY, "it hung up at once: is this its port for agents (7443, unless changed)?")
    trailing = error.trailing_metadata() or ()
    retry_after = next((_seconds(value) for key, value in trailing if key == RETRY_KEY), 0.0)
    return ControllerError(
        _TROUBLES.get(code, Trouble.AWAY), f"{code.name}: {said}" if said else code.name, retry_after
    )


def _seconds(value: object) -> float:
    text = str(value)
    return min(int(text) / 1000, RETRY_MAX) if text.isascii() and text.isdecimal() and len(text) < 16 else 0.0
