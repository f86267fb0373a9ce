"""The composition root of the controller: builds every part from the configuration, runs them, stops them in reverse.

Nothing else wires parts together. The first start makes all that there has to be: the folder, the database, the
authority, an administrator. When a part fails:

- the configuration is wrong, or what is kept is damaged: exit 78 (EX_CONFIG), with every error.
- the database does not answer, or a port is taken: exit 1, and whoever started it tries again. Agents go on alone.
- later the database goes away: calls that need it are answered UNAVAILABLE, sessions stay; nothing ends the process.
- the metrics page cannot start: everything else runs, it is tried again.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from agent.model import ConfigError
from agent.ops.component import Component, Server
from agent.ops.log import Log
from agent.ops.metrics_server import MetricsServer
from agent.ops.notify import Notifier
from agent.ops.supervision import Supervised
from agent.settings import host_and_port
from controller.archive.archive import Archive
from controller.artifacts.blobs import Blobs
from controller.artifacts.fetching import ListKeeper
from controller.artifacts.importing import Importer
from controller.artifacts.lookup import Lookup
from controller.authority.authority import Authority
from controller.bootstrap import first_start
from controller.config import Config
from controller.errors import ControllerError, SchemaTooNew, StoreDamaged
from controller.fleet.conductor import Conductor
from controller.fleet.live import LiveSessions
from controller.fleet.orders import Orders
from controller.fleet.publishing import Publisher
from controller.fleet.upgrade_conductor import UpgradeConductor
from controller.ingest.ingest import Ingest
from controller.metrics import ControllerCollector, Page
from controller.quota.desk import QuotaDesk
from controller.services.access import AccessService
from controller.services.artifact import ArtifactService
from controller.services.audit import AuditService
from controller.services.control import ControlService
from controller.services.enrollment import EnrollmentService, IdentityService
from controller.services.fleet import FleetService
from controller.services.gate import Gate
from controller.services.limit import LimitService
from controller.services.lists import ListService
from controller.services.peers import Peers
from controller.services.policy import PolicyService
from controller.services.quota import QuotaRelay, QuotaService
from controller.services.records import RecordService
from controller.services.reports import ReportService
from controller.services.rollout import RolloutService
from controller.services.server import FleetServer, Served
from controller.services.upgrade import UpgradeService
from controller.store import Store
from sbcedge.control.v1 import control_pb2_grpc as control
from sbcedge.fleet.v1 import fleet_pb2_grpc as fleet
from sbcedge.report.v1 import report_pb2_grpc as report

OK: Final = 0
FAILED: Final = 1
EX_CONFIG: Final = 78
"""sysexits.h: only an operator can mend it. The unit's RestartPreventExitStatus."""

RESTORE_MARK: Final = "restore.json"
"""In the state folder for as long as a back-up is being put back."""

BEAT_SECONDS: Final = 0.1
LOOKERS_SECONDS: Final = 1.0
STOP_MARGIN: Final = 2.0
"""Seconds beyond its grace that a part has to be gone."""

SWITCH_SECONDS: Final = 0.0005
"""How long a thread (the store has some) keeps the interpreter while the event loop wants it."""


@dataclass(slots=True)
class Parts:
    """What there is to wire with. `clock` is epoch seconds. `running` start in this order and stop in
    reverse, but for those of them that are `streaming`: they hold streams, and stop first."""

    config: Config
    log: Log
    clock: Callable[[], float]
    store: Store
    authority: Authority
    blobs: Blobs
    gate: Gate
    publisher: Publisher
    sessions: LiveSessions
    orders: Orders
    importer: Importer
    archive: Archive
    ingest: Ingest
    peers: Peers
    quota: QuotaDesk
    running: list[Server] = field(default_factory=list)
    streaming: list[Server] = field(default_factory=list)
    metrics: Supervised | None = None

    def components(self) -> list[Component]:
        """Everything that reports on itself."""
        around = [self.metrics] if self.metrics is not None else []
        return [self.store, _AuthorityReport(self.authority, self.clock), *self.running, *around]


def build_parts(config: Config, log: Log, clock: Callable[[], float] = time.time) -> Parts:
    """Everything that the configuration asks for, not yet started."""
    listen = config.listen
    store = Store(config.store, config.controller.id, listen.advertise or listen.agents)
    authority = Authority(config.authority, store)
    sessions = LiveSessions(store, config.fleet, log, clock)
    archive = Archive(config.archive, store, config.controller.id, log, clock)
    blobs = Blobs(config.artifacts)
    publisher = Publisher(store, lambda: authority.artifact_signer, clock)
    peers = Peers(authority, listen.hosts(), clock)
    parts = Parts(
        config=config,
        log=log,
        clock=clock,
        store=store,
        authority=authority,
        blobs=blobs,
        gate=Gate(authority, log, clock),
        publisher=publisher,
        sessions=sessions,
        orders=Orders(sessions, store, peers, clock),
        importer=Importer(config.artifacts, store, blobs, publisher, lambda: authority.artifact_signer, clock),
        archive=archive,
        ingest=Ingest(config.ingest, archive, store, log, clock),
        peers=peers,
        quota=QuotaDesk(store, QuotaRelay(peers), log, time.monotonic),
    )
    parts.running = build_components(parts)
    parts.streaming = [sessions, parts.ingest, parts.quota]
    return parts


def build_components(parts: Parts) -> list[Server]:
    """What runs, in the order in which it starts. The servers come last: who is answered finds everything there."""
    return [
        Conductor(parts.store, parts.publisher, parts.log, parts.clock),
        UpgradeConductor(parts.store, parts.orders, parts.log, parts.clock),
        ListKeeper(parts.config.artifacts, parts.store, parts.blobs, parts.importer, parts.log, parts.clock),
        parts.sessions,
        parts.archive,
        parts.ingest,
        parts.quota,
        FleetServer(parts.config.listen, parts.authority, parts.gate, build_services(parts), parts.log, parts.clock),
    ]


def build_services(parts: Parts) -> list[Served]:
    """Every service, one line each."""
    store, authority, clock = parts.store, parts.authority, parts.clock
    to_agents: list[tuple[Callable[[Any, Any], None], object]] = [
        (control.add_IdentityServiceServicer_to_server, IdentityService(authority, clock)),
        (control.add_ControlServiceServicer_to_server, ControlService(parts.sessions, store.controller_id, clock)),
        (
            control.add_ArtifactServiceServicer_to_server,
            ArtifactService(store, parts.blobs, parts.config.artifacts.fetches),
        ),
        (report.add_ReportServiceServicer_to_server, ReportService(parts.ingest, clock)),
        (control.add_QuotaServiceServicer_to_server, QuotaService(parts.quota, time.monotonic)),
    ]
    to_all: list[tuple[Callable[[Any, Any], None], object]] = [
        (control.add_EnrollmentServiceServicer_to_server, EnrollmentService(authority, clock)),
        (fleet.add_FleetServiceServicer_to_server, FleetService(store, parts.orders, clock)),
        (fleet.add_AccessServiceServicer_to_server, AccessService(store, authority, clock)),
        (fleet.add_PolicyServiceServicer_to_server, PolicyService(store, parts.publisher, parts.orders)),
        (fleet.add_RolloutServiceServicer_to_server, RolloutService(store, parts.publisher, clock)),
        (fleet.add_UpgradeServiceServicer_to_server, UpgradeService(store, clock)),
        (
            fleet.add_ListServiceServicer_to_server,
            ListService(store, parts.importer, Lookup(store, parts.blobs), parts.config.artifacts, clock),
        ),
        (fleet.add_LimitServiceServicer_to_server, LimitService(store, parts.quota, parts.peers, clock)),
        (fleet.add_AuditServiceServicer_to_server, AuditService(store)),
        (fleet.add_RecordServiceServicer_to_server, RecordService(parts.archive)),
    ]
    return [
        *(Served(add, servicer, to_agents=True) for add, servicer in to_agents),
        *(Served(add, servicer) for add, servicer in to_all),
    ]


class Daemon:
    """Runs until it is told to end. `run` once."""

    def __init__(self, config: Config, log: Log, notifier: Notifier, complain: Callable[[str], None]) -> None:
        self._config = config
        self._log = log
        self._notifier = notifier
        self._complain = complain
        self._ending = asyncio.Event()
        self._hasten = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stall = self._longest = 0.0

    async def run(self) -> int:
        """Start, serve, drain. Returns the exit code of the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        parts = build_parts(self._config, self._log)
        started: list[Server] = []
        try:
            code = await self._start(parts, started)
            if code == OK:
                await self._ending.wait()
        finally:
            await self._stop(parts, started)
        return code

    def end(self) -> None:
        """Begin to end; the second time, at once."""
        if self._ending.is_set():
            self._hasten.set()
        self._ending.set()

    async def _start(self, parts: Parts, started: list[Server]) -> int:
        try:
            await open_state(parts)
            await first_start(parts.store, parts.authority, parts.config.controller.directory, self._log, parts.clock)
            for part in parts.running:
                await part.start()
                started.append(part)
        except (ConfigError, StoreDamaged, SchemaTooNew) as error:
            return self._failed(error, EX_CONFIG)
        except (ControllerError, OSError) as error:
            return self._failed(error, FAILED)
        await self._begin_around(parts)
        self._notifier.ready(_summary(parts))
        self._log.info(
            "ready",
            version=installed_version(),
            controller=parts.store.controller_id,
            authority_sha256=parts.authority.sha256,
            components={part.name: part.health()[1] for part in parts.components()},
        )
        return OK

    def _failed(self, error: Exception, code: int) -> int:
        self._log.error("does not start", error=str(error))
        self._complain(str(error))
        return code

    async def _begin_around(self, parts: Parts) -> None:
        """What is there to look at, and what looks after the rest."""
        self._keep(parts.authority.watch(parts.clock), "authority")
        self._keep(self._beat(parts), "pulse")
        if self._notifier.watchdog_seconds:
            self._keep(self._alive(), "watchdog")
        if self._config.metrics.listen:
            host, port = host_and_port(self._config.metrics.listen, "metrics.listen")
            collector = ControllerCollector(
                parts.components, lambda: {"faults": self._log.faults}, lambda: self._stall, installed_version()
            )
            page = Page(collector)
            parts.metrics = Supervised(lambda: MetricsServer(host, port, page), "metrics.listen", self._log)
            await parts.metrics.start()

    async def _stop(self, parts: Parts, started: Sequence[Server]) -> None:
        grace = self._config.shutdown.grace
        self._notifier.stopping("draining")
        self._log.info("draining", grace_seconds=grace)
        # Who holds streams ends them, with a goodbye, while the servers still carry it; only then these stop.
        streaming = [part for part in started if part in parts.streaming]
        await asyncio.gather(*(self._stop_one(part, grace) for part in streaming))
        for part in reversed(started):
            if part not in streaming:
                await self._stop_one(part, grace)
        if parts.metrics is not None:
            await parts.metrics.stop(min(grace, LOOKERS_SECONDS))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await parts.store.close()
        self._log.info("stopped", faults=self._log.faults)

    async def _stop_one(self, part: Server, grace: float) -> None:
        """Within its grace, or at once when it is told to end a second time."""
        stopping = asyncio.create_task(part.stop(0.0 if self._hasten.is_set() else grace))
        hurry = asyncio.create_task(self._hasten.wait())
        try:
            await asyncio.wait({stopping, hurry}, timeout=grace + STOP_MARGIN, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await asyncio.wait({stopping}, timeout=STOP_MARGIN)
            if not stopping.done():
                stopping.cancel()
                self._log.error("does not stop, left behind", component=part.name)
            elif (error := stopping.exception()) is not None:
                self._log.fault(error, f"stop of {part.name}")
        finally:
            hurry.cancel()

    async def _beat(self, parts: Parts) -> None:
        """Measure how late the event loop is; once a second, tell systemd what changed."""
        told, last, second = "", time.monotonic(), time.monotonic()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            now = time.monotonic()
            self._longest = max(self._longest, now - last - BEAT_SECONDS)
            last = now
            if now - second >= 1.0:
                second = now
                self._stall, self._longest = self._longest, 0.0
                self._log.second()
                summary = _summary(parts)
                if summary != told:
                    told = summary
                    self._notifier.status(summary)

    async def _alive(self) -> None:
        while True:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_seconds)

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.fault(error, task.get_name())


class _AuthorityReport:
    """The authority as a component: it judges its own age, and needs the time for that."""

    name: Final = "authority"

    def __init__(self, authority: Authority, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._clock = clock

    def health(self) -> tuple[bool, str]:
        """How long it is good."""
        return self._authority.health(self._clock())

    def counters(self) -> Mapping[str, int]:
        """Enrolled and renewed."""
        return self._authority.counters()


async def open_state(parts: Parts, *, restoring: bool = False) -> None:
    """The folder, the database, the place for lists, the authority: opened, and made where they are not there yet.

    Raises ConfigError and ControllerError.
    """
    directory = parts.config.controller.directory
    if (directory / RESTORE_MARK).exists() and not restoring:
        what = "says that a back-up was not put back to the end: run `sbc-controller restore` again"
        raise ConfigError(str(directory / RESTORE_MARK), what)
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("controller.directory", f"{directory} cannot be made: {error.strerror}") from None
    now = parts.clock()
    await parts.store.open(now)
    await parts.blobs.open()
    await parts.importer.open()
    await parts.authority.open(now)


def installed_version() -> str:
    """That of the package; "unknown" in a source tree that was never installed."""
    try:
        return version("sbc-edge-agent")
    except PackageNotFoundError:
        return "unknown"


def run_daemon(config: Config, log: Log, environment: Mapping[str, str], complain: Callable[[str], None]) -> int:
    """Run until SIGTERM; returns the exit code. `environment` may hold NOTIFY_SOCKET."""
    sys.setswitchinterval(SWITCH_SECONDS)
    os.umask(0o027)

    async def main() -> int:
        return await Daemon(config, log, Notifier(environment), complain).run()

    return asyncio.run(main())


def _summary(parts: Parts) -> str:
    """One line for `systemctl status`."""
    ill = [part.name for part in parts.components() if not part.health()[0]]
    return f"{parts.sessions.health()[1]}" + (f"; not well: {', '.join(ill)}" if ill else "")
