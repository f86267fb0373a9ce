"""How soon a started daemon gives its first verdict, and how much memory it holds with a list of a carrier's size.

    python -m tests.benchmarks.daemon build/bench-dno.list

prints one JSON object: seconds from exec to the first verdict over the hook (median), and megabytes resident, idle.
Memory is what the process has by itself (anonymous), and all that is resident: pages of the list and of libraries are
shared with every process that maps them.
"""

import json
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

from tests.fakes.agent_process import CONFIG, POLICY, AgentProcess, start_agent
from tests.fakes.calls import invite

ROUNDS: Final = 5
LISTED: Final = POLICY + '\n[do_not_originate]\nlists = ["bench-dno.list"]\n'


def measure(dno_list: Path, rounds: int = ROUNDS) -> dict[str, float]:
    """Start the daemon so often, ask about one call each time, and read its memory the last time."""
    seconds = []
    memory: dict[str, float] = {}
    for _ in range(rounds):
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
        try:
            (folder / "bench-dno.list").symlink_to(dno_list.resolve())
            started = time.monotonic()
            with start_agent(folder, config=CONFIG, policy=LISTED) as agent:
                agent.manager.hears("READY=1")
                with agent.hook() as ask:
                    ask(invite())
                seconds.append(time.monotonic() - started)
                memory = resident(agent)
                agent.signal(signal.SIGTERM)
                agent.ends()
        finally:
            shutil.rmtree(folder)
    return {"first_verdict_s": median(seconds), **memory}


def resident(agent: AgentProcess) -> dict[str, float]:
    """Megabytes of the process, as the kernel counts them."""
    text = Path(f"/proc/{agent.process.pid}/status").read_text()
    sizes = {
        name: int(kilobytes) * 1024 / 1e6 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)
    }
    return {"resident_mb": sizes["VmRSS"], "anonymous_mb": sizes["RssAnon"]}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
