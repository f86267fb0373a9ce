"""What a controller takes in: records a second for each second of one processor. Prints one JSON object.

    python -m tests.benchmarks.ingest FOLDER [postgresql]

Batches as an agent's spool frames them come over mTLS from another process, as fast as the window lets it; a record
counts when it is answered for: in a Parquet file that was synced, and in the watermark's transaction.

records     records a second, by the clock
per_core    records for a second of processor time of the controller's process, all of its threads
bytes       on disk for one record
bare        the peer: the same rows put into a Parquet file by pyarrow from the same JSON, no stream, no sync, no store
"""

import asyncio
import io
import json
import os
import random
import struct
import sys
import tempfile
import time
import zlib
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
from grpc import aio

from agent.records.record import rfc3339
from agent.records.segment import BATCH_HEADER, Kind, encode_batches
from controller.archive.layout import CALLS
from controller.archive.rows import FIELDS
from controller.store import StoreSettings
from sbcedge.report.v1 import report_pb2 as pb
from sbcedge.report.v1 import report_pb2_grpc as pb_grpc
from tests.controller.agents import OPTIONS, a_controller
from tests.fakes.postgres import PostgresServer, binaries

AGENTS = 4
BATCHES = 300
BATCH = 1000
ROUNDS = 3


def lines(seed: int) -> list[bytes]:
    """A thousand signed calls, of numbers and with Call-IDs of their own; one in twenty is refused."""
    chance = random.Random(seed)
    made = []
    for n in range(BATCH):
        number = f"1{chance.randrange(2_000_000_000, 9_999_999_999)}"
        refused = n % 20 == 0
        value = {
            "time": rfc3339(time.time() + n / 1000),
            "call_id": f"{chance.randbytes(12).hex()}@192.0.2.10",
            "trunk": f"trunk-{n % 7}",
            "customer": "",
            "upstream": "carrier",
            "source": "192.0.2.10",
            "calling": number,
            "called": "13035550199",
            "from_uri": f"sip:+{number}@carrier.example.com;user=phone",
            "asserted": [f"sip:+{number}@carrier.example.com;user=phone"],
            "identity": [{"sha256": chance.randbytes(32).hex(), "attestation": "A"}],
            "verification": None,
            "action": "refuse" if refused else "allow",
            "rule": "provider-block" if refused else "",
            "category": "provider-block" if refused else "none",
            "why": "blocked by order" if refused else "no rule objects",
            "answer": "603 Decline" if refused else "",
            "shadow": [],
            "notes": [],
            "policy_generation": 3,
            "lists": [],
            "observed": False,
        }
        made.append(json.dumps(value, separators=(",", ":")).encode())
    return made


def send(address: str, roots: bytes, identities: list[tuple[bytes, bytes]], done: Any) -> None:
    """The agents, in a process of their own: `done` is told the seconds that it took."""

    async def one(identity: tuple[bytes, bytes], seed: int, start: asyncio.Event) -> None:
        framed = [encode_one(lines(seed * 100 + n), 1) for n in range(10)]
        key, chain = identity
        credentials = grpc.ssl_channel_credentials(roots, key, chain)
        async with aio.secure_channel(address, credentials, options=OPTIONS) as channel:
            call = pb_grpc.ReportServiceStub(channel).UploadRecords()
            await call.write(pb.UploadRecordsRequest(hello=pb.UploadHello(spool_epoch=seed + 1)))
            answer = await call.read()
            first = answer.committed_through + 1
            ready = [(n, reframed(framed[n % 10], first + n * BATCH)) for n in range(BATCHES)]
            await start.wait()

            async def write() -> None:
                for n, data in ready:
                    batch = pb.RecordBatch(first_sequence=first + n * BATCH, count=BATCH, data=data)
                    await call.write(pb.UploadRecordsRequest(batch=batch))
                await call.done_writing()

            writing = asyncio.create_task(write())
            last = 0
            while (answer := await call.read()) is not aio.EOF:
                assert not answer.HasField("retry_after"), answer
                last = answer.committed_through
            await writing
            assert last == first + BATCHES * BATCH - 1, await call.details()

    async def main() -> float:
        start = asyncio.Event()
        tasks = [asyncio.create_task(one(identity, n, start)) for n, identity in enumerate(identities)]
        await asyncio.sleep(0.1)
        while not done.poll(0):
            await asyncio.sleep(0.01)
        done.recv()
        started = time.perf_counter()
        start.set()
        await asyncio.gather(*tasks)
        return time.perf_counter() - started

    done.send(asyncio.run(main()))


def encode_one(of: list[bytes], first: int) -> bytes:
    ((_, data),) = encode_batches(Kind.ALLOWED, first, of, time.time())
    return data


def reframed(data: bytes, first: int) -> bytes:
    """The same batch with another first sequence."""
    end = BATCH_HEADER - 4
    header = bytearray(data[:end])
    struct.pack_into("<Q", header, 16, first)
    return bytes(header) + struct.pack("<I", zlib.crc32(header)) + data[BATCH_HEADER:]


async def measure(folder: Path, store: StoreSettings | None) -> dict[str, float]:
    more = "[archive]\nmin_free_ratio = 0.0\ncompact_seconds = 3600.0\n"
    async with a_controller(folder, store, more=more) as controller:
        agents = [await controller.enrol() for _ in range(AGENTS)]
        identities = [(agent.key, agent.chain) for agent in agents]
        rates, cores = [], []
        for _ in range(ROUNDS):
            ours, theirs = get_context("spawn").Pipe()
            process = get_context("spawn").Process(
                target=send, args=(controller.server.address, controller.roots, identities, theirs)
            )
            process.start()
            await asyncio.sleep(6.0)  # for it to have made its batches
            ours.send("go")
            spent = time.process_time()
            while not ours.poll(0):
                assert process.is_alive()
                await asyncio.sleep(0.01)
            spent = time.process_time() - spent
            seconds = ours.recv()
            process.join()
            rates.append(AGENTS * BATCHES * BATCH / seconds)
            cores.append(AGENTS * BATCHES * BATCH / spent)
        files = await controller.parts.store.records.files()
        records = sum(file.records for file in files)
        assert records == ROUNDS * AGENTS * BATCHES * BATCH
        size = sum(file.bytes for file in files)
        return {
            "records": sorted(rates)[ROUNDS // 2],
            "per_core": sorted(cores)[ROUNDS // 2],
            "bytes": size / records,
            "files": len(files),
        }


def bare() -> float:
    """Records for a second of processor time."""
    text = b"\n".join([line for n in range(100) for line in lines(n)])
    schema = pa.schema(list(FIELDS[CALLS].items()))
    rates = []
    for _ in range(ROUNDS):
        spent = time.process_time()
        table = pj.read_json(
            pa.BufferReader(text),
            read_options=pj.ReadOptions(block_size=4 << 20),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        pq.write_table(table, io.BytesIO(), compression="zstd", compression_level=1)
        rates.append(100 * BATCH / (time.process_time() - spent))
    return sorted(rates)[ROUNDS // 2]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        if "postgresql" not in sys.argv[2:]:
            result = asyncio.run(measure(Path(name), None)) | {"bare": bare()}
        elif binaries() is None:
            result = {}
        else:
            server = PostgresServer(durable=True)
            server.start()
            try:
                result = asyncio.run(measure(Path(name), StoreSettings(postgresql=server.database()))) | {
                    "bare": bare()
                }
            finally:
                server.remove()
    print(json.dumps(result))


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
