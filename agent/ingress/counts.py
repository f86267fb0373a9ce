"""What a capture met on the wire, live or in a file. Counts by name are bounded: the wire can invent any number."""

from dataclasses import dataclass, field
from typing import Final

from agent.ingress.recognition import Message
from agent.model import ParseError, Scan
from agent.sip.scan import scan

MAX_NAMES: Final = 64
"""Distinct methods, link types and the like that are counted by name."""

OTHERS: Final = "(others)"


@dataclass(slots=True, kw_only=True)
class WireCounts:
    """`transports`, `methods` and `responses` count messages, `skipped` packets that hold nothing to look at.

    `invites` are INVITE messages with their repeats, `attempts` calls that were not seen before. `parse_errors` begin
    like SIP and cannot be read; `not_sip` is anything else on a SIP port: datagrams, and streams without one message.
    `incomplete` are streams that ended within their first message. `truncated` packets are longer than what was kept.
    """

    packets: int = 0
    truncated: int = 0
    vlan: int = 0
    tunnels: int = 0
    fragments: int = 0
    sip_messages: int = 0
    invites: int = 0
    attempts: int = 0
    parse_errors: int = 0
    not_sip: int = 0
    incomplete: int = 0
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

    def read(self, message: Message) -> Scan | None:
        """What a message says, counted; None where it cannot be read."""
        try:
            found = scan(message.raw)
        except ParseError:
            self.parse_errors += 1
            return None
        self.sip_messages += 1
        self.count(self.transports, message.transport)
        if found.status:
            self.count(self.responses, str(found.status))
        else:
            self.count(self.methods, found.method)
            self.invites += found.method == "INVITE"
        return found
