"""Records that come up. Thin: order, durability and bounds are of controller/ingest.

One stream is two tasks: one takes what comes, for as long as there is room, one says how far it is. Whatever ends the
stream, what was taken before is committed, and said so if there is still somebody to hear it.
"""

# ruff: noqa: ARG002, N802  (names and arguments are those of the contract)

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from controller.errors import Busy, Conflict, Invalid
from controller.ingest.ingest import Ingest
from controller.ingest.upload import Upload
from controller.services.caller import caller
from controller.services.gate import Context
from controller.services.record_wire import lost_from, progress_to
from sbcedge.report.v1 import report_pb2 as pb
from sbcedge.report.v1 import report_pb2_grpc as pb_grpc

HELLO_SECONDS: Final = 10.0

Requests = AsyncIterator[pb.UploadRecordsRequest]


class ReportService(pb_grpc.ReportServiceServicer):
    """For agents; whose records they are, only the certificate says. `clock` is epoch seconds."""

    def __init__(self, ingest: Ingest, clock: Callable[[], float]) -> None:
        self._ingest = ingest
        self._clock = clock

    async def UploadRecords(
        self, request_iterator: Requests, context: Context
    ) -> AsyncIterator[pb.UploadRecordsResponse]:
        spool_epoch = await _hello(request_iterator)
        upload = await self._ingest.open(caller().name, spool_epoch)
        reading: asyncio.Task[None] | None = None
        try:
            yield progress_to(upload)
            reading = asyncio.create_task(self._read(request_iterator, upload))
            reading.add_done_callback(lambda _: upload.changed.set())
            async for answer in _progress(upload, reading):
                yield answer
        finally:
            upload.close()
            if reading is not None:
                reading.cancel()
                await asyncio.wait({reading})

    async def _read(self, requests: Requests, upload: Upload) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "batch":
                    batch = request.batch
                    await upload.batch(batch.first_sequence, batch.count, batch.data)
                case "dropped":
                    when = self._clock()
                    await upload.dropped(lost_from(request.dropped, upload.order.spool_epoch, when), when)
                case "hello":
                    raise Conflict("hello: comes first, and once")
                case _:
                    raise Invalid("message", "is missing")


async def _hello(requests: Requests) -> int:
    """The spool's epoch. Raises Invalid, Conflict."""
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            first: Any = await anext(requests, None)
    except TimeoutError:
        raise Conflict("hello: did not come in time") from None
    if first is None or first.WhichOneof("message") != "hello":
        raise Conflict("hello: must come first")
    epoch: int = first.hello.spool_epoch
    return epoch


async def _progress(upload: Upload, reading: asyncio.Task[None]) -> AsyncIterator[pb.UploadRecordsResponse]:
    """An answer for each step, until all is committed that came. Raises what has ended it."""
    told = upload.committed
    while True:
        upload.changed.clear()
        if upload.committed > told:
            told = upload.committed
            yield progress_to(upload)
        if (failure := upload.failure) is not None:
            if not isinstance(failure, Busy):
                raise failure
            yield progress_to(upload, failure.retry_after)
            return
        if reading.done():
            if not upload.items:
                reading.result()
                return
            upload.hurry()
        await upload.changed.wait()
