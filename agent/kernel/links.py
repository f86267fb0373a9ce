"""Network interfaces that go down, vanish and come back: what one is now, and a bell that rings when any has changed.

Knows rtnetlink's multicast group of links and a few ioctls (netdevice(7)); needs no capability. What a message says is
not read: it is enough that something changed, and whoever hears the bell looks again. So no change is missed, also when
the kernel had to drop messages. Belongs to the network namespace in which it was opened.
"""

import errno
import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Final

RTMGRP_LINK: Final = 1
# linux/sockios.h, net/if.h
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _SIOCGIFINDEX = 0x8913, 0x8927, 0x8933
_IFF_UP: Final = 1
_REQUEST: Final = struct.Struct("=16s24x")  # struct ifreq
_SHORT_AT_16: Final = struct.Struct("=16xH")
_INT_AT_16: Final = struct.Struct("=16xi")

NAME_MAX: Final = 15
"""IFNAMSIZ without the final NUL."""

_MESSAGE_BYTES: Final = 65_536
_MESSAGES_AT_ONCE: Final = 256  # the bell has rung by then; the rest is read at the next turn


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as it is now. `hardware` is its ARPHRD_* type (net/if_arp.h)."""

    index: int
    up: bool
    hardware: int


class LinkWatch:
    """A netlink socket that becomes readable when an interface of this namespace has changed."""

    def __init__(self) -> None:
        """Raises OSError if the kernel has no rtnetlink for us."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, RTMGRP_LINK))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For select and the event loop."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Read what is there; whether there was anything, messages that the kernel had to drop included."""
        rang = False
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                self._socket.recv(_MESSAGE_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            rang = True
        return rang

    def look(self, name: str) -> Link | None:
        """The interface of that name; None if there is none now, or no interface can have that name."""
        encoded = name.encode()
        if not 0 < len(encoded) <= NAME_MAX or b"\0" in encoded:
            return None
        request = _REQUEST.pack(encoded)
        try:
            index = _INT_AT_16.unpack_from(fcntl.ioctl(self._socket, _SIOCGIFINDEX, request))[0]
            flags = _SHORT_AT_16.unpack_from(fcntl.ioctl(self._socket, _SIOCGIFFLAGS, request))[0]
            hardware = _SHORT_AT_16.unpack_from(fcntl.ioctl(self._socket, _SIOCGIFHWADDR, request))[0]
        except OSError:
            return None  # it is not there, or went while we asked
        return Link(index, bool(flags & _IFF_UP), hardware)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
