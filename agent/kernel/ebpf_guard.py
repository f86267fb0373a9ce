"""The program that drops the guard's excess where packets enter, and the maps that it reads. Pure; nothing is loaded.

It stands in front of the guard's table (agent.kernel.tables) and is made of the same rules. What it drops the table
would have dropped, later and at a multiple of the cost; everything that it lets pass meets the table. So it may pass
whatever is not plain: fragments (to drop one leaves the others in the kernel's memory until their time is up), IP
options and extension headers, tunnels, frames for another station, datagrams whose first bytes are not in one piece.

It works only while the agent says so: CONTROL holds a time, and from then on all passes. Times are nanoseconds of
CLOCK_MONOTONIC. A source is counted by what costs least, the time at which its bucket will be full again (GCRA): of two
processors that admit an INVITE of one source in the same few nanoseconds one may go uncounted, and the table counts it.
"""

import struct
from ipaddress import collapse_addresses
from typing import Final

from agent.kernel.ebpf import Attach, MapKind, MapSpec
from agent.kernel.ebpf_code import (
    BYTE,
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
    WORD,
    Alu,
    Code,
    If,
    Size,
    choose,
)
from agent.kernel.ruleset import (
    PAYLOAD,
    UDP_HEADER,
    Accept,
    Begins,
    Chain,
    Count,
    Goto,
    LongerThan,
    NoDigitAt,
    Statement,
    caseless,
)
from agent.kernel.settings import KernelSettings, Network
from agent.kernel.tables import INVITES, emergency_chains

CONTROL, BLOCKED, BLOCKED_NETS = "control", "blocked", "blocked_nets"
EXEMPT, SOURCES, COUNTS = "exempt", "sources", "counts"

COUNTED: Final = ("invites", "empty_lines", "blocked", "flood")
"""What COUNTS holds, of what was dropped: under the names of the table's counters."""

SECOND: Final = 1_000_000_000

TIME: Final = struct.Struct("=Q")
_SOURCE: Final = struct.Struct("=QQ")  # when the bucket is full again; INVITEs over the limit
_PREFIX: Final = struct.Struct("=I16s")
_MAPPED: Final = bytes(10) + b"\xff\xff"  # an address of IPv4 as one of IPv6 (RFC 4291 2.5.5.2)

# Helpers of the kernel (enum bpf_func_id).
_LOOKUP, _UPDATE, _NOW = 1, 2, 5

# struct __sk_buff, struct xdp_md: offsets of 32 bits each.
_LENGTH, _PACKET_TYPE = 0, 4
_DATA: Final = {Attach.TCX: 76, Attach.XDP: 0}
_DATA_END: Final = {Attach.TCX: 80, Attach.XDP: 4}
_OTHER_HOST: Final = 3  # PACKET_OTHERHOST

_PASS: Final = {Attach.TCX: -1, Attach.XDP: 2}  # TCX_NEXT: whoever comes next decides; XDP_PASS
DROPPED: Final = {Attach.TCX: 2, Attach.XDP: 1}  # TCX_DROP, XDP_DROP

_ETHERNET, _TYPE, _TAG = 14, 12, 4
_IPV4, _IPV6 = 20, 40
_TAGS: Final = (0x8100, 0x88A8)
_TAGS_MAX: Final = 2  # in the packet: QinQ
_UDP: Final = 17
_FRAGMENT: Final = 0x3FFF  # more fragments, or an offset; not "don't fragment"

# The stack. The address as 16 bytes stands where the key of a map of prefixes wants it, behind the prefix's length.
# Constants and packet data are written to whole words of 8 bytes: older kernels (6.1 is one) take a part of one that is
# written over a known number for an attack on a pointer, of somebody without CAP_PERFMON, which we do without.
_ADDRESS: Final = -16
_KEY_PREFIX: Final = _ADDRESS - 4  # alone in its word
_NEW: Final = -40  # a new entry of SOURCES
_KIND: Final = -48  # 0: an INVITE, 1: empty lines


def guard_maps(settings: KernelSettings) -> tuple[MapSpec, ...]:
    """What the program reads. Its bounds are those of the table's sets."""
    most = settings.max_blocks
    return (
        MapSpec(CONTROL, MapKind.SHARED, 4, TIME.size, 1),
        MapSpec(BLOCKED, MapKind.HASH, 16, TIME.size, most),
        MapSpec(BLOCKED_NETS, MapKind.PREFIXES, _PREFIX.size, TIME.size, most),
        MapSpec(EXEMPT, MapKind.PREFIXES, _PREFIX.size, 4, max(1, len(settings.exempt))),
        MapSpec(SOURCES, MapKind.RECENT, 8, _SOURCE.size, settings.max_sources),
        MapSpec(COUNTS, MapKind.COUNTERS, 4, 8 * len(COUNTED), 1),
    )


def address_key(packed: bytes) -> bytes:
    """The key of an address in BLOCKED."""
    return packed if len(packed) == 16 else _MAPPED + packed


def prefix_key(one: Network) -> bytes:
    """The key of a prefix in BLOCKED_NETS and EXEMPT."""
    packed = one.network_address.packed
    return _PREFIX.pack(one.prefixlen + 128 - 8 * len(packed), address_key(packed))


def prefix_of(key: bytes) -> tuple[int, bytes]:
    """The length and the 16 bytes of such a key."""
    length, packed = _PREFIX.unpack(key)
    return int(length), bytes(packed)


def source_of(key: bytes) -> bytes:
    """The address, of IPv6 the /64, that a key of SOURCES stands for: 4 or 16 bytes. An address of IPv4 is kept as the
    /64 of 0:ffff::/32, which is nobody's (RFC 4291 2.4)."""
    return key[4:] if key[:4] == _MAPPED[-4:] else key + bytes(8)


def over_limit(value: bytes) -> int:
    """INVITEs of a source that were over the limit. Emergency calls are among them, and passed."""
    return int(_SOURCE.unpack(value)[1])


def exempt_keys(settings: KernelSettings) -> list[bytes]:
    """What is to be in EXEMPT."""
    return [
        prefix_key(one)
        for version in (4, 6)
        for one in collapse_addresses(n for n in settings.exempt_networks if n.version == version)  # type: ignore[type-var]
    ]


# ---- the program ---------------------------------------------------------------------------------------------------


def guard_code(settings: KernelSettings, attach: Attach, station: bytes = b"") -> Code:
    """The program for one way to attach it. `station` is the hardware address of its interface, for XDP, which sees
    also what is for others."""
    code = Code()
    _enter(code, attach, station)
    _network(code)
    _transport(code, settings, attach)
    _judge(code, settings)
    _emergency(code, settings)
    _drop(code, settings, attach)
    code.label("pass")
    code.move(R0, _PASS[attach])
    code.exit()
    return code


# Registers for all of it: R7 is where we are in the packet, R8 its end; R9 the time; R6 first the key of the source's
# bucket, then the counter of the reason.


def _enter(code: Code, attach: Attach, station: bytes) -> None:
    """To the network header, if the frame is for this station; R7 stays 14 bytes before it, where R2 is its type."""
    if attach is Attach.TCX:
        code.load(WORD, R2, R1, _PACKET_TYPE)
        code.jump_if(If.EQ, R2, _OTHER_HOST, "pass")
    code.load(WORD, R7, R1, _DATA[attach])
    code.load(WORD, R8, R1, _DATA_END[attach])
    _need(code, _ETHERNET + _IPV4 + UDP_HEADER, "pass")
    if attach is Attach.XDP:
        for at, size in _parts(station):
            code.load(size, R2, R7, at)
            code.jump_if(If.NE, R2, _number(station[at : at + _BYTES[size]]), "pass")
    for tags in range(_TAGS_MAX + 1):
        code.load(HALF, R2, R7, _TYPE)
        code.jump_if(If.EQ, R2, _of_network(0x0800), "ipv4")
        code.jump_if(If.EQ, R2, _of_network(0x86DD), "ipv6")
        if tags == _TAGS_MAX:
            break
        for tag in _TAGS:
            code.jump_if(If.EQ, R2, _of_network(tag), f"tag{tags}")
        code.jump("pass")
        code.label(f"tag{tags}")
        code.add(R7, _TAG)
        _need(code, _ETHERNET + _IPV4 + UDP_HEADER, "pass")
    code.jump("pass")


def _network(code: Code) -> None:
    """To the UDP header; the source is on the stack."""
    code.label("ipv4")
    code.load(BYTE, R2, R7, _ETHERNET)
    code.jump_if(If.NE, R2, 0x45, "pass")  # version 4, no options
    code.load(HALF, R2, R7, _ETHERNET + 6)
    code.jump_if(If.ANY_BIT, R2, _of_network(_FRAGMENT), "pass")
    code.load(BYTE, R2, R7, _ETHERNET + 9)
    code.jump_if(If.NE, R2, _UDP, "pass")
    code.load(WORD, R2, R7, _ETHERNET + 12)
    code.math(Alu.SHIFT_LEFT, R2, 32)
    code.constant(R3, _number(_MAPPED[8:]))
    code.add(R2, R3)
    code.store(DOUBLE, R10, _ADDRESS, 0)
    code.store(DOUBLE, R10, _ADDRESS + 8, R2)
    code.move(R6, R10)
    code.add(R6, _ADDRESS + 8)
    code.add(R7, _ETHERNET + _IPV4)
    code.jump("udp")

    code.label("ipv6")
    _need(code, _ETHERNET + _IPV6 + UDP_HEADER, "pass")
    code.load(BYTE, R2, R7, _ETHERNET)
    code.mask(R2, 0xF0)
    code.jump_if(If.NE, R2, 0x60, "pass")
    code.load(BYTE, R2, R7, _ETHERNET + 6)
    code.jump_if(If.NE, R2, _UDP, "pass")
    for at in (0, 8):
        code.load(DOUBLE, R2, R7, _ETHERNET + 8 + at)
        code.store(DOUBLE, R10, _ADDRESS + at, R2)
    code.move(R6, R10)
    code.add(R6, _ADDRESS)
    code.add(R7, _ETHERNET + _IPV6)


def _transport(code: Code, settings: KernelSettings, attach: Attach) -> None:
    """What may be an INVITE for one of the ports goes on; its kind is on the stack."""
    code.label("udp")
    code.load(HALF, R2, R7, 2)
    code.swap16(R2)
    choose(code, R2, settings.ports, "sip", "pass", "port")
    code.label("sip")
    for number, (statements, kind) in enumerate(INVITES):
        _statements(code, statements, f"not{number}")
        code.store(DOUBLE, R10, _KIND, int(kind != COUNTED[0]))
        code.jump("judge")
        code.label(f"not{number}")
    code.jump("pass")
    code.label("judge")
    if attach is Attach.TCX:
        _one_piece(code, settings)


def _one_piece(code: Code, settings: KernelSettings) -> None:
    """Drivers may leave only the headers where a program can read: then nothing is known of what an INVITE calls.

    One that is shorter than that cannot be a call (RFC 3261 8.1.1 asks for six header fields), whatever of it is seen.
    """
    whole = _ETHERNET + _TAGS_MAX * _TAG + _IPV6 + PAYLOAD + _reach(settings)
    code.load(WORD, R3, R1, _LENGTH)
    code.jump_if(If.LT, R3, whole, "short")
    code.load(WORD, R2, R1, _DATA[Attach.TCX])
    code.add(R2, whole)
    code.jump_if(If.GT, R2, R8, "pass", wide=True)
    code.label("short")


def _judge(code: Code, settings: KernelSettings) -> None:
    """On to `excess` if the agent is alive and the source is blocked or over its limit; R6 is why."""
    code.call(_NOW)
    code.move(R9, R0)
    code.map_value(R1, CONTROL)
    code.load(DOUBLE, R1, R1, 0)
    code.jump_if(If.GE, R9, R1, "pass", wide=True)
    code.store(WORD, R10, _KEY_PREFIX, 128)
    for name, key in ((BLOCKED, _ADDRESS), (BLOCKED_NETS, _KEY_PREFIX)):
        _look_up(code, name, key)
        code.jump_if(If.EQ, R0, 0, f"not_{name}", wide=True)
        code.load(DOUBLE, R1, R0, 0)
        code.jump_if(If.GT, R1, R9, "blocked", wide=True)
        code.label(f"not_{name}")
    if settings.flood_rate:
        _limit(code, settings)
    code.jump("pass")
    code.label("blocked")
    code.move(R6, 8 * COUNTED.index("blocked"))
    code.label("excess")


def _limit(code: Code, settings: KernelSettings) -> None:
    """The bucket of the table's `limit rate over`: as many tokens as `burst`, and one more each `cost` nanoseconds."""
    cost = SECOND // settings.flood_rate
    burst = settings.flood_burst or settings.flood_rate
    code.map(R1, SOURCES)
    code.move(R2, R6)
    code.call(_LOOKUP)
    code.jump_if(If.NE, R0, 0, "known", wide=True)
    code.move(R1, R9)
    code.add(R1, cost)
    code.store(DOUBLE, R10, _NEW, R1)
    code.store(DOUBLE, R10, _NEW + 8, 0)
    code.map(R1, SOURCES)
    code.move(R2, R6)
    code.move(R3, R10)
    code.add(R3, _NEW)
    code.move(R4, 0)
    code.move(R5, 0)
    code.call(_UPDATE)
    code.jump("pass")
    code.label("known")
    code.load(DOUBLE, R1, R0, 0)
    code.jump_if(If.GT, R1, R9, "not_full", wide=True)
    code.move(R1, R9)
    code.label("not_full")
    code.move(R2, R1)
    code.math(Alu.SUB, R2, R9)
    code.constant(R3, (burst - 1) * cost)
    code.jump_if(If.GT, R2, R3, "over", wide=True)
    code.add(R1, cost)
    code.store(DOUBLE, R0, 0, R1)
    code.jump("pass")
    code.label("over")
    code.move(R1, 1)
    code.count(R0, 8, R1)
    code.move(R6, 8 * COUNTED.index("flood"))
    code.jump("excess")


def _emergency(code: Code, settings: KernelSettings) -> None:
    """The table's chains, the last of which is where they begin."""
    for chain in reversed(emergency_chains(settings.emergency_numbers)):
        _chain(code, chain)
    code.label("no_emergency")
    if settings.exempt:
        _look_up(code, EXEMPT, _KEY_PREFIX)
        code.jump_if(If.NE, R0, 0, "pass", wide=True)


def _drop(code: Code, settings: KernelSettings, attach: Attach) -> None:
    """Count, and drop; R6 is the place of the reason's counter."""
    code.store(WORD, R10, _KEY_PREFIX, 0)
    _look_up(code, COUNTS, _KEY_PREFIX)
    code.jump_if(If.EQ, R0, 0, "pass", wide=True)
    code.load(DOUBLE, R2, R10, _KIND)
    code.jump_if(If.NE, R2, 0, "empty")
    _one_more(code, COUNTED.index("invites"))
    code.jump("why")
    code.label("empty")
    _one_more(code, COUNTED.index("empty_lines"))
    code.label("why")
    if settings.flood_rate:
        code.jump_if(If.EQ, R6, 8 * COUNTED.index("flood"), "why_flood")
    _one_more(code, COUNTED.index("blocked"))
    code.move(R0, DROPPED[attach])
    code.exit()
    if settings.flood_rate:
        code.label("why_flood")
        _one_more(code, COUNTED.index("flood"))
        code.move(R0, DROPPED[attach])
        code.exit()


def _one_more(code: Code, number: int) -> None:
    code.load(DOUBLE, R1, R0, 8 * number)
    code.add(R1, 1)
    code.store(DOUBLE, R0, 8 * number, R1)


def _look_up(code: Code, name: str, key: int) -> None:
    """R0 = the value in a map of the key at this place of the stack, or 0."""
    code.map(R1, name)
    code.move(R2, R10)
    code.add(R2, key)
    code.call(_LOOKUP)


# ---- rules of the table as instructions ----------------------------------------------------------------------------


def _chain(code: Code, chain: Chain) -> None:
    """A chain that nothing jumps to but the excess, so that behind its end there is no emergency."""
    code.label(chain.name)
    for number, rule in enumerate(chain.rules):
        following = f"{chain.name}/{number}"
        _statements(code, rule.statements, following)
        code.label(following)
    code.jump("no_emergency")


def _statements(code: Code, statements: tuple[Statement, ...], otherwise: str) -> None:
    """One after the other; to the label where one does not hold. R7 is the datagram's UDP header. What is beyond the
    end of the packet holds for nothing, as in nf_tables."""
    for statement in statements:
        match statement:
            case Begins(words, offset):
                _begins(code, words, PAYLOAD + offset, otherwise)
            case NoDigitAt(offset):
                _need(code, PAYLOAD + offset + 1, otherwise)
                code.load(BYTE, R2, R7, PAYLOAD + offset)
                code.add(R2, -ord("0"))
                code.jump_if(If.LE, R2, 9, otherwise)
            case LongerThan(length):
                code.load(HALF, R2, R7, 4)
                code.swap16(R2)
                code.jump_if(If.LE, R2, UDP_HEADER + length, otherwise)
            case Goto(chain):
                code.jump(chain)
            case Accept():
                code.jump("pass")
            case Count():
                pass  # it meets the table, which counts it
            case _:
                raise ValueError(f"{statement} is nothing that a program of ours says")


def _begins(code: Code, words: bytes, offset: int, otherwise: str) -> None:
    mask, capitals = caseless(words)
    _need(code, offset + len(words), otherwise)
    for at, size in _parts(words):
        end = at + _BYTES[size]
        code.load(size, R2, R7, offset + at)
        if mask[at:end] != b"\xff" * (end - at):
            code.mask(R2, _number(mask[at:end]))
        code.jump_if(If.NE, R2, _number(capitals[at:end]), otherwise)


def _reach(settings: KernelSettings) -> int:
    """How far into a datagram the comparisons look."""
    chains = emergency_chains(settings.emergency_numbers)
    statements = [s for chain in chains for rule in chain.rules for s in rule.statements]
    ends = [s.offset + len(s.words) for s in statements if isinstance(s, Begins)]
    return max([*ends, *(s.offset + 1 for s in statements if isinstance(s, NoDigitAt))])


_BYTES: Final = {WORD: 4, HALF: 2, BYTE: 1}


def _parts(words: bytes) -> list[tuple[int, Size]]:
    """Pieces that can be compared at once: where each begins."""
    out, at = [], 0
    while at < len(words):
        size = next(size for size, length in _BYTES.items() if at + length <= len(words))
        out.append((at, size))
        at += _BYTES[size]
    return out


def _need(code: Code, length: int, otherwise: str) -> None:
    """So many bytes are there from R7 on."""
    code.move(R2, R7)
    code.add(R2, length)
    code.jump_if(If.GT, R2, R8, otherwise, wide=True)


def _number(words: bytes) -> int:
    """Bytes of a packet as they are in a register."""
    return int.from_bytes(words, "little")


def _of_network(number: int) -> int:
    return _number(number.to_bytes(2, "big"))
