"""Lists for tests, and an operator who imports them."""

from collections.abc import Iterable
from typing import Any

from agent.numbers.dno import Assertion, DnoCategory
from agent.numbers.dno_build import DnoBuilder
from agent.numbers.listfile import encode
from agent.numbers.ranges import parse_piece
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as rpc
from tests.controller.agents import PATIENCE, Controller

VERIFIED = 1_700_000_000.0


def dno(numbers: Iterable[str], generation: int = 1, expires_at: float | None = None) -> bytes:
    """A compiled do-not-originate list."""
    builder = DnoBuilder()
    assertion = Assertion(DnoCategory.SUBSCRIBER_REQUEST, "registry", "example", VERIFIED, expires_at)
    held = builder.assertion_id(assertion)
    for number in numbers:
        builder.add(parse_piece(number), held)
    return b"".join(encode(builder.finish(), generation, VERIFIED, "test"))


def many(count: int, first: int = 2015550100) -> list[str]:
    """Numbers that are far apart: a list of some size."""
    return [str(first + 977 * n) for n in range(count)]


class Lists:
    """ListService with a login token."""

    def __init__(self, controller: Controller, token: str = "") -> None:
        self._stub = rpc.ListServiceStub(controller.channel())
        self._metadata = (("authorization", f"Bearer {token or controller.admin}"),)

    async def send(self, requests: Iterable[pb.ImportListRequest]) -> pb.ImportListResponse:
        response: pb.ImportListResponse = await self._stub.ImportList(
            iter(requests), metadata=self._metadata, timeout=PATIENCE
        )
        return response

    async def imports(self, name: str, data: bytes, kind: str = "dno", **first: Any) -> pb.ImportListResponse:
        chunks = [data[at : at + 65_536] for at in range(0, len(data), 65_536)] or [b""]
        requests = [pb.ImportListRequest(kind=kind, name=name, data=chunks[0], **first)]
        return await self.send([*requests, *(pb.ImportListRequest(data=chunk) for chunk in chunks[1:])])

    async def all(self) -> pb.ListListsResponse:
        response: pb.ListListsResponse = await self._stub.ListLists(
            pb.ListListsRequest(), metadata=self._metadata, timeout=PATIENCE
        )
        return response

    async def lookup(self, number: str) -> pb.LookupNumberResponse:
        response: pb.LookupNumberResponse = await self._stub.LookupNumber(
            pb.LookupNumberRequest(number=number), metadata=self._metadata, timeout=PATIENCE
        )
        return response
