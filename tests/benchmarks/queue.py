"""What the queue costs a call that is allowed, how many it decides, and what a flood costs that the kernel cuts off.

Everything runs in network namespaces of its own, so it needs root. The kernel receives on the core of the sender, as
the cable is a veth pair: what cutting off costs is what sending takes longer than with the cable unplugged.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep, thread_time

from agent.ingress.datagrams import MAX_BATCH, pack_address, recv_batch, send_batch
from agent.kernel.netlink import SO_RCVBUFFORCE
from tests.benchmarks.messages import invite
from tests.benchmarks.redirect import cpu_seconds
from tests.fakes.calls import invite as plain_invite
from tests.fakes.namespaces import Namespace, join
from tests.fakes.queue_process import QueueProcess, queue_process
from tests.ingress.queue.wire import CALLER, PORT, SBC, Wire, wire

POLICY = f"""\
generation = 1
[[trunks]]
id = "peer"
sources = ["{CALLER}"]
[[limits]]
name = "trunk-rate"
scope = "trunk"
rate = 1000000
burst = 1000000
"""
QUEUE = "[queue]\n"
GUARD = '[kernel]\nengine = "{}"\nflood_rate = 50\nflood_burst = 50\n'
KAMAILIO = """\
#!KAMAILIO
debug=0
log_stderror=yes
children=1
auto_aliases=no
disable_tcp=yes
socket_workers=1
listen=udp:{host}:{port}
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "pipelimit.so"
modparam("pipelimit", "timer_interval", 1)
request_route {{
    if (!pl_check("$si", "TAILDROP", "50")) {{
        {refusal}
        exit;
    }}
    exit;
}}
"""
CALLS = 3_000  # one after the other
RATE_CALLS, WINDOW = 20_000, 128
FLOOD, PACED = 200_000, 20_000
ROUNDS = 5
SBC_ADDRESS = pack_address(SBC, PORT)

_numbers = count(1)


@dataclass(frozen=True)
class Measured:
    """What the queue adds to an allowed call, in ms, at the median and at 99 %; CPU of the agent per decision, in us,
    and decisions a second; CPU per INVITE of a flood, in us, that the kernel drops by eBPF or by nf_tables alone,
    and that Kamailio drops or answers with 503, to which the kernel's delivery to its socket belongs."""

    added_p50_ms: float
    added_p99_ms: float
    decision_us: float
    decisions_per_s: float
    shed_us: float
    shed_nftables_us: float
    kamailio_us: float | None
    kamailio_answering_us: float | None


def measure() -> Measured:
    """All of it, each figure the median of several rounds."""
    with tempfile.TemporaryDirectory() as name, wire() as net:
        folder = Path(name)
        cores = sorted(os.sched_getaffinity(0))
        ours, theirs = cores[-1], cores[0]
        os.sched_setaffinity(0, {ours})
        try:
            net.proxy.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
            rounds = [_latencies(net, folder, theirs) for _ in range(ROUNDS)]
            p50, p99 = (median(column) for column in zip(*rounds, strict=True))
            us, rate = _rate(net, folder, theirs)
            shed, shed_nftables = (_shed_us(net, folder, theirs, engine) for engine in ("ebpf", "nftables"))
            kamailio: list[float | None] = [None, None]
            if shutil.which("kamailio"):
                refusals = ("", 'sl_send_reply("503", "Service Unavailable");')
                kamailio = [_kamailio_us(net, folder, theirs, refusal) for refusal in refusals]
        finally:
            os.sched_setaffinity(0, cores)
        return Measured(p50, p99, us, rate, shed, shed_nftables, *kamailio)


def _latencies(net: Wire, folder: Path, core: int) -> tuple[float, float]:
    """With the queue less without it."""
    bare = _latency(net)
    with queue_process(net.sbc, folder, QUEUE, POLICY, core):
        _latency(net, 200)
        queued = _latency(net)
    return queued[0] - bare[0], queued[1] - bare[1]


def _latency(net: Wire, calls: int = CALLS) -> tuple[float, float]:
    """Milliseconds from the caller to the SBC's socket at the median and at 99 %, at about 1,000 calls a second."""
    raws = [_fresh() for _ in range(calls)]
    took = []
    for raw in raws:
        began = perf_counter()
        net.phone.sendto(raw, (SBC, PORT))
        while True:
            try:
                net.proxy.recv(65_535)
                break
            except BlockingIOError:
                if perf_counter() - began > 2.0:
                    raise RuntimeError("a call did not come through") from None
        took.append((perf_counter() - began) * 1000)
        sleep(0.0005)
    cut = quantiles(took, n=100)
    return cut[49], cut[98]


def _fresh() -> bytes:
    number = next(_numbers)
    return invite(
        f"12025{number % 600_000:06d}", call_id=f"{number}-{os.getpid()}@x", branch=f"z9hG4bK{number}", source=CALLER
    )


def _rate(net: Wire, folder: Path, core: int) -> tuple[float, float]:
    """CPU of the agent per decision, in us, with all its system calls, and decisions a second with a full window."""
    with queue_process(net.sbc, folder, QUEUE, POLICY, core) as agent:
        found = [_one_rate(net, agent) for _ in range(ROUNDS)]
    return median(us for us, _ in found), median(rate for _, rate in found)


def _one_rate(net: Wire, agent: QueueProcess) -> tuple[float, float]:
    target = pack_address(SBC, PORT)
    datagrams = [(_fresh(), target) for _ in range(RATE_CALLS)]
    phone, proxy = net.phone.fileno(), net.proxy.fileno()
    before = cpu_seconds([agent.process.pid])
    began = perf_counter()
    sent = came = 0
    while came < RATE_CALLS:
        more = min(WINDOW - (sent - came), RATE_CALLS - sent, MAX_BATCH)
        if more > 0:
            send_batch(phone, datagrams[sent : sent + more])
            sent += more
        came += len(recv_batch(proxy, MAX_BATCH))
        if perf_counter() - began > 30:
            raise RuntimeError(f"{sent - came} calls of {sent} did not come through")
    seconds = perf_counter() - began
    return (cpu_seconds([agent.process.pid]) - before) / RATE_CALLS * 1e6, RATE_CALLS / seconds


def _shed_us(net: Wire, folder: Path, core: int, engine: str) -> float:
    """What sending a flood takes longer when the guard drops it than when the cable is unplugged."""
    with queue_process(net.sbc, folder, GUARD.format(engine), POLICY, core) as agent:
        plugged = min(_flood_us(net) for _ in range(ROUNDS))
        counts = agent.counters()
        if counts["kernel_flood"] < 0.99 * ROUNDS * FLOOD:
            raise RuntimeError(f"the guard did not drop the flood: {counts}")
        net.sbc.ip("link", "set", "sbc0", "down")
        unplugged = min(_flood_us(net) for _ in range(ROUNDS))
        net.sbc.ip("link", "set", "sbc0", "up")
    return plugged - unplugged


def _flood_us(net: Wire, target: bytes = SBC_ADDRESS) -> float:
    """CPU per INVITE that is sent, in us: with what the kernel does on receipt, which it does in our system call."""
    datagrams = [(plain_invite(call_id=f"flood-{n}@x"), target) for n in range(MAX_BATCH)]
    phone = net.phone.fileno()
    began = thread_time()
    for _ in range(FLOOD // MAX_BATCH):
        send_batch(phone, datagrams)
    return (thread_time() - began) / FLOOD * 1e6


def _kamailio_us(net: Wire, folder: Path, core: int, refusal: str) -> float:
    """CPU of Kamailio's process per INVITE that it refuses, in us, and of the kernel that delivers it."""
    with ExitStack() as stack:
        behind = stack.enter_context(Namespace("kamailio"))
        join(net.caller, "caller1", behind, "kamailio0")
        # A namespace that ends loses its links some time later, and the next Kamailio is to have one of that name.
        stack.callback(net.caller.ip, "link", "del", "caller1")
        net.caller.address("caller1", "198.51.100.2/24")
        behind.address("kamailio0", "198.51.100.1/24")
        behind.ip("route", "add", "192.0.2.0/24", "dev", "kamailio0")
        pid = stack.enter_context(_kamailio(behind, folder, "198.51.100.1", core, refusal))
        target = pack_address("198.51.100.1", PORT)
        datagrams = [(plain_invite(call_id=f"flood-{n}@x"), target) for n in range(MAX_BATCH)]
        found = []
        for _ in range(ROUNDS):
            before, read, sending = cpu_seconds(pid), _datagrams_read(behind), thread_time()
            for _ in range(PACED // MAX_BATCH):
                send_batch(net.phone.fileno(), datagrams)
                sleep(MAX_BATCH / 30_000)  # or it would be the kernel that drops most of them
            delivering = (thread_time() - sending) / PACED
            sleep(0.05)
            found.append(((cpu_seconds(pid) - before) / (_datagrams_read(behind) - read) + delivering) * 1e6)
        behind.ip("link", "set", "kamailio0", "down")
        unplugged = _flood_us(net, target)
    return median(found) - unplugged


def _datagrams_read(space: Namespace) -> int:
    return int(space.run("grep", "^Udp:", "/proc/net/snmp").splitlines()[1].split()[1])


@contextmanager
def _kamailio(space: Namespace, folder: Path, host: str, core: int, refusal: str) -> Iterator[list[int]]:
    config = folder / "kamailio.cfg"
    config.write_text(KAMAILIO.format(host=host, port=PORT, refusal=refusal))
    command = [
        "taskset",
        "-c",
        str(core),
        "kamailio",
        "-f",
        str(config),
        "-m",
        "64",
        "-M",
        "16",
        "-x",
        "fm",
        "-X",
        "fm",
    ]
    command += ["-DD", "-E", "-Y", str(folder)]
    with (folder / "kamailio.log").open("w") as log:
        process = subprocess.Popen(space.command(*command), stdout=subprocess.DEVNULL, stderr=log)
        try:
            for _ in range(100):
                if process.poll() is not None:
                    raise RuntimeError("kamailio ended: " + (folder / "kamailio.log").read_text()[-800:])
                if f":{PORT:04X}" in Path(f"/proc/{process.pid}/net/udp").read_text():
                    break
                sleep(0.05)
            sleep(0.5)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield [process.pid, *map(int, children)]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=10)


if __name__ == "__main__":
    print(measure())
