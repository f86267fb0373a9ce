"""Lists that the controller fetches by itself: https, bounded in bytes, time and hops, and only what has changed.

A part that runs. One controller of a fleet does this, the leader. Whatever goes wrong, the list that is here stays; the
operator sees since when it is no longer fresh, or that it has ended. What is fetched is imported like any other list.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urljoin

import httpx

from agent.ops.log import Log
from controller.artifacts.blobs import Blobs
from controller.artifacts.importing import Importer, ListName
from controller.artifacts.kinds import kind_of
from controller.artifacts.settings import ArtifactSettings, Source, url_fault
from controller.errors import ControllerError
from controller.model import Act, Artifact, FetchState
from controller.store import Store

LOOK_SECONDS: Final = 5.0
"""How often is looked whether something is due, or whether this controller leads."""

RETRY_SECONDS: Final = 300.0
"""After a failure, where the source's own interval is longer."""

TIDY_SECONDS: Final = 3600.0
LATE: Final = 3.0
"""Intervals without success after which a source is reported."""

REDIRECTS_MAX: Final = 3
PIECE: Final = 256 << 10
CONNECT_SECONDS: Final = 10.0
AUTHORIZATION_MAX: Final = 8 << 10
PROBLEM_MAX: Final = 300

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))


class FetchFailed(Exception):  # noqa: N818  (as the other errors of the controller are named)
    """There is nothing to import; the text says why."""


@dataclass(slots=True)
class _Tally:
    fetches: int = 0
    failures: int = 0
    unchanged: int = 0
    swept: int = 0
    generations: int = 0
    deltas: int = 0


class ListKeeper:
    """Fetches what is due and throws away what nobody needs. `clock` is epoch seconds."""

    name: Final = "lists"

    def __init__(
        self,
        settings: ArtifactSettings,
        store: Store,
        blobs: Blobs,
        importer: Importer,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._importer = importer
        self._log = log
        self._clock = clock
        self._tally = _Tally()
        self._states: Mapping[str, FetchState] = {}
        self._lists: list[Artifact] = []
        self._tidied = float("-inf")
        self._since = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._since = self._clock()
        self._task = asyncio.create_task(self._run(), name="lists")

    async def stop(self, grace: float) -> None:  # noqa: ARG002  (a fetch can be begun again at any time)
        """A fetch that is under way is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def health(self) -> tuple[bool, str]:
        """Not well while a list has ended, or a source has not been reached for some intervals."""
        now = self._clock()
        ended = [f"{a.key.kind} {a.key.name}" for a in self._lists if a.not_after is not None and a.not_after <= now]
        if ended:
            return False, f"past their end, and still in use: {', '.join(ended)}"
        for source in self._settings.sources:
            state = self._states.get(source.id)
            fresh = max(self._since, (state.fetched_at or 0.0) if state is not None else 0.0)
            if state is not None and state.problem and now - fresh > LATE * source.every_seconds:
                return False, f"{source.id} cannot be fetched: {state.problem}"
        return True, f"{len(self._lists)} lists, {len(self._settings.sources)} of them fetched"

    def counters(self) -> Mapping[str, int]:
        """Since the start."""
        tally = self._tally
        return {
            "lists_fetches": tally.fetches,
            "lists_failed_fetches": tally.failures,
            "lists_unchanged_fetches": tally.unchanged,
            "lists_swept_files": tally.swept,
            "lists_swept_generations": tally.generations,
            "lists_swept_deltas": tally.deltas,
        }

    # --- what is due

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except ControllerError as error:
                self._log.error("lists cannot be looked after", error=str(error))
            except Exception as error:  # a fault of ours ends this round, and nothing else
                self._log.fault(error, "lists")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Everything that is due now. Raises ControllerError."""
        self._lists = await self._store.artifacts.all_latest()
        self._states = await self._store.artifacts.fetch_states()
        if self._store.leadership.term() is None:
            return
        for source in self._settings.sources:
            if self._is_due(source):
                await self._fetch(source)
        if self._clock() - self._tidied >= TIDY_SECONDS:
            self._tidied = self._clock()
            await self._tidy()

    def _is_due(self, source: Source) -> bool:
        state = self._states.get(source.id)
        if state is None:
            return True
        wait = min(source.every_seconds, RETRY_SECONDS) if state.problem else source.every_seconds
        return not 0 <= self._clock() - state.tried_at < wait  # a clock that went back waits for nobody

    async def _fetch(self, source: Source) -> None:
        now = self._clock()
        before = self._states.get(source.id) or FetchState(source.id, now)
        have = any(a.key.kind == source.kind and a.key.name == source.name for a in self._lists)
        self._tally.fetches += 1
        try:
            async with asyncio.timeout(source.within_seconds):
                validator = await self._get(source, before.validator if have else "")
            after = FetchState(source.id, now, self._clock(), validator)
        except TimeoutError:
            after = self._failed(before, now, f"not done within {source.within_seconds:g} s")
        except (FetchFailed, ControllerError, httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            after = self._failed(before, now, _words(error))
        self._states = {**self._states, source.id: after}
        await self._store.artifacts.fetched(after)

    def _failed(self, before: FetchState, now: float, why: str) -> FetchState:
        self._tally.failures += 1
        self._log.warning("list not fetched", source=before.source, error=why)
        return FetchState(before.source, now, before.fetched_at, before.validator, why[:PROBLEM_MAX])

    async def _get(self, source: Source, validator: str) -> str:
        """Import what is there unless it is what we have; its validator. Raises what `_fetch` catches."""
        tls = await asyncio.to_thread(ssl.create_default_context, cafile=source.https_ca)
        headers = {"Accept-Encoding": "identity", "User-Agent": "sbc-edge-controller"} | _asked(validator)
        own = await asyncio.to_thread(_authorization, source)
        async with httpx.AsyncClient(verify=tls, timeout=CONNECT_SECONDS, headers=headers) as client:
            url = source.url
            for _ in range(REDIRECTS_MAX + 1):
                # Whoever a redirect points to is not told what the first one may know.
                secret = own if httpx.URL(url).netloc == httpx.URL(source.url).netloc else {}
                async with client.stream("GET", url, headers=secret) as response:
                    if response.status_code not in _REDIRECTS:
                        return await self._take(source, response, validator)
                    url = urljoin(url, response.headers.get("location", ""))
                if fault := url_fault(url):
                    raise FetchFailed(f"redirects to what {fault}")
        raise FetchFailed(f"more than {REDIRECTS_MAX} redirects")

    async def _take(self, source: Source, response: httpx.Response, validator: str) -> str:
        if response.status_code == HTTPStatus.NOT_MODIFIED and validator:
            self._tally.unchanged += 1
            return validator
        if response.status_code != HTTPStatus.OK:
            raise FetchFailed(f"answers with {response.status_code}")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise FetchFailed("answers with compressed bytes, which were not asked for")
        taken = await self._importer.take(ListName(source.kind, source.name), _body(source, response), self._act)
        self._tally.unchanged += taken.unchanged
        if not taken.unchanged:
            self._log.info("list fetched", source=source.id, generation=taken.artifact.key.generation)
        return _validator(response.headers)

    def _act(self, action: str, **detail: Any) -> Act:
        return Act(f"controller:{self._store.controller_id}", action, detail)

    # --- letting go

    async def _tidy(self) -> None:
        """Old generations and deltas that nothing needs, then bytes that nothing refers to."""
        swept = await self._store.artifacts.sweep(self._settings.keep, self._clock(), self._act("list.sweep"))
        if swept.more:
            self._tidied -= TIDY_SECONDS  # the next look goes on
        used = await self._store.artifacts.locations()
        files = await self._blobs.sweep(used, self._clock())
        self._tally.swept += files
        self._tally.generations += len(swept.keys)
        self._tally.deltas += swept.deltas
        if swept.keys or swept.deltas or files:
            self._log.info("lists swept", generations=len(swept.keys), deltas=swept.deltas, files=files)


async def _body(source: Source, response: httpx.Response) -> AsyncIterator[bytes]:
    """What was announced, or FetchFailed: half a list is none."""
    most = kind_of(source.kind).bytes_max
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise FetchFailed(f"is larger than {most >> 20} MiB")
    async for chunk in response.aiter_bytes(PIECE):
        yield chunk


def _asked(validator: str) -> dict[str, str]:
    """A validator is kept with its kind: "etag ..." or "modified ..."."""
    kind, _, value = validator.partition(" ")
    return {"If-None-Match": value} if kind == "etag" else {"If-Modified-Since": value} if kind == "modified" else {}


def _validator(headers: httpx.Headers) -> str:
    if etag := headers.get("etag"):
        return f"etag {etag}"
    return f"modified {modified}" if (modified := headers.get("last-modified")) else ""


def _authorization(source: Source) -> dict[str, str]:
    if source.authorization is None:
        return {}
    with source.authorization.open("rb") as file:
        text = file.read(AUTHORIZATION_MAX).decode("ascii", "replace").strip()
    if not text or not text.isascii() or not text.isprintable():
        raise FetchFailed(f"{source.authorization} holds no header: one line of text")
    return {"Authorization": text}


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
