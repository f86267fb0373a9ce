"""A soak: the real daemon under steady traffic by both ways in, and what its memory does meanwhile.

    python -m tests.integration.soak --seconds 3600 --rate 1000 --out build/soak.csv

Half of the calls come by SIP to the redirect server (each answered, each answer acknowledged), half by batches on
the hook's stream; every second a stream is opened and cancelled, and sessions open and end by events. One call in
ten has a calling number that is refused. Everything is on loopback, bounded in time, and stops by itself. Not part
of the tests, which have a short form of it.
"""

import argparse
import csv
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

import grpc

from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc
from tests.benchmarks.messages import invite

POLICY = """
generation = 1
[do_not_originate]
[[limits]]
name = "per-calling"
scope = "calling"
rate = 1000
burst = 1000
[[limits]]
name = "sessions"
scope = "global"
sessions = 1000000
"""
TICK = 0.05  # seconds between two bursts of the generators
BATCH = 256  # calls in one message of the stream: well under its bound of 1 MiB, also after a pause of this machine
HOLD = 20.0  # seconds that a call on the hook lasts
SAMPLE_EVERY = 10.0


def free_udp_port() -> int:
    """A UDP port on loopback that nobody has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_agent(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon with both ways in and a small spool, until the block ends."""
    (folder / "policy.toml").write_text(POLICY)
    (folder / "agent.toml").write_text(f"""
[policy]
file = "{folder}/policy.toml"
[hook]
socket = "{folder}/hook.sock"
[redirect]
udp = ["127.0.0.1:{port}"]
[records]
directory = "{folder}/spool"
max_bytes = 268435456
[metrics]
listen = "127.0.0.1:0"
[admin]
socket = "{folder}/admin.sock"
""")
    command = [sys.executable, "-m", "agent.cli.main", "run", "--config", str(folder / "agent.toml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def call(number: int) -> bytes:
    """The number-th call; one in ten shows a calling number that the numbering plan does not allow."""
    calling = "12012115555" if number % 10 == 0 else f"12015{number % 600_000:06d}"
    return invite(calling, f"13035{number * 7 % 600_000:06d}", f"{number}@192.0.2.10", f"z9hG4bK{number}")


class Load(threading.Thread):
    """One generator: `rate` calls per second until `stop` is set."""

    def __init__(self, rate: float, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.sent = self.answered = self.refused = 0
        self.rate, self.stop = rate, stop

    def ticks(self) -> Iterator[int]:
        """How many calls are due, every TICK seconds; late ones are made up for."""
        started, done = time.monotonic(), 0
        while not self.stop.wait(TICK):
            due = int((time.monotonic() - started) * self.rate)
            yield due - done
            done = due


class SipLoad(Load):
    """Calls to the redirect server over UDP; acknowledges every final answer."""

    def __init__(self, rate: float, stop: threading.Event, port: int) -> None:
        super().__init__(rate, stop)
        self.port = port

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sip:
            sip.connect(("127.0.0.1", self.port))
            sip.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            number = 0
            for due in self.ticks():
                for _ in range(due):
                    number += 1
                    sip.send(call(number))
                    self.sent += 1
                self._drain(sip)

    def _drain(self, sip: socket.socket) -> None:
        while True:
            try:
                answer = sip.recv(65_535, socket.MSG_DONTWAIT)
            except OSError:
                return
            self.answered += 1
            self.refused += answer.startswith(b"SIP/2.0 603")
            head, _, _ = answer.partition(b"\r\n\r\n")
            rows = [
                r for r in head.split(b"\r\n")[1:] if r[:4].lower() in (b"via:", b"from", b"to: ", b"call", b"cseq")
            ]
            ack = b"\r\n".join([b"ACK sip:sbc.example.net SIP/2.0", *rows]).replace(b"INVITE", b"ACK")
            sip.send(ack + b"\r\nContent-Length: 0\r\n\r\n")


class HookLoad(Load):
    """Calls by batches on one stream, sessions by events, and a cancelled stream every second."""

    def __init__(self, rate: float, stop: threading.Event, address: str) -> None:
        super().__init__(rate, stop)
        self.address = address

    def run(self) -> None:
        batches: SimpleQueue[list[int]] = SimpleQueue()
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(30)
            stub = screening_pb2_grpc.ScreeningServiceStub(channel)
            threading.Thread(target=self._report, args=(stub,), daemon=True).start()
            responses = stub.ScreenStream(self._requests(batches))
            threading.Thread(target=self._read, args=(responses,), daemon=True).start()
            number, last = 10_000_000_000, time.monotonic()
            for due in self.ticks():
                for first in range(number, number + due, BATCH):
                    batches.put(list(range(first, min(first + BATCH, number + due))))
                number += due
                self.sent += due
                if time.monotonic() - last > 1:
                    last = time.monotonic()
                    doomed = stub.ScreenStream(iter([pb.ScreenStreamRequest()]))
                    doomed.cancel()

    def _requests(self, batches: SimpleQueue[list[int]]) -> Iterator[pb.ScreenStreamRequest]:
        while not self.stop.is_set():
            try:
                numbers = batches.get(timeout=1)
            except Empty:
                continue
            yield pb.ScreenStreamRequest(
                requests=[
                    pb.ScreenRequest(id=n, sip_message=call(n), source_address="192.0.2.10", source_port=5060)
                    for n in numbers
                ]
            )

    def _read(self, responses: Iterator[pb.ScreenStreamResponse]) -> None:
        try:
            for batch in responses:
                self.answered += len(batch.responses)
                self.refused += sum(r.decision == pb.DECISION_REFUSE for r in batch.responses)
        except grpc.RpcError as error:
            print(f"hook stream ended: {error}", file=sys.stderr)

    def _report(self, stub: screening_pb2_grpc.ScreeningServiceStub) -> None:
        """End every call HOLD seconds after it was sent."""
        number, started = 10_000_000_000, time.monotonic()

        def events() -> Iterator[pb.ReportEventsRequest]:
            nonlocal number
            while not self.stop.wait(1.0):
                until = 10_000_000_000 + max(0, int((time.monotonic() - started - HOLD) * self.rate))
                for first in range(number, until, 1000):
                    yield pb.ReportEventsRequest(
                        events=[
                            pb.CallEvent(call_id=f"{n}@192.0.2.10", from_tag="9fd1a6", ended=pb.Ended(sip_code=486))
                            for n in range(first, min(first + 1000, until))
                        ]
                    )
                number = max(number, until)

        try:
            stub.ReportEvents(events())
        except grpc.RpcError as error:
            print(f"events ended: {error}", file=sys.stderr)


def sample(pid: int) -> tuple[float, int, int]:
    """Resident megabytes, open files and threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000, help="calls per second by both ways together")
    parser.add_argument("--out", type=Path, default=Path("build/soak.csv"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    stop, port = threading.Event(), free_udp_port()
    with tempfile.TemporaryDirectory() as name, args.out.open("w", newline="") as out:
        folder = Path(name)
        with running_agent(folder, port) as agent:
            loads: list[Load] = [
                SipLoad(args.rate / 2, stop, port),
                HookLoad(args.rate / 2, stop, f"unix:{folder}/hook.sock"),
            ]
            time.sleep(2)
            if agent.poll() is not None:
                print((folder / "log").read_text(), file=sys.stderr)
                return 1
            for load in loads:
                load.start()
            rows = csv.writer(out)
            rows.writerow(["seconds", "resident_mb", "files", "threads", "sent", "answered", "refused"])
            started = time.monotonic()
            while (elapsed := time.monotonic() - started) < args.seconds and agent.poll() is None:
                totals = [sum(getattr(load, field) for load in loads) for field in ("sent", "answered", "refused")]
                rows.writerow([round(elapsed), *sample(agent.pid), *totals])
                out.flush()
                time.sleep(min(SAMPLE_EVERY, args.seconds))
            died = agent.poll()
            stop.set()
            print(args.out.read_text().splitlines()[-1])
        if died is not None:
            print(f"the agent ended with {died}:\n" + (folder / "log").read_text()[-2000:], file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
