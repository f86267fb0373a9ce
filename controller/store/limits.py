"""Limits that hold for the whole fleet, as an operator set them. What is leased of them is in the leader's memory."""

from dataclasses import replace
from math import isfinite
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select

from controller.errors import Conflict, Invalid, NotFound
from controller.model import WARN_AT, Act, FleetLimit, Partition, Topic
from controller.store import tables
from controller.store.audit import record
from controller.store.engine import upsert
from controller.store.parts import Part, reads, writes

LIMITS_MAX: Final = 1000
"""Each is divided among all agents each second."""

NAME_MAX: Final = 128


class Limits(Part):
    """By name."""

    @reads
    def all(self, tx: Connection) -> list[FleetLimit]:
        """By name."""
        return [_limit(row) for row in tx.execute(select(tables.limits).order_by(tables.limits.c.name))]

    @reads
    def get(self, tx: Connection, name: str) -> FleetLimit:
        """Raises NotFound."""
        row = tx.execute(select(tables.limits).where(tables.limits.c.name == name)).one_or_none()
        if row is None:
            raise NotFound("limit", name)
        return _limit(row)

    @writes(Topic.LIMITS)
    def put(self, tx: Connection, limit: FleetLimit, when: float, act: Act) -> FleetLimit:
        """Set it, new or not. Raises Invalid; Conflict when there are too many."""
        limits = tables.limits
        _check(limit)
        count = select(func.count()).select_from(limits).where(limits.c.name != limit.name)
        if tx.execute(count).scalar_one() >= LIMITS_MAX:
            raise Conflict(f"there are {LIMITS_MAX} limits already")
        limit = replace(limit, updated_at=when)
        said = {"rate": limit.rate, "burst": limit.burst, "partition": limit.partition.value, "warn_at": limit.warn_at}
        record(tx, act, when, limit=limit.name, **said)
        row = {
            "name": limit.name,
            "rate": limit.rate,
            "burst": limit.burst,
            "partition": limit.partition.value,
            "author": limit.author,
            "updated_at": when,
            "warn_at": limit.warn_at,
        }
        upsert(tx, limits, [row])
        return limit

    @writes(Topic.LIMITS)
    def delete(self, tx: Connection, name: str, when: float, act: Act) -> None:
        """Raises NotFound."""
        record(tx, act, when, limit=name[:NAME_MAX])
        if not tx.execute(delete(tables.limits).where(tables.limits.c.name == name)).rowcount:
            raise NotFound("limit", name)


def _check(limit: FleetLimit) -> None:
    if not limit.name or len(limit.name) > NAME_MAX or not limit.name.isprintable():
        raise Invalid("limit.name", f"must be 1 to {NAME_MAX} printable characters")
    if not (isfinite(limit.rate) and 0 < limit.rate <= 1e9):
        raise Invalid("limit.rate", "must be more than 0, and at most a thousand million, per second")
    if not (isfinite(limit.burst) and 0 <= limit.burst <= 1e9):
        raise Invalid("limit.burst", "must be from 0 to a thousand million")
    if not 0 <= limit.warn_at <= 1:
        raise Invalid("limit.warn_at", "is a share from 0 to 1")


def _limit(row: Row[Any]) -> FleetLimit:
    warn_at = WARN_AT if row.warn_at is None else row.warn_at
    return FleetLimit(row.name, row.rate, row.burst, Partition(row.partition), row.author, row.updated_at, warn_at)
