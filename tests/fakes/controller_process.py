"""The controller as a real process, on ports that stay when it is killed and started again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Self

from controller.bootstrap import TOKEN_FILE
from controller.store import StoreSettings
from tests.conftest import ROOT
from tests.controller.agents import Reached, free_port
from tests.fakes.agent_process import hooks

PATIENCE = 30.0

CONFIG = """\
[controller]
name = "{name}"
[listen]
agents = "{agents}"
open = "{open}"
[store]
postgresql = "{postgresql}"
[fleet]
health = 0.2
[metrics]
listen = "127.0.0.1:0"
[shutdown]
grace = 2
"""


class ControllerProcess(Reached):
    """`sbc-controller run` in a folder of the test. Started by `start`, as often as you like; gone after the block."""

    def __init__(self, folder: Path, store: StoreSettings | None = None, name: str = "c1", more: str = "") -> None:
        super().__init__()
        self.folder = folder
        self.address, self.open_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.lines: list[dict[str, Any]] = []
        self.environment: dict[str, str] = {}
        """Of its next start, beside the test's own; see tests/fakes/hooked.py."""
        self._file = folder / f"{name}.toml"
        self._process: subprocess.Popen[bytes] | None = None
        postgresql = store.postgresql if store is not None else ""
        text = CONFIG.format(name=name, agents=self.address, open=self.open_address, postgresql=postgresql)
        self._file.write_text(text + more)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def start(self, *, ready: bool = True) -> None:
        """Run it. Errors go to the test's own stderr."""
        assert self._process is None
        program = [sys.executable, "-m", *hooks(self.environment), "controller.cli.main"]
        command = [*program, "run", "--config", str(self._file), "--directory", str(self.folder)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        if ready:
            self.logged("ready")

    def listens_on(self, address: str) -> None:
        """From its next start on, in place of the port for agents that it has."""
        self._file.write_text(self._file.read_text().replace(self.address, address))
        self.address = address

    def kill(self) -> None:
        """SIGKILL: it gets to do nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._out.close()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def has_ended(self) -> bool:
        """By itself, or by what somebody did to it."""
        return self._process is None or self._process.poll() is not None

    def ends(self) -> int:
        """Its exit code, when it has ended by itself."""
        assert self._process is not None
        code = self._process.wait(PATIENCE)
        self.lines += [json.loads(line) for line in self._out]
        self._out.close()
        self._process = None
        return code

    def logged(self, event: str) -> dict[str, Any]:
        """The next log line with this event."""
        while line := self._out.readline():
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no line {event!r} in {self.lines}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def admin(self) -> str:  # type: ignore[override]
        return (self.folder / TOKEN_FILE).read_text().strip()

    @property
    def roots(self) -> bytes:  # type: ignore[override]
        return (self.folder / "authority" / "ca.crt").read_bytes()

    @property
    def _out(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout
