"""Classic BPF: an assembler, and the filter that lets the kernel hand over SIP and nothing else.

Pure functions; knows instruction encoding (linux/bpf_common.h, linux/filter.h) and packet headers, opens no socket.
The filter is generous where it cannot know: what it lets through is judged by agent.ingress.layers, what it drops is
never seen. A load beyond the end of the packet drops the packet, which is what the filter wants of one too short.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

# Instruction classes, sizes and modes. `k` is the constant operand.
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30  # A = packet[k]
LOAD_WORD_X, LOAD_HALF_X, LOAD_BYTE_X = 0x40, 0x48, 0x50  # A = packet[X + k]
LOAD_MEMORY, STORE, SET_X = 0x60, 0x02, 0x01  # A = M[k]; M[k] = A; X = k
AND, SHIFT_LEFT, SHIFT_RIGHT, ADD, ADD_X = 0x54, 0x64, 0x74, 0x04, 0x0C
A_TO_X, X_TO_A = 0x07, 0x87
JUMP, IF_EQUAL, IF_ANY_BIT = 0x05, 0x15, 0x45
RETURN: Final = 0x06

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
MAX_OFFSET: Final = 255  # a conditional jump has one byte for its distance

SNAP_LENGTH: Final = 0x40000
"""Bytes of a packet that are handed over: more than any packet has, offloaded ones (64 KiB) included."""

MAX_TAGS: Final = 4
"""VLAN tags in a row, as in agent.ingress.layers."""

MAX_PORTS: Final = 64
"""Each port costs four instructions in two places; nobody has so many SIP ports."""

MAX_METHODS: Final = 32

_PACKET_TYPE: Final = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE: where the kernel shows a packet's direction
_OUTGOING: Final = 4  # PACKET_OUTGOING
_IPV4, _IPV6, _PPPOE = 0x0800, 0x86DD, 0x8864
_TAGS: Final = (0x8100, 0x88A8, 0x9100)
_MPLS: Final = (0x8847, 0x8848)
_IN_IPV4, _TCP, _UDP, _IN_IPV6, _FRAGMENT, _GRE, _AH = 4, 6, 17, 41, 44, 47, 51
_EXTENSIONS: Final = (0, 43, 60, 135, 139, 140, _AH)  # headers of IPv6 that stand before the transport
_FRAGMENTED: Final = 0x3FFF  # IPv4: more fragments, or an offset
_TUNNEL_PORTS: Final = (4789, 2152)  # VXLAN, GTP-U


class Jump(NamedTuple):
    """A conditional jump; a label that is None is the next instruction."""

    code: int
    k: int
    yes: str | None
    no: str | None


class Step(NamedTuple):
    """Any other instruction. `to` is the label of a JUMP."""

    code: int
    k: int = 0
    to: str | None = None


Item = Jump | Step | str
"""A str is a label: the place of the next instruction."""


def assemble(items: Sequence[Item]) -> bytes:
    """The program as the kernel takes it: an array of struct sock_filter.

    A conditional jump that is too long goes by way of an unconditional one. Raises ValueError for a label that is
    not there, a jump backwards (the kernel has no loops), and a program that is too long.
    """
    far: set[tuple[int, bool]] = set()  # (index of the item, which branch)
    while True:
        places, size = _places(items, far)
        if size > MAX_INSTRUCTIONS:
            raise ValueError(f"a filter of {size} instructions is longer than {MAX_INSTRUCTIONS}")
        more = {
            (index, branch)
            for index, item in enumerate(items)
            if isinstance(item, Jump)
            for branch, label in ((True, item.yes), (False, item.no))
            if label is not None
            and (index, branch) not in far
            and _target(items, places, label) - _own(places, index) - 1 > MAX_OFFSET
        }
        if not more:
            return b"".join(_encoded(items, places, far))
        far |= more


_OWN: Final = "#"  # prefix of an item's own place; no label begins so


def _places(items: Sequence[Item], far: set[tuple[int, bool]]) -> tuple[dict[str, int], int]:
    """Where labels and items stand, in instructions, and how long the program is."""
    places: dict[str, int] = {}
    at = 0
    for index, item in enumerate(items):
        places[f"{_OWN}{index}"] = at
        if isinstance(item, str):
            places[item] = at
        else:
            at += 1 + sum((index, branch) in far for branch in (True, False))
    return places, at


def _own(places: dict[str, int], index: int) -> int:
    return places[f"{_OWN}{index}"]


def _target(items: Sequence[Item], places: dict[str, int], label: str) -> int:
    if label not in places:
        raise ValueError(f"no label {label!r} in a program of {len(items)} items")
    return places[label]


def _encoded(items: Sequence[Item], places: dict[str, int], far: set[tuple[int, bool]]) -> Iterator[bytes]:
    for index, item in enumerate(items):
        own = _own(places, index)
        if isinstance(item, Step):
            distance = item.k if item.to is None else _target(items, places, item.to) - own - 1
            yield _instruction(item.code, 0, 0, distance)
        elif isinstance(item, Jump):
            yield from _conditional(items, places, far, index, item)


def _conditional(
    items: Sequence[Item], places: dict[str, int], far: set[tuple[int, bool]], index: int, item: Jump
) -> Iterator[bytes]:
    own = _own(places, index)
    detours = [branch for branch in (True, False) if (index, branch) in far]
    offsets = {}
    for branch, label in ((True, item.yes), (False, item.no)):
        if branch in detours:
            offsets[branch] = detours.index(branch)
        else:
            offsets[branch] = len(detours) if label is None else _target(items, places, label) - own - 1
    yield _instruction(item.code, offsets[True], offsets[False], item.k)
    for number, branch in enumerate(detours):
        label = item.yes if branch else item.no
        assert label is not None
        yield _instruction(JUMP, 0, 0, _target(items, places, label) - own - 2 - number)


def _instruction(code: int, yes: int, no: int, k: int) -> bytes:
    if min(yes, no) < 0 or (code == JUMP and k < 0):
        raise ValueError("a jump backwards")
    return struct.pack("=HBBI", code, yes, no, k)


# ---- the filter of the capture ---------------------------------------------------------------------------------------


def capture_filter(
    ports: Iterable[int],
    methods: Iterable[bytes] = (),
    *,
    ethernet: bool = True,
    skip_outgoing: bool = False,
    tunnels: bool = False,
) -> bytes:
    """What passes: SIP of these ports by UDP (start lines of `methods`, responses, and line breaks, which may stand
    before a start line; everything if there are no methods), TCP of these ports whole, and every IP fragment, because
    only its datagram knows the port. The same inside of IP in IP. `tunnels`: GRE, VXLAN, GTP-U, MPLS and PPPoE whole.

    ethernet: packets begin with an Ethernet header, VLAN tags where they stand; else with the IP header.
    skip_outgoing: not what this host sends; the loopback interface shows that a second time anyway.
    Raises ValueError for ports or methods that cannot be filtered.
    """
    ports, methods = tuple(ports), tuple(methods)
    if not 0 < len(ports) <= MAX_PORTS or not all(0 < port <= 0xFFFF for port in ports):
        raise ValueError(f"needs 1 to {MAX_PORTS} ports from 1 to 65535")
    if len(methods) > MAX_METHODS or not all(methods):
        raise ValueError(f"takes up to {MAX_METHODS} methods, none of them empty")
    items: list[Item] = []
    if skip_outgoing:
        items += [Step(LOAD_WORD, _PACKET_TYPE), Jump(IF_EQUAL, _OUTGOING, "drop", None)]
    items += _link(tunnels) if ethernet else _version()
    items += _network(0, tunnels) + _network(1, tunnels)
    items += _transport(ports, methods, tunnels)
    items += ["drop", Step(RETURN, 0), "pass", Step(RETURN, SNAP_LENGTH)]
    return assemble(items)


def _link(tunnels: bool) -> list[Item]:
    """Through the VLAN tags that are in the packet; X becomes the offset of the IP header.

    The offsets count from the link header, not from the network header (SKF_NET_OFF): that one points behind the
    tags of some packets (what a packet socket sends) and before them in others (the inner tag of QinQ).
    """
    items: list[Item] = []
    for tags in range(MAX_TAGS + 1):
        base = 14 + 4 * tags
        items += [f"tag{tags}", Step(SET_X, base), Step(LOAD_HALF, base - 2)]
        items += [Jump(IF_EQUAL, _IPV4, "v4.0", None), Jump(IF_EQUAL, _IPV6, "v6.0", None)]
        if tags < MAX_TAGS:
            items += [Jump(IF_EQUAL, tag, f"tag{tags + 1}", None) for tag in _TAGS]
        if tunnels:
            items += [Jump(IF_EQUAL, ethertype, "pass", None) for ethertype in (*_MPLS, _PPPOE)]
        items.append(Step(JUMP, to="drop"))
    return items


def _version() -> list[Item]:
    return [
        Step(SET_X, 0),
        Step(LOAD_BYTE, 0),
        Step(SHIFT_RIGHT, 4),
        Jump(IF_EQUAL, 4, "v4.0", None),
        Jump(IF_EQUAL, 6, "v6.0", "drop"),
    ]


def _network(depth: int, tunnels: bool) -> list[Item]:
    """The IP header at X, on to the transport header or the header inside; what is nested deeper passes."""
    inner4, inner6 = (f"v4.{depth + 1}", f"v6.{depth + 1}") if depth == 0 else ("pass", "pass")
    carried = (_UDP, _TCP, _IN_IPV4, _IN_IPV6, *((_GRE,) if tunnels else ()))
    return [
        f"v4.{depth}",
        Step(LOAD_BYTE_X, 9),
        Step(STORE, 0),  # the protocol
        Step(LOAD_HALF_X, 6),
        Jump(IF_ANY_BIT, _FRAGMENTED, f"fragment.{depth}", None),
        Step(LOAD_BYTE_X, 0),
        Step(AND, 15),
        Step(SHIFT_LEFT, 2),
        Step(ADD_X),
        Step(A_TO_X),
        Step(JUMP, to=f"transport.{depth}"),
        f"v6.{depth}",
        Step(LOAD_BYTE_X, 6),
        *(Jump(IF_EQUAL, header, f"extension.{depth}", None) for header in (*_EXTENSIONS, _FRAGMENT)),
        Step(STORE, 0),
        Step(X_TO_A),
        Step(ADD, 40),
        Step(A_TO_X),
        f"transport.{depth}",
        Step(LOAD_MEMORY, 0),
        Jump(IF_EQUAL, _UDP, "udp", None),
        Jump(IF_EQUAL, _TCP, "tcp", None),
        Jump(IF_EQUAL, _IN_IPV4, inner4, None),
        Jump(IF_EQUAL, _IN_IPV6, inner6, None),
        *((Jump(IF_EQUAL, _GRE, "pass", None),) if tunnels else ()),
        Jump(IF_EQUAL, _AH, "pass", "drop"),
        # RFC 8200 4: extension headers are rare. User space walks them, unless the first is followed by what is not for
        # us: each multicast listener report (RFC 3810) has one.
        f"extension.{depth}",
        Step(LOAD_BYTE_X, 40),
        *(Jump(IF_EQUAL, header, "pass", None) for header in (*carried, *_EXTENSIONS, _FRAGMENT)),
        Step(JUMP, to="drop"),
        f"fragment.{depth}",
        Step(LOAD_MEMORY, 0),
        *(Jump(IF_EQUAL, protocol, "pass", None) for protocol in (*carried, _AH)),
        Step(JUMP, to="drop"),
    ]


def _transport(ports: Sequence[int], methods: Sequence[bytes], tunnels: bool) -> list[Item]:
    """Ports and start lines; X is the offset of the transport header."""
    items: list[Item] = ["tcp", *_either_port(ports, "pass"), Step(JUMP, to="drop")]
    items += ["udp", *_either_port(ports, "start" if methods else "pass")]
    if tunnels:
        items += [Step(LOAD_HALF_X, 2), *(Jump(IF_EQUAL, port, "pass", None) for port in _TUNNEL_PORTS)]
    items.append(Step(JUMP, to="drop"))
    if methods:
        words = sorted({_first_word(method) for method in methods} | {_first_word(b"SIP/")})
        items += ["start", Step(LOAD_WORD_X, 8), *(Jump(IF_EQUAL, word, "pass", None) for word in words)]
        items += [Step(SHIFT_RIGHT, 24), Jump(IF_EQUAL, 13, "pass", None), Jump(IF_EQUAL, 10, "pass", "drop")]
    return items


def _either_port(ports: Sequence[int], found: str) -> list[Item]:
    items: list[Item] = []
    for offset in (2, 0):  # the destination first: it is the SBC's more often
        items += [Step(LOAD_HALF_X, offset), *(Jump(IF_EQUAL, port, found, None) for port in ports)]
    return items


def _first_word(method: bytes) -> int:
    """The first four bytes of a start line; a short method with the space behind it (RFC 3261 7.1)."""
    return int.from_bytes(method[:4].ljust(4, b" "), "big")
