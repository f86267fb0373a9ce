"""A Unix socket of ours: who may ask on it, and what everybody there can ask about us.

Knows peers by user and group; must not know what else is asked.
"""

import os
import pwd
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agent.model import ConfigError
from agent.rpc import health, reflection
from agent.rpc.call import Call, Conversation
from agent.rpc.peers import Peer
from agent.rpc.server import RpcServer, path_of
from agent.rpc.socket_file import SocketFile

ROOT: Final = 0

Begin = Callable[[Call], Conversation]


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


def listen(server: RpcServer, file: SocketFile, users: Iterable[str]) -> LocalUsers:
    """Give the server its socket, and say who may ask on it.

    Raises ConfigError naming the setting, or OSError: then there is no file, and the server is to be stopped.
    """
    known = user_ids(users, f"{file.section}.users")
    bound = file.prepare()
    try:
        server.listen_local(bound)
        file.publish(bound)
    finally:
        file.discard(bound)
    return LocalUsers(known, file.group_id)


def about_us(state: health.Health, services: Sequence[str]) -> dict[bytes, Begin]:
    """Health and reflection, by their paths."""
    described = reflection.Reflection((*services, health.SERVICE, reflection.SERVICE))
    return {
        path_of(health.SERVICE, "Check"): state.check,
        path_of(health.SERVICE, "Watch"): state.watch,
        path_of(reflection.SERVICE, "ServerReflectionInfo"): described.begin,
    }
