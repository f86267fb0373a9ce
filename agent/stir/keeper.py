"""Keeps trust up to date: trust lists and revocation lists of files and URLs, the last good ones in memory and on disk.

At the start what the state directory has is taken, so that an administrator that cannot be reached costs nothing; then
files are looked at every ten seconds, URLs every few hours. What is wrong, older than what is known, or not there
changes nothing but health and log. Whoever assesses certificates gets the whole store when something has changed.

What a controller gives joins these (agent/stir/given.py), unless agent.toml names lists of that kind: those win.
"""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from agent.files import replace_file
from agent.identity.certificate import CertificateError
from agent.identity.crl import CRL_BYTES_MAX, Crl
from agent.identity.trust import TrustStore
from agent.identity.trust_list import TrustList, signer_url
from agent.identity.x5u import check_url
from agent.model import ConfigError, ConfigErrors
from agent.ops.log import Log
from agent.stir.artifact import Artifact
from agent.stir.fetch import FetchError, FetchRules, tls_context
from agent.stir.given import Given, GivenDocument, overridden, read_given, values
from agent.stir.lists import (
    FILE_BYTES_MAX,
    Document,
    Judges,
    Kind,
    Stamp,
    Value,
    build_store,
    is_pem,
    judge,
    load_judges,
    read_document,
    stamp_of,
)
from agent.stir.network import Network
from agent.stir.resolver import GetAddresses
from agent.stir.settings import IdentitySettings
from agent.stir.stored import HEADER_MAX, Stored, read_stored

FETCH_SECONDS: Final = 60.0
"""For one document: a revocation list may have megabytes, and nobody waits for it."""

TURN_SECONDS: Final = 1.0
"""Between two looks at whether anything is due."""

START_SECONDS: Final = 5.0
"""For files and what was kept; a disk that hangs must not keep calls from being screened."""

PLACES: Final = 4
"""Documents fetched at one time: one whose server hangs keeps no other one waiting."""

NOBODY: Final = "nobody is trusted, no Identity of any call can be verified"

T = TypeVar("T")


class TrustKeeper:
    """One for the process. `adopt` gets every new store, the first one at the start.

    `clock` is monotonic seconds, `wall` epoch seconds; `look_up` resolves names, and blocks. `given` is what a
    controller gave before this start.
    """

    name: Final = "trust"

    def __init__(
        self,
        settings: IdentitySettings,
        adopt: Callable[[TrustStore], Awaitable[None]],
        log: Log,
        look_up: GetAddresses | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        given: Sequence[GivenDocument] = (),
    ) -> None:
        self.store = TrustStore(())
        self._settings = settings
        self._adopt = adopt
        self._log = log
        self._look_up = look_up
        self._clock, self._wall = clock, wall
        self._directory = settings.directory / "trust"
        intervals = {Kind.LIST: settings.trust_refresh_seconds, Kind.CRL: settings.crl_refresh_seconds}
        sources = [(Kind.LIST, source) for source in settings.trust_lists]
        sources += [(Kind.CRL, source) for source in settings.crls]
        self._artifacts = [
            Artifact(kind, source, intervals[kind], settings.trust_max_age_seconds) for kind, source in sources
        ]
        self._documents = tuple(given)  # to be used as soon as it runs
        self._given: tuple[Given, ...] = ()
        self._giving = asyncio.Lock()
        self._turn = asyncio.Lock()  # one store after the other
        self._judges: Judges | None = None
        self._network: Network | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._why_not = "not started yet"  # "" while it runs
        self._disk_trouble = ""
        self._unused: Counter[Kind] = Counter()
        self._looks = self._failures = self._changes = self._disk_errors = self._corrupt = 0

    # --- life

    async def start(self) -> None:
        """Take what is there, then keep looking. Raises ConfigError for files that nothing can be judged without."""
        self._thread = self._thread or _a_thread()
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._prepare()
        except TimeoutError:
            self._log.error("trust is not loaded yet: the disk does not answer")
        self._why_not = ""
        self._task = asyncio.create_task(self._run(), name="trust")

    async def stop(self, grace: float) -> None:
        """Let go of everything; what is in force stays in force for whoever has it."""
        self._why_not = "stopped"
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=grace)
            self._task = None
        if self._network is not None:
            await self._network.stop(grace)
            self._network = None
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        self._judges = None

    async def _prepare(self) -> None:
        """What was kept, then the files as they are now; URLs are fetched when trust is in force already."""
        judges = await self._in_thread(partial(load_judges, self._settings))
        if self._network is None and (judges.pa_roots or not all(artifact.is_file for artifact in self._artifacts)):
            settings = self._settings
            tls = await self._in_thread(partial(tls_context, settings.https_ca))
            rules = FetchRules(
                settings.ports, settings.networks, FETCH_SECONDS, settings.connect_seconds, CRL_BYTES_MAX
            )
            self._network = Network(rules, tls, PLACES, PLACES, self._look_up)
            await self._network.start()
        self._judges = judges
        for artifact in self._artifacts:
            await self._restore(artifact)
        await self._look_at(artifact for artifact in self._artifacts if artifact.is_file)
        await self._take(judges)
        await self._publish()

    async def _run(self) -> None:
        while True:
            try:
                now = self._clock()
                if self._judges is None:
                    await self._prepare()
                elif await self._look_at(artifact for artifact in self._artifacts if now >= artifact.next_look):
                    await self._publish()
            except Exception as error:  # a fault of ours must not be the end of all updates
                self._log.fault(error, "trust")
            await asyncio.sleep(TURN_SECONDS)

    async def _publish(self) -> None:
        assert self._judges is not None
        async with self._turn:
            lists, crls = values(self._given)
            own = [artifact.value for artifact in self._artifacts]
            lists += [value for value in own if isinstance(value, TrustList)]
            crls += [value for value in own if isinstance(value, Crl)]
            store = build_store(lists, crls, self._judges)
            await self._adopt(store)
            self.store = store
        self._changes += 1
        self._log.info("trust in force", authorities=len(store.anchors), sequence=store.sequence, revoked=self._revoked)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        assert self._thread is not None
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- what a controller gives

    async def check_given(self, documents: Sequence[GivenDocument]) -> None:
        """Whether all of them, as far as they would be used here, can be. Raises ConfigErrors with each that cannot."""
        self._thread = self._thread or _a_thread()
        try:
            judges = self._judges or await self._in_thread(partial(load_judges, self._settings))
        except ConfigError:
            return  # a fault of this host, which health tells of, and none of the offer
        assert judges is not None
        errors = []
        for document in self._used(documents):
            try:
                await self._in_thread(partial(read_given, document, judges))
            except CertificateError as error:
                errors.append(ConfigError(f"artifacts[{document.number}]", f"{document} {error}"))
        if errors:
            raise ConfigErrors(errors)

    async def give(self, documents: Sequence[GivenDocument]) -> None:
        """Use these instead of what was given before, all at once. One that cannot be read says so in `health`."""
        self._documents = tuple(documents)
        if self._judges is not None and await self._take(self._judges):
            await self._publish()

    async def _take(self, judges: Judges) -> bool:
        """Whether what is given is another than before. The start and the link may want this at one time."""
        async with self._giving:
            documents, before = self._documents, self._given
            known = {(one.document.kind, one.document.name, one.document.sha256): one for one in before if one.value}
            given = []
            for document in self._used(documents):
                # The same bytes are what they were, whatever the disk says of them by now.
                one = known.get((document.kind, document.name, document.sha256))
                given.append(
                    Given(document, one.value, one.vouched) if one else await self._read_given(document, judges)
                )
            self._given = tuple(given)
            self._unused = Counter(one.kind for one in documents if overridden(self._settings, one.kind))
        return [(one.document.sha256, one.value) for one in before] != [
            (one.document.sha256, one.value) for one in given
        ]

    def vouch(self) -> None:
        """The controller is there, and these are still what it gives."""
        for one in self._given:
            one.vouched = self._wall()

    async def _read_given(self, document: GivenDocument, judges: Judges) -> Given:
        try:
            value, vouched = await self._in_thread(partial(read_given, document, judges))
            return Given(document, value, vouched)
        except CertificateError as error:
            why = str(error)
        except OSError as error:
            why = error.strerror or str(error)
        self._failures += 1
        self._log.error(f"{document.kind}: that of the controller is not used", source=document.name, error=why)
        return Given(document, trouble=why)

    def _used(self, documents: Sequence[GivenDocument]) -> list[GivenDocument]:
        return [document for document in documents if not overridden(self._settings, document.kind)]

    # --- one document

    async def _look_at(self, artifacts: Iterable[Artifact]) -> bool:
        """Whether any of them is another than before. Side by side: one may be slow."""
        return any(await asyncio.gather(*map(self._look, list(artifacts))))

    async def _look(self, artifact: Artifact) -> bool:
        self._looks += 1
        try:
            stamp = await self._in_thread(partial(stamp_of, Path(artifact.source))) if artifact.is_file else None
            if stamp is not None and stamp == artifact.stamp and not artifact.trouble:
                artifact.confirm(self._clock())
                return False
            return await self._renew(artifact, stamp)
        except FetchError as error:
            self._fail(artifact, error.why)
        except CertificateError as error:
            self._fail(artifact, f"what is there {error}")
        except OSError as error:
            self._fail(artifact, error.strerror or str(error))
        return False

    def _fail(self, artifact: Artifact, why: str) -> None:
        self._failures += 1
        if artifact.fail(why, self._clock()):
            kept = "nothing is known of it" if artifact.value is None else "the last good one stays"
            self._log.error(f"{artifact.kind}: {kept}", source=artifact.source, error=why)

    async def _renew(self, artifact: Artifact, stamp: Stamp | None) -> bool:
        """Read or fetch it, judge it, keep it. Raises FetchError, CertificateError or OSError."""
        if stamp is not None:
            body = await self._in_thread(partial(read_document, Path(artifact.source)))
        else:
            assert self._network is not None
            body = (await self._network.fetch(artifact.source)).body
        document = Document(artifact.source, body, artifact.signer)
        try:
            value = await self._judge(artifact, document)
        except CertificateError:
            document = Document(artifact.source, body, await self._signer_of(artifact, body))
            if document.signer == artifact.signer:
                raise
            value = await self._judge(artifact, document)
        artifact.stamp = stamp
        changed = artifact.succeed(value, document, self._clock())
        if changed or stamp is None:
            await self._keep(artifact)
        return changed

    async def _judge(self, artifact: Artifact, document: Document) -> Value:
        assert self._judges is not None
        return await self._in_thread(
            partial(judge, artifact.kind, document, self._judges, self._wall(), artifact.value)
        )

    async def _signer_of(self, artifact: Artifact, body: bytes) -> bytes:
        """The certificate that the x5u of a signed list names; what is known already if there is no such thing."""
        if artifact.kind is not Kind.LIST or is_pem(body) or self._network is None:
            return artifact.signer
        url = signer_url(body)
        if not url or check_url(url, self._settings.ports):
            return artifact.signer
        return (await self._network.fetch(url)).body

    # --- the state directory

    async def _restore(self, artifact: Artifact) -> None:
        """What was kept of it. It was judged when it was fetched, and is judged again as of then."""
        assert self._judges is not None
        path = self._path(artifact)
        try:
            data = await self._in_thread(partial(_read_kept, path))
            if data is None:
                return
            stored = read_stored(data)
            document = Document(artifact.source, stored.body, stored.signer)
            value = await self._in_thread(
                partial(judge, artifact.kind, document, self._judges, stored.fetched, None, again=True)
            )
        except ValueError as error:  # CertificateError is one
            self._corrupt += 1
            self._log.error(f"{artifact.kind}: what was kept is of no use", file=str(path), error=str(error))
            with contextlib.suppress(OSError):
                await self._in_thread(partial(path.rename, path.with_suffix(".corrupt")))
            return
        except OSError as error:
            self._disk_failed(error)
            return
        artifact.restore(value, stored, self._clock(), self._wall())

    async def _keep(self, artifact: Artifact) -> None:
        stored = Stored(artifact.source, self._wall(), artifact.body, artifact.signer)
        try:
            await self._in_thread(partial(_write_kept, self._path(artifact), stored))
            self._disk_trouble = ""
        except OSError as error:
            self._disk_failed(error)

    def _disk_failed(self, error: OSError) -> None:
        self._disk_errors += 1
        self._disk_trouble = error.strerror or str(error)

    def _path(self, artifact: Artifact) -> Path:
        name = hashlib.sha256(f"{artifact.kind} {artifact.source}".encode(errors="replace")).hexdigest()
        return self._directory / f"{name[:32]}.kept"

    # --- what it says of itself

    def health(self) -> tuple[bool, str]:
        """Whether there is somebody to trust and everything is as young as it should be."""
        if self._why_not:
            return False, self._why_not
        now, when = self._clock(), self._wall()
        alarms = [alarm for artifact in self._artifacts if (alarm := artifact.alarm(now, when))]
        most = self._settings.trust_max_age_seconds
        alarms += [alarm for one in self._given if (alarm := one.alarm(when, most))]
        if not self._settings.trust_lists and not any(one.document.kind is Kind.LIST for one in self._given):
            alarms.insert(0, f"no trust list is configured, or given by a controller: {NOBODY}")
        elif not self.store.anchors:
            alarms.insert(0, NOBODY)
        if alarms:
            return False, "; ".join(alarms)
        words = f"{len(self.store.anchors)} authorities, sequence {self.store.sequence}"
        words += f", {len(self.store.crls)} revocation lists of {self._revoked} certificates"
        if self._given:
            names = (f"{one.document.kind} {one.document.name} {one.document.generation}" for one in self._given)
            words += f"; of the controller: {', '.join(names)}"
        if self._unused:
            words += f"; {self._unused.total()} of the controller are not used: agent.toml names lists of that kind"
        troubles = [f"{artifact.kind}: {artifact.trouble}" for artifact in self._artifacts if artifact.trouble]
        if self._disk_trouble:
            troubles.append(f"not kept on disk: {self._disk_trouble}")
        return True, "; ".join([words, *troubles])

    @property
    def _revoked(self) -> int:
        return sum(len(crl.revoked) for crl in self.store.crls)

    def counters(self) -> Mapping[str, int]:
        """Counts since the start; ages, in seconds, are those of the document that was confirmed longest ago."""
        now, when = self._clock(), self._wall()
        ages = {kind: [a.age(now) for a in self._artifacts if a.kind is kind] for kind in Kind}
        for one in self._given:
            ages[one.document.kind].append(one.age(when))
        held = [artifact.value for artifact in self._artifacts] + [one.value for one in self._given]
        unread = sum(len(value.unread) for value in held if isinstance(value, TrustList))
        return {
            "trust_looks": self._looks,
            "trust_failures": self._failures,
            "trust_changes": self._changes,
            "trust_disk_errors": self._disk_errors,
            "trust_disk_corrupt": self._corrupt,
            "trust_authorities": len(self.store.anchors),
            "trust_unread_authorities": unread,
            "trust_sequence": self.store.sequence,
            "trust_given": len(self._given),
            "trust_unused_lists": self._unused[Kind.LIST],
            "trust_unused_crls": self._unused[Kind.CRL],
            "trust_revoked_certificates": self._revoked,
            "trust_list_age_seconds": int(max(ages[Kind.LIST], default=0.0)),
            "trust_crl_age_seconds": int(max(ages[Kind.CRL], default=0.0)),
        }


def _a_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="trust")


def _read_kept(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(2 * FILE_BYTES_MAX + HEADER_MAX)
    except FileNotFoundError:
        return None


def _write_kept(path: Path, stored: Stored) -> None:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    replace_file(path, [stored.encode()])
