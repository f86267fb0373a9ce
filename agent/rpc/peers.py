"""Who is at the other end of a socket: the process of a Unix socket, or a certificate.

Knows what the kernel and TLS say; must not know who may ask what.
"""

import socket
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from agent.tls import names_of

_CREDENTIALS: Final = Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; not in Python's module
_GROUPS_MAX: Final = 65_536  # NGROUPS_MAX


@dataclass(frozen=True, slots=True)
class Peer:
    """`names` are those of a certificate; `uid` is -1 for who came over the network."""

    uid: int = -1
    gid: int = -1
    groups: frozenset[int] = frozenset()
    names: tuple[str, ...] = ()


def local_peer(sock: socket.socket) -> Peer:
    """The process that connected, as it was then. Raises OSError where the kernel does not tell."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(uid, gid, _groups(sock))


def _groups(sock: socket.socket) -> frozenset[int]:
    size = 64 * 4
    while True:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, size)
        except OSError as error:
            # ERANGE: there are more. A kernel before 4.13 does not tell; the primary group is known all the same.
            if size >= _GROUPS_MAX * 4 or error.errno != 34:
                return frozenset()
            size *= 4
            continue
        return frozenset(memoryview(raw).cast("I"))


def certified_peer(tls: Any) -> Peer:
    """Whoever has shown this certificate; `tls` is the ssl object of a transport."""
    return Peer(names=names_of(tls.getpeercert()))
