"""Runs a program of ours, whole, with a few things changed for a test; each by a variable of the environment.

    python -m tests.fakes.hooked agent.cli.main run --config agent.toml

SBC_TEST_DIES     "STEP" or "STEP:3": it kills itself with SIGKILL before that step of its work, the third time
SBC_TEST_DEATH    a file that then holds the step
SBC_TEST_HURRY    seconds of keepalive, of the longest time between two attempts of an agent to connect, and until one
                  comes back whose place another one has taken
SBC_TEST_CLOCK    anything: its clock is off, see tests/fakes/clocks.py

The programs themselves know nothing of this.
"""

import os
import runpy
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.fakes.fate import Fate

AGENT_STEPS: Final = (
    "append",  # a group of records is encoded
    "half a group",  # half of its bytes are written
    "sync",  # all of them are, and not yet synced
    "appended",  # they are durable; nobody knows
    "segment",  # the next segment is made
    "seal",  # the last one gets its name
    "manifest",
    "mark",  # how far may be sent
    "marked",
    "send",
    "answered",
    "uploaded",  # the spool is told
)
"""Of a record's way, in the agent."""

OFFER_STEPS: Final = ("note", "noted", "swap", "swapped", "slot", "slotted", "confirm")
"""Of a policy's way, in the agent."""

INGEST_STEPS: Final = ("folder", "write", "half a file", "rename", "sync", "commit", "committed", "answer")
"""Of a record's way, in the controller."""

ROLLOUT_STEPS: Final = ("policy", "applied", "assign", "assigned", "report", "reported", "advance", "advanced")
"""Of a policy's way, in the controller."""


def agent_dies(fate: Fate) -> None:
    """Everything that an agent makes durable."""
    from agent.control import performing
    from agent.control.offers import Offers
    from agent.control.slots import Slots
    from agent.control.upload_flow import Flow
    from agent.control.upload_mark import MarkFile
    from agent.records import spool_files
    from agent.records.spool import Spool
    from agent.records.spool_files import OpenSegment
    from agent.records.spool_store import SpoolStore

    fate.before(OpenSegment, "append", "append")
    spool_files._write_all = half(fate, "half a group", spool_files._write_all, os.write)
    fate.after(spool_files, "_write_all", "sync")
    fate.after(OpenSegment, "append", "appended")
    fate.before(SpoolStore, "_segment", "segment")
    fate.before(OpenSegment, "seal", "seal")
    fate.before(SpoolStore, "_save_manifest", "manifest")
    fate.before(MarkFile, "save", "mark")
    fate.after(MarkFile, "save", "marked")
    fate.before(Flow, "sent", "send")
    fate.before(Flow, "answered", "answered")
    fate.before(Spool, "uploaded", "uploaded")
    fate.before(Slots, "save_journal", "note")
    fate.after(Slots, "save_journal", "noted")
    fate.before(performing.Performer, "_apply", "swap")
    fate.after(performing.Performer, "_apply", "swapped")
    fate.before(Slots, "save", "slot")
    fate.after(Slots, "save", "slotted")
    fate.before(Offers, "kept", "confirm")


def controller_dies(fate: Fate) -> None:
    """Everything that a controller makes durable."""
    import controller.services.reports
    from controller.archive.storage import FolderStorage
    from controller.store.policies import Policies
    from controller.store.records import Records
    from controller.store.rollouts import Rollouts

    write = FolderStorage.write
    FolderStorage.write = half_file(fate, write)  # type: ignore[method-assign]
    for name, step in (("make_folder", "folder"), ("write", "write"), ("rename", "rename"), ("sync_folder", "sync")):
        fate.before(FolderStorage, name, step)
    for owner, name, before, after in (
        (Records, "commit", "commit", "committed"),
        (Policies, "add", "policy", "applied"),
        (Rollouts, "assign", "assign", "assigned"),
        (Rollouts, "report", "report", "reported"),
        (Rollouts, "save", "advance", "advanced"),
    ):
        fate.before(owner, name, before)
        fate.after(owner, name, after)
    fate.before(controller.services.reports, "progress_to", "answer")


def half(fate: Fate, step: str, write: Callable[..., None], raw: Callable[[int, Any], int]) -> Callable[..., None]:
    """Half of the bytes, and then the end."""

    def fated(file: int, data: bytes) -> None:
        if fate.is_next(step):
            raw(file, memoryview(data)[: len(data) // 2])
        fate.comes(step)
        write(file, data)

    return fated


def half_file(fate: Fate, write: Callable[..., None]) -> Callable[..., None]:
    """Half of a file of the archive, and then the end."""

    def fated(self: Any, temporary: Path, data: Any) -> None:
        if fate.is_next("half a file"):
            temporary.write_bytes(memoryview(data)[: data.size // 2])
        fate.comes("half a file")
        write(self, temporary, data)

    return fated


def hurry(seconds: float) -> None:
    """What takes minutes takes seconds: finding out that nobody answers, and asking again."""
    from agent.control import backoff, channels
    from controller.fleet import live
    from controller.services import server

    short = {
        "grpc.keepalive_time_ms": int(seconds * 1000),
        "grpc.keepalive_timeout_ms": int(seconds * 8000),
        "grpc.http2.ping_timeout_ms": int(seconds * 8000),
        "grpc.http2.min_recv_ping_interval_without_data_ms": 10,  # pings bunch up on a busy machine
    }
    channels.OPTIONS = tuple(  # type: ignore[misc,assignment]
        (name, short.get(name, value)) for name, value in channels.OPTIONS
    )
    options = server.server_options
    server.server_options = lambda connections: [(n, short.get(n, value)) for n, value in options(connections)]
    backoff.FIRST_SECONDS = min(seconds, 0.5)  # type: ignore[misc]
    backoff.LONGEST_SECONDS = seconds  # type: ignore[misc]
    live.BACK_LATER = seconds  # type: ignore[attr-defined]


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


def main() -> None:
    program, *arguments = sys.argv[1:]
    step, _, occurrence = os.environ.get("SBC_TEST_DIES", "").partition(":")
    if step:
        fate = Fate(step, int(occurrence or 1), Path(os.environ["SBC_TEST_DEATH"]))
        (agent_dies if program.startswith("agent.") else controller_dies)(fate)
    if seconds := os.environ.get("SBC_TEST_HURRY"):
        hurry(float(seconds))
    if "SBC_TEST_CLOCK" in os.environ:
        # libfaketime 0.9.10 has clock_nanosleep until a time of the monotonic clock sleep for the offset, too.
        time.sleep = _sleep  # type: ignore[assignment]
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__")


if __name__ == "__main__":
    main()
