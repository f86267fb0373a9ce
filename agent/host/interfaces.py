"""The network interfaces of this host and their addresses. Knows an ioctl (netdevice(7)) and /proc/net/if_inet6."""

import array
import fcntl
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

_SIOCGIFCONF: Final = 0x8912
_IFREQ: Final = struct.Struct("16sH2x4s16x")  # name, then sockaddr_in: family, port, address
_MOST: Final = 4096
"""Addresses that are asked for; a host with more has others to ask."""

_LINK_LOCAL: Final = 0x20  # scope column of if_inet6: addresses that mean nothing outside of their link


@dataclass(frozen=True, slots=True)
class Interface:
    """A name, whether it is up, and its addresses without those of the link."""

    name: str
    up: bool
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()

    @property
    def is_loopback(self) -> bool:
        """Whether it leads nowhere."""
        return self.name == "lo"


def interfaces(net: Path = Path("/sys/class/net"), inet6: Path = Path("/proc/net/if_inet6")) -> tuple[Interface, ...]:
    """All of this network namespace, by name. Raises OSError if the kernel does not tell."""
    addresses: dict[str, list[IPv4Address | IPv6Address]] = {}
    for label, four in _ipv4():
        addresses.setdefault(label, []).append(four)
    for label, six in _ipv6(inet6):
        addresses.setdefault(label, []).append(six)
    # /sys belongs to the namespace in which it was mounted; names come from the kernel's own answer for ours.
    names = {name for _, name in socket.if_nameindex()}
    return tuple(
        Interface(name, _is_up(net / name), tuple(sorted(addresses.get(name, ()), key=lambda a: (a.version, int(a)))))
        for name in sorted(names)
    )


def _is_up(folder: Path) -> bool:
    """Loopback and tunnels say "unknown", and work."""
    try:
        return (folder / "operstate").read_text().strip() in {"up", "unknown"}
    except OSError:
        return False


def _ipv4() -> list[tuple[str, IPv4Address]]:
    buffer = array.array("B", bytes(_IFREQ.size * _MOST))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
        length = struct.unpack("iL", fcntl.ioctl(asking, _SIOCGIFCONF, request))[0]
    found = []
    for name, family, address in _IFREQ.iter_unpack(bytes(buffer[:length])):
        if family == socket.AF_INET:
            label = name.split(b"\0", 1)[0].decode(errors="replace")
            found.append((label.partition(":")[0], IPv4Address(address)))  # eth0:1 is an address of eth0
    return found


def _ipv6(path: Path) -> list[tuple[str, IPv6Address]]:
    try:
        rows = path.read_text().splitlines()
    except OSError:
        return []  # a kernel without IPv6
    found = []
    for row in rows:
        fields = row.split()
        if len(fields) == 6 and int(fields[3], 16) != _LINK_LOCAL:
            found.append((fields[5], IPv6Address(bytes.fromhex(fields[0]))))
    return found
