"""What is committed together: items of many uploads as rows of tables, and how far each spool has come with them.

Knows neither files nor transactions.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from controller.archive.layout import DROPPED, epoch_text
from controller.archive.rows import Lines, dropped_table
from controller.archive.tables import tables_of
from controller.errors import Invalid
from controller.ingest.order import Taken
from controller.ingest.upload import Item, Upload
from controller.model import Advance, DroppedRange

GROUP_TEXT: Final = 48 << 20
"""Bytes of records, as text, that become files at once. Their table takes about as much."""

GROUP_RECORDS: Final = 131_072


class Group:
    """A group on its way into tables; runs in the thread. The first `used` items fitted.

    `wrong` uploads sent what is none; that and what they sent after it is `left_out`.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self.used = 0
        self.wrong: dict[Upload, Invalid] = {}
        self.left_out: set[Item] = set()

    def tables(self, when: float) -> dict[str, pa.Table]:
        """As much as one group holds."""
        lost: list[DroppedRange] = []
        made = tables_of(self._parts(lost), when)
        if lost:
            made[DROPPED] = dropped_table(map(_dropped_row, lost))
        return made

    def _parts(self, lost: list[DroppedRange]) -> Iterator[Lines]:
        """One after the other, so that only one of them is text; what was dropped is added to `lost`."""
        size = records = 0
        for item in self._items:
            if size >= GROUP_TEXT or records >= GROUP_RECORDS:
                break
            self.used += 1
            if item.upload in self.wrong:
                self.left_out.add(item)
            elif item.dropped is not None:
                lost.append(item.dropped)
            elif item.taken is not None and (lines := self._lines(item, item.taken)) is not None:
                size += len(lines.text)
                records += lines.count
                yield lines

    def _lines(self, item: Item, taken: Taken) -> Lines | None:
        try:
            return taken.lines(item.upload.order.agent_id, item.upload.order.spool_epoch)
        except ValueError as error:
            self.wrong[item.upload] = Invalid("batch.data", f"records {item.first} to {item.through}: {error}")
            self.left_out.add(item)
            return None


def _dropped_row(lost: DroppedRange) -> dict[str, object]:
    return {
        "agent": lost.agent_id,
        "epoch": epoch_text(lost.spool_epoch),
        "first": lost.first,
        "last": lost.last,
        "kind": lost.kind,
        "count": lost.count,
        "reason": lost.reason,
        "time": lost.at,
    }


def key(item: Item) -> tuple[str, int]:
    return item.upload.order.agent_id, item.upload.order.spool_epoch


def advances(items: Sequence[Item]) -> list[Advance]:
    """One for each spool, over all of its items. RuntimeError, were there a hole: it would be a loss for good."""
    of_spool: dict[Upload, list[Item]] = {}
    for item in items:
        own = of_spool.setdefault(item.upload, [])
        if item.first != (own[-1].through if own else item.upload.committed) + 1:
            raise RuntimeError(f"a hole before record {item.first} of {item.upload.order.agent_id}")
        own.append(item)
    return [
        Advance(
            upload.order.agent_id,
            upload.order.spool_epoch,
            upload.committed,
            own[-1].through,
            sum(item.taken.records for item in own if item.taken is not None),
        )
        for upload, own in of_spool.items()
    ]
