"""An S3 server as a process of its own: moto's, which keeps objects in memory and takes every key."""

import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from itertools import count
from pathlib import Path
from typing import Final

START_SECONDS: Final = 60.0
KEYS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""For the environment of who asks it. Without any, clients look for those of a cloud's host."""


class ObjectStore:
    """Started by `start`, gone after `stop`, with all that it had."""

    def __init__(self) -> None:
        self.address = ""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)

    def start(self) -> None:
        """On a port that the system chooses; it is known when the server says so."""
        server = str(Path(sys.executable).with_name("moto_server"))
        command = ["setpriv", "--pdeathsig", "KILL", server, "-H", "127.0.0.1", "-p", "0"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(rb"Running on http://([0-9.:]+)", self._said())):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(f"exit code {self._process.poll()}: {self._said().decode()}")
            time.sleep(0.02)
        self.address = found[1].decode()

    def _said(self) -> bytes:
        self._log.seek(0)
        return self._log.read()

    def bucket(self) -> str:
        """The name of a new, empty one."""
        name = f"bucket-{next(self._names)}"
        request = urllib.request.Request(f"http://{self.address}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=START_SECONDS).close()
        return name

    def url(self, bucket: str, folder: str = "records", address: str = "") -> str:
        """As an operator writes it; by `address`, where the way leads through something."""
        return f"s3://{bucket}/{folder}?endpoint_override={address or self.address}&scheme=http&region=us-east-1"

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._log.close()
