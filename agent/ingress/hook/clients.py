"""How much clients ask at a time. Knows them by name; must not know what is asked."""

from typing import Final

LOCAL: Final = "local"
"""Everybody on the Unix socket: they share one bound, as processes of one SBC."""


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
