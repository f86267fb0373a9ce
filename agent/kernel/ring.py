"""Reads blocks of a TPACKET_V3 ring (linux/if_packet.h): packets that the kernel puts into memory shared with it.

Knows the layout of a block, and nothing of sockets or of what a packet says. A block belongs to the kernel or to us;
whoever has taken what is in it gives it back, and the kernel loses packets when it finds no block of its own. The
compiled twin is agent/native/packet.c; both do the same.
"""

import struct
from collections.abc import Callable
from mmap import mmap
from typing import Final

from agent import native

HOST, BROADCAST, MULTICAST, OTHER_HOST, OUTGOING = range(5)
"""Directions: to this host, ..., not for it (promiscuous interfaces only), sent by it."""

NO_VLAN: Final = -1

Packet = tuple[float, bytes, int, int, int]
"""One packet: when (seconds since the epoch, by the kernel's clock), its bytes, its length on the wire, its direction,
and the VLAN whose tag the kernel or the card has taken out of it, NO_VLAN if none (other tags are in the bytes)."""

# struct tpacket_block_desc with struct tpacket_hdr_v1 in it, up to blk_len and whole; block_status is its third field.
_BLOCK: Final = struct.Struct("=IIIIII")
_BLOCK_SIZE: Final = 48
_STATUS_AT: Final = 8
# struct tpacket3_hdr: next offset, seconds, nanoseconds, bytes here, bytes on the wire, status, offset of the frame,
# of the network header; rxhash, TCI and TPID of the VLAN. Behind it struct sockaddr_ll, the direction its byte 10.
_HEADER: Final = struct.Struct("=IIIIIIHHIIH")
_ADDRESS_AT: Final = 48
_HEADER_SIZE: Final = _ADDRESS_AT + 20
_KIND_AT: Final = _ADDRESS_AT + 10
_KERNEL, _USER, _VLAN_VALID = 0, 1, 1 << 4
_status: Final = struct.Struct("=I")


def take_block_py(ring: mmap | bytearray, offset: int, size: int) -> list[Packet] | None:
    """The packets of the block at `offset`, which then is the kernel's again; None if it is the kernel's anyway.

    Raises ValueError for a block that is not in the ring, or contradicts itself; it is the kernel's again then, too.
    """
    if offset < 0 or size < _BLOCK_SIZE or offset > len(ring) - size or offset % 8:
        raise ValueError("no block there")
    _, _, status, count, first, _ = _BLOCK.unpack_from(ring, offset)
    if not status & _USER:
        return None
    try:
        return _packets(ring, offset, size, count, first)
    finally:
        _status.pack_into(ring, offset + _STATUS_AT, _KERNEL)


def _packets(ring: mmap | bytearray, offset: int, size: int, count: int, first: int) -> list[Packet]:
    if count > size // _HEADER_SIZE:
        raise ValueError("the ring is damaged: more packets than its block holds")
    packets: list[Packet] = []
    at = first
    for _ in range(count):
        if at > size - _HEADER_SIZE:
            raise ValueError("the ring is damaged: a header beyond its block")
        head = offset + at
        further, seconds, nanos, here, length, status, frame, _, _, tag, _ = _HEADER.unpack_from(ring, head)
        if frame + here > size - at:
            raise ValueError("the ring is damaged: a packet beyond its block")
        data = ring[head + frame : head + frame + here]
        vlan = tag & 0xFFF if status & _VLAN_VALID else NO_VLAN
        packets.append((seconds + nanos * 1e-9, bytes(data), length, ring[head + _KIND_AT], vlan))
        at += further
    return packets


take_block: Callable[[mmap | bytearray, int, int], list[Packet] | None] = (
    native.packet.take_block if native.packet is not None else take_block_py
)
"""The compiled twin if this machine has it and SBC_EDGE_PURE is not 1, else `take_block_py`."""
