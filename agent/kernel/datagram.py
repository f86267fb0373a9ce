"""One IP packet as netfilter hands it over, read down to the payload of its UDP datagram. Pure and quick.

Knows IPv4 and IPv6 headers; must not know SIP. A packet whose payload is not all there (a fragment, one that was cut)
is no datagram: None. Checksums are not looked at: the kernel verifies UDP after us, when it delivers.
"""

import struct
from typing import Final, NamedTuple

_UDP: Final = 17
_FRAGMENTED: Final = 0x3FFF  # more fragments, or an offset
_PORTS: Final = struct.Struct("!HHH")  # source, destination, length
_IPV6_HEADER: Final = 40
_UDP_HEADER: Final = 8

# RFC 8200 4.1: hop-by-hop options, routing, destination options. Fragment (44) is no datagram.
_EXTENSIONS: Final = frozenset({0, 43, 60})
EXTENSIONS_MAX: Final = 8
"""Extension headers that are looked through; a packet has two at most in practice."""


class Datagram(NamedTuple):
    """Addresses are 4 or 16 bytes."""

    source: bytes
    source_port: int
    target: bytes
    target_port: int
    payload: bytes


def read_datagram(packet: bytes) -> Datagram | None:
    """The UDP datagram in an IP packet; None if it holds none that is whole. Never raises."""
    try:
        if packet[0] >> 4 == 4:
            if packet[9] != _UDP or int.from_bytes(packet[6:8], "big") & _FRAGMENTED:
                return None
            at = (packet[0] & 15) * 4
            source, target = packet[12:16], packet[16:20]
        else:
            at = _behind_extensions(packet)
            if packet[0] >> 4 != 6 or not at:
                return None
            source, target = packet[8:24], packet[24:40]
        source_port, target_port, length = _PORTS.unpack_from(packet, at)
    except (IndexError, struct.error):
        return None
    end = at + length
    if end > len(packet) or length < _UDP_HEADER:
        return None
    return Datagram(source, source_port, target, target_port, packet[at + _UDP_HEADER : end])


def _behind_extensions(packet: bytes) -> int:
    """Where UDP begins in an IPv6 packet; 0 if it is none. Raises IndexError if it ends before."""
    kind, at = packet[6], _IPV6_HEADER
    for _ in range(EXTENSIONS_MAX):
        if kind == _UDP:
            return at
        if kind not in _EXTENSIONS:
            return 0
        kind, at = packet[at], at + 8 * (packet[at + 1] + 1)
    return 0
