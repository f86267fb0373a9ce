"""The agent as a real process, with sockets and files in a folder of the test, and a service manager that listens."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import grpc

from agent.cli.asking import agent_at
from sbcedge.admin.v1 import admin_pb2, admin_pb2_grpc
from sbcedge.screening.v1 import screening_pb2, screening_pb2_grpc
from tests.conftest import ROOT
from tests.fakes.calls import PEER, SBC

PATIENCE = 20.0

POLICY = """\
generation = 7
name = "trial"

[[trunks]]
id = "peer"
sources = ["192.0.2.0/24"]

[[limits]]
name = "rate-per-trunk"
scope = "trunk"
rate = 2
window_seconds = 3600
burst = 2
"""

CONFIG = """\
[policy]
file = "{folder}/policy.toml"
[hook]
socket = "{folder}/hook.sock"
[records]
directory = "{folder}/spool"
[metrics]
listen = "127.0.0.1:0"
[admin]
socket = "{folder}/admin.sock"
[shutdown]
grace = 5
"""


class ServiceManager:
    """What systemd is for the agent: a datagram socket, and everything that was sent to it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if not path.startswith("@"):
            Path(path).unlink(missing_ok=True)  # of an agent that was started here before
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)

    def hears(self, line: str, patience: float = PATIENCE) -> None:
        """Read until a datagram has this line. AssertionError when it does not come."""
        deadline = time.monotonic() + patience
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                datagram = self._socket.recv(4096).decode()
            except TimeoutError:
                raise AssertionError(f"waited in vain for {line!r}, heard {self.said}") from None
            self.said += datagram.split("\n")
            if line in datagram.split("\n"):
                return

    def close(self) -> None:
        self._socket.close()


@dataclass
class AgentProcess:
    """One `sbc-agent run`. `lines` are its log, read so far."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    manager: ServiceManager
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.manager.close()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)

    def logged(self, event: str) -> dict[str, Any]:
        """The next log line with this event."""
        while line := _out(self.process).readline():
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no line {event!r} in {self.lines}; stderr: {self.complaints()}")

    def complaints(self) -> str:
        """All of stderr, when it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    @contextmanager
    def admin(self) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
        with agent_at(self.folder / "admin.sock") as stub:
            yield stub

    def status(self) -> admin_pb2.Status:
        with self.admin() as stub:
            response: admin_pb2.GetStatusResponse = stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE)
            return response.status

    def component(self, name: str) -> admin_pb2.ComponentStatus:
        return next(c for c in self.status().components if c.component == name)

    @contextmanager
    def hook(self) -> Iterator[Callable[[bytes], screening_pb2.ScreenResponse]]:
        """A function that asks about one INVITE."""
        with grpc.insecure_channel(f"unix:{self.folder}/hook.sock") as channel:
            stub = screening_pb2_grpc.ScreeningServiceStub(channel)
            yield lambda raw: stub.Screen(request_of(raw), timeout=PATIENCE)


def request_of(raw: bytes) -> screening_pb2.ScreenRequest:
    """The question of an SBC that got this message from PEER by UDP."""
    return screening_pb2.ScreenRequest(
        sip_message=raw, source_address=PEER, source_port=5060, local_address=SBC, local_port=5060, transport="udp"
    )


def start_agent(
    folder: Path,
    config: str = CONFIG,
    policy: str = POLICY,
    environment: dict[str, str] | None = None,
    notify: str = "",
) -> AgentProcess:
    """Start it in `folder`; it need not be ready yet."""
    (folder / "policy.toml").write_text(policy)
    (folder / "agent.toml").write_text(config.format(folder=folder))
    manager = ServiceManager(notify or str(folder / "notify.sock"))
    process = subprocess.Popen(
        [sys.executable, "-m", *hooks(environment), "agent.cli.main", "run", "--config", str(folder / "agent.toml")],
        cwd=ROOT,
        env=os.environ | {"NOTIFY_SOCKET": manager.path} | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return AgentProcess(folder, process, manager)


def hooks(environment: Mapping[str, str] | None) -> list[str]:
    """The module that runs a program with what this environment asks for, if it asks for anything."""
    return ["tests.fakes.hooked"] if any(name.startswith("SBC_TEST_") for name in environment or ()) else []


@contextmanager
def running(folder: Path, **changes: Any) -> Iterator[AgentProcess]:
    """A ready agent; it is gone afterwards."""
    with start_agent(folder, **changes) as agent:
        agent.logged("ready")
        yield agent


def _out(process: "subprocess.Popen[bytes]") -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout
