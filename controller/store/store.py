"""The state of the fleet: one class for SQLite and PostgreSQL, in parts by subject.

Whoever has a Store knows neither database nor thread. Every method of a part is a coroutine and one transaction.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, select, update

from controller.errors import StoreError
from controller.model import Act, Topic
from controller.store import tables
from controller.store.access import Access
from controller.store.agents import Agents
from controller.store.artifacts import Artifacts
from controller.store.audit import Audit, record
from controller.store.authorities import Authorities
from controller.store.certificates import Certificates
from controller.store.changes import Changes
from controller.store.engine import Engine, upsert
from controller.store.enrolment import Enrolment
from controller.store.leadership import AlwaysLeader, ElectedLeader, Leader, Leadership, begin_term
from controller.store.limits import Limits
from controller.store.migrate import migrate
from controller.store.policies import Policies
from controller.store.postgres import PostgresEngine
from controller.store.records import Records
from controller.store.rollouts import Rollouts
from controller.store.sessions import Sessions, begin_controller, end_controller
from controller.store.settings import StoreSettings
from controller.store.sqlite import SqliteEngine
from controller.store.upgrades import Upgrades


class Store:
    """Construction does nothing; `open` begins. `address` is where other controllers reach this one."""

    name: Final = "store"

    def __init__(self, settings: StoreSettings, controller_id: str, address: str) -> None:
        self.controller_id = controller_id
        self.address = address
        self._opened = False
        self._when = 0.0
        self.leadership: Leadership
        self._engine: Engine
        if settings.postgresql:
            self._engine = PostgresEngine(settings.url(), settings.connections)
            self.leadership = ElectedLeader(settings.url(), controller_id, address)
        else:
            self._engine = SqliteEngine(settings.file)
            self.leadership = AlwaysLeader(self._begin_term)
        self.changes = Changes(self._engine)
        parts = (self._engine, self.changes, controller_id)
        self.agents = Agents(*parts)
        self.sessions = Sessions(*parts)
        self.policies = Policies(*parts)
        self.rollouts = Rollouts(*parts)
        self.upgrades = Upgrades(*parts)
        self.artifacts = Artifacts(*parts)
        self.limits = Limits(*parts)
        self.records = Records(*parts)
        self.access = Access(*parts)
        self.certificates = Certificates(*parts)
        self.authorities = Authorities(*parts)
        self.enrolment = Enrolment(*parts)
        self.audit = Audit(*parts)

    async def open(self, when: float) -> None:
        """Take the database, bring its tables up to date, begin.

        Raises StoreBusy, StoreDamaged, StoreFull, StoreUnavailable, SchemaTooNew, ConfigError; nothing is held then.
        """
        self._when = when
        try:
            await asyncio.to_thread(self._open)
            await self._engine.write(lambda tx: begin_controller(tx, self.controller_id, self.address, when))
            await self.changes.start()
            await self.leadership.start()
        except BaseException:
            await self.close()
            raise
        self._opened = True

    def _open(self) -> None:
        self._engine.open()
        self._engine.migrate(migrate)

    async def close(self) -> None:
        """Finish what was asked, resign, let go. Harmless twice."""
        await self.leadership.stop()
        await self.changes.stop()
        if self._opened:
            with contextlib.suppress(StoreError):  # it will be missed, and its sessions with it
                await self._engine.write(lambda tx: end_controller(tx, self.controller_id))
        self._opened = False
        await asyncio.to_thread(self._engine.close)

    async def ping(self) -> None:
        """Raises StoreError when it cannot be read."""
        await self._engine.read(lambda tx: tx.execute(select(1)).scalar_one())

    async def leader(self) -> Leader | None:
        """Who leads, as far as the store knows; None: nobody has followed the last one yet."""
        return await self._engine.read(_leader)

    async def restored(self, backup_at: float, when: float, leap: int, act: Act) -> None:
        """The state is that of a back-up: note it, and begin terms beyond all that there have been since."""
        await self._engine.write(lambda tx: _restored(tx, backup_at, when, leap, act), (Topic.ACCESS,))

    async def _begin_term(self) -> int:
        return await self._engine.write(lambda tx: begin_term(tx, self.controller_id, self.address, self._when))

    def health(self) -> tuple[bool, str]:
        """Whether it could be read when it was last looked at."""
        if not self._opened:
            return False, "closed"
        problem = self.changes.problem
        led = "leading" if self.leadership.term() is not None else "following"
        return not problem, problem or led

    def counters(self) -> Mapping[str, int]:
        """Since the start of the process."""
        return {**self._engine.counters(), "store_failed_looks": self.changes.failures}


def _restored(tx: Connection, backup_at: float, when: float, leap: int, act: Act) -> None:
    record(tx, act, when)
    upsert(tx, tables.restores, [{"restored_at": when, "backup_at": backup_at}])
    tx.execute(update(tables.leadership).values(epoch=tables.leadership.c.epoch + leap))


def _leader(tx: Connection) -> Leader | None:
    row = tx.execute(select(tables.leadership)).one()
    return Leader(row.epoch, row.controller_id, row.address) if row.controller_id is not None else None
