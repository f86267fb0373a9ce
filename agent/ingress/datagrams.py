"""Datagrams in batches, and addresses as the kernel writes them. Knows UDP sockets and nothing of SIP.

An address is the bytes of its `sockaddr`: it is compared, kept and given back without being read; `AddressTexts`
gives its text to whoever needs that, from memory. The batch functions are the compiled ones of agent/native/udp.c
(recvmmsg, sendmmsg) where they are loaded, else those here, with one system call for each datagram.
"""

import os
import socket
import sys
from collections.abc import Callable
from typing import Final

from agent import native

MAX_BATCH: Final = 64
"""Datagrams at once: enough to make the system call cheap, few enough for half a millisecond of the event loop."""

MAX_DATAGRAM: Final = 65_535

TEXTS_MAX: Final = 16_384
"""Addresses whose text is remembered: peers are few, and a scan that spoofs addresses must not fill the memory."""

Datagram = tuple[bytes, bytes]
"""Payload and address."""

# struct sockaddr_in: family in the byte order of the host, port and address in network order, 8 bytes of padding.
# struct sockaddr_in6: family, port, flow information, address, scope in the byte order of the host.
_ORDER: Final = sys.byteorder
_PORT: Final = slice(2, 4)
_SIZE: Final = {socket.AF_INET: 16, socket.AF_INET6: 28}


def recv_batch_py(fd: int, most: int) -> list[Datagram]:
    """The datagrams that have come, at most so many (1 to MAX_BATCH); empty if none has. Raises OSError."""
    if not 1 <= most <= MAX_BATCH:
        raise ValueError(f"a batch has 1 to {MAX_BATCH} datagrams, not {most}")
    received: list[Datagram] = []
    with _borrowed(fd) as sock:
        while len(received) < most:
            try:
                payload, address = sock.recvfrom(MAX_DATAGRAM, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                if received:
                    break  # it comes up again at the next call, when nothing is lost by raising it
                raise
            received.append((payload, pack_address(*address)))
    return received


def send_batch_py(fd: int, datagrams: list[Datagram]) -> int:
    """Send the datagrams in order; how many could not be sent. Never waits and never raises for one of them."""
    unsent = 0
    with _borrowed(fd) as sock:
        for at, (payload, address) in enumerate(datagrams):
            try:
                sock.sendto(payload, socket.MSG_DONTWAIT, _unpack(address))
            except (BlockingIOError, InterruptedError):
                return unsent + len(datagrams) - at  # there is no room for the others either
            except (OSError, ValueError):
                unsent += 1
    return unsent


class _borrowed:  # noqa: N801  used as a function
    """A socket object on somebody else's file descriptor."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()


recv_batch: Callable[[int, int], list[Datagram]] = native.udp.recv_batch if native.udp else recv_batch_py
send_batch: Callable[[int, list[Datagram]], int] = native.udp.send_batch if native.udp else send_batch_py


def pack_address(host: str, port: int, flow: int = 0, scope: int = 0) -> bytes:
    """The sockaddr of a numeric address. Raises OSError if the host is no address, OverflowError for the port."""
    port_bytes = port.to_bytes(2, "big")
    host = host.partition("%")[0]
    if ":" not in host:
        family = int(socket.AF_INET).to_bytes(2, _ORDER)
        return family + port_bytes + socket.inet_pton(socket.AF_INET, host) + bytes(8)
    family = int(socket.AF_INET6).to_bytes(2, _ORDER)
    packed = socket.inet_pton(socket.AF_INET6, host)
    return family + port_bytes + flow.to_bytes(4, "big") + packed + scope.to_bytes(4, _ORDER)


def with_port(address: bytes, port: int) -> bytes:
    """The same host, another port."""
    return address[:2] + port.to_bytes(2, "big") + address[4:]


def read_address(address: bytes) -> tuple[str, int]:
    """Host and port of a sockaddr. Raises ValueError for one that is neither IPv4 nor IPv6."""
    host, port, *_ = _unpack(address)
    return str(host), int(port)


def _unpack(address: bytes) -> tuple[str, int] | tuple[str, int, int, int]:
    family = int.from_bytes(address[:2], _ORDER)
    port = int.from_bytes(address[_PORT], "big")
    if _SIZE.get(socket.AddressFamily(family)) != len(address):
        raise ValueError(f"{address.hex()} is no address of IPv4 or IPv6")
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[4:8]), port
    flow, scope = int.from_bytes(address[4:8], "big"), int.from_bytes(address[24:28], _ORDER)
    return socket.inet_ntop(socket.AF_INET6, address[8:24]), port, flow, scope


class AddressTexts:
    """Host and port of addresses, remembered within a bound."""

    __slots__ = ("_texts",)

    def __init__(self) -> None:
        self._texts: dict[bytes, tuple[str, int]] = {}

    def __call__(self, address: bytes) -> tuple[str, int]:
        """As `read_address`."""
        try:
            return self._texts[address]
        except KeyError:
            if len(self._texts) >= TEXTS_MAX:
                self._texts.clear()
            text = self._texts[address] = read_address(address)
            return text
