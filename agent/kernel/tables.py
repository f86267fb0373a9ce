"""Our two tables, described: the guard against floods, and the way into the queue. Pure; nothing is installed here.

They are two because they live differently. The guard needs nobody: a hung agent keeps its limits, and its blocks until
their time is up. The queue needs somebody who answers: its ports are armed for a second at a time, and an agent that
does not renew them, hung or stopped, is no longer asked. Each is held by its own socket and goes with it.

What the kernel can know of an emergency call. It compares bytes at fixed places, so it knows a Request-URI of a plain
form at the very beginning of a datagram: `INVITE sip:911@...`, `sips:`, `tel:`, with +1 or + before the number, and
`urn:service:sos`, in any case of letters. These pass the guard whatever their source does. It cannot know an emergency
call by an escaped or punctuated number, by its To, by Resource-Priority, or whose start line begins otherwise. So
the guard drops only from sources that are beyond the flood threshold or were blocked by policy, exempts trusted ones,
and counts what it drops. The queue decides nothing: there the agent reads the whole message.

What counts as an INVITE: the six letters in any case, since there are SBCs that accept them so (Kamailio is one), and
whatever begins with an empty line, as SBCs skip that (RFC 3261 7.5). Keep-alives of at most four bytes (RFC 5626 4.4.1)
do not count.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import collapse_addresses
from itertools import pairwise
from typing import Final

from agent.kernel.ruleset import (
    Accept,
    Begins,
    Chain,
    Count,
    Drop,
    Element,
    Field,
    Goto,
    Hook,
    In,
    IsFamily,
    IsUdp,
    Jump,
    Kind,
    Limit,
    LongerThan,
    Marked,
    NamedSet,
    NoDigitAt,
    Reassemble,
    Remember,
    Return,
    Rule,
    Statement,
    Table,
    ToQueue,
)
from agent.kernel.settings import KernelSettings, Network

GUARD: Final = "sbc_edge"
QUEUE: Final = "sbc_edge_queue"

BEFORE_ALL: Final = -300
"""Priority of the guard: before connection tracking (-200), after fragments have been put together (-400)."""

AFTER_FILTERS: Final = 10
"""Priority of the queue: nobody is asked about what the operator's own filters (0) drop."""

SOURCE_SECONDS: Final = 60.0
"""How long a silent source is remembered. Its bucket is full again long before."""

ARMED_SECONDS: Final = 1.0
"""How long the queue is asked after the agent was last known to be alive."""

REFUSED_SECONDS: Final = 40.0
"""How long ACK and CANCEL of a source are looked at after a refusal: Timer H (32 s, RFC 3261 17.2.1) and some."""

REFUSED_MAX: Final = 1 << 16
"""Sources with a refusal in that time. The ACK of one beyond goes on to the SBC, which ignores it."""

METHOD: Final = 7
"""Where the Request-URI begins: behind `INVITE `."""

KEEP_ALIVE: Final = 4
"""CR LF CR LF."""

INVITES: Final[tuple[tuple[tuple[Statement, ...], str], ...]] = (
    ((Begins(b"INVITE"),), "invites"),
    ((Begins(b"\r"), LongerThan(KEEP_ALIVE)), "empty_lines"),
    ((Begins(b"\n"), LongerThan(KEEP_ALIVE)), "empty_lines"),
)
"""How what may be an INVITE begins, and the name of its counter."""

_PREFIXES: Final = (b"+1", b"+")
_SCHEMES: Final = (b"sip:", b"tel:", b"sips:")

Blocks = Mapping[Network, float]
"""Seconds that each address or prefix stays blocked."""


# ---- the guard -----------------------------------------------------------------------------------------------------


def guard_table(settings: KernelSettings, blocks: Blocks, *, reassembles: bool) -> Table:
    """The table that cuts off floods and blocked sources. `reassembles`: whether this kernel offers `Reassemble`."""
    drop = settings.mode == "enforce"
    emergency = emergency_chains(settings.emergency_numbers)
    chains = [*emergency, _excess("blocked", drop=drop), _excess("flood", drop=drop), *_invite(settings)]
    chains += [_reassembling()] if reassembles else []
    seen = [
        Rule((In(Field.UDP_PORT, "sip_ports"), *what, Count(), Jump("invite")), comment) for what, comment in INVITES
    ]
    chains.append(Chain("guard", tuple(seen), Hook.PREROUTING, BEFORE_ALL))
    sets = [NamedSet("sip_ports", Kind.PORT, _ports(settings.ports))]
    if settings.exempt:
        sets += [_exempt(settings, kind) for kind in (Kind.IPV4, Kind.IPV6)]
    for one, elements in block_sets(settings, blocks):
        sets.append(NamedSet(one.name, one.kind, tuple(elements), one.ranges, one.timeout, size=one.size))
    if settings.flood_rate:
        sets += [
            NamedSet(name, kind, timeout=SOURCE_SECONDS, dynamic=True, size=settings.max_sources)
            for name, kind in (("invites4", Kind.IPV4), ("invites6", Kind.IPV6))
        ]
    return Table(GUARD, settings.on_death == "pass", tuple(sets), tuple(chains))


def block_sets(settings: KernelSettings, blocks: Blocks) -> list[tuple[NamedSet, Sequence[Element]]]:
    """The sets of blocked sources with what is to be in them: addresses for themselves, as that is quickest to look up
    and to change, and prefixes as ranges that do not overlap."""
    out: list[tuple[NamedSet, Sequence[Element]]] = []
    for kind, version in ((Kind.IPV4, 4), (Kind.IPV6, 6)):
        ours = {one: seconds for one, seconds in blocks.items() if one.version == version}
        hosts = [one for one in ours if one.prefixlen == one.max_prefixlen]
        addresses = [Element(one.network_address.packed, seconds=ours[one]) for one in hosts]
        ranges = disjoint({one: seconds for one, seconds in ours.items() if one.prefixlen < one.max_prefixlen})
        out.append((NamedSet(f"blocked{version}", kind, timeout=0, size=settings.max_blocks), addresses))
        out.append((NamedSet(f"blocked_nets{version}", kind, ranges=True, timeout=0), ranges))
    return out


def disjoint(blocks: Blocks) -> list[Element]:
    """Prefixes of one family as ranges that do not overlap; where several cover an address, the longest time counts."""
    starts: dict[int, list[Network]] = {}
    for one in blocks:
        starts.setdefault(int(one.network_address), []).append(one)
    edges = sorted({*starts, *(int(one.broadcast_address) + 1 for one in blocks)})
    out: list[tuple[int, int, float]] = []
    covering: list[Network] = []
    for begin, beyond in pairwise(edges):
        covering = [one for one in covering if int(one.broadcast_address) >= begin] + starts.get(begin, [])
        if not covering:
            continue
        seconds = max(blocks[one] for one in covering)
        if out and out[-1][1] == begin - 1 and out[-1][2] == seconds:
            out[-1] = (out[-1][0], beyond - 1, seconds)
        else:
            out.append((begin, beyond - 1, seconds))
    length = next(iter(blocks)).max_prefixlen // 8 if blocks else 0
    return [Element(begin.to_bytes(length, "big"), end.to_bytes(length, "big"), s) for begin, end, s in out]


def _invite(settings: KernelSettings) -> list[Chain]:
    """A chain for each family, so that no packet is asked for the addresses of the other."""
    chains = []
    for version, source, limited in ((4, Field.SOURCE4, Field.SOURCE4), (6, Field.SOURCE6, Field.SOURCE6_NET)):
        rules = [Rule((In(source, f"exempt{version}"), Count(), Return()), "exempt")] if settings.exempt else []
        rules.append(Rule((In(source, f"blocked{version}"), Goto("blocked"))))
        rules.append(Rule((In(source, f"blocked_nets{version}"), Goto("blocked"))))
        if settings.flood_rate:
            over = Limit(settings.flood_rate, settings.flood_burst or settings.flood_rate)
            rules.append(Rule((Remember(limited, f"invites{version}", over), Goto("flood"))))
        chains.append(Chain(f"invite{version}", tuple(rules)))
    by_family = tuple(Rule((IsFamily(version), Goto(f"invite{version}"))) for version in (4, 6))
    return [*chains, Chain("invite", by_family)]


def _excess(name: str, *, drop: bool) -> Chain:
    """What becomes of an INVITE that should not be: it passes if it is plainly an emergency call."""
    last = Rule((Count(), Drop()) if drop else (Count(),), name)
    return Chain(name, (Rule((Jump("emergency"),)), last))


def emergency_chains(numbers: Sequence[str]) -> list[Chain]:
    """Accept what calls one of these numbers, or sos (RFC 5031). That ends the guard, and no other table's rules.

    A tree, so that an INVITE of a flood is compared with as little as can be.
    """
    begins = sorted({METHOD + len(scheme) for scheme in _SCHEMES})
    ends = sorted({at + len(prefix) for at in begins for prefix in ("", *_PREFIXES)})
    chains = [Chain(f"digits_at_{at}", tuple(_numbers(numbers, at))) for at in ends]
    for at in begins:
        prefixed = [Rule((Begins(prefix, at), Goto(f"digits_at_{at + len(prefix)}"))) for prefix in _PREFIXES]
        chains.append(Chain(f"number_at_{at}", (*prefixed, Rule((Goto(f"digits_at_{at}"),)))))
    rules = [Rule((Begins(scheme, METHOD), Goto(f"number_at_{METHOD + len(scheme)}"))) for scheme in _SCHEMES]
    rules.append(Rule((Begins(b"urn:service:sos", METHOD), Count(), Accept()), "emergency"))
    return [*chains, Chain("emergency", tuple(rules))]


def _numbers(numbers: Sequence[str], offset: int) -> Iterator[Rule]:
    for number in numbers:
        words = number.encode("ascii")
        match = (Begins(words, offset), NoDigitAt(offset + len(words)))
        yield Rule((*match, Count(), Accept()), "emergency")


def _exempt(settings: KernelSettings, kind: Kind) -> NamedSet:
    version = 4 if kind is Kind.IPV4 else 6
    networks = [one for one in settings.exempt_networks if one.version == version]
    # collapse_addresses: the kernel takes no overlapping ranges.
    elements = tuple(
        Element(one.network_address.packed, one.broadcast_address.packed)
        for one in collapse_addresses(networks)  # type: ignore[type-var]
    )
    return NamedSet(f"exempt{version}", kind, elements, ranges=True)


# ---- the queue -----------------------------------------------------------------------------------------------------

ARMED: Final = NamedSet("armed", Kind.PORT, timeout=0)
"""The ports whose INVITEs the agent is asked about, for as long as it renews them."""

ARMED_FOLLOWING: Final = NamedSet("armed_following", Kind.PORT, timeout=0)
"""The same for ACK and CANCEL of whoever was refused: an agent that ends takes these when it takes no more INVITEs."""

REFUSED: Final = (
    NamedSet("refused4", Kind.IPV4, timeout=REFUSED_SECONDS, dynamic=True, size=REFUSED_MAX),
    NamedSet("refused6", Kind.IPV6, timeout=REFUSED_SECONDS, dynamic=True, size=REFUSED_MAX),
)
"""Where answers of ours went: the kernel sees them leave by their mark, and adds them by itself."""


def queue_table(number: int, mark: int, *, reassembles: bool) -> Table:
    """The table that leads calls into queue `number`. Answers of ours carry `mark`. It is always owned: what has
    nobody to ask must not ask. No port is armed yet."""
    rules = [
        Rule((In(Field.UDP_PORT, ARMED.name), *what, Count(), ToQueue(number)), comment) for what, comment in INVITES
    ]
    for words, comment in ((b"ACK ", "acks"), (b"CANCEL ", "cancels")):
        for source, refused in zip((Field.SOURCE4, Field.SOURCE6), REFUSED, strict=True):
            what = (In(Field.UDP_PORT, ARMED_FOLLOWING.name), Begins(words), In(source, refused.name))
            rules.append(Rule((*what, Count(), ToQueue(number)), comment))
    chains = [Chain("calls", tuple(rules), Hook.INPUT, AFTER_FILTERS)]
    answers = tuple(
        Rule((Marked(mark), Remember(target, refused.name)))
        for target, refused in zip((Field.TARGET4, Field.TARGET6), REFUSED, strict=True)
    )
    chains.append(Chain("answers", answers, Hook.OUTPUT, 0))
    chains += [_reassembling()] if reassembles else []
    return Table(QUEUE, True, (ARMED, ARMED_FOLLOWING, *REFUSED), tuple(chains))


def armed(ports: Iterable[int], *, invites: bool) -> list[tuple[NamedSet, Sequence[Element]]]:
    """What the sets of armed ports hold for the next second; without INVITEs when the agent is about to end."""
    elements = _ports(ports, ARMED_SECONDS)
    return [(ARMED, elements if invites else ()), (ARMED_FOLLOWING, elements)]


def _reassembling() -> Chain:
    """No packet comes here: that the rule exists is enough."""
    return Chain("reassembling", (Rule((IsUdp(), Reassemble())),))


def _ports(ports: Iterable[int], seconds: float | None = None) -> tuple[Element, ...]:
    return tuple(Element(port.to_bytes(2, "big"), seconds=seconds) for port in sorted(set(ports)))
