"""Redirect calls per second and core: our server beside the Kamailio of the distribution, doing the same checks.

Both get the same calls from the same generator over loopback: a signed INVITE of 1.6 kB and its answer, and in a second
figure the ACK too. One call in ten is from a listed number and refused with 603, the others get 302 with the next hop
as Contact. Kamailio answers without a transaction; ours keeps one for each call in both figures, and where ACKs are
not measured it gets them after the measurement, before the first Timer G. Each server has one core to itself and the
generator the other one, all of them before everybody else on this machine where it lets us (SCHED_FIFO): whoever is
interrupted finds cold caches and short queues. What counts is CPU time of the server process per call, from its
schedstat. The generator is faster than the servers, so that they always have calls waiting, or it would be measured
what it costs them to wait: it hands datagrams to the kernel as segments, which costs it a third and reaches the server
as single datagrams all the same.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

from agent.ingress.datagrams import MAX_BATCH, pack_address, recv_batch
from agent.sip.transactions import T1
from tests.benchmarks.lists import write_plain_list
from tests.benchmarks.messages import invite

ROOT = Path(__file__).resolve().parents[2]
LISTED_FROM, LISTED = 2_015_500_000, 100_000
CALLS = 20_000  # of a round with ACKs
UNACKNOWLEDGED = 6_000  # of one without: all answered before Timer G sends the first answer again, half a second later
ROUNDS = 5
WINDOW = 64
SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
SEGMENTS_BYTES = 60_000  # of datagrams that are handed to the kernel as one
SILENCE_SECONDS = 2.0
SETTLE_SECONDS = 0.05  # after a round: the last ACKs are no part of the next one

KAMAILIO = """\
#!KAMAILIO
debug=0
log_stderror=yes
fork=yes
children=1
auto_aliases=no
disable_tcp=yes
disable_sctp=yes
socket_workers=1
max_while_loops=200000
listen=udp:127.0.0.1:{port}
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "htable.so"
loadmodule "pipelimit.so"
modparam("htable", "htable", "dno=>size=17;")
modparam("pipelimit", "timer_interval", 1)
event_route[htable:mod-init] {{
    $var(i) = 0;
    while ($var(i) < {listed}) {{
        $var(n) = {first} + $var(i);
        $sht(dno=>+1$var(n)) = 1;
        $var(i) = $var(i) + 1;
    }}
}}
request_route {{
    if ($rm == "ACK") {{ exit; }}
    if ($rm != "INVITE") {{ sl_send_reply("405", "Method Not Allowed"); exit; }}
    if ($sht(dno=>$fU) != $null) {{ sl_send_reply("603", "Decline"); exit; }}
    if (!pl_check("peer", "TAILDROP", "1000000")) {{ sl_send_reply("503", "Service Unavailable"); exit; }}
    $rd = "core.example.net";
    $rp = "5060";
    append_to_reply("Contact: <$ru>\\r\\n");
    sl_send_reply("302", "Moved Temporarily");
}}
"""


@dataclass(frozen=True)
class Measured:
    """CPU microseconds of the server per call, calls per second as generated, and answers by status."""

    cpu_us: float
    calls_per_s: float
    statuses: dict[bytes, int]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def calls(number: int, port: int) -> tuple[list[bytes], list[bytes]]:
    """INVITEs from this port, one in ten of a listed number, and their ACKs up to the tag."""
    invites, acks = [], []
    for i in range(CALLS):
        calling = f"1{LISTED_FROM + i % LISTED}" if i % 10 == 0 else f"12025{i % 600_000:06d}"
        raw = invite(
            calling,
            f"13035{i * 7 % 600_000:06d}",
            call_id=f"{i:08d}-{number}@127.0.0.1",
            branch=f"z9hG4bK{i:08d}{number}",
            source="127.0.0.1",
        ).replace(b"127.0.0.1:5060", b"127.0.0.1:%d" % port)
        rows = raw.split(b"\r\n")
        kept = [rows[0].replace(b"INVITE", b"ACK", 1), rows[1], rows[2], rows[3], rows[5], b"CSeq: 1 ACK", rows[4]]
        invites.append(raw)
        acks.append(b"\r\n".join(kept))
    return invites, acks


Maker = Callable[[int, int], tuple[list[bytes], list[bytes]]]
"""Makes the calls of a round, by its number and the port that they come from: INVITEs, and their ACKs up to the tag."""


class Generator:
    """Calls from one socket to one server, at most WINDOW of them without answer; `most` of those that `make` makes."""

    def __init__(self, sock: socket.socket, port: int, number: int, make: Maker, most: int | None = None) -> None:
        self._socket, self._fd = sock, sock.fileno()
        self._server = pack_address("127.0.0.1", port)
        sock.connect(("127.0.0.1", port))
        invites, self._acks = make(number, sock.getsockname()[1])
        self._invites = invites[:most]

    def run(self, *, acknowledge: bool) -> list[bytes]:
        """Every answer. With `acknowledge` each gets its ACK at once, together with the next INVITEs.

        Without, the loop does as little as it can: it must be faster than the servers, or it would be measured how
        they wait. Raises RuntimeError if an answer is missing.
        """
        sent, total = 0, len(self._invites)
        answers: list[bytes] = []
        heard = perf_counter()
        while len(answers) < total:
            got = [payload for payload, _ in recv_batch(self._fd, MAX_BATCH)]
            answers += got
            more = min(WINDOW - (sent - len(answers)), total - sent, MAX_BATCH)
            if acknowledge and got:
                self._send([self._ack(payload) for payload in got])
            if more:
                self._send(self._invites[sent : sent + more])
            sent += more
            if got:
                heard = perf_counter()
            elif perf_counter() - heard > SILENCE_SECONDS:
                raise RuntimeError(f"{sent - len(answers)} calls of {sent} were not answered")
        return answers

    def acknowledge(self, answers: list[bytes]) -> None:
        """Send the ACKs, no more at once than a small receive buffer holds."""
        acks = [self._ack(payload) for payload in answers]
        for at in range(0, len(acks), MAX_BATCH):
            self._send(acks[at : at + MAX_BATCH])
            sleep(0.0005)

    def _send(self, payloads: list[bytes]) -> None:
        """Datagrams of one length leave in one call, which the kernel takes apart again on their way."""
        at = 0
        while at < len(payloads):
            size, end = len(payloads[at]), at + 1
            last = min(len(payloads), at + SEGMENTS_BYTES // size)
            while end < last and len(payloads[end]) == size:
                end += 1
            self._socket.sendmsg(payloads[at:end], [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))])
            at = end

    def _ack(self, payload: bytes) -> bytes:
        at = payload.index(b"Call-ID: ") + 9
        tag = payload.index(b"tag=", payload.index(b"\r\nTo: "))
        tag_row = payload[tag : payload.index(b"\r\n", tag)]
        return self._acks[int(payload[at : at + 8])] + b";" + tag_row + b"\r\nContent-Length: 0\r\n\r\n"


def cpu_seconds(pids: list[int]) -> float:
    """Time on a processor of these processes with all their threads; the kernel counts it in nanoseconds."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def drive(port: int, number: int, make: Maker = calls) -> None:
    """Make all calls. Raises RuntimeError if one is not answered."""
    measure(port, [], number, make)


def measure(port: int, pids: list[int], number: int, make: Maker = calls, *, acknowledge: bool = True) -> Measured:
    """One round of calls."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        generator = Generator(sock, port, number, make, None if acknowledge else UNACKNOWLEDGED)
        before, started = cpu_seconds(pids), perf_counter()
        answers = generator.run(acknowledge=acknowledge)
        spent, seconds = cpu_seconds(pids) - before, perf_counter() - started
        if not acknowledge:
            generator.acknowledge(answers)
        sleep(SETTLE_SECONDS)
    total, statuses = len(answers), Counter(payload[8:11] for payload in answers)
    return Measured(spent / total * 1e6, total / seconds, dict(statuses))


@contextmanager
def one_core(core: int) -> Iterator[None]:
    """This process on one core only, if it has several; children that are started here stay there."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def undisturbed() -> Iterator[None]:
    """This process, and what it starts meanwhile, before all that others run here; as before without the right to."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError:
        print("not undisturbed: other processes may come between (it needs root)", file=sys.stderr)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


@contextmanager
def ours(folder: Path) -> Iterator[tuple[int, list[int]]]:
    """Our server: its port and its process."""
    path = folder / "bench.list"
    write_plain_list(path, range(LISTED_FROM, LISTED_FROM + LISTED))
    with one_core(0):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.redirect_server", str(path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), [process.pid]
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=10)


@contextmanager
def kamailio(folder: Path) -> Iterator[tuple[int, list[int]]]:
    """Kamailio with one UDP worker: its port and its worker's process. `-x fm -X fm`: its fast allocator."""
    port, config, pid_file = free_port(), folder / "kamailio.cfg", folder / "kamailio.pid"
    config.write_text(KAMAILIO.format(port=port, listed=LISTED, first=LISTED_FROM))
    with one_core(0):
        process = subprocess.Popen(
            ["kamailio", "-f", str(config), "-m", "256", "-M", "16", "-x", "fm", "-X", "fm", "-DD", "-E",
             "-P", str(pid_file), "-Y", str(folder)],
            stdout=subprocess.DEVNULL, stderr=(folder / "kamailio.log").open("w"),
        )  # fmt: skip
    try:
        yield port, kamailio_processes(process, port, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def kamailio_processes(process: "subprocess.Popen[bytes]", port: int, folder: Path) -> list[int]:
    """Every process of it, once it answers. Its timers and main process are included: they cost nothing to speak of."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.2)
        raw = invite(source="127.0.0.1").replace(b"INVITE sip", b"OPTIONS sip", 1)
        for _ in range(50):
            if process.poll() is not None:
                raise RuntimeError("kamailio ended: " + (folder / "kamailio.log").read_text()[-800:])
            try:
                probe.sendto(raw, ("127.0.0.1", port))
                probe.recv(65_535)
                break
            except OSError:
                sleep(0.05)
        else:
            raise RuntimeError("kamailio does not answer")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process.pid, *map(int, children)]


def compare(rounds: int = ROUNDS) -> dict[bool, tuple[Measured, Measured | None]]:
    """Our server, and Kamailio where it is installed: the median round of each, measured in turn.

    By whether the calls were acknowledged.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(undisturbed())
        servers = [stack.enter_context(ours(folder))]
        if shutil.which("kamailio") is not None:
            servers.append(stack.enter_context(kamailio(folder)))
        stack.enter_context(one_core(1))
        for port, _ in servers:
            drive(port, 0)
        found: dict[bool, list[list[Measured]]] = {False: [], True: []}
        for number in range(1, 2 * rounds + 1):
            acknowledge = number % 2 == 0
            row = [measure(*server, number, acknowledge=acknowledge) for server in servers]
            if acknowledge or all(UNACKNOWLEDGED / one.calls_per_s < T1 for one in row):  # else answers came twice
                found[acknowledge].append(row)
    result = {}
    for acknowledge, rows in found.items():
        if any(one.statuses != row[0].statuses for row in rows for one in row):
            raise RuntimeError(f"the servers decide differently: {rows}")
        if not rows:
            raise RuntimeError("this machine is too busy to answer calls before they are sent again")
        mine, *theirs = (
            sorted(column, key=lambda one: one.cpu_us)[len(rows) // 2] for column in zip(*rows, strict=True)
        )
        result[acknowledge] = mine, theirs[0] if theirs else None
    return result


if __name__ == "__main__":
    for kind, pair in compare().items():
        print("with ACK" if kind else "INVITE and answer", *pair, sep="\n  ")
