"""One netfilter queue over a plain netlink socket: packets in batches, verdicts in batches. No C library.

Knows nfnetlink_queue (linux/netfilter/nfnetlink_queue.h); must not know what is in the packets or when to drop them.
The queue is fail open: what finds it full, or finds nobody on it, goes on. Closing the socket drops what is in the
queue, so `release` first; whoever holds it must answer every packet it is given.
"""

import errno
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from agent import native
from agent.kernel.capabilities import NET_ADMIN, has, missing
from agent.kernel.netlink import (
    ACK,
    HEADER,
    NETLINK_NO_ENOBUFS,
    NFGEN,
    NLMSG_ERROR,
    REQUEST,
    SOL_NETLINK,
    KernelError,
    attribute,
    messages_in,
    open_netfilter,
)

_PACKET: Final = 0x300
_VERDICT: Final = 0x301
_CONFIG: Final = 0x302

_CONFIG_COMMAND, _CONFIG_PARAMS, _CONFIG_LENGTH, _CONFIG_MASK, _CONFIG_FLAGS = 1, 2, 3, 4, 5
_BIND, _UNBIND = 1, 2
_COPY_PACKET: Final = 2
_FAIL_OPEN: Final = 1

_PACKET_HEADER, _INTERFACE, _PAYLOAD = 1, 5, 10
_PACKET_ID: Final = struct.Struct("!I")
_ANSWER: Final = struct.Struct("=IHHII4sHHII")
_VERDICT_SIZE: Final = 32
_NF_DROP, _NF_ACCEPT = 0, socket.htonl(1)

BATCH: Final = 64
"""Packets at once, as agent/ingress/datagrams.py reads them and for the same reason."""

COPIED: Final = 65_000
"""Bytes of a packet that are handed over. With its attributes a message then fits the 65,535 bytes of a batch's
place; a SIP request that is longer is cut, is thus no whole datagram, and goes on."""

PLACE: Final = 65_535

SKB: Final = 16 << 10
"""Bytes that the socket's buffer reckons for one queued INVITE with Identity, generously."""

NUMBER_MAX: Final = 65_535
STATISTICS: Final = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")


class Queued(NamedTuple):
    """One packet that waits for its verdict, at most COPIED bytes of it. `interface`: index of where it came in."""

    id: int
    packet: bytes
    interface: int


class Statistics(NamedTuple):
    """As the kernel counts since the queue began: packets that wait now, that found the queue full and were dropped
    (none while it is fail open), that we took too slowly, and that were numbered."""

    waiting: int
    queue_dropped: int
    user_dropped: int
    numbered: int


class Queue:
    """A queue of the kernel, of at most `length` packets. `open` it in the network namespace that it is for."""

    def __init__(self, number: int, length: int) -> None:
        self.number = number
        self.length = length
        self.receive_errors = 0
        self._socket: socket.socket | None = None
        self._head = NFGEN.pack(socket.AF_UNSPEC, 0, number)
        self._receive: Callable[[int, int], list[tuple[bytes, bytes]]] = (
            native.udp.recv_batch if native.udp else self._receive_py
        )

    def open(self) -> None:
        """Take the queue. Raises PermissionError without the capability, KernelError if another process has it."""
        sock = open_netfilter(max(1 << 20, self.length * SKB))
        try:
            # A full buffer is no error to be told of: with fail open, what finds it full goes on.
            sock.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
            sock.setblocking(False)
            self._configure(sock, attribute(_CONFIG_COMMAND, struct.pack("!BxH", _BIND, 0)))
            self._configure(
                sock,
                attribute(_CONFIG_PARAMS, struct.pack("!IB", COPIED, _COPY_PACKET))
                + attribute(_CONFIG_LENGTH, struct.pack("!I", self.length))
                + attribute(_CONFIG_MASK, struct.pack("!I", _FAIL_OPEN))
                + attribute(_CONFIG_FLAGS, struct.pack("!I", _FAIL_OPEN)),
            )
        except BaseException:
            sock.close()
            raise
        self._socket = sock

    def close(self) -> None:
        """Give the queue up; the kernel drops what is in it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def fileno(self) -> int:
        """For the event loop. Raises ValueError if it is not open."""
        if self._socket is None:
            raise ValueError("the queue is not open")
        return self._socket.fileno()

    def receive(self) -> list[Queued]:
        """The packets that wait, at most BATCH; empty if there is none. Never waits; errors are counted."""
        try:
            received = self._receive(self.fileno(), BATCH)
        except OSError:
            self.receive_errors += 1
            return []
        return [queued for data, _ in received if (queued := read_queued(data)) is not None]

    def answer(self, accepted: list[int], dropped: list[int]) -> None:
        """The verdicts on packets, by their ids, in one system call. Raises OSError if the kernel takes none."""
        head = self._head
        parts = [_ANSWER.pack(_VERDICT_SIZE, _VERDICT, REQUEST, 0, 0, head, 12, 2, _NF_ACCEPT, socket.htonl(packet))
                 for packet in accepted]  # fmt: skip
        parts += [_ANSWER.pack(_VERDICT_SIZE, _VERDICT, REQUEST, 0, 0, head, 12, 2, _NF_DROP, socket.htonl(packet))
                  for packet in dropped]  # fmt: skip
        if parts and self._socket is not None:
            self._socket.send(b"".join(parts))

    def release(self) -> int:
        """Let everything pass that waits, unread; how many there were."""
        released = 0
        while waiting := self.receive():
            self.answer([one.id for one in waiting], [])
            released += len(waiting)
        return released

    def _configure(self, sock: socket.socket, attributes: bytes) -> None:
        body = self._head + attributes
        sock.send(HEADER.pack(HEADER.size + len(body), _CONFIG, REQUEST | ACK, 1, 0) + body)
        # The kernel has answered when `send` returns; packets may already be there before or behind its answer.
        for _ in range(self.length + 2):
            for kind, _flags, sequence, body in messages_in(sock.recv(1 << 17)):
                if kind == NLMSG_ERROR and sequence == 1:
                    code = -int(struct.unpack_from("=i", body)[0])
                    if code == errno.EPERM and not has(NET_ADMIN):
                        raise missing(NET_ADMIN, f"take netfilter queue {self.number}")
                    if code:
                        words = "another program has it" if code in {errno.EPERM, errno.EBUSY} else ""
                        raise KernelError(0, code, f"netfilter queue {self.number}", words)
                    return

    def _receive_py(self, _fd: int, most: int) -> list[tuple[bytes, bytes]]:
        """Where the compiled twin is not loaded: one system call for each packet."""
        received: list[tuple[bytes, bytes]] = []
        assert self._socket is not None
        while len(received) < most:
            try:
                received.append((self._socket.recv(PLACE), b""))
            except BlockingIOError:
                break
        return received


_FIRST: Final = HEADER.size + NFGEN.size
_KIND: Final = struct.Struct("=4xH")
_HEAD: Final = struct.Struct("=HH")


def read_queued(data: bytes) -> Queued | None:
    """The packet in one message of the kernel; None if it is another message, or one that makes no sense.

    Walks the attributes itself: a generator would take as long as the decision on the call.
    """
    end = len(data)
    if end < _FIRST or _KIND.unpack_from(data)[0] != _PACKET:
        return None
    number, interface, packet, at = -1, 0, b"", _FIRST
    while at + 4 <= end:
        length, kind = _HEAD.unpack_from(data, at)
        if not 4 <= length <= end - at:
            break
        if kind == _PAYLOAD:
            packet = data[at + 4 : at + length]
        elif kind == _PACKET_HEADER and length >= 8:
            number = _PACKET_ID.unpack_from(data, at + 4)[0]
        elif kind == _INTERFACE and length == 8:
            interface = _PACKET_ID.unpack_from(data, at + 4)[0]
        at += length + 3 & ~3
    return Queued(number, packet, interface) if number >= 0 else None


def statistics(number: int) -> Statistics | None:
    """What the kernel counted of a queue of this network namespace; None if there is no such queue."""
    try:
        lines = STATISTICS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) >= 8 and fields[0] == str(number):
            return Statistics(int(fields[2]), int(fields[5]), int(fields[6]), int(fields[7]))
    return None
