"""Certificates by URL for whoever verifies calls: at once where they are known, fetched where they are not.

Puts together the network, what is remembered (cache, disk) and what a chain is worth under the trust list in force.
All state belongs to the event loop; talking to servers, the disk, and reading and assessing chains have a thread each.
Every answer is a Credential or says why there is none; nothing is raised and nothing waits longer than it was told to.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

from agent.identity.certificate import CHAIN_BYTES_MAX, CertificateError, read_chain
from agent.identity.model import Credential, Unreachable
from agent.identity.trust import TrustStore, refused
from agent.identity.x5u import check_url, locate
from agent.stir.cache import Cache, Entry
from agent.stir.caching import read_lifetime
from agent.stir.disk import DiskCache
from agent.stir.entries import (
    RETRY_FIRST,
    failed_entry,
    fetched_entry,
    reassessed,
    restored_entry,
    to_store,
    usable_seconds,
)
from agent.stir.fetch import Fetched, FetchError, FetchRules, Trouble, tls_context
from agent.stir.keeping import DiskKeeper
from agent.stir.network import Network
from agent.stir.resolver import GetAddresses
from agent.stir.settings import IdentitySettings

WAITERS_MAX: Final = 4096
"""Calls that wait for certificates at one time, some 3 kB each; one more has its answer at once."""

FLIGHTS_MAX: Final = 1024
"""Certificates of unknown hosts on their way at one time, some 5 kB each; as many again of known ones. What is beyond
would not be there within any call's patience."""

URLS_MAX: Final = 16
"""Of one call: as many as rows are read of it (agent.identity.rows)."""

WITHIN_MAX: Final = 60.0
"""Seconds; no caller listens to ringing longer than that."""

SLICE_PAUSE: Final = 2e-5
"""Seconds after each chain that is assessed again: thousands of them must not take the interpreter from the loop."""

UNREADABLE: Final = "unreadable"
"""A kind of failure beside those of a fetch: what came is no certificate."""

Answer = Credential | Unreachable


@dataclass(slots=True)
class _Counts:
    fetches: int = 0
    hits: int = 0
    stale_hits: int = 0
    negative_hits: int = 0
    misses: int = 0
    renewals: int = 0
    assessed_again: int = 0
    waits_too_long: int = 0
    too_many_waiters: int = 0
    disk_outdated: int = 0


class CertificateSource:
    """One for the process. `clock` is monotonic seconds, `wall` epoch seconds; `look_up` resolves names, and blocks.

    Nobody is trusted until `adopt` brings a trust store.
    """

    name: Final = "certificates"

    def __init__(
        self,
        settings: IdentitySettings,
        on_failure: Callable[[Exception], None],
        look_up: GetAddresses | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._look_up = look_up
        self._clock, self._wall = clock, wall
        self._trust = TrustStore(())
        self._cache = Cache(settings.max_certificates, settings.max_bytes)
        self._disk = DiskKeeper(DiskCache(settings.directory / "certificates", settings.max_disk_bytes))
        self._counts = _Counts()
        self._failed: Counter[str] = Counter()
        self._flights: dict[str, asyncio.Task[Answer]] = {}
        self._waiting = 0
        self._why_not = "not started yet"  # "" while it runs
        self._under_way: Counter[bool] = Counter()  # flights, of known hosts and of others
        self._network: Network | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._turn = asyncio.Lock()

    # --- for calls

    @property
    def trusting(self) -> bool:
        """Whether there is anybody to trust."""
        return bool(self._trust.anchors)

    def peek(self, urls: Iterable[str]) -> dict[str, Answer] | None:
        """The answers if all of them are known, else None. Costs a look-up each; never raises and never waits."""
        now = self._clock()
        answers: dict[str, Answer] = {}
        for url in urls:
            entry = self._cache.get(url)
            if entry is None or now >= entry.until:
                return None
            if now >= entry.renew_at:
                self._renew(url, entry, now)
            answers[url] = entry.answer
            self._count_hit(entry)
        return answers

    async def obtain(self, urls: Iterable[str], within: float) -> dict[str, Answer]:
        """The answers, fetched where need be, after `within` seconds at the latest. Never raises.

        One fetch serves all who ask for its URL; it goes on when they have stopped waiting, and fills the cache.
        """
        answers: dict[str, Answer] = {}
        flights: dict[str, asyncio.Task[Answer]] = {}
        now = self._clock()
        for url in dict.fromkeys(urls):
            entry = self._cache.get(url)
            if entry is not None and now < entry.until:
                answers[url] = entry.answer
                self._count_hit(entry)
                continue
            self._counts.misses += 1
            begun = self._begin(url) if len(flights) < URLS_MAX else "too many certificates for one call"
            if isinstance(begun, str):
                answers[url] = self._otherwise(url, begun)
            else:
                flights[url] = begun
        return answers | await self._wait_for(flights, within)

    def begin(self, urls: Iterable[str], why: str) -> dict[str, Answer]:
        """What is known of these URLs now; of the others `why` there is no answer, and their fetches begin."""
        answers: dict[str, Answer] = {}
        now = self._clock()
        for url in list(dict.fromkeys(urls))[:URLS_MAX]:
            entry = self._cache.get(url)
            if entry is not None and now < entry.until:
                answers[url] = entry.answer
                self._count_hit(entry)
            else:
                self._counts.misses += 1
                begun = self._begin(url)
                answers[url] = self._otherwise(url, begun if isinstance(begun, str) else why)
        return answers

    async def _wait_for(self, flights: Mapping[str, asyncio.Task[Answer]], within: float) -> dict[str, Answer]:
        if not flights:
            return {}
        why = f"no answer within {within:g} s"
        if self._waiting >= WAITERS_MAX:
            self._counts.too_many_waiters += 1
            why = "too many calls wait for certificates"
        else:
            self._waiting += 1
            try:
                await asyncio.wait(flights.values(), timeout=min(max(within, 0.0), WITHIN_MAX))
            finally:
                self._waiting -= 1
        answers = {}
        for url, flight in flights.items():
            if not flight.done():
                self._counts.waits_too_long += 1
                answers[url] = self._otherwise(url, why)
            elif flight.cancelled():
                answers[url] = Unreachable("the agent is stopping")
            else:
                answers[url] = flight.result()
        return answers

    def _otherwise(self, url: str, why: str) -> Answer:
        """What can be said of a URL while it cannot be fetched: what was known of it, if that may be used."""
        entry = self._cache.get(url)
        if entry is not None and entry.good and self._clock() < entry.usable_until:
            self._counts.stale_hits += 1
            return entry.answer
        return Unreachable(why)

    def _count_hit(self, entry: Entry) -> None:
        if isinstance(entry.answer, Unreachable):
            self._counts.negative_hits += 1
        elif entry.failures:
            self._counts.stale_hits += 1
        else:
            self._counts.hits += 1

    # --- trust

    async def adopt(self, trust: TrustStore) -> None:
        """Trust by this store from now on. Everything that is cached is assessed under it first, then all at once."""
        async with self._turn:
            assessed: dict[str, _Assessed] = {}
            while missing := self._not_assessed(assessed):
                if self._thread is None:  # not running: nobody is kept waiting
                    assessed |= _assess_all(trust, missing, self._wall())
                else:
                    loop = asyncio.get_running_loop()
                    assessed |= await loop.run_in_executor(self._thread, _assess_all, trust, missing, self._wall())
            self._trust = trust
            now = self._clock()
            for url, entry in list(self._cache.items()):
                if url in assessed:
                    self._cache.put(url, reassessed(entry, assessed[url].answer, now))
            self._counts.assessed_again += len(assessed)

    def _not_assessed(self, assessed: "Mapping[str, _Assessed]") -> list[tuple[str, bytes]]:
        return [
            (url, entry.body)
            for url, entry in self._cache.items()
            if entry.body and (url not in assessed or assessed[url].body is not entry.body)
        ]

    # --- fetching

    def _renew(self, url: str, entry: Entry, now: float) -> None:
        """Have it fetched beside; whoever asked has what is known."""
        entry.renew_at = now + RETRY_FIRST  # should there be no place now
        if not self._why_not and url not in self._flights:
            self._counts.renewals += 1
            self._begin(url)

    def _begin(self, url: str) -> "asyncio.Task[Answer] | str":
        """The fetch of this URL, begun now if it was not; or why there is none."""
        if (flight := self._flights.get(url)) is not None:
            return flight
        if self._why_not:
            return f"certificates are not fetched: {self._why_not}"
        if why := check_url(url, self._settings.ports):
            return why
        host = locate(url).host
        known = self._cache.knows_host(host)
        if self._under_way[known] >= FLIGHTS_MAX:
            self._failed[Trouble.OVERLOAD] += 1
            return "too many certificates are being fetched"
        flight = asyncio.create_task(self._fly(url, host, known), name="certificate")
        self._flights[url] = flight
        self._under_way[known] += 1
        flight.add_done_callback(lambda _: self._landed(url, known))
        return flight

    def _landed(self, url: str, known: bool) -> None:
        del self._flights[url]
        self._under_way[known] -= 1

    async def _fly(self, url: str, host: str, known: bool) -> Answer:
        """From the disk if memory has nothing, else from its server. Raises nothing but CancelledError."""
        try:
            if self._cache.get(url) is None:
                restored = await self._restore(url, host)
                if restored is not None and self._clock() < restored.until:
                    return restored.answer
            return await self._from_server(url, host, known)
        except Exception as error:  # a fault of ours must not leave calls waiting
            self._on_failure(error)
            return self._remember_failure(url, host, f"fault of the agent: {type(error).__name__}")

    async def _restore(self, url: str, host: str) -> Entry | None:
        """What the disk has, put in memory."""
        if not self._disk.has(url) or (stored := await self._disk.read(url)) is None:
            return None
        entry = None
        if usable_seconds(stored, self._wall(), self._settings.max_age_seconds) > 0:
            answer = (await self._judge(stored.body)).answer
            now, when = self._clock(), self._wall()
            entry = restored_entry(host, answer, stored, now, when, self._settings.max_age_seconds)
        if entry is None:
            self._counts.disk_outdated += 1
            return None
        self._cache.put(url, entry)
        return entry

    async def _from_server(self, url: str, host: str, known: bool) -> Answer:
        assert self._network is not None
        self._counts.fetches += 1
        try:
            fetched = await self._network.fetch(url, known=known)
        except FetchError as error:
            self._failed[error.trouble] += 1
            if error.trouble is Trouble.OVERLOAD:  # which says nothing of this URL
                return self._otherwise(url, error.why)
            return self._remember_failure(url, host, error.why)
        return await self._take(url, host, fetched)

    async def _take(self, url: str, host: str, fetched: Fetched) -> Answer:
        """Make of a body what it is worth, and remember it."""
        body, answer = await self._judge(fetched.body)
        if not body:
            self._failed[UNREADABLE] += 1
            old = self._cache.get(url)
            if old is not None and old.good:  # the error page of a server that does not know that it is one
                return self._remember_failure(url, host, answer.fault)
        when, most = self._wall(), self._settings.max_age_seconds
        lifetime = read_lifetime(fetched.headers, when, most)
        entry = fetched_entry(host, body, answer, lifetime, self._clock(), most)
        self._cache.put(url, entry)
        if entry.good:
            self._disk.put(to_store(url, body, lifetime, when, most))
        return answer

    def _remember_failure(self, url: str, host: str, why: str) -> Answer:
        entry = failed_entry(self._cache.get(url), host, why, self._clock())
        self._cache.put(url, entry)
        return entry.answer

    async def _judge(self, body: bytes) -> "_Assessed":
        """What a body is worth under the trust store in force when this returns."""
        loop = asyncio.get_running_loop()
        while True:
            trust = self._trust
            assessed = await loop.run_in_executor(self._thread, _assess, trust, body, self._wall())
            if self._trust is trust:
                return assessed

    # --- life

    async def start(self) -> None:
        """Begin. Raises ConfigError (`https_ca`). What was kept on disk is read when it is asked for."""
        tls = await asyncio.to_thread(tls_context, self._settings.https_ca)
        settings = self._settings
        rules = FetchRules(
            ports=settings.ports,
            allowed=settings.networks,
            seconds=settings.fetch_seconds,
            connect_seconds=settings.connect_seconds,
            body_bytes=CHAIN_BYTES_MAX,
        )
        self._network = Network(rules, tls, settings.max_fetches, settings.max_fetches_per_host, self._look_up)
        await self._network.start()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="certificates")
        await self._disk.start()
        self._why_not = ""

    async def stop(self, grace: float) -> None:
        """Give up what is being fetched; who waits has an answer at once. Certificates reach the disk in `grace` s."""
        self._why_not = "the agent is stopping"
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        if flights:
            await asyncio.wait(flights, timeout=grace)
        if self._network is not None:
            await self._network.stop(grace)
        await self._disk.stop(grace)
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    # --- what it says of itself

    def health(self) -> tuple[bool, str]:
        """Whether it runs, and what there is. A disk that fails costs nothing but time after a restart."""
        if self._why_not:
            return False, self._why_not
        cache = self._cache
        words = f"{cache.good} certificates, {cache.others} URLs without one, {len(self._flights)} being fetched"
        return True, words + (f"; not kept on disk: {self._disk.trouble}" if self._disk.trouble else "")

    def counters(self) -> Mapping[str, int]:
        """Counts since the start; the last few lines are what is now."""
        counts, cache = self._counts, self._cache
        kinds = (*Trouble, UNREADABLE)
        return {
            "certificates_fetches": counts.fetches,
            **{f"certificates_failed_{kind}": self._failed[kind] for kind in kinds},
            "certificates_hits": counts.hits,
            "certificates_stale_hits": counts.stale_hits,
            "certificates_negative_hits": counts.negative_hits,
            "certificates_misses": counts.misses,
            "certificates_renewals": counts.renewals,
            "certificates_assessed_again": counts.assessed_again,
            "certificates_waits_too_long": counts.waits_too_long,
            "certificates_too_many_waiters": counts.too_many_waiters,
            "certificates_evictions": cache.evictions,
            "certificates_disk_outdated": counts.disk_outdated,
            **self._disk.counters(),
            "certificates_good": cache.good,
            "certificates_without": cache.others,
            "certificates_bytes": cache.bytes,
            "certificates_in_flight": len(self._flights),
            "certificates_waiting": self._waiting,
        }


class _Assessed(NamedTuple):
    """What a body is worth; the body is b"" if it is no chain at all."""

    body: bytes
    answer: Credential


def _assess(trust: TrustStore, body: bytes, when: float) -> _Assessed:
    """On the thread."""
    try:
        chain = read_chain(body)
    except CertificateError as error:
        return _Assessed(b"", refused(f"what its URL serves {error}"))
    return _Assessed(body, trust.assess(chain, when))


def _assess_all(trust: TrustStore, bodies: Sequence[tuple[str, bytes]], when: float) -> dict[str, _Assessed]:
    """On the thread."""
    assessed = {}
    for url, body in bodies:
        assessed[url] = _Assessed(body, _assess(trust, body, when).answer)
        time.sleep(SLICE_PAUSE)
    return assessed
