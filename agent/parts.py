"""What the daemon is made of: every part, put together from the configuration and not yet started.

The sections of agent.toml decide what there is. Who is given what is decided here and nowhere else; what runs when, and
what becomes of a part that fails, is agent.daemon.
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.calls.pairing import Pairing
from agent.config import Config
from agent.control.settings import ControllerSettings
from agent.control.steps import Standing
from agent.ingress.capture.observer import Observed, Observer
from agent.ingress.capture.settings import CaptureSettings
from agent.ingress.hook.server import HookServer
from agent.ingress.redirect.server import RedirectServer
from agent.ops.admin import AdminServer, AdminService, Find, finds_nothing
from agent.ops.component import Component, Server
from agent.ops.explaining import Finder
from agent.ops.log import Log
from agent.ops.metrics import Page
from agent.ops.metrics_server import MetricsServer
from agent.ops.policy_keeper import PolicyKeeper
from agent.ops.readings import Readings
from agent.ops.supervision import Supervised
from agent.policy.policy import Policy
from agent.records.spool import Spool
from agent.restart.files import NOTHING, Earlier
from agent.restart.keeper import SnapshotKeeper
from agent.screening import Decision, Passed, RefusedCall, Screening
from agent.service import RecordSink, Service
from agent.settings import host_and_port

if TYPE_CHECKING:
    from agent.control.assembly import Around
    from agent.control.commands import Tail
    from agent.control.trust import Trust
    from agent.stir.given import GivenDocument

SECRET_BYTES: Final = 32


class Sinks:
    """Where decided attempts go: to every one of these, in order. None of them waits or raises."""

    def __init__(self, *sinks: RecordSink) -> None:
        self._puts = tuple(sink.put for sink in sinks)
        self._puts_passed = tuple(sink.put_passed for sink in sinks)
        self._puts_refused = tuple(sink.put_refused for sink in sinks)

    def put(self, decision: Decision) -> None:
        for put in self._puts:
            put(decision)

    def put_passed(self, calls: Sequence[Passed]) -> None:
        for put in self._puts_passed:
            put(calls)

    def put_refused(self, one: RefusedCall) -> None:
        for put in self._puts_refused:
            put(one)


class ObservedRecords:
    """Where the capture puts what it saw: the same records, which say that nobody enforced them."""

    def __init__(self, records: RecordSink) -> None:
        self._records = records

    def put(self, observed: Observed) -> None:
        self._records.put(observed.decision)


class Uncontrolled:
    """A part that runs by itself, among those that are started and stopped."""

    def __init__(self, part: Component) -> None:
        self.name = part.name
        self.health = part.health
        self.counters = part.counters

    async def start(self) -> None:
        """Nothing."""

    async def stop(self, _grace: float) -> None:
        """Nothing."""


class Unprovided:
    """Stands where [identity] and [signing] are not: says so if the policy asks for them."""

    name = "identity"

    def __init__(self, screening: Screening) -> None:
        self._screening = screening

    async def start(self) -> None:
        """Nothing."""

    async def stop(self, _grace: float) -> None:
        """Nothing."""

    def health(self) -> tuple[bool, str]:
        """Not well where calls should be verified or signed, and nobody does."""
        policy = self._screening.policy
        if policy.identity is None and policy.signing is None:
            return True, "not used"
        return False, "the policy has calls verified or signed, and agent.toml has neither [identity] nor [signing]"

    def counters(self) -> Mapping[str, int]:
        """None."""
        return {}


class SpoolServer:
    """The spool as a server: it rolls up what the service counts."""

    name = "spool"

    def __init__(self, spool: Spool, service: Service) -> None:
        self._spool = spool
        self._service = service
        self.health = spool.health
        self.counters = spool.counters
        self.stop = spool.stop

    async def start(self) -> None:
        await self._spool.start(self._service.tally)


@dataclass(slots=True)
class Parts:
    """What runs. What is `kept` over a restart, `records`, `shares` of the fleet's limits and `beside` (identity, the
    kernel's guard) start first and stop after the ways in, then what a controller is for (`fleet`); `around` starts
    last and stops last."""

    service: Service
    readings: Readings
    keeper: PolicyKeeper
    records: list[Supervised]
    beside: list[Supervised]
    ways_in: list[Supervised]
    fleet: list[Supervised]
    around: list[Supervised]
    shares: list[Supervised] = field(default_factory=list)
    kept: list[Supervised] = field(default_factory=list)

    def in_order(self) -> list[Supervised]:
        """As they start."""
        return [*self.kept, *self.records, *self.shares, *self.beside, *self.ways_in, *self.fleet, *self.around]


def build_parts(
    config: Config,
    standing: Standing,
    log: Log,
    end: Callable[[], None],
    earlier: Earlier = NOTHING,
    kept_in: Path | None = None,
) -> Parts:
    """Everything that the configuration asks for, not yet started. `earlier` is what a process before this one left."""
    spool = None if config.records is None else Spool(config.records)
    sinks: list[RecordSink] = [] if spool is None else [spool]
    guards: list[Supervised] = []
    if config.kernel is not None:
        # Here and below: pyroute2 is 24 MB that an agent without the kernel's help need not load.
        from agent.kernel.blocking import SourceBlocker  # noqa: PLC0415
        from agent.kernel.guard import Guard  # noqa: PLC0415

        guard = Guard(config.kernel, partial(log.fault, where="kernel"))
        guards.append(_alone(guard, "kernel", log))
        sinks.append(SourceBlocker(guard, partial(log.fault, where="kernel")))
    tail = None if config.controller is None else build_tail()
    told: list[RecordSink] = [log] if tail is None else [log, tail]
    service = build_service(standing.policy, Sinks(*sinks, *told), log, earlier)
    readings = Readings(service, log, [], installed_version())
    keeper = PolicyKeeper(service, config.policy.file, readings.changes, log)
    records = [] if spool is None else [Supervised(lambda: SpoolServer(spool, service), "records", log)]
    identity, trust = build_identity(config, service, given_before(config, standing), log)
    ways_in = build_ways_in(config, service, log)
    if config.capture is not None:
        pairing = Pairing(log.transit, log.altered_answer)
        readings.transit = pairing.trunks
        ways_in += build_capture(config.capture, service, Sinks(*sinks), pairing, log)
    parts = Parts(service, readings, keeper, records, [*guards, *identity], ways_in, [], [])
    if kept_in is not None:
        snapshots = SnapshotKeeper(config.restart, kept_in, service.screening, earlier, log)
        parts.kept = [_alone(snapshots, "restart", log)]
    spool_directory = None if config.records is None else config.records.directory
    find = finds_nothing if spool_directory is None else Finder(spool_directory).find
    if config.controller is not None and tail is not None:
        from agent.control.assembly import Around  # noqa: PLC0415

        around = Around(config, spool_directory, find, end, tail)
        parts.fleet = build_fleet(config.controller, parts, spool, standing, around, trust, log)
    parts.around = build_around(config, parts, find, log, end)
    readings.components = parts.in_order()
    return parts


def given_before(config: Config, standing: Standing) -> "tuple[GivenDocument, ...]":
    """The trust lists and revocation lists of the last known good."""
    if config.controller is None or standing.offer is None:
        return ()
    from agent.control.standing import Places  # noqa: PLC0415
    from agent.control.trust import documents_of  # noqa: PLC0415

    return documents_of(standing.offer.manifests, Places.of(config.controller).artifacts)


def build_identity(
    config: Config, service: Service, given: "Sequence[GivenDocument]", log: Log
) -> "tuple[list[Supervised], Trust | None]":
    """Verification, signing and the API for both, where agent.toml has them; and who takes a controller's lists."""
    trust = None
    if config.identity is None and config.signing is None:
        return [_alone(Unprovided(service.screening), "identity", log)], trust
    # Imported here: an agent without them need not load a cryptographic library and one that fetches, 25 MB.
    from agent.stir.stage import Stage  # noqa: PLC0415

    fault = partial(log.fault, where="identity")
    parts: list[tuple[Server, str]] = []  # each with the section of agent.toml that it is about
    source = keys = None
    if config.identity is not None:
        from agent.stir.keeper import TrustKeeper  # noqa: PLC0415
        from agent.stir.source import CertificateSource  # noqa: PLC0415

        source = CertificateSource(config.identity, fault)
        trust = TrustKeeper(config.identity, source.adopt, log, given=given)
        parts += [(source, "identity"), (trust, "identity")]
    if config.signing is not None:
        from agent.stir.keys import SigningKeys  # noqa: PLC0415

        keys = SigningKeys(config.signing, os.environ)
        parts.append((keys, "signing"))
    ports = () if config.identity is None else config.identity.ports
    service.identity = stage = Stage(service.screening, source, keys, fault, ports)
    parts.append((stage, "identity"))
    if config.stir_api is not None and source is not None:
        from agent.stir.api.backends import Signs, Verifies, verstat_by  # noqa: PLC0415
        from agent.stir.api.server import StirApiServer  # noqa: PLC0415

        api, current = config.stir_api, partial(getattr, service, "policy")
        verifies = Verifies(source, current, ports, api.answer_seconds)
        signs = None if keys is None else Signs(lambda: keys.signer)
        server = StirApiServer(api, verifies, signs, verstat_by(current), partial(log.fault, where="stir_api"))
        parts.append((server, "stir_api"))
    return [_alone(part, section, log) for part, section in parts], trust


def _alone(part: Server, section: str, log: Log) -> Supervised:
    """A part that others hold on to: the same one at every attempt to start."""
    return Supervised(lambda: part, section, log)


def build_ways_in(config: Config, service: Service, log: Log) -> list[Supervised]:
    """Where SBCs ask about calls."""
    ways_in: list[Supervised] = []
    if (hook := config.hook) is not None:
        answering = partial(HookServer, hook, service, partial(log.fault, where="hook"))
        ways_in.append(Supervised(answering, "hook", log))
    if (redirect := config.redirect) is not None:
        build = partial(RedirectServer, service, redirect, partial(log.fault, where="redirect"))
        ways_in.append(Supervised(build, "redirect", log))
    if (queue := config.queue) is not None:
        from agent.ingress.queue.server import QueueServer  # noqa: PLC0415

        take = partial(QueueServer, service, queue, partial(log.fault, where="queue"))
        ways_in.append(Supervised(take, "queue", log))
    return ways_in


def build_capture(
    settings: CaptureSettings, service: Service, records: Sinks, pairing: Pairing, log: Log
) -> list[Supervised]:
    """What only sees: its records say so, and what it finds of Identity is told as long as there is room in the log."""
    from agent.ingress.capture.server import CaptureServer  # noqa: PLC0415

    fault = partial(log.fault, where="capture")
    observer = Observer(lambda: service.policy, ObservedRecords(records), on_failure=fault)
    return [
        Supervised(partial(CaptureServer, settings, observer, pairing, fault), "capture", log),
        _alone(Uncontrolled(pairing), "capture", log),
    ]


def build_service(policy: Policy, records: RecordSink, log: Log, earlier: Earlier = NOTHING) -> Service:
    """Screening with its faults told to the log. The secret of its To tags is that of the process before this one, so
    that a copy of a refused INVITE gets the same answer, and its ACK is known."""
    secret = os.urandom(SECRET_BYTES) if earlier.head is None else bytes.fromhex(earlier.head.secret)
    screening = Screening(policy, secret, partial(log.fault, where="screening"))
    return Service(screening, records)


def build_tail() -> "Tail":
    """Shows decisions to operators who follow them from afar."""
    # Here and below: what a controller is for loads a cryptographic library, 15 MB that an agent without one need not.
    from agent.control.commands import Tail  # noqa: PLC0415

    return Tail()


def build_fleet(
    settings: ControllerSettings,
    parts: Parts,
    spool: Spool | None,
    standing: Standing,
    around: "Around",
    trust: "Trust | None",
    log: Log,
) -> list[Supervised]:
    """The link to the controller, and what goes over channels like its own; that of the shares goes to `parts`.
    `trust` None: nothing is verified here."""
    from agent.control.assembly import assemble  # noqa: PLC0415
    from agent.control.quota_link import QuotaLink  # noqa: PLC0415
    from agent.control.trust import NoTrust  # noqa: PLC0415
    from agent.control.upload import Uploader  # noqa: PLC0415

    believed = NoTrust() if trust is None else trust
    fleet = assemble(settings, parts.service, parts.readings, parts.keeper, standing, around, believed, log)
    shares = partial(QuotaLink, parts.service.screening.leases, fleet.channels, settings.directory, log)
    parts.shares = [Supervised(shares, "controller", log)]
    running = [_alone(fleet.upgrades, "controller", log), _alone(fleet.link, "controller", log)]
    if spool is not None:
        channels, directory = fleet.channels, spool.settings.directory
        upload = Uploader(
            spool, directory, lambda: channels.open("report"), lambda: channels.edition, log, random.random
        )
        running.append(Supervised(lambda: upload, "controller", log))
    return running


def build_around(config: Config, parts: Parts, find: Find, log: Log, end: Callable[[], None]) -> list[Supervised]:
    """Admin and metrics: calls are screened without them, too."""
    answers = AdminService(parts.readings, parts.keeper, end, find)
    administered = partial(AdminServer, config.admin, answers, partial(log.fault, where="admin"))
    around = [Supervised(administered, "admin", log)]
    if config.metrics.listen:
        host, port = host_and_port(config.metrics.listen, "metrics.listen")
        page = Page(parts.readings)
        around.append(Supervised(lambda: MetricsServer(host, port, page), "metrics.listen", log))
    return around


def installed_version() -> str:
    """That of the package; "unknown" in a source tree that was never installed."""
    try:
        return version("sbc-edge-agent")
    except PackageNotFoundError:
        return "unknown"
