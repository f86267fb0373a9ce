"""Who asks, and how much at a time. Knows certificates' names as gRPC hands them over; must not know what is asked."""

from collections.abc import Iterable, Mapping
from typing import Final

LOCAL: Final = "local"
"""Everybody on the Unix socket: gRPC does not say which process it is."""

# What grpc's TLS puts into the context of a call, and how we write it.
_NAMES: Final = (("peer_uri", "URI:"), ("peer_dns", "DNS:"), ("x509_common_name", "CN:"))


def names_of(auth_context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The names of a client's certificate: URIs and DNS names of its subject, and its common name."""
    return [
        kind + value.decode("utf-8", "replace") for key, kind in _NAMES for value in auth_context.get(key, ()) if value
    ]


class Crowd:
    """Calls in progress per client, bounded. Holds only clients that have some, so it needs no bound itself."""

    def __init__(self, most: int) -> None:
        self.turned_away = 0
        self._most = most
        self._present: dict[str, int] = {}

    @property
    def clients(self) -> int:
        return len(self._present)

    @property
    def in_flight(self) -> int:
        return sum(self._present.values())

    def enter(self, client: str) -> bool:
        """Whether one more call of this client is taken; then `leave` must follow."""
        present = self._present.get(client, 0)
        if present >= self._most:
            self.turned_away += 1
            return False
        self._present[client] = present + 1
        return True

    def leave(self, client: str) -> None:
        """One of its calls is over."""
        left = self._present[client] - 1
        if left:
            self._present[client] = left
        else:
            del self._present[client]
