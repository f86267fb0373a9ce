"""The daemon as a service: how soon it gives a verdict, and what memory and CPU it takes under load.

    python -m tests.benchmarks.daemon build/bench-dno.list

prints one JSON object. The process is started as its unit starts it, in a control group with the unit's own MemoryMax
and CPUQuota where this machine lets us make one, with a list of a carrier's size mapped and records on disk. The load
comes half by the redirect and half by the hook, from this process. Memory is what the process has by itself
(anonymous) and all that is resident: pages of the list and of libraries are shared with every process that maps them.
"""

import gc
import json
import queue
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc

from agent.ingress.datagrams import MAX_BATCH, recv_batch
from tests.benchmarks.control_group import Limits, control_group, unit_limits
from tests.benchmarks.hook import MARK, SERVICE, count_of, messages
from tests.benchmarks.redirect import Generator, calls, cpu_seconds, free_port
from tests.fakes.agent_process import CONFIG, AgentProcess, start_agent
from tests.fakes.calls import invite

ROUNDS: Final = 5
RATES: Final = (1_000, 10_000)  # calls per second, half each way
SECONDS: Final = 4.0
TICKS: Final = 100  # per second
PATIENCE: Final = 10.0  # seconds for the last answers
SLACK: Final = 1.25  # of the time that the load may take: a generator that is late offers less than it says
POLICY: Final = """\
generation = 1
name = "bench"

[do_not_originate]
lists = ["bench-dno.list"]

[[trunks]]
id = "peer"
sources = ["192.0.2.0/24", "127.0.0.1"]

[trunks.redirect]
code = 302
next_hop = "core.example.net:5060"

[[limits]]
name = "rate-per-trunk"
scope = "trunk"
rate = 1e6
burst = 1e6

[[limits]]
name = "rate-per-caller"
scope = "calling"
rate = 1000
burst = 1000
"""


# ---- the load --------------------------------------------------------------------------------------------------------


class Redirected(Generator):
    """Calls to the redirect, so many up to now; each answer is acknowledged."""

    def __init__(self, sock: socket.socket, port: int, number: int) -> None:
        super().__init__(sock, port, number, calls)
        self.sent = self.answered = 0

    def step(self, more: int) -> None:
        """Send so many further calls, and take what was answered."""
        if more:
            self._send(self._invites[self.sent : self.sent + more])
            self.sent += more
        while got := [payload for payload, _ in recv_batch(self._fd, MAX_BATCH)]:
            self._send([self._ack(payload) for payload in got])
            self.answered += len(got)


class Asked:
    """Calls over one stream of the hook."""

    def __init__(self, channel: grpc.Channel, made: list[bytes]) -> None:
        self.sent = self.answered = 0
        self._made = made
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        ask: Any = channel.stream_stream(SERVICE + "ScreenStream")
        self._responses: Iterator[bytes] = ask(iter(self._messages.get, None))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def step(self, more: int) -> None:
        """Ask about so many further calls, if that is the size of the messages."""
        if more:
            self._messages.put(self._made[self.sent // more])
            self.sent += more

    def _read(self) -> None:
        for message in self._responses:
            self.answered += count_of(message)

    def end(self) -> None:
        """Nothing more is asked."""
        self._messages.put(None)
        self._thread.join(PATIENCE)


def offer(agent: AgentProcess, port: int, rate: int, number: int) -> dict[str, float]:
    """So many calls per second for SECONDS; what the daemon took for it. Raises RuntimeError if one has no answer."""
    steps, each = int(SECONDS * TICKS), rate // 2 // TICKS
    fresh = [message.replace(MARK, b"ROUND-%06d" % number) for message in messages(each, steps)]
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        channel = stack.enter_context(grpc.insecure_channel(f"unix:{agent.folder}/hook.sock"))
        ways = Redirected(sock, port, number), Asked(channel, fresh)
        pid = agent.process.pid
        gc.collect()
        before, began = cpu_seconds([pid]), time.monotonic()
        for step in range(steps):
            for way in ways:
                way.step(each)
            while began + (step + 1) / TICKS > time.monotonic():
                ways[0].step(0)
                time.sleep(0.001)
        took = time.monotonic() - began
        while sum(way.answered for way in ways) < 2 * steps * each and time.monotonic() < began + SECONDS + PATIENCE:
            ways[0].step(0)
            time.sleep(0.001)
        spent = cpu_seconds([pid]) - before
        ways[1].end()
    if any(way.answered < steps * each for way in ways):
        raise RuntimeError(f"of {steps * each} calls each way {[way.answered for way in ways]} were answered")
    if took > SLACK * SECONDS:
        raise RuntimeError(f"this machine is too busy to offer {rate} calls/s: it took {took:.1f} s, not {SECONDS:g}")
    return {f"core_at_{rate}": spent / took, f"resident_at_{rate}": resident(agent)["resident_mb"]}


# ---- the daemon ------------------------------------------------------------------------------------------------------


@contextmanager
def daemon(dno_list: Path, limits: Limits, port: int) -> Iterator[tuple[AgentProcess, Path | None, float]]:
    """It, ready, within the limits if that can be had (then their group's folder), and seconds to its first verdict."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    config = CONFIG + f'[redirect]\nudp = ["127.0.0.1:{port}"]\n'
    try:
        (folder / "bench-dno.list").symlink_to(dno_list.resolve())
        with control_group(limits) as group:
            started = time.monotonic()
            with group.entered():
                agent = start_agent(folder, config=config, policy=POLICY, environment=limits.environment)
            with agent:
                agent.manager.hears("READY=1")
                with agent.hook() as ask:
                    ask(invite())
                yield agent, group.memory, time.monotonic() - started
                agent.signal(signal.SIGTERM)
                agent.ends()
    finally:
        shutil.rmtree(folder)


def resident(agent: AgentProcess) -> dict[str, float]:
    """Megabytes of the process, as the kernel counts them."""
    text = Path(f"/proc/{agent.process.pid}/status").read_text()
    sizes = {
        name: int(kilobytes) * 1024 / 1e6 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)
    }
    return {"resident_mb": sizes["VmRSS"], "anonymous_mb": sizes["RssAnon"]}


def measure(dno_list: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Start the daemon so often, and put load on the last one."""
    limits, seconds, result = unit_limits(), [], {}
    for number in range(rounds):
        port = free_port()
        with daemon(dno_list, limits, port) as (agent, group, first):
            seconds.append(first)
            if number < rounds - 1:
                continue
            result = {**resident(agent), "limited": group is not None}
            for n, rate in enumerate(RATES):
                result |= offer(agent, port, rate, n)
    return {"first_verdict_s": median(seconds), **result}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
