"""Kills a controller's state again and again, and looks at what is left. Prints one JSON object.

    python -m tests.controller.crash ROUNDS SEED [URL]

Each child opens store and authority, which makes them where there are none, then takes records, applies policies and
enrols agents as fast as it can, and says over a pipe what it was told is done. It is killed with SIGKILL at a random
moment, also while it makes tables and keys. Children are forked from one process that has imported everything.
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
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from controller.authority import Authority, AuthoritySettings
from controller.model import Advance, ArchivedFile
from controller.store import Store, StoreSettings
from tests.controller.stores import JANE, WHEN, draft, enrol, opened

# A fresh state every so often, since its making is to be killed, too.
LIVES_PER_STATE = 5
LIFE_SECONDS = 0.8


@dataclass
class Told:
    """What a child was told is done, over all lives of a state."""

    through: int = 0
    generations: int = 0
    agents: int = 0
    authority: str = ""
    wrong: list[str] = field(default_factory=list)


async def child(settings: StoreSettings, folder: Path, life: int, pipe: int) -> None:
    """Work for ever. A line of JSON for each step that is done."""
    async with opened(settings, when=time.time()) as store:
        authority = Authority(AuthoritySettings(folder), store)
        await authority.open(WHEN)
        os.write(pipe, json.dumps(["authority", authority.sha256]).encode() + b"\n")
        await asyncio.gather(
            records(store, life, pipe),
            policies(store, pipe),
            agents(store, life, pipe),
            records(store, -life - 1, pipe),
        )


async def records(store: Store, life: int, pipe: int) -> None:
    """Take records of a spool; two do it at once, of two spools, and only one of them says so."""
    agent = "a" if life >= 0 else "b"
    mark = (await store.records.watermark(agent, 7)).committed_through
    while True:
        made = ArchivedFile(f"{agent}/{life}/{mark}", "refused", 10, 100, WHEN, WHEN, WHEN)
        await store.records.commit([made], [Advance(agent, 7, mark, mark + 10, 10)], [], WHEN)
        mark += 10
        if agent == "a":
            os.write(pipe, json.dumps(["through", mark]).encode() + b"\n")


async def policies(store: Store, pipe: int) -> None:
    """Apply policies."""
    while True:
        policy = await store.policies.add(draft("x" * 2000), WHEN, JANE)
        os.write(pipe, json.dumps(["generations", policy.info.generation]).encode() + b"\n")


async def agents(store: Store, life: int, pipe: int) -> None:
    """Enrol agents."""
    number = life * 100_000
    while True:
        number += 1
        await enrol(store, number)
        os.write(pipe, json.dumps(["agents", 1]).encode() + b"\n")


def one_life(settings: StoreSettings, folder: Path, life: int, seconds: float) -> list[str]:
    """Fork a controller, kill it after so long, and give back what it said."""
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        os.close(ours)
        try:
            asyncio.run(child(settings, folder, life, theirs))
        finally:
            os._exit(1)
    os.close(theirs)
    deadline, said = time.monotonic() + seconds, b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([ours], [], [], left)[0]:
            if not (some := os.read(ours, 65536)):
                raise SystemExit("the controller ended by itself")
            said += some
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    while some := os.read(ours, 65536):
        said += some
    os.close(ours)
    return said.decode().splitlines()


def note(told: Told, lines: list[str]) -> None:
    """Add what a child said."""
    for line in lines:
        what, value = json.loads(line)
        if what == "authority":
            if told.authority not in ("", value):
                told.wrong.append("there is another authority")
            told.authority = value
        elif what == "agents":
            told.agents += 1
        else:
            setattr(told, what, max(getattr(told, what), value))


async def check(settings: StoreSettings, folder: Path, told: Told) -> int:
    """How many records there are; what is wrong with them is added to `told`."""
    async with opened(settings, when=time.time()) as store:
        authority = Authority(AuthoritySettings(folder), store)
        await authority.open(WHEN)
        note(told, [json.dumps(["authority", authority.sha256])])
        files, marks = await store.records.files(), await store.records.watermarks()
        mark = await store.records.watermark("a", 7)
        history = await store.policies.history(1000)
        members, tokens = await store.agents.all(WHEN), await store.access.tokens()
        log = await store.audit.verify()
        used = sum(token.used_at is not None for token in tokens)
        told.wrong += [
            reason
            for reason, holds in {
                "acknowledged records are gone": mark.committed_through >= told.through,
                "files and watermarks disagree": sum(one.records for one in files) == sum(m.records for m in marks),
                "a watermark counts others": all(m.records == m.committed_through for m in marks),
                "applied policies are gone": len(history) >= told.generations or len(history) == 1000,
                "enrolled agents are gone": len(members) >= told.agents,
                "tokens and agents disagree": used == len(members),
                "the log is broken": log.intact,
                "the log disagrees": log.entries
                == max(told.generations, history[0].generation if history else 0) + len(tokens) + used,
            }.items()
            if not holds
        ]
        return mark.records


def main() -> None:
    rounds, chance = int(sys.argv[1]), random.Random(int(sys.argv[2]))
    server = sys.argv[3] if len(sys.argv) > 3 else ""
    wrong: list[str] = []
    total = unopened = 0
    folder, settings, told = Path(), StoreSettings(), Told()
    for number in range(rounds):
        if not number % LIVES_PER_STATE:
            folder, told = Path(tempfile.mkdtemp()), Told()
            settings = StoreSettings(folder / "state.db", postgresql=new_database(server, number) if server else "")
        said = one_life(settings, folder / "authority", number, chance.random() ** 2 * LIFE_SECONDS)
        unopened += not said
        note(told, said)
        if number % LIVES_PER_STATE == LIVES_PER_STATE - 1 or number == rounds - 1:
            total += asyncio.run(check(settings, folder / "authority", told))
            wrong += [f"before round {number + 1}: {fault}" for fault in told.wrong]
            shutil.rmtree(folder)
    print(json.dumps({"wrong": wrong[:20], "records": total, "lives": rounds, "killed_before_open": unopened}))


def new_database(server: str, number: int) -> str:
    """The address of a database that nobody has seen."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE crash_{number}".encode())
    return server.replace("/postgres?", f"/crash_{number}?")


if __name__ == "__main__":
    main()
