"""What a live capture met so far."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from agent.ingress.counts import WireCounts


@dataclass(slots=True)
class CaptureCounts(WireCounts):
    """`attempts` are those that came in, `would_refuse` those that the policy would have refused: nobody did."""

    outgoing: int = 0
    would_refuse: int = 0
    failures: int = 0
    damaged_blocks: int = 0

    def numbers(self) -> Mapping[str, int]:
        """The plain counts by name."""
        return {each.name: value for each in fields(self) if isinstance(value := getattr(self, each.name), int)}
