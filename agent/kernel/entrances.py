"""The interfaces by which packets enter this host: where each of them is seen once, before bridges, bonds and VLANs.

Knows rtnetlink's list of links (linux/if_link.h); needs no capability. What is stacked on another interface is not
among them, as its packets have come in by that one: a VLAN, a bond, a bridge. Neither is what has no Ethernet frames:
tunnels, the loopback.
"""

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.kernel.netlink import HEADER, NLMSG_ERROR, REQUEST, attributes_in

_GET_LINK, _NEW_LINK, _DONE, _DUMP = 18, 16, 3, 0x300
_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, hardware, index, flags, changed flags
_ADDRESS, _NAME, _MASTER, _INFO, _EXTENDED = 1, 3, 10, 18, 29  # IFLA_*
_INFO_KIND: Final = 1
_NO_STATISTICS: Final = struct.pack("=HHI", 8, _EXTENDED, 1 << 3)
_UP: Final = 1
_ETHERNET: Final = 1  # ARPHRD_ETHER

_KINDS: Final = frozenset({"", "veth", "tun"})
"""Hardware has no kind; of the rest, those that are ends of a cable."""

_SECONDS: Final = 3.0
_PART: Final = 1 << 16  # the kernel fills at most 32 kB at once


@dataclass(frozen=True, slots=True)
class Entrance:
    """An interface with its hardware address."""

    index: int
    name: str
    station: bytes


@dataclass(frozen=True, slots=True)
class _Found:
    entrance: Entrance
    hardware: int
    up: bool
    kind: str
    master: int


def entrances() -> tuple[Entrance, ...]:
    """Those that are up, in this network namespace. Raises OSError if the kernel does not tell."""
    found = [one for one in _links() if one.hardware == _ETHERNET and one.up and one.kind in _KINDS]
    indices = {one.entrance.index for one in found}
    # A slave whose master is one of these, too: a virtual function below its paravirtual card (netvsc, net_failover).
    return tuple(one.entrance for one in found if one.master not in indices)


def _links() -> Iterator[_Found]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
        asking.settimeout(_SECONDS)
        body = _LINK.pack(0, 0, 0, 0, 0) + _NO_STATISTICS
        asking.send(HEADER.pack(HEADER.size + len(body), _GET_LINK, REQUEST | _DUMP, 1, 0) + body)
        while True:
            data = asking.recv(_PART)
            at = 0
            while at + HEADER.size <= len(data):
                length, kind, *_ = HEADER.unpack_from(data, at)
                if kind == NLMSG_ERROR:
                    code = -int.from_bytes(data[at + HEADER.size : at + HEADER.size + 4], sys.byteorder, signed=True)
                    raise OSError(code, "list of interfaces")
                if kind == _DONE:
                    return
                if kind == _NEW_LINK:
                    yield _read(data[at : at + length])
                at += max(HEADER.size, (length + 3) & ~3)


def _read(message: bytes) -> _Found:
    _, hardware, index, flags, _ = _LINK.unpack_from(message, HEADER.size)
    values = dict(attributes_in(message, HEADER.size + _LINK.size))
    name = values.get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
    info = dict(attributes_in(values.get(_INFO, b"")))
    described = info.get(_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    master = int.from_bytes(values.get(_MASTER, b""), sys.byteorder)
    return _Found(Entrance(index, name, values.get(_ADDRESS, b"")), hardware, bool(flags & _UP), described, master)
