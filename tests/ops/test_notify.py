"""The datagrams of sd_notify(3), and silence where nobody listens."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.ops.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(1.0)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_every_message_has_the_form_of_sd_notify(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready("all is well")
    assert heard(manager) == ["READY=1", "STATUS=all is well"]
    notifier.reloading()
    reloading, monotonic = heard(manager)
    assert reloading == "RELOADING=1"
    assert monotonic.removeprefix("MONOTONIC_USEC=").isdigit()
    notifier.stopping("draining")
    assert heard(manager) == ["STOPPING=1", "STATUS=draining"]
    notifier.alive()
    assert heard(manager) == ["WATCHDOG=1"]
    assert notifier.failures == 0


def test_a_line_break_in_a_status_cannot_make_another_assignment(manager: socket.socket) -> None:
    Notifier({"NOTIFY_SOCKET": manager.getsockname()}).status("policy\nREADY=1")
    assert heard(manager) == ["STATUS=policy READY=1"]


def test_without_a_manager_nothing_is_sent_and_nothing_fails() -> None:
    notifier = Notifier({})
    notifier.ready("alone")
    notifier.alive()
    assert (notifier.failures, notifier.watchdog_seconds) == (0, 0.0)


def test_a_manager_that_is_gone_is_counted(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.alive()
    assert notifier.failures == 1


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
    ],
)
def test_the_watchdog_is_fed_in_half_its_time(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment).watchdog_seconds == seconds
