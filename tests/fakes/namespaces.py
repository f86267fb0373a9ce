"""Network namespaces of our own, joined by veth pairs: traffic that no other test and no real network sees.

A namespace lives as long as its `with`. `inside` moves this thread into it, so that sockets opened there belong to it;
programs are started there with `command`. Needs root; `need_namespaces` skips the test where that cannot be had.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

CLONE_NEWNET: Final = 0x40000000
FOLDER: Final = Path("/run/netns")  # of ip-netns(8)

_libc: Final = ctypes.CDLL(None, use_errno=True)
_numbers: Final = count(1)


def need_namespaces() -> None:
    """Skip the test unless this process may make network namespaces and has ip(8)."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    made = subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"network namespaces cannot be made here: {made.stderr.decode().strip()}")


class Namespace:
    """One namespace, its loopback up. `with` makes and removes it, and with it every interface that is in it."""

    def __init__(self, word: str) -> None:
        self.name = f"sbc-{os.getpid()}-{next(_numbers)}-{word}"

    def __enter__(self) -> Self:
        run(["ip", "netns", "add", self.name])
        # No router solicitations and no duplicate address detection: what is on the wire is what the test sends.
        self.sysctl("net.ipv6.conf.default.accept_dad", "0")
        self.sysctl("net.ipv6.conf.default.router_solicitations", "0")
        self.sysctl("net.ipv6.conf.default.autoconf", "0")
        self.ip("link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def command(self, *command: str) -> list[str]:
        """That command, as it is run in this namespace."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str) -> str:
        """Run a command here; what it printed. Raises AssertionError with its complaint."""
        return run(self.command(*command))

    def ip(self, *arguments: str) -> str:
        """The same for ip(8)."""
        return run(["ip", "-n", self.name, *arguments])

    def sysctl(self, name: str, value: str) -> None:
        """Set one, if this kernel has it."""
        script = 'path=/proc/sys/$(echo "$0" | tr . /); [ -e "$path" ] && echo "$1" > "$path" || true'
        run(self.command("sh", "-c", script, name, value))

    def address(self, interface: str, *addresses: str) -> None:
        """Give an interface these addresses ("10.0.0.1/24", "fd00::1/64") and set it up."""
        for address in addresses:
            self.ip("address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
        self.ip("link", "set", interface, "up")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace: what it opens is there, also after it has left."""
        with Path("/proc/thread-self/ns/net").open("rb") as before:
            _enter(FOLDER / self.name)
            try:
                yield
            finally:
                _set(before.fileno())


def join(left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
    """A cable between two namespaces, both ends down. Nothing is offloaded: frames are on it as they are on a wire."""
    left.ip("link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right.name)


def run(command: Sequence[str]) -> str:
    """Run a command; what it printed. Raises AssertionError with its complaint."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def _enter(path: Path) -> None:
    with path.open("rb") as file:
        _set(file.fileno())


def _set(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
