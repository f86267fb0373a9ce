"""Who asks, for whoever answers: set by the gate before a servicer is called, for as long as the call lasts.

Knows no way of finding that out. Every call runs in a task of its own, and so do its context variables.
"""

from contextvars import ContextVar
from typing import Any, Final

from controller.model import Act, Peer

CALLER: Final[ContextVar[Peer]] = ContextVar("caller")


def caller() -> Peer:
    """Who asks. Its kind and role are those that the method's permission demands: no servicer needs to look again.

    An agent's own data are those of `caller().name`; nothing that it says of itself counts. LookupError where nobody
    was asked to show who he is (EnrollmentService), and outside of calls.
    """
    return CALLER.get()


def act(action: str, **detail: Any) -> Act:
    """What the caller is doing, for the audit log: act("policy.apply", generation=8)."""
    return Act(str(caller()), action, detail)
