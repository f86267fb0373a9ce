"""Processes that kill themselves with SIGKILL in the middle of their work: a controller, or an agent.

    python -m tests.controller.ingest.victim controller FOLDER STEP OCCURRENCE
    python -m tests.controller.ingest.victim agent FOLDER ADDRESS STEP OCCURRENCE

STEP names what they die before; "never" lives on. The controller says in one line of JSON where it listens and, when it
begins, the identity of an agent. The agent says after each group of calls how many are on its disk.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

import controller.services.reports
from agent.control.upload import Uploader
from agent.control.upload_flow import Flow
from agent.control.upload_mark import MarkFile
from agent.records.batches import BatchReader
from agent.records.spool import Spool
from controller.archive.storage import FolderStorage
from controller.store.records import Records
from tests.controller.agents import OPTIONS, a_controller
from tests.controller.archive.lines import quiet_log
from tests.controller.ingest.uploads import FAST, Host, spool_settings
from tests.fakes.fate import Fate

CONTROLLER_STEPS = (
    "folder",  # the day's folder is made
    "write",  # the temporary file is written and synced
    "half a file",  # while it is written
    "rename",
    "sync",  # the folder
    "commit",  # the transaction
    "committed",  # it is done, and nothing else
    "answer",
)
AGENT_STEPS = ("save", "half a mark", "saved", "next", "sent", "answered", "uploaded")


def half_written(fate: Fate, write: Callable[..., None]) -> Callable[..., None]:
    """Half of the bytes, and then maybe the end."""

    def fated(self: Any, temporary: Path, data: Any) -> None:
        if fate.is_next("half a file"):
            temporary.write_bytes(memoryview(data)[: data.size // 2])
        fate.comes("half a file")
        write(self, temporary, data)

    return fated


async def controller_lives(folder: Path, fate: Fate) -> None:
    FolderStorage.write = half_written(fate, FolderStorage.write)  # type: ignore[method-assign]
    for name, step in (("make_folder", "folder"), ("write", "write"), ("rename", "rename"), ("sync_folder", "sync")):
        fate.before(FolderStorage, name, step)
    fate.before(Records, "commit", "commit")
    fate.after(Records, "commit", "committed")
    begins = not (folder / "identity.json").exists()
    async with a_controller(folder, more=FAST) as running:
        if begins:
            agent = await running.enrol()
            identity = {"id": agent.id, "key": agent.key.decode(), "chain": agent.chain.decode()}
            (folder / "identity.json").write_text(json.dumps(identity | {"roots": running.roots.decode()}))
        fate.before(controller.services.reports, "progress_to", "answer")
        print(json.dumps({"address": running.server.address}), flush=True)
        await asyncio.Event().wait()


async def agent_lives(folder: Path, identity: dict[str, str], address: str, fate: Fate) -> None:
    save = MarkFile.save

    def saved(self: MarkFile, mark: Any) -> Any:
        fate.comes("save")
        made = save(self, mark)
        if fate.is_next("half a mark"):
            path = folder / "uploaded.mark"
            data = bytearray(path.read_bytes())
            slot = self._generation % 2 * 512
            data[slot + 20 : slot + 40] = bytes(20)
            path.write_bytes(bytes(data))
        fate.comes("half a mark")
        fate.comes("saved")
        return made

    MarkFile.save = saved  # type: ignore[method-assign]
    fate.before(BatchReader, "next", "next")
    fate.before(Flow, "sent", "sent")
    fate.before(Flow, "answered", "answered")
    fate.before(Spool, "uploaded", "uploaded")
    spool = Spool(spool_settings(folder))

    def channel() -> aio.Channel:
        secret = grpc.ssl_channel_credentials(
            identity["roots"].encode(), identity["key"].encode(), identity["chain"].encode()
        )
        return aio.secure_channel(address, secret, options=OPTIONS)

    host = Host(spool, Uploader(spool, folder, channel, lambda: 0, quiet_log(), lambda: 0.05))
    await spool.start()
    await host.uploader.start()
    name = f"life-{time.time_ns()}"
    for n in range(1, 41):
        await host.put(17, name)
        print(n * 17, name, flush=True)
        await asyncio.sleep(0.02)
    await host.uploaded(60.0)
    print("done", name, flush=True)


def main() -> None:
    kind, folder, *rest = sys.argv[1:]
    step, occurrence = rest[-2:]
    fate = Fate(step, int(occurrence))
    if kind == "controller":
        asyncio.run(controller_lives(Path(folder), fate))
    else:
        identity = json.loads((Path(folder).parent / "c" / "identity.json").read_text())
        asyncio.run(agent_lives(Path(folder), identity, rest[0], fate))


if __name__ == "__main__":
    main()
