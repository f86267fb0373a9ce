"""Who asks, and how much at a time. Knows peers by user and by certificate; must not know what is asked."""

import os
import pwd
from collections.abc import Iterable
from typing import Final

from agent.model import ConfigError
from agent.rpc.peers import Peer

LOCAL: Final = "local"
"""Everybody on the Unix socket: they share one bound, as processes of one SBC."""

ROOT: Final = 0


class LocalUsers:
    """Who of those that can open the Unix socket may ask on it: `users` where there are some, else the `group`.

    The file's permissions have let the peer in when it connected; this holds, too, when they are changed behind our
    back, and where other users of the group must not ask.
    """

    def __init__(self, users: frozenset[int], group: int) -> None:
        self._users = frozenset({ROOT, os.geteuid(), *users})
        self._group = -1 if users else group

    def admits(self, peer: Peer) -> bool:
        if peer.uid in self._users:
            return True
        return self._group >= 0 and (peer.gid == self._group or self._group in peer.groups)


def user_ids(names: Iterable[str], field: str) -> frozenset[int]:
    """Their numbers. Raises ConfigError that names the one that there is not."""
    ids = set()
    for n, name in enumerate(names):
        try:
            ids.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            raise ConfigError(f"{field}[{n}]", f'there is no user "{name}"') from None
    return frozenset(ids)


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
