"""What a caller is told when something is the matter: one gRPC status for each error, and its Problem beside it.

The only place that names status codes. A fault of ours is told as such, and nothing of it leaves this process.
"""

from typing import Final

from grpc import StatusCode

from agent.model import ConfigError, ConfigErrors
from controller.errors import (
    Busy,
    Conflict,
    ControllerError,
    Denied,
    Invalid,
    NoAnswer,
    NotFound,
    StaleEpoch,
    StoreDamaged,
    StoreError,
    StoreFull,
    Unauthenticated,
    WatermarkMoved,
)
from controller.model import FieldViolation, Problem
from sbcedge.control.v1 import control_pb2 as pb

PROBLEM_KEY: Final = "sbcedge-problem-bin"
"""Trailing metadata: a serialised sbcedge.control.v1.Problem, where there is more to say than code and message."""

RETRY_KEY: Final = "sbcedge-retry-after-ms"
"""Trailing metadata of RESOURCE_EXHAUSTED: how long to stay away, milliseconds."""

DETAIL_MAX: Final = 1024
"""Characters of a status message: it goes in a header, and headers have a bound of 8 kB."""

PROBLEM_MAX: Final = 5000
"""Bytes of a Problem in trailing metadata, for the same reason: the first violations that fit. Who wants all asks a
method that answers with them."""

TEXT_MAX: Final = 256

# The first that fits.
_CODES: Final[tuple[tuple[type[Exception], StatusCode], ...]] = (
    (Invalid, StatusCode.INVALID_ARGUMENT),
    (ConfigError, StatusCode.INVALID_ARGUMENT),
    (NotFound, StatusCode.NOT_FOUND),
    (Conflict, StatusCode.FAILED_PRECONDITION),
    (Denied, StatusCode.PERMISSION_DENIED),
    (Unauthenticated, StatusCode.UNAUTHENTICATED),
    (NoAnswer, StatusCode.DEADLINE_EXCEEDED),
    (Busy, StatusCode.RESOURCE_EXHAUSTED),
    (StaleEpoch, StatusCode.ABORTED),
    (WatermarkMoved, StatusCode.ABORTED),
    (StoreFull, StatusCode.RESOURCE_EXHAUSTED),
    (StoreDamaged, StatusCode.DATA_LOSS),
    (StoreError, StatusCode.UNAVAILABLE),
    (ControllerError, StatusCode.UNKNOWN),
)


def status_of(error: ControllerError | ConfigError) -> tuple[StatusCode, Problem]:
    """The status of an error, and the same as a Problem."""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    number: int = code.value[0]
    return code, Problem(number, str(error)[:DETAIL_MAX], violations(error))


def violations(error: ControllerError | ConfigError) -> tuple[FieldViolation, ...]:
    """The fields that it is about; all of a document's."""
    if isinstance(error, ConfigErrors):
        return tuple(FieldViolation(e.field, e.reason) for e in error.errors)
    if isinstance(error, ConfigError | Invalid) and error.field:
        return (FieldViolation(error.field, error.reason),)
    return ()


def trailing_of(error: ControllerError | ConfigError, problem: Problem) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata of a status."""
    trailing: list[tuple[str, str | bytes]] = []
    if problem.fields:
        message = pb.Problem(code=problem.code, message=problem.message[:TEXT_MAX])
        for violation in problem.fields:
            message.fields.add(field=violation.field[:TEXT_MAX], description=violation.description[:TEXT_MAX])
            if message.ByteSize() > PROBLEM_MAX:
                del message.fields[-1]
                break
        trailing.append((PROBLEM_KEY, message.SerializeToString()))
    if isinstance(error, Busy):
        trailing.append((RETRY_KEY, str(round(error.retry_after * 1000))))
    return tuple(trailing)
