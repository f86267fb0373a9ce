"""Finds the UDP datagram or TCP segment in a captured frame, through VLAN tags, tunnels, extension headers.

Pure functions on bytes: no I/O, no state, no objects per header. Knows headers from the link up to UDP and
TCP; must not know SIP, and does not reassemble: a fragment comes out as a `Fragment`, and `reassembled` goes
on from what `fragments` made of it. Checksums are not verified: a sending host captures unfinished ones.
"""

import struct
from enum import Enum
from typing import Final, NamedTuple

# Flags of `layers`: what the frame was wrapped in.
VLAN: Final = 1
TUNNEL: Final = 2
FRAGMENTED: Final = 4

MAX_DEPTH: Final = 6
"""IP headers in one frame. Real networks nest three (IP in GRE in IP); more is an attack on the reader."""

MAX_TAGS: Final = 4
"""VLAN tags or MPLS labels in a row; QinQ has two, MPLS VPNs rarely more than three."""

MAX_EXTENSIONS: Final = 8
"""IPv6 extension headers in a row; RFC 8200 4.1 recommends at most one of each of its six kinds."""


class Udp(NamedTuple):
    """One UDP datagram. Addresses are packed, 4 or 16 bytes; `layers` is a sum of flags."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    payload: bytes
    layers: int


class Tcp(NamedTuple):
    """One TCP segment. `flags` is the header's flag byte; `payload` is what was captured of it."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    payload: bytes
    layers: int
    sequence: int
    flags: int


class Fragment(NamedTuple):
    """One fragment of an IP datagram; `offset` in bytes, `more` when it is not the last one."""

    source: bytes
    destination: bytes
    identification: int
    protocol: int
    offset: int
    more: bool
    payload: bytes
    layers: int
    depth: int


class Skip(Enum):
    """Why a frame holds nothing to look at."""

    LINK_TYPE = "link type not supported"
    NOT_IP = "not IP"
    OTHER_TRANSPORT = "neither UDP nor TCP"
    MALFORMED = "headers contradict each other"
    CUT = "cut by the snap length before its transport header, or inside a fragment"
    TOO_DEEP = "too many headers inside each other"


Found = Udp | Tcp | Fragment | Skip

# Link types, https://www.tcpdump.org/linktypes.html
NULL, ETHERNET, PPP, RAW_BSD, RAW_OPENBSD, RAW, LOOP = 0, 1, 9, 12, 14, 101, 108
LINUX_SLL, IPV4_ONLY, IPV6_ONLY, LINUX_SLL2 = 113, 228, 229, 276
LINK_TYPES: Final = {
    NULL: "BSD loopback",
    ETHERNET: "Ethernet",
    PPP: "PPP",
    RAW_BSD: "raw IP",
    RAW_OPENBSD: "raw IP",
    RAW: "raw IP",
    LOOP: "OpenBSD loopback",
    LINUX_SLL: "Linux cooked v1",
    IPV4_ONLY: "raw IPv4",
    IPV6_ONLY: "raw IPv6",
    LINUX_SLL2: "Linux cooked v2",
}

_ETHERTYPE_IPV4, _ETHERTYPE_IPV6, _ETHERTYPE_PPPOE = 0x0800, 0x86DD, 0x8864
_TAGS: Final = frozenset((0x8100, 0x88A8, 0x9100))
_MPLS: Final = frozenset((0x8847, 0x8848))
_PPP_IPV4, _PPP_IPV6 = 0x0021, 0x0057
_AF_INET, _AF_INET6 = 2, frozenset((10, 24, 28, 30))  # Linux, NetBSD and OpenBSD, FreeBSD, Darwin
_IPIP, _TCP, _UDP, _IPV6, _GRE, _AH, _FRAGMENT_HEADER = 4, 6, 17, 41, 47, 51, 44
_EXTENSIONS: Final = frozenset((0, 43, 60, 135, 139, 140))  # RFC 7045: hop-by-hop, routing, destination, ...
_VXLAN_PORT, _GTP_PORT = 4789, 2152
_MORE_FRAGMENTS, _OFFSET = 0x2000, 0x1FFF

_u16 = struct.Struct("!H").unpack_from
_u16x2 = struct.Struct("!HH").unpack_from
_u32 = struct.Struct("!I").unpack_from
_ipv4_fields = struct.Struct("!BxHHHxB2x4s4s").unpack_from
_ipv6_fields = struct.Struct("!IHBx16s16s").unpack_from
_udp_fields = struct.Struct("!HHH").unpack_from
_tcp_fields = struct.Struct("!HHI4xBB").unpack_from


def decode(linktype: int, data: bytes) -> Found:
    """What one captured frame of this link type carries. Never raises, whatever the bytes are."""
    size = len(data)
    if linktype == ETHERNET:
        return _ethernet(data, 0, size, 0, 0)
    if linktype in (RAW, RAW_BSD, RAW_OPENBSD, IPV4_ONLY, IPV6_ONLY):
        return _ip(data, 0, size, 0, 0)
    if linktype == LINUX_SLL:
        return _network(_u16(data, 14)[0], data, 16, size, 0, 0) if size >= 16 else Skip.CUT
    if linktype == LINUX_SLL2:
        return _network(_u16(data, 0)[0], data, 20, size, 0, 0) if size >= 20 else Skip.CUT
    if linktype in (NULL, LOOP):
        return _loopback(data, size)
    if linktype == PPP:
        return _ppp(data, 0, size, 0, 0)
    return Skip.LINK_TYPE


def reassembled(first: Fragment, protocol: int, payload: bytes) -> Found:
    """What a whole datagram carries whose fragments were like `first`; `protocol` is its first header."""
    return _transport(
        protocol, payload, 0, len(payload), first.source, first.destination, first.layers | FRAGMENTED, first.depth
    )


def _ethernet(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    if start + 14 > end:
        return Skip.CUT
    return _network(_u16(data, start + 12)[0], data, start + 14, end, layers, depth)


def _network(ethertype: int, data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    """Dispatch on an EtherType, through VLAN tags (IEEE 802.1Q, 802.1ad and their predecessor)."""
    last_tag = start + 4 * MAX_TAGS
    while ethertype in _TAGS:
        if start + 4 > end:
            return Skip.CUT
        if start == last_tag:
            return Skip.TOO_DEEP
        ethertype = _u16(data, start + 2)[0]
        start += 4
        layers |= VLAN
    if ethertype in (_ETHERTYPE_IPV4, _ETHERTYPE_IPV6):
        return _ip(data, start, end, layers, depth)
    if ethertype == _ETHERTYPE_PPPOE:  # RFC 2516 4: version, code, session, length; then PPP
        return _ppp(data, start + 6, end, layers | TUNNEL, depth) if start + 6 <= end else Skip.CUT
    if ethertype in _MPLS:
        return _mpls(data, start, end, layers, depth)
    return Skip.NOT_IP


def _mpls(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    """Skip the label stack; what follows is IP if it looks like it (RFC 4928 3)."""
    for _ in range(MAX_TAGS):
        if start + 5 > end:
            return Skip.CUT
        bottom = data[start + 2] & 1
        start += 4
        if bottom:
            looks_like_ip = data[start] >> 4 in (4, 6)
            return _ip(data, start, end, layers | TUNNEL, depth) if looks_like_ip else Skip.NOT_IP
    return Skip.TOO_DEEP


def _loopback(data: bytes, size: int) -> Found:
    """BSD loopback: the address family in the byte order of whoever captured it."""
    if size < 4:
        return Skip.CUT
    family = _u32(data, 0)[0]
    if family > 0xFFFF:
        family = int.from_bytes(data[:4], "little")
    return _ip(data, 4, size, 0, 0) if family == _AF_INET or family in _AF_INET6 else Skip.NOT_IP


def _ppp(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    """PPP (RFC 1661 2): address and control may be absent, and the protocol's high byte compressed away."""
    if data[start : start + 2] == b"\xff\x03":
        start += 2
    if start + 2 > end:
        return Skip.CUT
    protocol, size = (data[start], 1) if data[start] & 1 else (_u16(data, start)[0], 2)
    if protocol not in (_PPP_IPV4, _PPP_IPV6):
        return Skip.NOT_IP
    return _ip(data, start + size, end, layers, depth)


def _ip(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    """IPv4 (RFC 791) or IPv6 (RFC 8200), by its version; bytes after the stated length are padding."""
    if start >= end:
        return Skip.CUT
    if depth >= MAX_DEPTH:
        return Skip.TOO_DEEP
    version = data[start] >> 4
    if version == 4:
        return _ipv4(data, start, end, layers, depth + 1)
    return _ipv6(data, start, end, layers, depth + 1) if version == 6 else Skip.MALFORMED


def _ipv4(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    if start + 20 > end:
        return Skip.CUT
    first, length, identification, fragment, protocol, source, destination = _ipv4_fields(data, start)
    header = (first & 15) * 4
    if header < 20 or (length < header and length):  # length 0: an offloading card will cut it later
        return Skip.MALFORMED
    stated = start + length if length else end
    body = start + header
    if body > end:
        return Skip.CUT
    end, cut = min(end, stated), stated > end
    if not fragment & (_MORE_FRAGMENTS | _OFFSET):
        return _transport(protocol, data, body, end, source, destination, layers, depth)
    if cut:
        return Skip.CUT
    return Fragment(
        source,
        destination,
        identification,
        protocol,
        (fragment & _OFFSET) * 8,
        bool(fragment & _MORE_FRAGMENTS),
        data[body:end],
        layers,
        depth,
    )


def _ipv6(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    if start + 40 > end:
        return Skip.CUT
    _, length, protocol, source, destination = _ipv6_fields(data, start)
    body = start + 40
    stated = body + length if length else end  # length 0: a jumbogram (RFC 2675), or offloaded
    end, cut = min(end, stated), stated > end
    for _ in range(MAX_EXTENSIONS):
        if protocol not in _EXTENSIONS:
            break
        if body + 8 > end:
            return Skip.CUT
        protocol, body = data[body], body + data[body + 1] * 8 + 8
    if protocol != _FRAGMENT_HEADER:
        return _transport(protocol, data, body, end, source, destination, layers, depth)
    if body + 8 > end or cut:
        return Skip.CUT
    protocol, (fragment, high, low) = data[body], struct.unpack_from("!HHH", data, body + 2)
    if not fragment & ~6:  # an atomic fragment (RFC 6946) is a datagram by itself
        return _transport(protocol, data, body + 8, end, source, destination, layers, depth)
    return Fragment(
        source,
        destination,
        high << 16 | low,
        protocol,
        fragment & 0xFFF8,
        bool(fragment & 1),
        data[body + 8 : end],
        layers,
        depth,
    )


def _transport(
    protocol: int, data: bytes, start: int, end: int, source: bytes, destination: bytes, layers: int, depth: int
) -> Found:
    """UDP and TCP, or on into a tunnel."""
    for _ in range(MAX_EXTENSIONS):
        if protocol == _UDP:
            return _udp(data, start, end, source, destination, layers, depth)
        if protocol == _TCP:
            return _tcp(data, start, end, source, destination, layers)
        if protocol not in _EXTENSIONS and protocol != _AH:
            break
        if start + 8 > end:
            return Skip.CUT
        length = data[start + 1] * 8 + 8 if protocol != _AH else data[start + 1] * 4 + 8  # RFC 4302 2.2
        protocol, start = data[start], start + length
    if protocol in (_IPIP, _IPV6):
        return _ip(data, start, end, layers | TUNNEL, depth)
    if protocol == _GRE:
        return _gre(data, start, end, layers | TUNNEL, depth)
    return Skip.OTHER_TRANSPORT


def _udp(data: bytes, start: int, end: int, source: bytes, destination: bytes, layers: int, depth: int) -> Found:
    body = start + 8
    if body > end:
        return Skip.CUT
    source_port, destination_port, length = _udp_fields(data, start)
    if length >= 8:
        end = min(end, start + length)
    elif length:
        return Skip.MALFORMED
    if destination_port in (_VXLAN_PORT, _GTP_PORT):
        unwrap = _vxlan if destination_port == _VXLAN_PORT else _gtp
        inner = unwrap(data, body, end, layers | TUNNEL, depth)
        if not isinstance(inner, Skip):
            return inner
    return Udp(source, destination, source_port, destination_port, data[body:end], layers)


def _tcp(data: bytes, start: int, end: int, source: bytes, destination: bytes, layers: int) -> Found:
    if start + 20 > end:
        return Skip.CUT
    source_port, destination_port, sequence, offset, flags = _tcp_fields(data, start)
    header = (offset >> 4) * 4
    if header < 20:
        return Skip.MALFORMED
    payload = data[start + header : end]
    return Tcp(source, destination, source_port, destination_port, payload, layers, sequence, flags)


def _gre(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    """GRE (RFC 2784, 2890), its PPTP variant (RFC 2637, version 1) and ERSPAN mirrors inside it."""
    if start + 4 > end:
        return Skip.CUT
    flags, protocol = _u16x2(data, start)
    if flags & 0x4000:  # source routing, which RFC 2784 removed
        return Skip.OTHER_TRANSPORT
    body = start + 4 + sum(4 for flag in (0x8000, 0x2000, 0x1000) if flags & flag)  # checksum, key, sequence
    if flags & 7 == 1:
        body += 4 if flags & 0x0080 else 0  # acknowledgement number
        return _ppp(data, body, end, layers, depth)
    if protocol in (_ETHERTYPE_IPV4, _ETHERTYPE_IPV6):
        return _ip(data, body, end, layers, depth)
    if protocol == 0x88BE:  # ERSPAN I has no header of its own, II has 8 bytes and always a sequence number
        return _inner_ethernet(data, body + (8 if flags & 0x1000 else 0), end, layers, depth)
    if protocol == 0x22EB:  # ERSPAN III: 12 bytes, and 8 more if the last bit says so
        optional = 8 if body + 12 <= end and data[body + 11] & 1 else 0
        return _inner_ethernet(data, body + 12 + optional, end, layers, depth)
    if protocol == 0x6558:
        return _inner_ethernet(data, body, end, layers, depth)
    return _network(protocol, data, body, end, layers, depth)


def _inner_ethernet(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    return _ethernet(data, start, end, layers, depth) if depth < MAX_DEPTH else Skip.TOO_DEEP


def _vxlan(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    """VXLAN (RFC 7348 5), the form in which clouds mirror traffic."""
    if start + 8 > end or not data[start] & 0x08:
        return Skip.MALFORMED
    return _inner_ethernet(data, start + 8, end, layers, depth)


def _gtp(data: bytes, start: int, end: int, layers: int, depth: int) -> Found:
    """GTP-U (3GPP TS 29.281 5.1), user data only; a chain of extension headers is walked."""
    if start + 8 > end or data[start] & 0xF0 != 0x30 or data[start + 1] != 0xFF:
        return Skip.MALFORMED
    body = start + (12 if data[start] & 0x07 else 8)  # sequence, N-PDU number and next type come together
    for _ in range(MAX_EXTENSIONS):
        if not data[start] & 0x04 or body >= end or not data[body - 1]:
            break
        if not data[body]:
            return Skip.MALFORMED
        body += data[body] * 4
    return _ip(data, body, end, layers, depth)
