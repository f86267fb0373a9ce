"""From an offer to a policy that can be put into force: its lists fetched and checked, all of it compiled, in threads.

An edge: streams and files. What is wrong with an offer is told with every field; what is wrong with the link or the
disk is no fault of the offer, and is tried again.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from grpc import aio

from agent.control.artifacts import CRL, DNO, TRUST_LIST, ArtifactFiles, Corrupt, Download, Unfit, faults_of
from agent.control.errors import ControllerError, Trouble, of_rpc
from agent.control.messages import Code, FieldViolation, Manifest, Offer, Problem
from agent.control.trust import Trust, documents_of
from agent.control.wire import chunk_of, fetch_request, policy_of
from agent.loading import open_list
from agent.model import ConfigError, ConfigErrors
from agent.numbers.dno import DnoList
from agent.policy.compile import compile_policy
from agent.policy.policy import Policy
from sbcedge.control.v1 import control_pb2_grpc

TRIES: Final = 3
"""Of a list whose bytes come out wrong, from the beginning: then the controller's copy is what is wrong."""

SILENCE_SECONDS: Final = 60.0
"""For the next chunk of a list."""

FIELDS_MAX: Final = 100


class Refused(Exception):  # noqa: N818  (it is the offer that is)
    """It cannot be taken, whenever it comes."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Later(Exception):  # noqa: N818
    """The link or the disk: the same offer may be prepared later."""


class Opener(Protocol):
    """What is needed of Channels."""

    def open(self, name: str) -> aio.Channel: ...


class Preparer:
    """`keys` gives the keys that sign lists. Counts bytes that came."""

    def __init__(
        self, files: ArtifactFiles, channels: Opener, keys: Callable[[], Mapping[str, bytes]], trust: Trust
    ) -> None:
        self.fetched = 0
        self.trust = trust
        self._files = files
        self._channels = channels
        self._keys = keys

    async def prepare(
        self, offer: Offer, floors: Mapping[tuple[str, str], int], have: Mapping[tuple[str, str], bytes]
    ) -> Policy:
        """The policy, its lists on disk. `have` are lists that are here, by kind and name. Raises Refused, Later."""
        if faults := faults_of(offer.manifests, self._keys(), floors):
            raise Refused(problem_of(faults))
        try:
            await asyncio.to_thread(self._files.begin)
            for manifest in offer.manifests:
                await self._obtain(manifest, have.get((manifest.kind, manifest.name), b""))
        except OSError as error:
            raise Later(f"{error.filename or 'disk'}: {error.strerror or error}") from None
        try:
            policy = await asyncio.to_thread(compile_offer, offer, self._files)
            await self.trust.check_given(documents_of(offer.manifests, self._files))
            return policy
        except OSError as error:
            raise Later(f"{error.filename or 'disk'}: {error.strerror or error}") from None
        except ConfigError as error:
            raise Refused(problem_of(violations(error))) from None

    async def _obtain(self, manifest: Manifest, base: bytes) -> None:
        if await asyncio.to_thread(self._files.intact, manifest):
            return
        if base == manifest.sha256 or not (base and self._files.path(base).exists()):
            base = b""
        wrong = "the list that the controller serves does not have the hash of its manifest"
        for _ in range(TRIES):
            try:
                if await self._fetch(manifest, base):
                    return
            except Unfit as error:
                wrong = str(error)
            base = b""  # a delta that does not come out right is not asked for again
        reason = f"{manifest}: {wrong}"
        raise Refused(Problem(Code.DATA_LOSS, reason, (FieldViolation("artifacts", reason),)))

    async def _fetch(self, manifest: Manifest, base: bytes) -> bool:
        """Whether it came out right. Raises Later, Unfit, OSError."""
        if manifest.size > self._files.room():
            raise Later(f"{manifest} needs {manifest.size >> 20} MiB, and the disk has no room for it")
        download = Download(self._files, manifest, base)
        await asyncio.to_thread(download.open)
        try:
            await self._receive(download, manifest)
        finally:
            await asyncio.to_thread(download.close)
        if download.base:
            return await asyncio.to_thread(self._files.patch, download.base, download.delta, manifest)
        return await asyncio.to_thread(self._files.adopt, download.whole, manifest.sha256)

    async def _receive(self, download: Download, manifest: Manifest) -> None:
        try:
            channel = self._channels.open("artifact")
        except ControllerError as error:
            raise Later(error.reason) from None
        async with channel:
            stub = control_pb2_grpc.ArtifactServiceStub(channel)
            call = stub.FetchArtifact(fetch_request(manifest.sha256, download.offset, download.base))
            try:
                while not download.done:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        message = await call.read()
                    if message is aio.EOF:
                        raise Later(f"{manifest}: it ended after {download.offset} bytes")
                    chunk = chunk_of(message)
                    await asyncio.to_thread(download.take, chunk)
                    self.fetched += len(chunk.data)
            except Corrupt as error:
                raise Later(f"{manifest}: {error}") from None
            except TimeoutError:
                raise Later(f"{manifest}: nothing came for {SILENCE_SECONDS:g} s") from None
            except aio.AioRpcError as error:
                said = of_rpc(error)
                if said.trouble is Trouble.REFUSED and download.offset:
                    await asyncio.to_thread(download.discard)  # it has something else than what we have a part of
                    raise Unfit(said.reason) from None
                raise Later(f"{manifest}: {said.reason}") from None
            finally:
                call.cancel()


def compile_offer(offer: Offer, files: ArtifactFiles) -> Policy:
    """Its policy, with lists that are here. Blocks. Raises ConfigError, ConfigErrors."""
    try:
        message = policy_of(offer)
    except ValueError as error:
        raise ConfigError("policy", str(error)) from None
    manifests = {m.name: (n, m) for n, m in enumerate(offer.manifests) if m.kind == DNO}
    lists: dict[str, DnoList] = {}
    errors: list[ConfigError] = []
    for i, name in enumerate(message.do_not_originate.lists):
        if name not in manifests:
            errors.append(ConfigError(f"do_not_originate.lists[{i}]", "is not among the artifacts of the offer"))
            continue
        n, manifest = manifests[name]
        try:
            lists[name] = open_list(files.path(manifest.sha256))
        except ConfigError as error:
            errors.append(ConfigError(f"artifacts[{n}]", error.reason))
    there = {(manifest.kind, manifest.name) for manifest in offer.manifests}
    for field, kind, names in (
        ("identity.trust_lists", TRUST_LIST, message.identity.trust_lists),
        ("identity.crls", CRL, message.identity.crls),
    ):
        errors += [
            ConfigError(f"{field}[{i}]", "is not among the artifacts of the offer")
            for i, name in enumerate(names)
            if (kind, name) not in there
        ]
    if errors:
        raise ConfigErrors(errors)
    return compile_policy(message, lists)


def problem_of(faults: list[FieldViolation]) -> Problem:
    """Everything that is wrong with the content of an offer."""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    message = f"{faults[0].field}: {faults[0].description}{more}"
    return Problem(Code.INVALID_ARGUMENT, message, tuple(faults[:FIELDS_MAX]))


def violations(error: ConfigError) -> list[FieldViolation]:
    """Each error of a document with its field."""
    errors = error.errors if isinstance(error, ConfigErrors) else (error,)
    return [FieldViolation(one.field or "policy", one.reason) for one in errors]
