"""What a live capture met so far. Counts by name are bounded: the wire can invent any number of names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_NAMES: Final = 64
OTHERS: Final = "(others)"


@dataclass(slots=True)
class CaptureCounts:
    """`transports`, `methods` and `responses` count messages, `skipped` packets that hold nothing to look at.

    `attempts` are new call attempts that came in, `would_refuse` those that the policy would have refused or dropped:
    nobody did. `parse_errors` begin like SIP and cannot be read; `not_sip` is anything else on the ports; `incomplete`
    are streams that ended within their first message. `truncated` packets are longer than what the kernel kept.
    """

    packets: int = 0
    outgoing: int = 0
    truncated: int = 0
    vlan: int = 0
    tunnels: int = 0
    fragments: int = 0
    sip_messages: int = 0
    invites: int = 0
    attempts: int = 0
    would_refuse: int = 0
    parse_errors: int = 0
    not_sip: int = 0
    incomplete: int = 0
    failures: int = 0
    damaged_blocks: int = 0
    transports: dict[str, int] = field(default_factory=dict)
    methods: dict[str, int] = field(default_factory=dict)
    responses: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    unsupported_links: dict[str, int] = field(default_factory=dict)

    def count(self, table: dict[str, int], name: str) -> None:
        """Count one more `name` in one of the tables above, within MAX_NAMES names."""
        if name not in table and len(table) >= MAX_NAMES:
            name = OTHERS
        table[name] = table.get(name, 0) + 1

    def numbers(self) -> Mapping[str, int]:
        """The plain counts by name."""
        return {
            name: value for name in type(self).__dataclass_fields__ if isinstance(value := getattr(self, name), int)
        }
