"""What capturing costs: packets a second without loss and CPU per packet, beside tcpdump and scapy's sniff.

Each capturer sits alone at one end of a veth pair, in a namespace of its own and on one core, with a ring of 16 MiB and
a filter; the sender has the other core, on which the kernel also does the copying. Bursts of 1.6 kB INVITEs get faster
until a capturer loses packets. CPU is what the scheduler books on the capturer's process, and so what its core could do
at most; what the kernel does on the sender's core is the same for all. On a machine that has other things to do only
that can be compared: whoever does not get the core in time loses packets.

Run as a module it is one of the programs: `send`, `packets` (into Python objects, where tcpdump writes to a file),
`server` (the whole: messages, screening, pairing) or `scapy`.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from select import select
from statistics import median

from agent.calls.pairing import Pairing
from agent.ingress.capture.observer import Observer
from agent.ingress.capture.server import CaptureServer
from agent.ingress.capture.settings import CaptureSettings
from agent.ingress.datagrams import send_batch
from agent.kernel.bpf import capture_filter
from agent.kernel.links import LinkWatch
from agent.kernel.packet import PacketSocket, Shape
from agent.policy.compile import compile_policy
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.benchmarks.messages import invite
from tests.fakes.namespaces import Namespace, join, run
from tests.ingress.frames import ethernet, ipv4, udp
from tests.integration.peers import wait_for

ROOT = Path(__file__).resolve().parents[2]
RING = 16 << 20
SECONDS = 1.0  # of one burst: at the highest rates the ring holds a twentieth of it
STEP = 1.5
TRIES = 3  # a capturer that lost packets because this machine had other things to do gets another chance
BATCH = 32
DIFFERENT = 2048  # calls, over and over again
QDISC_BYPASS = 20


# -- the programs -----------------------------------------------------------------------------------------------------


def frames() -> list[bytes]:
    """INVITEs with Identity and SDP, 1.6 kB, each of another call."""
    calls = (invite(f"12015{n:06d}", call_id=f"{n}@192.0.2.10", branch=f"z9hG4bK{n}") for n in range(DIFFERENT))
    return [ethernet(ipv4(udp(call))) for call in calls]


def send(interface: str, rate: float, seconds: float) -> None:
    """Packets at that rate, in batches; prints how many there were and how long it took."""
    made = frames()
    batches = [[(frame, b"") for frame in made[at : at + BATCH]] for at in range(0, len(made), BATCH)]
    total = int(rate * seconds)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.setsockopt(263, QDISC_BYPASS, 1)
        sender.bind((interface, 0))
        sent = unsent = turn = 0
        began = time.perf_counter()
        while sent < total:
            while time.perf_counter() - began < sent / rate:
                pass
            unsent += send_batch(sender.fileno(), batches[turn % len(batches)])
            sent += BATCH
            turn += 1
        print(json.dumps({"sent": sent - unsent, "seconds": time.perf_counter() - began}))


def packets(interface: str) -> None:
    """Read packets until SIGINT; what tcpdump does, without a file."""

    def filter_of(shape: Shape, skip: bool) -> bytes:
        return capture_filter((5060,), (b"INVITE",), ethernet=shape is Shape.ETHERNET, skip_outgoing=skip)

    tap, watch = PacketSocket(interface, filter_of, RING), LinkWatch()
    link = watch.look(interface)
    assert link is not None
    tap.open()
    tap.bind(link)
    seen = size = 0
    try:
        while True:
            select([tap], [], [])
            while (block := tap.read()) is not None:
                seen += len(block)
                size += sum(len(packet[1]) for packet in block)
    except KeyboardInterrupt:
        tap.count()
        print(json.dumps({"seen": seen, "lost": tap.lost, "bytes": size}))


async def server(interface: str) -> None:
    """The whole capture until SIGINT."""
    limit = pb.Limit(name="rate", scope=pb.SCOPE_TRUNK, rate=1e6, burst=1e6)
    policy = compile_policy(pb.Policy(limits=[limit]), {})
    settings = CaptureSettings(interfaces=(interface,), methods=("INVITE",), ring_bytes=RING, cpu_share=1.0)
    made = CaptureServer(settings, Observer(lambda: policy), Pairing())
    await made.start()
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ending.set)
    await ending.wait()
    await made.stop(5.0)
    counters = made.counters()
    print(json.dumps({"seen": counters["capture_sip_messages"], "lost": counters["capture_kernel_drops"]}))


def scapy(interface: str) -> None:
    """scapy's sniff with a filter and nothing to do for each packet but to count it."""
    from scapy.config import conf
    from scapy.sendrecv import sniff

    conf.bufsize = RING
    seen = 0

    def count(_packet: object) -> None:
        nonlocal seen
        seen += 1

    # It catches SIGINT itself, and returns.
    sniff(iface=interface, filter="udp port 5060", store=False, prn=count)
    print(json.dumps({"seen": seen}))


# -- the comparison ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """`rate`: packets a second of the fastest burst without loss, 0 if there was none. `cpu_us`: microseconds of CPU
    per packet that was captured, the median of all bursts."""

    rate: float
    cpu_us: float


@dataclass(frozen=True)
class Capturer:
    """A program that captures, and how fast it is tried first."""

    command: Sequence[str]
    first: float
    counted: Callable[[str], int]


def _json_seen(output: str) -> int:
    return int(json.loads(output.strip().splitlines()[-1])["seen"])


def _tcpdump_seen(output: str) -> int:
    match = re.search(r"(\d+) packets? captured", output)
    assert match, output
    return int(match[1])


def _ours(program: str) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.live_capture", program, "sbc0"]


CAPTURERS = {
    "packets": Capturer(_ours("packets"), 40_000, _json_seen),
    "tcpdump": Capturer(
        ["tcpdump", "-i", "sbc0", "-n", "-p", "-B", str(RING >> 10), "-w", "/dev/null", "udp port 5060"],
        40_000,
        _tcpdump_seen,
    ),
    "server": Capturer(_ours("server"), 8_000, _json_seen),
    "scapy": Capturer(_ours("scapy"), 1_000, _json_seen),
}


class Wire:
    """Both namespaces, and bursts from one to the other."""

    def __init__(self, peer: Namespace, sbc: Namespace) -> None:
        self._peer, self._sbc = peer, sbc

    def burst(self, capturer: Capturer, rate: float) -> tuple[float, int, float]:
        """The rate that was reached, packets lost, and microseconds of CPU per packet."""
        cpus = sorted(os.sched_getaffinity(0))
        log = ROOT / "build" / "bench-capture.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as output:
            command = self._sbc.command("taskset", "-c", str(cpus[0]), *capturer.command)
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
        try:
            wait_for(self._capturing, "the capturer to begin")
            before = _cpu(process.pid)
            command = [sys.executable, "-m", "tests.benchmarks.live_capture", "send", "peer0"]
            command += [str(rate), str(SECONDS)]
            sent = json.loads(run(self._peer.command("taskset", "-c", str(cpus[-1]), *command)))
            _until_idle(process.pid)
            cpu = _cpu(process.pid) - before
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20.0)
        seen = capturer.counted(log.read_text())
        return sent["sent"] / sent["seconds"], sent["sent"] - seen, cpu / max(seen, 1) * 1e6

    def _capturing(self) -> bool:
        rows = self._sbc.run("cat", "/proc/net/packet").splitlines()[1:]
        return any(row.split()[4] != "0" for row in rows)

    def fastest(self, capturer: Capturer) -> Result:
        """Faster and faster, until packets are lost again and again, or the sender can do no more."""
        best, cpus, rate = 0.0, [], capturer.first
        while True:
            for _ in range(TRIES):
                reached, lost, cpu = self.burst(capturer, rate)
                cpus.append(cpu)
                if not lost:
                    break
            else:
                break
            best = max(best, reached)
            if reached < rate * 0.9:
                break
            rate *= STEP
        return Result(best, median(cpus))


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process (of one thread) has used; by the scheduler, which counts nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _until_idle(pid: int) -> None:
    """Until it has worked off what waits: asleep, and no CPU, for a fifth of a second."""
    used, since = _cpu(pid), time.monotonic()
    ends = since + 30.0
    while time.monotonic() < ends and time.monotonic() - since < 0.2:
        time.sleep(0.02)
        asleep = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
        if _cpu(pid) != used or not asleep:
            used, since = _cpu(pid), time.monotonic()


@contextmanager
def wire() -> Iterator[Wire]:
    """A cable for jumbo frames, so that an INVITE of 1.6 kB is one packet."""
    with Namespace("peer") as peer, Namespace("sbc") as sbc:
        join(peer, "peer0", sbc, "sbc0")
        for namespace, interface in ((peer, "peer0"), (sbc, "sbc0")):
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
            namespace.ip("link", "set", interface, "mtu", "4000")
            namespace.ip("link", "set", interface, "up")
        yield Wire(peer, sbc)


def compare(names: Sequence[str] = tuple(CAPTURERS)) -> dict[str, Result]:
    """Each in turn on the same wire."""
    with wire() as made:
        return {name: made.fastest(CAPTURERS[name]) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=["send", "packets", "server", "scapy", "compare"])
    parser.add_argument("interface", nargs="?", default="")
    parser.add_argument("rate", nargs="?", type=float, default=0.0)
    parser.add_argument("seconds", nargs="?", type=float, default=SECONDS)
    args = parser.parse_args()
    if args.program == "send":
        send(args.interface, args.rate, args.seconds)
    elif args.program == "server":
        asyncio.run(server(args.interface))
    elif args.program == "compare":
        for name, result in compare().items():
            print(f"{name:10} {result.rate:12,.0f} packets/s {result.cpu_us:8.2f} us CPU")
    else:
        {"packets": packets, "scapy": scapy}[args.program](args.interface)


if __name__ == "__main__":
    main()
