"""How far each spool is archived, in which files, and what agents had to let go.

A watermark and the row of the file that holds its records move in one transaction: that is what makes records, which
come at least once, count once. Two controllers that take the same spool cannot both move it: each says from where.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from controller.errors import Conflict, Denied, Invalid, Moved, WatermarkMoved
from controller.model import Advance, ArchivedFile, DroppedRange, Watermark
from controller.store import tables
from controller.store.engine import upsert
from controller.store.parts import Part, reads, writes

SPOOLS_MAX: Final = 1000
"""Of one agent. A spool begins with a new disk; an agent that begins more has a fault, or is none."""

RANGES_MAX: Final = 4096
"""Of one agent; the latest are kept. Its own list has an eighth of this."""

SEQUENCE_MAX: Final = (1 << 63) - 1
WORD_MAX: Final = 255
PATHS_IN: Final = 1000


class Records(Part):
    """Nothing here is a topic: it moves all the time."""

    @reads
    def watermark(self, tx: Connection, agent_id: str, spool_epoch: int) -> Watermark:
        """At 0 for a spool that is not known."""
        return _watermark(tx, agent_id, spool_epoch)

    @reads
    def watermarks(self, tx: Connection, agent_id: str = "") -> list[Watermark]:
        """Of one agent, or of all."""
        marks = tables.watermarks
        statement = select(marks).order_by(marks.c.agent_id, marks.c.updated_at)
        rows = tx.execute(statement.where(marks.c.agent_id == agent_id) if agent_id else statement)
        return [
            Watermark(row.agent_id, row.spool_epoch, row.committed_through, row.records, row.updated_at) for row in rows
        ]

    @writes()
    def commit(
        self,
        tx: Connection,
        files: Sequence[ArchivedFile],
        advances: Sequence[Advance],
        dropped: Sequence[DroppedRange],
        when: float,
        during: Callable[[Connection], None] | None = None,
    ) -> None:
        """All of it, or nothing: these files are there, and these spools are done up to there.

        `during` is for statements that belong to the same transaction; it may be called again from the start.
        Raises WatermarkMoved when a spool is not where its advance begins, Conflict when a file is there already,
        Denied when an agent has too many spools, Invalid for an advance that is none.
        """
        for advance in advances:
            if not 0 <= advance.expected < advance.through <= SEQUENCE_MAX:
                raise Invalid("advance", f"from {advance.expected} to {advance.through} is none")
        # In one order for all, so that two who commit for the same agents do not wait for each other.
        moved = [
            _moved(tx, advance)
            for advance in sorted(advances, key=lambda one: (one.agent_id, one.spool_epoch))
            if not _advance(tx, advance, when)
        ]
        if moved:
            raise WatermarkMoved(moved)
        _add_files(tx, files)
        _note_dropped(tx, dropped)
        if during is not None:
            during(tx)

    @reads
    def files(
        self, tx: Connection, first_at: float | None = None, last_at: float | None = None, kind: str = ""
    ) -> list[ArchivedFile]:
        """Those with records that can be of this time, oldest first."""
        files = tables.files
        statement = select(files).order_by(files.c.first_at, files.c.path)
        if first_at is not None:
            statement = statement.where(files.c.last_at >= first_at)
        if last_at is not None:
            statement = statement.where(files.c.first_at <= last_at)
        if kind:
            statement = statement.where(files.c.kind == kind)
        return [ArchivedFile(**row) for row in tx.execute(statement).mappings()]

    @reads
    def paths(self, tx: Connection) -> frozenset[str]:
        """Of all files. What else lies in the archive was never committed."""
        return frozenset(tx.execute(select(tables.files.c.path)).scalars())

    @writes()
    def replace(self, tx: Connection, old: Sequence[str], new: Sequence[ArchivedFile]) -> None:
        """Files that were made into others, or went (`new` empty). Raises Conflict when one is not as believed."""
        files, gone = tables.files, 0
        for some in (old[i : i + PATHS_IN] for i in range(0, len(old), PATHS_IN)):
            gone += tx.execute(delete(files).where(files.c.path.in_(some))).rowcount
        if gone != len(set(old)):
            raise Conflict("some of the files have been replaced already")
        _add_files(tx, new)

    @reads
    def dropped(self, tx: Connection, agent_id: str = "", limit: int = 1000) -> list[DroppedRange]:
        """What agents had to let go, latest first."""
        ranges = tables.dropped_ranges
        statement = select(ranges).order_by(ranges.c.at.desc(), ranges.c.agent_id, ranges.c.first.desc()).limit(limit)
        if agent_id:
            statement = statement.where(ranges.c.agent_id == agent_id)
        return [DroppedRange(**row) for row in tx.execute(statement).mappings()]


def _add_files(tx: Connection, new: Sequence[ArchivedFile]) -> None:
    files, paths = tables.files, [file.path for file in new]
    for some in (paths[i : i + PATHS_IN] for i in range(0, len(paths), PATHS_IN)):
        if known := tx.execute(select(files.c.path).where(files.c.path.in_(some)).limit(1)).scalar_one_or_none():
            raise Conflict(f"{known} is there already")
    if new:
        tx.execute(insert(files), [asdict(file) for file in new])


def _which(agent_id: str, spool_epoch: int) -> Any:
    return and_(tables.watermarks.c.agent_id == agent_id, tables.watermarks.c.spool_epoch == spool_epoch)


def _watermark(tx: Connection, agent_id: str, spool_epoch: int) -> Watermark:
    row = tx.execute(select(tables.watermarks).where(_which(agent_id, spool_epoch))).one_or_none()
    if row is None:
        return Watermark(agent_id, spool_epoch, 0, 0, 0.0)
    return Watermark(agent_id, spool_epoch, row.committed_through, row.records, row.updated_at)


def _advance(tx: Connection, advance: Advance, when: float) -> bool:
    """Move it if it is where it is believed to be. On PostgreSQL who comes second waits here, and then is not."""
    marks = tables.watermarks
    if advance.expected == 0:
        _begin_spool(tx, advance, when)
    moved = tx.execute(
        update(marks)
        .where(_which(advance.agent_id, advance.spool_epoch), marks.c.committed_through == advance.expected)
        .values(committed_through=advance.through, records=marks.c.records + advance.records, updated_at=when)
    )
    return moved.rowcount == 1


def _begin_spool(tx: Connection, advance: Advance, when: float) -> None:
    marks = tables.watermarks
    spools = tx.execute(select(func.count()).where(marks.c.agent_id == advance.agent_id)).scalar_one()
    if spools >= SPOOLS_MAX:
        raise Denied(f"{advance.agent_id} has begun {spools} spools")
    row = {
        "agent_id": advance.agent_id,
        "spool_epoch": advance.spool_epoch,
        "committed_through": 0,
        "records": 0,
        "updated_at": when,
    }
    upsert(tx, marks, [row], update=False)


def _moved(tx: Connection, advance: Advance) -> Moved:
    actual = _watermark(tx, advance.agent_id, advance.spool_epoch).committed_through
    return Moved(advance.agent_id, advance.spool_epoch, advance.expected, actual)


def _note_dropped(tx: Connection, dropped: Sequence[DroppedRange]) -> None:
    """Told again, a range replaces what was told of it; it may have grown since."""
    if not dropped:
        return
    latest = {(one.agent_id, one.spool_epoch, one.first, one.kind): one for one in dropped}
    rows = [asdict(latest[key]) | {"reason": latest[key].reason[:WORD_MAX]} for key in sorted(latest)]
    upsert(tx, tables.dropped_ranges, rows)
    ranges = tables.dropped_ranges
    for agent_id in sorted({one.agent_id for one in dropped}):
        own = select(ranges.c.at).where(ranges.c.agent_id == agent_id).order_by(ranges.c.at.desc())
        if (oldest := tx.execute(own.offset(RANGES_MAX).limit(1)).scalar_one_or_none()) is not None:
            tx.execute(delete(ranges).where(ranges.c.agent_id == agent_id, ranges.c.at <= oldest))
