"""One stream of one agent as ingest sees it, and what it has taken that waits for its commit. Knows no protobuf."""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from agent.records.manifest import DroppedRange as Lost
from controller.errors import ControllerError
from controller.ingest.order import Order, Taken
from controller.model import DroppedRange

FIRST_WINDOW: Final = 256 << 10
"""Of a stream, until something of it is committed. Agents that come at once are told their windows before all are
there: were each told its share of those that are, they could send a multiple of the memory for all."""


@dataclass(slots=True, eq=False)
class Item:
    """What waits for its commit: a batch or a dropped range, `first` to `through`. `size` counts for the window."""

    upload: "Upload"
    first: int
    through: int
    size: int
    taken: Taken | None = None
    dropped: DroppedRange | None = None


class Taker(Protocol):
    """What an upload needs of ingest."""

    @property
    def window(self) -> int:
        """Bytes that an upload may have uncommitted."""
        ...

    async def put(self, item: Item) -> None:
        """Queue it, when there is room."""
        ...

    def hurry(self) -> None:
        """Commit soon."""
        ...

    def forget(self, upload: "Upload") -> None:
        """It is over."""
        ...


class Upload:
    """One stream of one agent. Made by `Ingest.open`; whoever has it calls `close`."""

    def __init__(self, ingest: Taker, order: Order) -> None:
        self.order = order
        self.committed = order.next - 1
        self.waiting_bytes = self.items = 0
        self.failure: ControllerError | None = None
        # Something of it could not be committed, and so nothing that came after it may be.
        self.void = False
        self.proven = False
        self.changed = asyncio.Event()
        self._ingest = ingest

    @property
    def window(self) -> int:
        """Bytes that may be uncommitted."""
        return self._ingest.window if self.proven else min(FIRST_WINDOW, self._ingest.window)

    async def batch(self, first: int, count: int, data: bytes) -> None:
        """Take one. Waits for room. Raises Invalid, Conflict, or what has ended this upload."""
        self._check()
        taken = self.order.batch(first, count, data)
        size = len(data)
        del data  # what waits for room, one message of each stream, should be there once
        if taken is not None:
            await self._ingest.put(Item(self, taken.batch.first + taken.skip, taken.last, size, taken))

    async def dropped(self, lost: Lost, when: float) -> None:
        """Note what will never come. Raises as `batch`."""
        self._check()
        dropped = self.order.dropped(lost, when)
        if dropped is not None:
            await self._ingest.put(Item(self, dropped.first, dropped.last, 0, None, dropped))

    def hurry(self) -> None:
        """Somebody waits for what was taken to be committed."""
        self._ingest.hurry()

    def fail(self, error: ControllerError) -> None:
        """End it; whoever waits is told."""
        if self.failure is None:
            self.failure = error
        self.changed.set()

    def close(self) -> None:
        """Nobody waits for it any more. What it has taken is committed all the same."""
        self._ingest.forget(self)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
