"""What a spool remembers beside its segments: its epoch, and which records it had to let go, and why.

Pure: to and from the text of `manifest.json`. The list of dropped ranges is what a controller needs to tell "lost"
from "still to come"; it is bounded by merging neighbours.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from agent.records.segment import Kind

FORMAT: Final = 1
# Each is some 150 bytes; a spool that has lost records in more ways than this merges its oldest losses.
RANGES_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class DroppedRange:
    """`count` records of one kind, whose sequence numbers lie within `first` to `last`, are gone.

    `count` may be less than the span: records of other kinds have numbers in between. 0 means that damage left no
    way to tell. `when` is the time of the latest loss. `reason` is one of the constants below.
    """

    epoch: int
    first: int
    last: int
    kind: str
    count: int
    reason: str
    when: float


QUEUE_FULL: Final = "queue full"  # more calls than the disk could take
TOTAL_BYTES: Final = "over max_bytes"
TOO_OLD: Final = "over max_age_seconds"
DISK_SHORT: Final = "disk short"
NOT_WRITTEN: Final = "disk short, not written"
DAMAGED: Final = "damaged on disk"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Immutable; `epoch` tells this spool from one that was here before, and `next` is a sequence never used yet."""

    epoch: int
    next: int = 1
    dropped: tuple[DroppedRange, ...] = field(default=())

    def encode(self) -> bytes:
        """The text of the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, text: bytes) -> "Manifest":
        """Read the file. Raises ValueError, in words, for anything that `encode` did not write."""
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise ValueError(f"manifest format {value['format']}, this program reads {FORMAT}")
            ranges = tuple(DroppedRange(**item) for item in value["dropped"])
            manifest = cls(value["epoch"], value["next"], ranges)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a spool manifest: {error!r}") from error
        whole = (manifest.epoch, manifest.next, *(n for r in ranges for n in (r.epoch, r.first, r.last, r.count)))
        if not all(type(number) is int and 0 <= number < 1 << 64 for number in whole):
            raise ValueError("not a spool manifest: a number is none")
        return manifest

    def with_dropped(self, loss: DroppedRange) -> "Manifest":
        """The manifest after one more loss."""
        kept = list(self.dropped)
        following = next((i for i in range(len(kept) - 1, -1, -1) if _adjoins(kept[i], loss)), None)
        if following is not None:
            kept[following] = _merged(kept[following], loss)
        else:
            kept.append(loss)
        if len(kept) > RANGES_MAX:
            kept = _without_oldest(kept)
        return replace(self, dropped=tuple(kept), next=max(self.next, loss.last + 1))

    def covers(self, epoch: int, kind: Kind, first: int, last: int) -> bool:
        """Whether all of this was given up before: a segment that was to be deleted when the process died."""
        return any(
            r.epoch == epoch and r.kind == kind.word and r.reason in _WHOLE and r.first <= first and last <= r.last
            for r in self.dropped
        )


# Reasons for which a segment goes as a whole, oldest first: nothing of its kind is left before it.
_WHOLE: Final = (TOTAL_BYTES, TOO_OLD, DISK_SHORT)


def _adjoins(old: DroppedRange, new: DroppedRange) -> bool:
    if (old.epoch, old.kind, old.reason) != (new.epoch, new.kind, new.reason):
        return False
    return old.last + 1 == new.first or (old.reason in _WHOLE and old.last < new.first)


def _merged(old: DroppedRange, new: DroppedRange) -> DroppedRange:
    return replace(
        old,
        first=min(old.first, new.first),
        last=max(old.last, new.last),
        count=old.count + new.count,
        when=max(old.when, new.when),
    )


def _without_oldest(ranges: list[DroppedRange]) -> list[DroppedRange]:
    """Merge the oldest range with the next one of its sort; where it has none it is forgotten last."""
    for index, old in enumerate(ranges):
        for later in range(index + 1, len(ranges)):
            new = ranges[later]
            if (old.epoch, old.kind, old.reason) == (new.epoch, new.kind, new.reason):
                return [*ranges[:index], *ranges[index + 1 : later], _merged(old, new), *ranges[later + 1 :]]
    return ranges[1:]
