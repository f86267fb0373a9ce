"""Lists, as operators see them: imported, listed, asked about a number. Thin: controller/artifacts does it."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from controller.artifacts.importing import Importer, ListName
from controller.artifacts.kinds import kind_of
from controller.artifacts.lookup import Lookup
from controller.artifacts.settings import ArtifactSettings, Source
from controller.errors import ControllerError, Invalid
from controller.fleet.spread import UNUSED, ListAtAgent, spread
from controller.model import Artifact, FetchState
from controller.services.caller import act
from controller.services.gate import Context
from controller.services.wire import epoch, timestamp
from controller.store import Store
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

CHUNK_MAX: Final = 256 << 10

HEAR_OUT_SECONDS: Final = 5.0
"""Some hundred megabytes on a local network; who sends more than that is cut off."""


class ListService(pb_grpc.ListServiceServicer):
    """`clock` is epoch seconds."""

    def __init__(
        self,
        store: Store,
        importer: Importer,
        lookup: Lookup,
        settings: ArtifactSettings,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._importer = importer
        self._lookup = lookup
        self._sources = settings.sources
        self._clock = clock

    async def ImportList(
        self, requests: AsyncIterator[pb.ImportListRequest], context: Context
    ) -> pb.ImportListResponse:
        stream = aiter(requests)
        first = await anext(stream, None)
        if first is None:
            raise Invalid("", "nothing was sent")
        not_after = epoch(first.not_after) if first.HasField("not_after") else None
        wanted = ListName(first.kind, first.name, not_after)
        try:
            taken = await self._importer.take(wanted, _chunks(first, stream), act)
        except ControllerError:
            await _hear_out(stream)
            raise
        policy = taken.policy.info.generation if taken.policy is not None else 0
        return pb.ImportListResponse(list=list_to(taken.artifact), unchanged=taken.unchanged, policy_generation=policy)

    async def ListLists(self, request: pb.ListListsRequest, context: Context) -> pb.ListListsResponse:
        states = await self._store.artifacts.fetch_states()
        return pb.ListListsResponse(
            lists=[list_to(artifact) for artifact in await self._store.artifacts.all_latest()],
            fetches=[fetch_to(source, states) for source in self._sources],
        )

    async def GetListStatus(self, request: pb.GetListStatusRequest, context: Context) -> pb.GetListStatusResponse:
        if request.kind:
            kind_of(request.kind)
        store = self._store
        agents = await store.agents.all(self._clock())
        generations = [agent.offer.generation for agent in agents if agent.offer is not None]
        generations += [agent.health.active_generation for agent in agents if agent.health is not None]
        rows = spread(
            agents,
            await store.artifacts.all_latest(),
            await store.policies.artifacts_of(generations),
            await store.agents.counter(tuple(UNUSED.values())),
        )
        wanted = [row for row in rows if request.kind in ("", row.kind) and request.name in ("", row.name)]
        return pb.GetListStatusResponse(lists=[at_agent_to(row) for row in wanted])

    async def LookupNumber(self, request: pb.LookupNumberRequest, context: Context) -> pb.LookupNumberResponse:
        found = await self._lookup.find(request.number, self._clock())
        return pb.LookupNumberResponse(digits=found.digits, hits=found.hits)


async def _chunks(first: pb.ImportListRequest, rest: AsyncIterator[pb.ImportListRequest]) -> AsyncIterator[bytes]:
    """The bytes. Raises Invalid."""
    yield _data(first)
    async for request in rest:
        if (request.kind and request.kind != first.kind) or (request.name and request.name != first.name):
            raise Invalid("name", "is another one than that of the first message")
        yield _data(request)


async def _hear_out(stream: AsyncIterator[pb.ImportListRequest]) -> None:
    """Take what is still coming of a list that is refused, and forget it: gRPC's client loses the reason, and says
    "internal error", if it is cut off while it writes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEAR_OUT_SECONDS):
            async for _ in stream:
                pass


def _data(request: pb.ImportListRequest) -> bytes:
    if len(request.data) > CHUNK_MAX:
        raise Invalid("data", f"has more than {CHUNK_MAX >> 10} KiB in one message")
    return request.data


def list_to(artifact: Artifact) -> pb.ListInfo:
    """Without its bytes."""
    return pb.ListInfo(
        kind=artifact.key.kind,
        name=artifact.key.name,
        generation=artifact.key.generation,
        sha256=artifact.sha256,
        size=artifact.size,
        created_at=timestamp(artifact.created_at),
        not_after=timestamp(artifact.not_after),
        author=artifact.author,
        counts=artifact.counts,
    )


def at_agent_to(row: ListAtAgent) -> pb.ListAtAgent:
    """One list at one agent."""
    return pb.ListAtAgent(
        agent_id=row.agent.id,
        hostname=row.agent.hostname,
        kind=row.kind,
        name=row.name,
        generation=row.generation,
        latest=row.latest,
        offered=row.offered,
        policy_generation=row.policy_generation,
        connected=row.agent.session is not None,
        problem=row.problem,
    )


def fetch_to(source: Source, states: Mapping[str, FetchState]) -> pb.ListFetch:
    """How it went last."""
    message = pb.ListFetch(kind=source.kind, name=source.name, url=source.url)
    state = states.get(source.id)
    if state is not None:
        message.tried_at.CopyFrom(timestamp(state.tried_at) or message.tried_at)
        message.problem = state.problem
        if state.fetched_at is not None:
            message.fetched_at.CopyFrom(timestamp(state.fetched_at) or message.fetched_at)
    return message
