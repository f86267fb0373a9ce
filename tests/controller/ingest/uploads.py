"""Agents that only upload, and a look at everything that the archive holds."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from grpc import StatusCode, aio

from agent.control.upload import Uploader
from agent.ops.log import Log
from agent.records.segment import Kind, encode_batches
from agent.records.settings import SpoolSettings
from agent.records.spool import Spool
from controller.archive.layout import CALLS
from controller.store import Store
from sbcedge.report.v1 import report_pb2 as pb
from sbcedge.report.v1 import report_pb2_grpc as pb_grpc
from tests.controller.agents import PATIENCE, Controller, PlayedAgent
from tests.controller.archive.lines import call, quiet_log
from tests.fakes.waiting import until
from tests.records.decisions import allowed, refused

FAST = "[ingest]\ncommit_seconds = 0.05\nretry_seconds = 1.0\n[archive]\nmin_free_ratio = 0.0\n"
EPOCH = 0x1122334455667788


def batch(first: int, count: int, name: str = "c", kind: Kind = Kind.ALLOWED, noise: int = 0) -> pb.RecordBatch:
    """As an agent has it on its disk. `noise` bytes make it long."""
    values = [
        json.dumps(call(0, call_id=f"{name}-{n}", from_uri=os.urandom(noise).hex())).encode()
        for n in range(first, first + count)
    ]
    ((number, data),) = encode_batches(kind, first, values, 0.0)
    assert number == count
    return pb.RecordBatch(first_sequence=first, count=count, data=data)


def dropped(first: int, last: int, count: int | None = None, kind: str = "allowed") -> pb.DroppedRange:
    number = max(0, last - first + 1) if count is None else count
    return pb.DroppedRange(first_sequence=first, last_sequence=last, kind=kind, count=number, reason="queue full")


@dataclass
class Stream:
    """One UploadRecords, by hand."""

    call: Any

    @classmethod
    async def opened(cls, agent: PlayedAgent, epoch: int = EPOCH) -> tuple["Stream", pb.UploadRecordsResponse]:
        """After hello."""
        stream = cls(pb_grpc.ReportServiceStub(agent.channel()).UploadRecords(timeout=PATIENCE))
        await stream.says(hello=pb.UploadHello(spool_epoch=epoch))
        return stream, await stream.hears()

    async def says(self, **message: Any) -> None:
        await self.call.write(pb.UploadRecordsRequest(**message))

    async def hears(self) -> pb.UploadRecordsResponse:
        answer = await self.call.read()
        assert isinstance(answer, pb.UploadRecordsResponse), (await self.call.code(), await self.call.details())
        return answer

    async def reaches(self, sequence: int) -> None:
        """So much is durable."""
        while (answer := await self.hears()).committed_through < sequence:
            pass
        assert answer.committed_through == sequence

    async def done(self) -> tuple[StatusCode, str, list[pb.UploadRecordsResponse]]:
        """Say no more, and hear it to the end."""
        with contextlib.suppress(Exception):
            await self.call.done_writing()
        return await self.ends()

    async def ends(self) -> tuple[StatusCode, str, list[pb.UploadRecordsResponse]]:
        """Hear it to the end."""
        heard = []
        with contextlib.suppress(aio.AioRpcError):
            while (answer := await self.call.read()) is not aio.EOF:
                heard.append(answer)
        return await self.call.code(), str(await self.call.details()), heard


async def archived(store: Store, folder: Path, table: str = CALLS) -> list[dict[str, Any]]:
    """Every row of every file that counts."""
    rows: list[dict[str, Any]] = []
    for file in await store.records.files(kind=table):
        rows += pq.read_table(folder / "archive" / file.path, partitioning=None).to_pylist()
    return rows


def duplicates(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """What is there more than once."""
    places = Counter((row["agent"], row["epoch"], row["sequence"]) for row in rows)
    calls = Counter(row["call_id"] for row in rows)
    return [key for counter in (places, calls) for key, number in counter.items() if number > 1]


@dataclass
class Host:
    """An agent's spool and its uploader."""

    spool: Spool
    uploader: Uploader
    made: int = 0

    async def put(self, number: int, name: str = "call", *, long: bool = False) -> int:
        """So many calls, each third refused; returns when they are on disk. The last sequence."""
        for _ in range(number):
            self.made += 1
            decision = refused if self.made % 3 == 0 else allowed
            self.spool.put(decision(f"{name}-{self.made}{os.urandom(40).hex() if long else ''}"))
        return (await self.spool.flush()).sequence

    async def uploaded(self, timeout: float = 20.0) -> None:
        """Wait until the controller has it all."""
        await until(lambda: self.uploader.behind == 0, timeout)


def bytes_in(folder: Path) -> int:
    """Of all files, as they are now: the spool's own counter is as old as its last look at the bounds."""
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # it has just gone
            total += entry.stat().st_size
    return total


def spool_settings(folder: Path, **changed: Any) -> SpoolSettings:
    values = {"segment_bytes": 16384, "max_bytes": 8 << 20, "min_free_ratio": 0.0, "commit_interval": 0.001, **changed}
    return SpoolSettings(folder, **values)


@contextlib.asynccontextmanager
async def a_host(agent: PlayedAgent, folder: Path, log: Log | None = None, **changed: Any) -> AsyncIterator[Host]:
    """One that runs for a while."""
    settings = spool_settings(folder, **changed)
    spool = Spool(settings)

    uploader = Uploader(spool, folder, agent.channel, lambda: 0, log or quiet_log(), lambda: 0.05)
    host = Host(spool, uploader)
    await spool.start()
    await uploader.start()
    try:
        yield host
    finally:
        await uploader.stop(5.0)
        await spool.stop(5.0)


def archive_of(controller: Controller, folder: Path) -> Any:
    """All calls in the archive of this controller, which has its state in `folder`."""
    return archived(controller.parts.store, folder)
