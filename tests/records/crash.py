"""Kills a process that writes records, again and again, and looks at what is on disk. Prints one JSON object.

    python -m tests.records.crash ROUNDS SEED

Each child opens the spool that the one before it left, writes as fast as it is told that it is on disk, and says over
a pipe what it was told. It is killed with SIGKILL at a random moment, which can also be before it has opened the
spool or while it repairs it. Children are forked from one process that has imported everything.
"""

import asyncio
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from agent.records.reading import records
from agent.records.settings import SpoolSettings
from agent.records.spool import Spool
from agent.screening import Decision, Screening
from tests.fakes.calls import invite, policy, screen
from tests.records.decisions import REFUSAL

# A fresh spool every so often: each look reads all of it.
ROUNDS_PER_SPOOL = 10
LIFE_SECONDS = 0.09
OPEN_SECONDS = 10.0
GROUP = 16


def settings(directory: Path) -> SpoolSettings:
    """Small segments, so that many of the kills hit a rotation."""
    return SpoolSettings(directory, segment_bytes=16384, min_free_ratio=0.0, commit_interval=0.001)


def decisions(name: str) -> list[Decision]:
    """A supply of calls, one in four refused, whose Call-IDs say what they are."""
    screening = Screening(policy())
    made = [screen(screening, invite(call_id=f"{name}-{i}")) for i in range(6000)]
    for decision in made[::4]:
        decision.verdict = REFUSAL
    return made


async def child(directory: Path, supply: list[Decision], pipe: int) -> None:
    """Write for ever. A line "seconds" when open, then "records sequence" after each group that is on disk."""
    spool = Spool(settings(directory))
    started = time.monotonic()
    await spool.start()
    os.write(pipe, f"{time.monotonic() - started}\n".encode())
    for i, decision in enumerate(supply):
        spool.put(decision)
        if i % GROUP == GROUP - 1:
            mark = await spool.flush()
            os.write(pipe, f"{i + 1} {mark.sequence}\n".encode())
    signal.pause()


def one_life(directory: Path, supply: list[Decision], seconds: float, *, at_work: bool) -> list[str]:
    """Fork a writer, kill it after so long, and give back what it said. `at_work`: so long after its spool was open, as
    a disk that others keep busy would else have most writers killed before."""
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        os.close(ours)
        try:
            asyncio.run(child(directory, supply, theirs))
        finally:
            os._exit(1)
    os.close(theirs)
    deadline, said = time.monotonic() + (OPEN_SECONDS if at_work else seconds), b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([ours], [], [], left)[0]:
            if not (some := os.read(ours, 65536)):
                raise SystemExit("the writer ended by itself")
            if at_work and not said:
                deadline = time.monotonic() + seconds
            said += some
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    while some := os.read(ours, 65536):
        said += some
    os.close(ours)
    return said.decode().splitlines()


def check(directory: Path, acknowledged: dict[str, int]) -> tuple[int, list[str]]:
    """How many records there are, and everything that is wrong with them."""
    wrong: list[str] = []
    found = list(records(directory, problem=wrong.append)) if directory.exists() else []
    ids = Counter(record["call_id"] for record in found)
    sequences = [record["sequence"] for record in found]
    wrong += [f"{call_id} is there {count} times" for call_id, count in ids.items() if count > 1]
    if sequences != list(range(1, len(sequences) + 1)):
        wrong.append("sequences are not consecutive")
    for name, count in acknowledged.items():
        wrong += [f"{name}-{i} was acknowledged and is gone" for i in range(count) if f"{name}-{i}" not in ids]
    return len(found), wrong


def main() -> None:
    rounds, chance = int(sys.argv[1]), random.Random(int(sys.argv[2]))
    wrong: list[str] = []
    opening: list[float] = []
    total = unopened = torn = 0
    supplies = [decisions(f"life{i}") for i in range(ROUNDS_PER_SPOOL)]
    directory, acknowledged = Path(), dict[str, int]()
    for number in range(rounds):
        position = number % ROUNDS_PER_SPOOL
        if not position:
            directory, acknowledged = Path(tempfile.mkdtemp()) / "spool", {}
        said = one_life(directory, supplies[position], chance.random() * LIFE_SECONDS, at_work=number % 3 > 0)
        if said:
            opening.append(float(said[0]))
        else:
            unopened += 1
        acknowledged[f"life{position}"] = int(said[-1].split()[0]) if len(said) > 1 else 0
        found, faults = check(directory, acknowledged)
        wrong += [f"round {number}: {fault}" for fault in faults]
        if position == ROUNDS_PER_SPOOL - 1 or number == rounds - 1:
            total += found
            torn += len(list(directory.glob("*.corrupt")))
            shutil.rmtree(directory.parent)
    print(
        json.dumps(
            {
                "wrong": wrong[:20],
                "records": total,
                "lives": rounds,
                "killed_before_open": unopened,
                "slowest_open": max(opening, default=0.0),
                "set_aside": torn,
            }
        )
    )


if __name__ == "__main__":
    main()
