"""Real peers for tests: Kamailio, sipp and anything else that is a program, each in the foreground on loopback.

Each peer has a folder of its own, a bounded start and stop, and a log that is shown when it lets a test down. Only
processes started here are ever ended, by their own id.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from tests.fakes.waiting import PATIENCE

LOOPBACK: Final = "127.0.0.1"
KAMAILIO_MODULES: Final = (
    Path("/usr/lib/x86_64-linux-gnu/kamailio/modules"),
    Path("/usr/lib/aarch64-linux-gnu/kamailio/modules"),
    Path("/usr/lib64/kamailio/modules"),
)
START_SECONDS: Final = 15.0
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.01
LOG_TAIL: Final = 6000


def need(*programs: str) -> None:
    """Skip the test unless these programs are installed."""
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (apt-get install {_PACKAGES.get(program, program)})")


_PACKAGES: Final = {"sipp": "sip-tester", "dumpcap": "tshark", "setpriv": "util-linux"}
_MODULE_PACKAGES: Final = {"app_python3": "kamailio-python3-modules", "secsipid": "kamailio-secsipid-modules"}


def need_kamailio(*modules: str) -> None:
    """Skip the test unless Kamailio is there, with these modules."""
    need("kamailio")
    for module in modules:
        if not any((folder / f"{module}.so").exists() for folder in KAMAILIO_MODULES):
            package = _MODULE_PACKAGES.get(module, "kamailio")
            pytest.skip(f"Kamailio's module {module} is not installed (apt-get install {package})")


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    """A port of the loopback address that nobody uses just now, by UDP or by TCP."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def free_sip_port() -> int:
    """A port of the loopback address that nobody uses just now, neither by UDP nor by TCP."""
    while True:
        port = free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def wait_for(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Return as soon as `condition()` holds. Raises AssertionError that says what was waited for."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for: {what}"
        time.sleep(POLL_SECONDS)


# Tests that are killed take their peers with them, where util-linux is there (prctl(2), PR_SET_PDEATHSIG).
_END_WITH_US: Final = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()


class Peer:
    """A program in the foreground. `with` starts and stops it; a failure within shows the end of its log."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.folder = folder
        self.ends_by_itself = False
        self.talkative = False
        self.log_file = folder / f"{name}.log"
        self._command = tuple(command)
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it has written so far, standard output and standard error."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it, and wait until it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            # A session of its own: a signal to one peer reaches its workers, and nobody else's.
            self._process = subprocess.Popen(
                (*_END_WITH_US, *self._command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if self.talkative else log,
                stderr=log,
                cwd=self.folder,
                env=self._env,
                start_new_session=True,
            )
        try:
            wait_for(self._ready_or_dead, f"{self.name} to be ready")
            assert self.running or self.ends_by_itself, f"{self.name} ended at once"
        except AssertionError as error:
            error.add_note(self.report())
            self.kill()
            raise
        return self

    def ready(self) -> bool:
        """Whether it can be used; what that means is for each kind of peer to say."""
        return True

    def _ready_or_dead(self) -> bool:
        return not self.running or self.ready()

    def wait(self, seconds: float) -> int:
        """Wait until it ends by itself; its exit code."""
        assert self._process
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            report = self.report()
            self.kill()
            raise AssertionError(f"{self.name} did not end within {seconds:g} s\n{report}") from None

    def signal(self, number: int) -> None:
        """Send a signal to it and to what it started."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, without notice."""
        self.signal(signal.SIGKILL)
        if self._process:
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        self.signal(signal.SIGTERM)
        try:
            if self._process:
                self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def report(self) -> str:
        """The end of its log, under its name."""
        return f"--- {self.name}: {' '.join(self._command)}\n{self.log[-LOG_TAIL:]}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error:
            error.add_note(self.report())


class Kamailio(Peer):
    """Kamailio with this configuration. `defines` are -A values; `include` the folders of included files."""

    def __init__(
        self,
        folder: Path,
        config: Path,
        defines: dict[str, str],
        include: Sequence[Path] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.port = free_sip_port()
        listen = {f"SBC_LISTEN_{kind.upper()}": f"{kind}:{LOOPBACK}:{self.port}" for kind in ("udp", "tcp")}
        values = {**listen, "SBC_FROM_OTHERS": f'"udp:{LOOPBACK}:{self.port}"', **defines}
        # Included files are looked for beside the one that includes them.
        folder.mkdir(parents=True, exist_ok=True)
        for file in [config, *(file for path in include for file in path.glob("*.cfg"))]:
            shutil.copy(file, folder)
        command = ["kamailio", "-f", str(folder / config.name), "-DD", "-E", "-Y", str(folder)]
        command += ["-x", "fm", "-X", "fm", "-m", "64", "-M", "8"]
        command += [part for name, value in values.items() for part in ("-A", f"{name}={value}")]
        super().__init__("kamailio", command, folder, env)

    @property
    def address(self) -> tuple[str, int]:
        """Where it takes SIP by UDP."""
        return LOOPBACK, self.port

    def ready(self) -> bool:
        """Whether a worker answers; a message that is no SIP request of ours gets an answer of the core."""
        return answers(self.address)


def answers(address: tuple[str, int], host: str = LOOPBACK) -> bool:
    """Whether a SIP server answers there at all, be it to say that it cannot help. It is asked from `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        probe.settimeout(0.2)
        port = probe.getsockname()[1]
        rows = [
            f"OPTIONS sip:{address[0]}:{address[1]} SIP/2.0",
            f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK-probe-{port}",
            "Max-Forwards: 0",
            f"From: <sip:probe@{host}>;tag=1",
            f"To: <sip:{address[0]}>",
            f"Call-ID: probe-{port}",
            "CSeq: 1 OPTIONS",
            "Content-Length: 0",
        ]
        try:
            probe.sendto(("\r\n".join(rows) + "\r\n\r\n").encode(), address)
            return probe.recv(65535).startswith(b"SIP/2.0 ")
        except OSError:
            return False


class Sipp(Peer):
    """One sipp with one scenario. `keys` fill [name] in the scenario, a row of `fields` [field0], [field1] ... of each
    call (no ";" in them). It keeps the messages and the response times.

    transport: "udp" or "tcp".
    """

    def __init__(
        self,
        folder: Path,
        scenario: Path,
        *,
        remote: tuple[str, int] | None = None,
        host: str = LOOPBACK,
        transport: str = "udp",
        calls: int = 0,
        rate: float = 50.0,
        keys: dict[str, str] | None = None,
        fields: Sequence[Sequence[str]] = (),
        seconds: float = 30.0,
    ) -> None:
        self.port = free_port()
        self.host = host
        self.seconds = seconds
        name = f"{scenario.stem}-{self.port}"
        # sipp's own -key fills messages only, not what is expected of them.
        text = scenario.read_text()
        for key, value in (keys or {}).items():
            text = text.replace(f"[{key}]", value)
        folder.mkdir(parents=True, exist_ok=True)
        filled = folder / f"{name}.xml"
        filled.write_text(text)
        self._messages = folder / f"{name}-messages.log"
        command = ["sipp", "-sf", str(filled), "-i", host, "-p", str(self.port), "-cp", str(free_port())]
        command += ["-nostdin", "-trace_err", "-error_file", str(folder / f"{name}-errors.log")]
        command += ["-trace_msg", "-message_file", str(self._messages)]
        command += [
            "-trace_rtt",
            "-rtt_freq",
            "1",
            "-timeout",
            f"{seconds:g}s",
            "-timeout_error",
            "-mp",
            str(free_port()),
        ]
        if fields:
            table = folder / f"{name}.csv"
            table.write_text("SEQUENTIAL\n" + "".join(";".join(row) + ";\n" for row in fields))
            command += ["-inf", str(table)]
        if calls:
            command += ["-m", str(calls), "-r", f"{rate:g}"]
        command += ["-t", "t1" if transport == "tcp" else "u1"]
        if remote:
            command += [f"{remote[0]}:{remote[1]}"]
        super().__init__(name, command, folder, {"TERM": "dumb"})
        self.ends_by_itself = calls > 0
        self.talkative = True  # it draws screens for people; what went wrong is in its error file

    @property
    def address(self) -> tuple[str, int]:
        """Where it sends from and listens."""
        return self.host, self.port

    def ready(self) -> bool:
        """Whether its port is open."""
        # To try and bind it would be to take it away from sipp at the wrong moment.
        rows = Path("/proc/net/udp").read_text().splitlines()[1:]
        return self.ends_by_itself or any(row.split()[1].endswith(f":{self.port:04X}") for row in rows)

    def finish(self) -> None:
        """Wait until all calls are through; AssertionError with sipp's own words if one failed."""
        code = self.wait(self.seconds + STOP_SECONDS)
        errors = "".join(path.read_text(errors="replace") for path in self.folder.glob(f"{self.name}-errors.log"))
        assert code == 0, f"sipp ended with {code}\n{errors[-LOG_TAIL:]}\n{self.report()}"

    def messages(self, direction: str) -> list[bytes]:
        """The messages "received" or "sent", in order, as they were on the wire."""
        log = self._messages.read_bytes() if self._messages.exists() else b""
        heads = re.finditer(rb"message (sent|received) \[?\(?(\d+)\]?\)? bytes\)?\s*:\n\n", log)
        return [log[head.end() : head.end() + int(head[2])] for head in heads if head[1].decode() == direction]

    def response_times(self) -> list[float]:
        """Milliseconds from INVITE to final response, per call."""
        rows = [row for path in self.folder.glob("*_rtt.csv") if f"_{self._pid}_" in path.name for row in _rows(path)]
        return [float(row[1]) for row in rows]

    @property
    def _pid(self) -> int:
        assert self._process
        return self._process.pid


def _rows(path: Path) -> list[list[str]]:
    return [line.split(";") for line in path.read_text().splitlines()[1:]]
