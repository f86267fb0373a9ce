"""The names of a spool's files: what a directory listing alone tells of a segment. Pure.

    refused-00000000000000000007.open                             being written, or left so by a crash
    allowed-00000000000000000012-00000000000000004711-4500.seg    sealed: first and last sequence, number of records
    ... .seg.corrupt, ... .open.corrupt    set aside as it was found; what could be read of it is kept in a .seg

Numbers have twenty digits, so that names sort as sequences do.
"""

import re
from dataclasses import dataclass
from typing import Final

from agent.records.segment import Kind

MANIFEST: Final = "manifest.json"
LOCK: Final = "lock"
CORRUPT: Final = ".corrupt"
STREAMS: Final = (Kind.REFUSED, Kind.ALLOWED)
_NAME: Final = re.compile(r"(refused|allowed)-([0-9]{20})(?:\.open|-([0-9]{20})-([0-9]{1,20})\.seg)")


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What a name says. `last` and `count` are 0 as long as the segment is open."""

    stream: Kind
    first: int
    last: int = 0
    count: int = 0

    @property
    def sealed(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        start = f"{self.stream.word}-{self.first:020d}"
        return f"{start}-{self.last:020d}-{self.count}.seg" if self.sealed else f"{start}.open"

    @classmethod
    def read(cls, name: str) -> "SegmentName | None":
        """The meaning of a file's name; None for a file that is no segment."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        stream, first, last, count = match.groups()
        return cls(Kind[stream.upper()], int(first), int(last or 0), int(count or 0))
