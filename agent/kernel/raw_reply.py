"""Datagrams that leave from an address and port which another program, the SBC, has: raw sockets, v4 and v6.

Knows UDP headers and checksums; must not know SIP. A socket for each address of ours, made when it is first needed:
bound to it, so that the kernel makes the IP header, chooses the route and fragments what is too long. The sockets are
for sending only: a filter lets nothing in.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from agent.ingress.datagrams import pack_address, send_batch
from agent.kernel.capabilities import NET_ADMIN, NET_RAW, missing

_SO_ATTACH_FILTER: Final = 26
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 10, 0
_IPV6_CHECKSUM: Final = 7
_CHECKSUM_AT: Final = 6  # within the UDP header
_HEADER: Final = struct.Struct("!HHHH")
_PSEUDO: Final = struct.Struct("!HHHHHH")
_UDP: Final = 17

ADDRESSES_MAX: Final = 256
"""Addresses of this host that calls come to; each has a socket. An SBC has some tens. The first is let go then."""

# First bytes of addresses that are many hosts: 224.0.0.0/3 with broadcast, ff00::/8. Raw sockets can be bound to them.
_MANY: Final = {4: 224, 16: 255}

LINK_LOCAL: Final = b"\xfe\x80"

# A classic BPF program of one instruction: BPF_RET | BPF_K, 0 bytes.
_NOTHING: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)


class Path(NamedTuple):
    """The way of an answer: from `source`, an address of ours, to `target`. Addresses are 4 or 16 bytes; `interface` is
    the index of the one to use where they are link-local ones of IPv6, else of no importance."""

    source: bytes
    source_port: int
    target: bytes
    target_port: int
    interface: int = 0


Reply = tuple[bytes, Path]
"""Bytes to send, and which way."""


class RawReplies:
    """Sends replies. `mark` (SO_MARK) is on every packet, so that rules can tell them; 0: none."""

    def __init__(self, mark: int = 0) -> None:
        self.unsent = 0  # that the kernel would not take
        self._mark = mark
        self._sockets: dict[tuple[bytes, int], socket.socket] = {}

    def probe(self) -> None:
        """Raises PermissionError, at once, if this process may not do it."""
        self._make(socket.AF_INET).close()

    def close(self) -> None:
        """Let go of every socket."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def can_send_from(self, source: bytes, interface: int = 0) -> bool:
        """Whether replies can leave from this address: it is one of ours, and not one of many (multicast)."""
        try:
            self._socket(source, interface)
        except OSError:
            return False
        return True

    def send(self, replies: Iterable[Reply]) -> None:
        """Send them, many in one system call. Never waits and never raises; what cannot be sent is counted."""
        batches: dict[tuple[bytes, int], list[tuple[bytes, bytes]]] = {}
        for payload, path in replies:
            interface = path.interface if path.source.startswith(LINK_LOCAL) else 0
            datagram = with_header(payload, path), sockaddr(path.target, interface)
            batches.setdefault((path.source, interface), []).append(datagram)
        for (source, interface), datagrams in batches.items():
            try:
                self.unsent += send_batch(self._socket(source, interface).fileno(), datagrams)
            except OSError:
                self.unsent += len(datagrams)

    def _socket(self, source: bytes, interface: int) -> socket.socket:
        interface = interface if source.startswith(LINK_LOCAL) else 0
        known = self._sockets.get((source, interface))
        if known is not None:
            return known
        if source[0] >= _MANY[len(source)]:
            raise OSError(errno.EADDRNOTAVAIL, "a multicast or broadcast address sends nothing")
        if len(self._sockets) >= ADDRESSES_MAX:
            self._sockets.pop(next(iter(self._sockets))).close()
        family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
        sock = self._make(family)
        try:
            text = socket.inet_ntop(family, source)
            sock.bind((text, 0) if family == socket.AF_INET else (text, 0, 0, interface))
        except OSError:
            sock.close()
            raise
        self._sockets[source, interface] = sock
        return sock

    def _make(self, family: socket.AddressFamily) -> socket.socket:
        try:
            sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_UDP)
        except PermissionError:
            raise missing(NET_RAW, "answer from the SBC's own address") from None
        try:
            _let_nothing_in(sock)
            sock.setblocking(False)
            if self._mark:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _CHECKSUM_AT)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        except OSError as error:
            sock.close()
            if error.errno == errno.EPERM:
                raise missing(NET_ADMIN, "mark answers") from None
            raise
        return sock


def with_header(payload: bytes, path: Path) -> bytes:
    """The datagram with its UDP header. The checksum of IPv6 is left to the kernel, which knows it there."""
    length = _HEADER.size + len(payload)
    check = 0
    if len(path.source) == 4:
        pseudo = _PSEUDO.pack(_UDP, length, path.source_port, path.target_port, length, 0)
        check = checksum(path.source + path.target + pseudo + payload)
    return _HEADER.pack(path.source_port, path.target_port, length, check) + payload


def checksum(data: bytes) -> int:
    """RFC 768 and RFC 1071 of bytes that are not all zero; never 0, which says that there is none.

    The sum of 16-bit words with its carries added again is the number that the bytes make, modulo 2^16 - 1.
    """
    if len(data) % 2:
        data += b"\0"
    return ~(int.from_bytes(data, "big") % 0xFFFF) & 0xFFFF or 0xFFFF


def sockaddr(address: bytes, interface: int = 0) -> bytes:
    """Of a raw socket's peer: without a port."""
    if len(address) == 4:
        return pack_address(socket.inet_ntoa(address), 0)
    return pack_address(socket.inet_ntop(socket.AF_INET6, address), 0, 0, interface)


def _let_nothing_in(sock: socket.socket) -> None:
    program = ctypes.create_string_buffer(_NOTHING, len(_NOTHING))
    described = struct.pack("@HP", len(_NOTHING) // 8, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
