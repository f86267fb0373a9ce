"""What records cost: to a call, in the writer's thread, on the disk, and to the event loop. Prints one JSON object.

put         microseconds that a call waits for `Spool.put`
row         microseconds to encode one record, in the writer's thread
committed   records a second from `put` to the disk, as fast as it goes, the event loop doing nothing else
bytes       on disk for one record of a signed call
groups      fdatasync a second of groups of one record; `bare` the same disk with a bare write and fdatasync
find        records a second that the look-up of one call goes through
loop_p99    milliseconds by which a loop that wakes every millisecond is late, at 5,000 records a second;
            loop_idle the same without any record
"""

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

from agent.records.reading import find
from agent.records.rows import RowEncoder
from agent.records.settings import SpoolSettings
from agent.records.spool import Spool
from agent.screening import Decision, Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.benchmarks.messages import invite
from tests.fakes.calls import policy, screen

CALLS = 20_000
ROUNDS = 5


def decisions() -> list[Decision]:
    """Signed calls with a Call-ID of their own each, one in twenty from an invalid number and so refused."""
    message = pb.Policy(
        trunks=[pb.Trunk(id="peer", sources=["192.0.2.10"], trust_asserted_identity=True)],
        do_not_originate=pb.DoNotOriginateRule(),
    )
    screening = Screening(policy(message))
    calling = ["12015550123"] * 19 + ["11015550123"]
    return [
        screen(screening, invite(calling[i % 20], call_id=f"{os.urandom(12).hex()}@192.0.2.10")) for i in range(CALLS)
    ]


async def puts(directory: Path, calls: list[Decision]) -> dict[str, float]:
    """The cost of `put`, and how fast all of it reaches the disk."""
    spool = Spool(SpoolSettings(directory, queue_records=CALLS, queue_bytes=1 << 30))
    await spool.start()
    put_costs, rates = [], []
    for _ in range(ROUNDS):
        gc.collect()
        gc.disable()
        started = perf_counter()
        for call in calls:
            spool.put(call)
        put_costs.append((perf_counter() - started) / CALLS * 1e6)
        gc.enable()
        await spool.flush()
        rates.append(CALLS / (perf_counter() - started))
    await spool.stop(10.0)
    assert spool.counters()["spool_records_committed"] == ROUNDS * CALLS
    size = sum(path.stat().st_size for path in directory.glob("*.seg"))
    return {"put": median(put_costs), "committed": median(rates), "bytes": size / (ROUNDS * CALLS)}


async def groups(directory: Path, calls: list[Decision]) -> tuple[float, float]:
    """Groups of one record each, one after the other, and bare writes of as many bytes: both per second, in turn."""
    spool = Spool(SpoolSettings(directory, commit_interval=0.001))
    await spool.start()
    ours, theirs = [], []
    with (directory / "bare").open("ab", buffering=0) as file:
        for _ in range(ROUNDS):
            count, end = 0, perf_counter() + 0.4
            while perf_counter() < end:
                spool.put(calls[count % CALLS])
                await spool.flush()
                count += 1
            ours.append(count / 0.4)
            count, end = 0, perf_counter() + 0.4
            while perf_counter() < end:
                file.write(bytes(400))
                os.fdatasync(file.fileno())
                count += 1
            theirs.append(count / 0.4)
    await spool.stop(5.0)
    return median(ours), median(theirs)


async def lateness(directory: Path, calls: list[Decision], rate: float, seconds: float = 3.0) -> float:
    """Milliseconds, at the 99th percentile, that a wake-up after one millisecond comes late."""
    spool = Spool(SpoolSettings(directory))
    await spool.start()
    late: list[float] = []
    started, count = perf_counter(), 0
    while (now := perf_counter() - started) < seconds:
        while count < now * rate:
            spool.put(calls[count % CALLS])
            count += 1
        asleep = perf_counter()
        await asyncio.sleep(0.001)
        late.append((perf_counter() - asleep - 0.001) * 1e3)
    await spool.stop(5.0)
    return sorted(late)[len(late) * 99 // 100]


def cost(work: Callable[[], object], calls: int) -> float:
    """Microseconds per call, the median of some rounds."""
    costs = []
    for _ in range(ROUNDS):
        started = perf_counter()
        work()
        costs.append((perf_counter() - started) / calls * 1e6)
    return median(costs)


def main() -> None:
    calls = decisions()
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        directory = Path(name)
        encoder = RowEncoder()
        result = {"row": cost(lambda: [encoder.row(call) for call in calls[:5000]], 5000)}
        result |= asyncio.run(puts(directory / "puts", calls))
        result["find"] = 1e6 / cost(lambda: list(find(directory / "puts", "nobody")), ROUNDS * CALLS)
        result["groups"], result["bare"] = asyncio.run(groups(directory / "groups", calls))
        time.sleep(0.2)
        result["loop_idle"] = asyncio.run(lateness(directory / "idle", calls, 0.0))
        result["loop_p99"] = asyncio.run(lateness(directory / "busy", calls, 5000.0))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
