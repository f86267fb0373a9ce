"""Who listens where on this host, from /proc (proc(5)): found without a privilege, named with root's.

Knows the rows of /proc/net/{udp,tcp}{,6} and whose a socket is. Must not know what is done with it. What goes away
while it is read (processes do) is left out.
"""

import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from agent.model import ParseError

SIP_SERVERS: Final = {
    "kamailio": "Kamailio",
    "opensips": "OpenSIPS",
    "freeswitch": "FreeSWITCH",
    "asterisk": "Asterisk",
}
"""Names of processes (/proc/PID/comm) of the SBCs that people run on Linux."""

SIP_PORTS: Final = range(5060, 5100)
"""Where these listen for SIP unless told otherwise: 5060, 5061, FreeSWITCH's 5080. The other sockets of a media server
(RTP, management) cannot be told from SIP by looking."""

SIP_ONLY: Final = frozenset({"kamailio", "opensips"})
"""They carry no media, so every UDP socket that waits is SIP."""

_TABLES: Final = (("udp", "udp"), ("udp", "udp6"), ("tcp", "tcp"), ("tcp", "tcp6"))
_WAITING: Final = {"udp": "07", "tcp": "0A"}  # TCP_CLOSE: an unconnected datagram socket; TCP_LISTEN

ROWS_MAX: Final = 65_536
"""Rows of one table that are read: a media server may have tens of thousands of UDP sockets."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes what comes. `program` is "" where we may not know; `inode` tells sockets apart."""

    transport: str
    address: IPv4Address | IPv6Address
    port: int
    inode: int
    program: str = ""

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{self.transport}:{host}:{self.port}"


def read_row(row: str, transport: str) -> Listener | None:
    """The listener that a row of /proc/net tells of; None for a connected socket. Raises ParseError."""
    fields = row.split()
    try:
        local, state, inode = fields[1], fields[3], int(fields[9])
        address, _, port = local.rpartition(":")
        if state != _WAITING[transport]:
            return None
        return Listener(transport, _address(bytes.fromhex(address)), int(port, 16) & 0xFFFF, inode)
    except (IndexError, ValueError, struct.error) as error:
        raise ParseError(f"/proc/net/{transport}", f"not a row of it: {error}") from None


def _address(raw: bytes) -> IPv4Address | IPv6Address:
    """The kernel prints addresses as 32-bit words in its own byte order."""
    words = struct.unpack(f"{'<' if sys.byteorder == 'little' else '>'}{len(raw) // 4}I", raw)
    packed = struct.pack(f">{len(words)}I", *words)
    if len(packed) == 4:
        return IPv4Address(packed)
    found = IPv6Address(packed)
    return found.ipv4_mapped or found


def listeners(proc: Path = Path("/proc")) -> tuple[Listener, ...]:
    """Every one of this network namespace, in order of port. Rows that cannot be read are left out."""
    found = []
    for transport, table in _TABLES:
        for row in _rows(proc / "net" / table):
            try:
                one = read_row(row, transport)
            except ParseError:
                continue
            if one is not None:
                found.append(one)
    programs = _programs(proc, {one.inode for one in found})
    named = (Listener(one.transport, one.address, one.port, one.inode, programs.get(one.inode, "")) for one in found)
    return tuple(sorted(named, key=lambda one: (one.port, one.transport, str(one.address))))


def sip_listeners(every: Iterable[Listener]) -> tuple[Listener, ...]:
    """Those on ports of SIP, whoever has them, and those of programs that speak nothing else."""
    return tuple(one for one in every if one.port in SIP_PORTS or (one.transport == "udp" and one.program in SIP_ONLY))


def sip_servers(proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Which SBCs run here, by the names of their processes: "Kamailio"."""
    names = {_comm(folder) for folder in _processes(proc)}
    return tuple(title for name, title in SIP_SERVERS.items() if name in names)


def holder(transport: str, host: str, port: int, proc: Path = Path("/proc")) -> str:
    """The program that keeps others from binding there; "" if nobody is found."""
    wanted = ip_address(host)
    for one in listeners(proc):
        if one.transport == transport and one.port == port:
            overlap = one.address == wanted or one.address.is_unspecified or wanted.is_unspecified
            if overlap:
                return one.program or "another program"
    return ""


def _rows(path: Path) -> Iterator[str]:
    try:
        with path.open() as file:
            next(file, None)  # the heading
            for _, row in zip(range(ROWS_MAX), file, strict=False):
                yield row
    except OSError:
        return  # no IPv6, or no such table


def _processes(proc: Path) -> Iterator[Path]:
    try:
        yield from (folder for folder in proc.iterdir() if folder.name.isdecimal())
    except OSError:
        return


def _comm(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _programs(proc: Path, inodes: set[int]) -> dict[int, str]:
    """Names of the programs that hold these sockets, as far as we may look."""
    found: dict[int, str] = {}
    for folder in _processes(proc):
        if len(found) == len(inodes):
            break
        for inode in inodes.intersection(_sockets(folder / "fd")):
            found.setdefault(inode, _comm(folder))
    return found


def _sockets(descriptors: Path) -> Iterator[int]:
    """Inodes of the sockets that a process has open. What it closes meanwhile is left out."""
    try:
        entries = list(descriptors.iterdir())
    except OSError:
        return  # not ours to look at, or gone
    for entry in entries:
        try:
            link = entry.readlink().name
        except OSError:
            continue
        if link.startswith("socket:["):
            yield int(link[8:-1])


def can_bind(transport: str, host: str, port: int) -> OSError | None:
    """Whether one could listen there now: None, or why not. What was bound is let go of at once."""
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, kind) as trial:
            if transport == "tcp":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT does not count
            trial.bind((host, port))
            if transport == "tcp":
                trial.listen(1)
    except OSError as error:
        return error
    return None
