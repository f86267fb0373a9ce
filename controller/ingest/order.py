"""The order of one spool's upload: what comes next, what was there already, what is missing. Sans I/O.

Every sequence number comes exactly once: in a batch, or in a range that is known to be lost. What a message repeats is
passed over; a message that leaves something out is refused, so nothing can be lost between two messages.
"""

from dataclasses import dataclass

from agent.records.manifest import DroppedRange as Lost
from agent.records.segment import Batch, Kind, read_batches
from controller.archive.rows import Lines
from controller.errors import Conflict, Invalid
from controller.model import DroppedRange
from controller.store.records import SEQUENCE_MAX, WORD_MAX


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch in its turn. The first `skip` records of it are there already."""

    batch: Batch
    skip: int

    @property
    def records(self) -> int:
        return self.batch.count - self.skip

    @property
    def last(self) -> int:
        return self.batch.last

    def lines(self, agent: str, epoch: int) -> Lines:
        """To be archived. Raises ValueError for a payload that does not hold what its header says."""
        text = self.batch.text()
        if text.count(b"\n") != self.batch.count - 1:
            raise ValueError(f"{self.batch.count} records stated, {text.count(bytes([10])) + 1} found")
        if self.skip:
            text = text.split(b"\n", self.skip)[self.skip]
        return Lines(agent, epoch, self.batch.first + self.skip, self.batch.kind, self.records, text)


class Order:
    """Of one spool, from its watermark on."""

    def __init__(self, agent_id: str, spool_epoch: int, committed_through: int) -> None:
        self.agent_id = agent_id
        self.spool_epoch = spool_epoch
        self.next = committed_through + 1
        self.repeated = 0

    def batch(self, first: int, count: int, data: bytes) -> Taken | None:
        """The next batch, None if all of it is there. Raises Invalid for a damaged one, Conflict for one too far on."""
        batch = _read(data)
        if (batch.first, batch.count) != (first, count):
            stated = f"records {first} to {first + count - 1}"
            raise Invalid("batch.first_sequence", f"{stated} stated, {batch.first} to {batch.last} are in the data")
        self._check(first, batch.last, "batch.first_sequence")
        if batch.last < self.next:
            self.repeated += batch.count
            return None
        taken = Taken(batch, self.next - batch.first)
        self.repeated += taken.skip
        self.next = batch.last + 1
        return taken

    def dropped(self, lost: Lost, when: float) -> DroppedRange | None:
        """The next range that will never come, None if that is known. Raises Invalid and Conflict."""
        if lost.last < lost.first:
            raise Invalid("dropped.last_sequence", "is before first_sequence")
        for name, word in (("kind", lost.kind), ("reason", lost.reason)):
            if len(word) > WORD_MAX or "\0" in word:
                raise Invalid(f"dropped.{name}", f"must have at most {WORD_MAX} characters, and no NUL")
        self._check(lost.first, lost.last, "dropped.first_sequence")
        if lost.last < self.next:
            return None
        first = max(self.next, lost.first)
        self.next = lost.last + 1
        count = min(lost.count, lost.last - first + 1)
        return DroppedRange(self.agent_id, self.spool_epoch, first, lost.last, lost.kind, count, lost.reason, when)

    def _check(self, first: int, last: int, field: str) -> None:
        if not 0 < first <= last <= SEQUENCE_MAX:
            raise Invalid(field, f"{first} to {last} are no sequence numbers")
        if first > self.next:
            raise Conflict(f"{field}: {first} came where {self.next} is next")


def _read(data: bytes) -> Batch:
    """The one batch in these bytes. Raises Invalid."""
    parts = read_batches(data, 0)
    batch = next(parts, None)
    if not isinstance(batch, Batch):
        raise Invalid("batch.data", "is empty" if batch is None else str(batch))
    if batch.end != len(data):
        raise Invalid("batch.data", f"{len(data) - batch.end} bytes follow the batch")
    if batch.kind not in Kind:
        raise Invalid("batch.data", "is of an unknown kind")
    return batch
