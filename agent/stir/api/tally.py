"""What the API counts. Grows with nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.stir.api.faults import ApiError, Fault


class Cut(Enum):
    """Why we ended a connection."""

    SLOW = "slow"  # a request, its answer or the end took too long
    ROOM = "room"  # nobody was let in on it yet, and another came
    IDLE = "idle"
    UNREADABLE = "unreadable"  # not HTTP
    LARGE = "large"  # went on sending after its answer


@dataclass(slots=True)
class Tally:
    """Since the start: requests by what became of them, then connections."""

    requests: int = 0
    passed: int = 0
    not_passed: int = 0
    late: int = 0  # verifications whose time was up; they are among not_passed
    signed: int = 0
    unauthorised: int = 0
    bad_requests: int = 0
    turned_away: int = 0  # for want of room among the requests of one client
    failures: int = 0  # of ours
    gone: int = 0  # clients that left before their answer
    connections: int = 0
    refused_connections: int = 0  # for want of room
    handshakes_failed: int = 0
    cut: dict[Cut, int] = field(default_factory=lambda: dict.fromkeys(Cut, 0))

    def count(self, error: ApiError) -> None:
        """Count a request that is not served."""
        match error.fault:
            case Fault.UNAUTHORISED | Fault.FORBIDDEN:
                self.unauthorised += 1
            case Fault.BUSY:
                self.turned_away += 1
            case Fault.INTERNAL:
                self.failures += 1
            case _:
                self.bad_requests += 1

    def counters(self) -> Mapping[str, int]:
        """All of it, by the names that metrics have."""
        return {
            "stir_api_requests": self.requests,
            "stir_api_passed": self.passed,
            "stir_api_not_passed": self.not_passed,
            "stir_api_late": self.late,
            "stir_api_signed": self.signed,
            "stir_api_unauthorised": self.unauthorised,
            "stir_api_bad_requests": self.bad_requests,
            "stir_api_turned_away": self.turned_away,
            "stir_api_failures": self.failures,
            "stir_api_gone": self.gone,
            "stir_api_connections": self.connections,
            "stir_api_refused_connections": self.refused_connections,
            "stir_api_handshakes_failed": self.handshakes_failed,
            **{f"stir_api_cut_{why.value}": count for why, count in self.cut.items()},
        }
