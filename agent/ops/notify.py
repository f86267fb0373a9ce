"""What systemd is told: ready, reloading, stopping, still alive, and a line of status (sd_notify(3)).

Knows the datagrams of NOTIFY_SOCKET. Without one (started by hand, in a container) every method does nothing. A
notification that cannot be sent is counted; systemd then acts as for a silent service, and nothing else would help.
"""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Tells the service manager. `environment` is the one that the process was started with."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.failures = 0
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog(environment)

    def ready(self, status: str) -> None:
        """Start or reload is done."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """To be called within every `watchdog_seconds`."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        datagram = "\n".join(a.replace("\n", " ") for a in assignments).encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
                out.sendto(datagram, self._address)
        except OSError:
            self.failures += 1


def _address(name: str) -> str:
    """A path, or an abstract name: "@" stands for the zero byte. Others (vsock) are for virtual machines."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _watchdog(environment: Mapping[str, str]) -> float:
    """Half the time after which systemd takes us for dead (sd_watchdog_enabled(3)), seconds; 0: nobody watches."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(environment.get("WATCHDOG_USEC", "0"))) / 2_000_000
    except ValueError:
        return 0.0
