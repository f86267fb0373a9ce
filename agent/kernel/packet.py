"""One packet socket with a filter and a ring: packets of one interface, as the kernel sees them come and go.

Knows AF_PACKET (packet(7)) and nothing of SIP. Only opening the socket needs CAP_NET_RAW; it is kept when its interface
goes, and bound again when that comes back, so that the capability can be let go of. The filter is attached while the
socket is bound to nothing (protocol 0): nothing gets in that has not passed it. Packets wait in a ring (TPACKET_V3),
whose size is ours to choose: a socket's receive buffer is not, without CAP_NET_ADMIN.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Callable
from enum import Enum
from typing import Final

from agent.kernel import capabilities
from agent.kernel.links import Link
from agent.kernel.ring import Packet, take_block

BLOCK_BYTES: Final = 128 << 10
"""One block of the ring: more than any packet (offloaded ones have up to 64 KiB), little enough to read in one go."""

BLOCK_MS: Final = 20
"""A block that is not full is handed over after this: how late a packet may come in quiet times. The kernel's own
clock ticks every 1 to 10 ms."""

MIN_BLOCKS: Final = 4

# linux/if_packet.h
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION = 1, 5, 6, 10
_TPACKET_V3: Final = 2
_MR_PROMISC: Final = 1
_FRAME_BYTES: Final = 2048  # of no use in V3, where packets have the room that they need, but it must divide the block
_REQUEST: Final = struct.Struct("=7I")
_COUNTS: Final = struct.Struct("=III")
_SO_ATTACH_FILTER: Final = 26
_SOL_SOCKET: Final = socket.SOL_SOCKET
_ETH_P_ALL: Final = 3

# net/if_arp.h
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
_ETHERNET: Final = frozenset((_ARPHRD_ETHER, _ARPHRD_LOOPBACK))
# PPP, raw IP, IP in IP, IPv6 tunnel, SIT, GRE, GRE over IPv6, none (tun, WireGuard): their packets are read from the IP
# header on, without what stands before it.
_BARE_IP: Final = frozenset((512, 519, 768, 769, 776, 778, 823, 65534))


class Shape(Enum):
    """What the bytes of a packet begin with; the value is its link type (tcpdump.org/linktypes.html)."""

    ETHERNET = 1
    IP = 101


FilterOf = Callable[[Shape, bool], bytes]
"""The filter for packets of this shape; the flag: leave out what the host sends."""


class PacketSocket:
    """Packets of one interface. `open`, then `bind` whenever the interface appears; `unbind` when it is gone.

    ring_bytes is rounded down to whole blocks, of which it has at least MIN_BLOCKS. `promiscuous` also takes what the
    interface sees but is not for this host: a mirror port needs it.
    """

    def __init__(self, name: str, filter_of: FilterOf, ring_bytes: int, *, promiscuous: bool = False) -> None:
        self.name = name
        self.shape = Shape.ETHERNET
        self.index = 0  # of the interface that it is bound to
        self.received = 0  # packets that passed the filter, lost ones included
        self.lost = 0  # packets that found no room in the ring
        self._filter_of = filter_of
        self._blocks = max(MIN_BLOCKS, ring_bytes // BLOCK_BYTES)
        self._promiscuous = promiscuous
        self._socket: socket.socket | None = None
        self._ring: mmap.mmap | None = None
        self._next = 0  # the block that is filled next

    @property
    def opened(self) -> bool:
        """Whether there is a socket."""
        return self._socket is not None

    @property
    def bound(self) -> bool:
        """Whether it is bound to an interface that still exists."""
        if self._socket is None or not self.index:
            return False
        try:
            return bool(self._socket.getsockname()[0])  # "" once its interface was deleted, whatever came after it
        except OSError:
            return False

    def open(self) -> None:
        """Make the socket and its ring. Raises PermissionError without CAP_NET_RAW, else OSError with the reason."""
        self._open(self.shape)

    def _open(self, shape: Shape) -> None:
        """Have a socket for packets of this shape; the one that there was stays if no other can be had."""
        kind = socket.SOCK_RAW if shape is Shape.ETHERNET else socket.SOCK_DGRAM
        try:
            sock = socket.socket(socket.AF_PACKET, kind | socket.SOCK_NONBLOCK, 0)
        except PermissionError:
            raise capabilities.missing(capabilities.NET_RAW, "capture packets") from None
        try:
            sock.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
            size = self._blocks * BLOCK_BYTES
            frames = size // _FRAME_BYTES
            ring = _REQUEST.pack(BLOCK_BYTES, self._blocks, _FRAME_BYTES, frames, BLOCK_MS, 0, 0)
            sock.setsockopt(_SOL_PACKET, _RX_RING, ring)
            mapped = mmap.mmap(sock.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            sock.close()
            what = "the memory for it cannot be had" if error.errno == errno.ENOMEM else os.strerror(error.errno or 0)
            raise OSError(
                error.errno, f"a ring of {self._blocks * BLOCK_BYTES} bytes for {self.name}: {what}"
            ) from None
        self.close()
        self._socket, self._ring, self._next, self.shape = sock, mapped, 0, shape

    def bind(self, link: Link) -> None:
        """Capture from the interface as it is now. Raises OSError if that cannot be: no Ethernet and no IP on it,
        gone meanwhile, or of another shape than before while the capability is not there any more."""
        shape = Shape.ETHERNET if link.hardware in _ETHERNET else Shape.IP
        if shape is Shape.IP and link.hardware not in _BARE_IP:
            raise OSError(errno.EAFNOSUPPORT, f"{self.name} carries neither Ethernet nor IP (type {link.hardware})")
        if shape is not self.shape or self._socket is None:
            self._open(shape)
        assert self._socket is not None
        # The loopback interface shows every packet twice, as sent and as received.
        self._attach(self._filter_of(shape, link.hardware == _ARPHRD_LOOPBACK))
        self._socket.bind((self.name, _ETH_P_ALL))
        self.index = link.index
        if self._promiscuous:
            request = struct.pack("=iHH8x", link.index, _MR_PROMISC, 0)
            self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)

    def _attach(self, program: bytes) -> None:
        assert self._socket is not None
        buffer = ctypes.create_string_buffer(program, len(program))
        described = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
        self._socket.setsockopt(_SOL_SOCKET, _SO_ATTACH_FILTER, described)

    def unbind(self) -> None:
        """Note that the interface is gone. What is in the ring can still be read."""
        self.index = 0

    def fileno(self) -> int:
        """For the event loop: readable when a block can be read, or an error is there to be taken."""
        assert self._socket is not None
        return self._socket.fileno()

    def read(self) -> list[Packet] | None:
        """The packets of one block; None if there is no block for us. Raises ValueError for a damaged ring."""
        if self._ring is None:
            return None
        packets = take_block(self._ring, self._next * BLOCK_BYTES, BLOCK_BYTES)
        if packets is not None:
            self._next = (self._next + 1) % self._blocks
        return packets

    def take_error(self) -> int:
        """The error that waits on the socket, and no longer does; 0 if none. ENETDOWN: the interface went down."""
        if self._socket is None:
            return 0
        return self._socket.getsockopt(_SOL_SOCKET, socket.SO_ERROR)

    def count(self) -> None:
        """Bring `received` and `lost` up to date: the kernel counts from zero again whenever it is asked."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            counts = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size)
            received, lost, _ = _COUNTS.unpack(counts)
            self.received += received
            self.lost += lost

    def close(self) -> None:
        """Let go of ring and socket. The counts stay."""
        self.count()
        if self._ring is not None:
            self._ring.close()
        if self._socket is not None:
            self._socket.close()
        self._ring = self._socket = None
        self.index = 0
