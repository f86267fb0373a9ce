"""Questions about records. Thin: the archive answers them."""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from controller.archive.archive import Archive
from controller.services.gate import Context
from controller.services.record_wire import query_from
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

MESSAGE_BYTES: Final = 256 << 10
"""Of one answer, more or less: a page of long records is sent in parts."""


class RecordService(pb_grpc.RecordServiceServicer):
    """For operators."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def QueryRecords(
        self, request: pb.QueryRecordsRequest, context: Context
    ) -> AsyncIterator[pb.QueryRecordsResponse]:
        async with aclosing(self._archive.query(query_from(request))) as pages:
            async for page in pages:
                answer = pb.QueryRecordsResponse()
                size = 0
                for line in page:
                    answer.json.append(line)
                    size += len(line)
                    if size >= MESSAGE_BYTES:
                        yield answer
                        answer, size = pb.QueryRecordsResponse(), 0
                if answer.json:
                    yield answer
