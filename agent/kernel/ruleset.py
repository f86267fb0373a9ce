"""The words of nf_tables that we use: tables, sets, chains, rules and what stands in a rule. A pure description.

Knows no kernel, no netlink and no text: `ruleset_wire` makes messages of it, `ruleset_text` the syntax of nft(8), and
both render the same things. The family is always inet: one table for IPv4 and IPv6.
"""

from dataclasses import dataclass, field
from enum import Enum
from string import ascii_letters
from typing import Final, Literal

UDP_HEADER: Final = 8
"""Bytes."""

PAYLOAD: Final = UDP_HEADER
"""Where a datagram begins, seen from its UDP header."""

_CASE: Final = 0xDF
"""What makes a letter of ASCII a capital."""

_LETTERS: Final = frozenset(ascii_letters.encode())

MATCH_MAX: Final = 16
"""Bytes that one register of nf_tables compares."""


class Kind(Enum):
    """What a set holds: its name in nft(8), the kernel's number for that, and its bytes."""

    IPV4 = ("ipv4_addr", 7, 4)
    IPV6 = ("ipv6_addr", 8, 16)
    PORT = ("inet_service", 13, 2)


class Field(Enum):
    """What of a packet is compared or remembered, as nft(8) writes it."""

    SOURCE4 = "ip saddr"
    SOURCE6 = "ip6 saddr"
    # Who has one address of IPv6 has 2^64 of them: one source is one /64.
    SOURCE6_NET = "ip6 saddr & ffff:ffff:ffff:ffff::"
    TARGET4 = "ip daddr"
    TARGET6 = "ip6 daddr"
    UDP_PORT = "udp dport"


@dataclass(frozen=True, slots=True)
class Element:
    """One key of a set, or the range from `key` to `end`, both included. `seconds` until it goes; None: stays."""

    key: bytes
    end: bytes | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class NamedSet:
    """`ranges`: holds ranges, which must not overlap. `timeout`: seconds that an element without its own lives, 0: its
    elements may have one. `dynamic`: packets add to it, up to `size`."""

    name: str
    kind: Kind
    elements: tuple[Element, ...] = ()
    ranges: bool = False
    timeout: float | None = None
    dynamic: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True)
class In:
    """The field is in the set."""

    field: Field
    set: str


@dataclass(frozen=True, slots=True)
class Marked:
    """The packet carries this mark (SO_MARK)."""

    mark: int


@dataclass(frozen=True, slots=True)
class Begins:
    """The datagram has these bytes at `offset`; letters match in either case."""

    words: bytes
    offset: int = 0

    def __post_init__(self) -> None:
        if not 0 < len(self.words) <= MATCH_MAX:
            raise ValueError(f"{self.words!r}: 1 to {MATCH_MAX} bytes can be compared")


@dataclass(frozen=True, slots=True)
class NoDigitAt:
    """The datagram's byte at `offset` is there and is no digit."""

    offset: int


@dataclass(frozen=True, slots=True)
class LongerThan:
    """The datagram has more than so many bytes."""

    bytes: int


@dataclass(frozen=True, slots=True)
class IsFamily:
    """The packet is of IPv4 or IPv6."""

    version: Literal[4, 6]


@dataclass(frozen=True, slots=True)
class IsUdp:
    """The packet is UDP."""


@dataclass(frozen=True, slots=True)
class Count:
    """Count packets and bytes that have come this far."""


@dataclass(frozen=True, slots=True)
class Limit:
    """More than `rate` a second, with `burst` at once allowed."""

    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class Remember:
    """Put the field into a dynamic set, or renew it there. With a limit the rule goes on only beyond it, and what is
    beyond it is counted in the element. When the set is full, the rule does not go on."""

    field: Field
    set: str
    limit: Limit | None = None


@dataclass(frozen=True, slots=True)
class Accept:
    """The packet goes on; other tables may still drop it."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Discard the packet."""


@dataclass(frozen=True, slots=True)
class Return:
    """Back to the chain that jumped here; of a base chain: the packet goes on."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on in a chain, then here."""

    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """Go on in a chain, then where this one was jumped to from."""

    chain: str


@dataclass(frozen=True, slots=True)
class ToQueue:
    """Ask the program that has this queue; where there is none, the packet goes on."""

    number: int


@dataclass(frozen=True, slots=True)
class Reassemble:
    """Matches nothing that it could be asked for. That such a rule is there makes the kernel put fragments together
    before everything else, as for its transparent proxies; without it, rules see the fragments of IPv6 one by one.
    Unlike connection tracking, which does that too, it keeps no state."""


Statement = (
    In | Marked | Begins | NoDigitAt | LongerThan | IsFamily | IsUdp | Count | Remember | Accept | Drop | Return | Jump
    | Goto | ToQueue | Reassemble
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """Its statements from left to right: each goes on only if it holds. `comment` also names the rule's counter."""

    statements: tuple[Statement, ...]
    comment: str = ""


class Hook(Enum):
    """Where a base chain sees packets: nft's name, the kernel's number, and whether that is before routing."""

    PREROUTING = ("prerouting", 0)
    INPUT = ("input", 1)
    OUTPUT = ("output", 3)


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain if it has a hook; its policy is to accept."""

    name: str
    rules: tuple[Rule, ...]
    hook: Hook | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Everything of ours under one name. `owned`: it goes when the process that made it does, and only that may change
    it; else it stays until somebody removes it. Chains stand before those that jump to them."""

    name: str
    owned: bool
    sets: tuple[NamedSet, ...] = ()
    chains: tuple[Chain, ...] = field(default=())


def caseless(words: bytes) -> tuple[bytes, bytes]:
    """The mask that takes the case away from what is compared, and the words in capitals."""
    return bytes(_CASE if byte in _LETTERS else 0xFF for byte in words), words.upper()
