"""The queue and the guard in a process of their own, as the daemon runs them: to be killed, stopped and measured.

`python -m tests.fakes.queue_process agent.toml policy.toml` prints "ready", then its counters as one line of JSON for
each line that it reads, and ends cleanly when its input does.
"""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.cli.kernel import read_settings
from agent.daemon import SWITCH_SECONDS
from agent.ingress.queue.server import QueueServer
from agent.kernel.guard import Guard
from agent.loading import load_policy
from agent.screening import Decision, Screening
from agent.service import RecordSink, Service
from tests.conftest import ROOT
from tests.fakes.namespaces import Namespace


class NoRecords(RecordSink):
    """Records have tests and measurements of their own."""

    def put(self, decision: Decision) -> None:
        pass


async def serve(config: Path, policy: Path) -> None:
    kernel, queue = read_settings(config)
    failures: list[Exception] = []
    service = Service(Screening(load_policy(policy), os.urandom(32), failures.append), NoRecords())
    parts: list[Guard | QueueServer] = []
    if kernel is not None:
        parts.append(Guard(kernel, failures.append))
    if queue is not None:
        parts.append(QueueServer(service, queue, failures.append))
    for part in parts:
        await part.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 1000)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        for part in parts:
            if isinstance(part, Guard):
                await part.look()
        counts = {name: number for part in parts for name, number in part.counters().items()}
        print(json.dumps(counts | {"failures": len(failures), "attempts": service.tally.attempts}), flush=True)
    for part in parts:
        await part.stop(0.5)
    for failure in failures[:3]:
        print(repr(failure), file=sys.stderr)


@dataclass
class QueueProcess:
    """A running one."""

    process: "subprocess.Popen[str]"

    def counters(self) -> dict[str, int]:
        """Asked now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        self.process.kill()
        self.process.wait()


@contextmanager
def queue_process(
    space: Namespace,
    folder: Path,
    config: str,
    policy: str,
    core: int | None = None,
    python: Sequence[str] = (sys.executable,),
) -> Iterator[QueueProcess]:
    """It, ready, in a namespace; on one core only if that is given, by another Python or user if that is given. It is
    ended afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agent.toml").write_text(config)
    (folder / "policy.toml").write_text(policy)
    files = [str(folder / "agent.toml"), str(folder / "policy.toml")]
    command = [*python, "-m", "tests.fakes.queue_process", *files]
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    with subprocess.Popen(
        space.command(*pinned, *command), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield QueueProcess(process)
        finally:
            process.send_signal(signal.SIGCONT)
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
