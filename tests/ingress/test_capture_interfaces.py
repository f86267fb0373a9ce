"""Interfaces that go and come back, floods, missing capabilities: what the capture does when things go wrong."""

import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from agent.ingress.capture.server import CaptureServer
from agent.kernel import capabilities, packet
from agent.kernel.packet import BLOCK_BYTES, Shape
from tests.fakes.calls import invite
from tests.fakes.namespaces import join
from tests.fakes.waiting import until
from tests.ingress.frames import ethernet, ipv4, udp
from tests.ingress.wires import WIRE, Cable, cable, captured, settings
from tests.integration.peers import need

pytestmark = pytest.mark.kernel

FRAME = ethernet(ipv4(udp(invite())))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def wires() -> Iterator[Cable]:
    with cable() as made:
        yield made


def silent(server: CaptureServer) -> int:
    return server.counters()["capture_interfaces_silent"]


def test_an_interface_that_is_deleted_and_made_again_is_captured_again(wires: Cable) -> None:
    async def during(server: CaptureServer) -> None:
        for number in range(1, 4):
            wires.frames([FRAME])
            await until(lambda: server.counts.sip_messages == number)  # noqa: B023
            assert server.health()[0]
            wires.unplug()
            await until(lambda: silent(server) == 1)
            assert server.health() == (False, f"{WIRE} is not there")
            wires.plug()
            await until(lambda: not silent(server))

    server = captured(wires, settings(), during)
    assert server.counters()["capture_interfaces_returned"] == 3


def test_another_interface_of_the_same_name_is_taken_at_once(wires: Cable) -> None:
    """Deleted and made again before the capture gets to look."""

    async def during(server: CaptureServer) -> None:
        wires.unplug()
        wires.plug()
        await until(lambda: server.counters()["capture_interfaces_returned"] == 1)
        wires.frames([FRAME])
        await until(lambda: server.counts.sip_messages == 1)

    captured(wires, settings(), during)


def test_an_interface_that_goes_down_and_up_is_captured_again(wires: Cable) -> None:
    async def during(server: CaptureServer) -> None:
        wires.sbc.ip("link", "set", WIRE, "down")
        await until(lambda: silent(server) == 1)
        assert server.health() == (False, f"{WIRE} is down")
        wires.sbc.ip("link", "set", WIRE, "up")
        await until(lambda: not silent(server))
        wires.frames([FRAME])
        await until(lambda: server.counts.sip_messages == 1)

    captured(wires, settings(), during)


def test_a_renamed_interface_is_another_one(wires: Cable) -> None:
    async def during(server: CaptureServer) -> None:
        for name, other in ((WIRE, "renamed0"), ("renamed0", WIRE)):
            wires.sbc.ip("link", "set", name, "down")
            wires.sbc.ip("link", "set", name, "name", other)
            wires.sbc.ip("link", "set", other, "up")
            gone = name == WIRE
            await until(lambda: silent(server) == gone)  # noqa: B023
        wires.frames([FRAME])
        await until(lambda: server.counts.sip_messages == 1)

    captured(wires, settings(), during)


def test_several_interfaces_of_which_one_comes_later(wires: Cable) -> None:
    async def during(server: CaptureServer) -> None:
        assert server.health() == (False, f"{WIRE}: 0 packets; later0 is not there")
        join(wires.peer, "peer1", wires.sbc, "later0")
        wires.peer.ip("link", "set", "peer1", "up")
        wires.sbc.ip("link", "set", "later0", "up")
        await until(lambda: not silent(server))
        wires.frames([FRAME])
        wires.frames([FRAME], "peer1")
        await until(lambda: server.counts.sip_messages == 2)

    server = captured(wires, settings(interfaces=(WIRE, "later0")), during)
    assert [tap.received for tap in server.taps.sockets] == [1, 1]


def test_loopback_shows_each_packet_once(wires: Cable) -> None:
    async def during(server: CaptureServer) -> None:
        with wires.socket(wires.sbc) as sender:
            sender.sendto(invite(), ("127.0.0.1", 5060))
        await until(lambda: server.counts.sip_messages == 1)

    server = captured(wires, settings(interfaces=("lo",)), during)
    assert server.counts.packets == 1


def test_packets_that_find_no_room_are_counted(wires: Cable) -> None:
    """While nobody reads: what was lost and what is read add up to what was sent."""
    frames = [ethernet(ipv4(udp(invite() + bytes(1000)))) for _ in range(20)]
    rounds = 150

    async def during(server: CaptureServer) -> None:
        for _ in range(rounds):
            wires.frames(frames)
        sent = rounds * len(frames)
        await until(lambda: server.counts.packets + server.counters()["capture_kernel_drops"] == sent, 20.0)
        assert server.counters()["capture_kernel_packets"] == sent
        assert "lost" in server.health()[1]

    server = captured(wires, settings(ring=1 << 20), during)
    lost = server.counters()["capture_kernel_drops"]
    assert lost > 0
    assert server.counts.packets > 0


def test_an_interface_that_carries_no_ip_is_refused_by_name(wires: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet, "_ETHERNET", frozenset((772,)))

    async def during(server: CaptureServer) -> None:
        assert server.health() == (
            False,
            f"{WIRE} cannot be captured: {WIRE} carries neither Ethernet nor IP (type 1)",
        )

    captured(wires, settings(), during)


def test_a_bare_ip_interface_is_captured_from_its_ip_header_on(wires: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A veth read as if it were a tunnel: this kernel may have no tunnel to make."""
    monkeypatch.setattr(packet, "_ETHERNET", frozenset((772,)))
    monkeypatch.setattr(packet, "_BARE_IP", frozenset((1,)))

    async def during(server: CaptureServer) -> None:
        with wires.socket(wires.peer) as sender:
            sender.sendto(invite(), ("10.9.0.2", 5060))
        with wires.socket(wires.sbc) as sender:
            sender.sendto(invite(method="BYE"), ("10.9.0.1", 5060))
        await until(lambda: server.counts.methods == {"INVITE": 1, "BYE": 1})

    server = captured(wires, settings(), during)
    assert server.counts.outgoing == 1


def test_an_interface_that_comes_back_in_another_shape_needs_the_capability(
    wires: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, that interface is not captured, and one of the old shape is again."""
    ethernet_types = frozenset((1, 772))

    async def during(server: CaptureServer) -> None:
        tap = server.taps.sockets[0]
        for allowed in (False, True):
            monkeypatch.setattr(packet, "_ETHERNET", frozenset((772,)))
            monkeypatch.setattr(packet, "_BARE_IP", frozenset((1,)))
            with monkeypatch.context() as forbidden:
                if not allowed:
                    forbidden.setattr(socket, "socket", _refused)
                wires.unplug()
                wires.plug()
                if allowed:
                    await until(lambda: server.health()[0] and tap.shape is Shape.IP)
                else:
                    await until(lambda: "CAP_NET_RAW" in server.health()[1])
            monkeypatch.setattr(packet, "_ETHERNET", ethernet_types)
            wires.unplug()
            wires.plug()
            await until(lambda: server.health()[0] and tap.shape is Shape.ETHERNET)
            before = server.counts.sip_messages
            wires.frames([FRAME])
            await until(lambda: server.counts.sip_messages == before + 1)  # noqa: B023

    captured(wires, settings(), during)


def _refused(*_: object) -> socket.socket:
    raise PermissionError(errno.EPERM, "constructed")


def test_the_rings_memory_is_refused_in_words(wires: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet, "BLOCK_BYTES", BLOCK_BYTES + 1)  # no multiple of a page

    async def during(server: CaptureServer) -> None:
        raise AssertionError

    with pytest.raises(OSError, match=f"a ring of [0-9]+ bytes for {WIRE}: Invalid argument"):
        captured(wires, settings(), during)


# ---- capabilities: programs of their own, since letting go of one is for good ----

SCRIPT = """
import asyncio, os, sys
from agent.ingress.capture.observer import Observer
from agent.ingress.capture.server import CaptureServer
from agent.ingress.capture.settings import CaptureSettings
from agent.kernel import capabilities
from agent.policy.compile import compile_policy
from sbcedge.policy.v1 import policy_pb2

async def main():
    policy = compile_policy(policy_pb2.Policy(), {})
    server = CaptureServer(CaptureSettings(interfaces=("sbc0",), methods=()), Observer(lambda: policy))
    try:
        await server.start()
    except PermissionError as error:
        print("refused", error.strerror)
        return
    if "drop" in sys.argv:
        capabilities.keep_only()
        print("left", capabilities.has("CAP_NET_RAW"))
    print("uid", os.getuid(), flush=True)
    told = 0
    while True:
        await asyncio.sleep(0.01)
        if server.counts.sip_messages > told:
            told = server.counts.sip_messages
            print("messages", told, flush=True)

asyncio.run(main())
"""


def unprivileged(wires: Cable, *arguments: str, capability: str = "") -> subprocess.Popen[str]:
    """The script as nobody, by an interpreter that nobody may read, with no capability but this one."""
    need("setpriv", "/usr/bin/python3")
    python = _readable_python()
    kept = f",+{capability}" if capability else ""
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    command += [f"--inh-caps=-all{kept}", f"--ambient-caps=-all{kept}", f"--bounding-set=-all{kept}"]
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return subprocess.Popen(
        wires.sbc.command(*command, python, "-c", SCRIPT, *arguments),
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join([str(ROOT), *packages])},
    )


def _readable_python() -> str:
    """This interpreter, or Debian's of the same version, if nobody may run it."""
    for python in (sys.executable, "/usr/bin/python3"):
        test = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c"]
        test.append("import sys; print(sys.version_info[:2])")
        done = subprocess.run(test, capture_output=True, text=True, check=False)
        if done.stdout.strip() == str(sys.version_info[:2]):
            return shutil.which(python) or python
    pytest.skip("no interpreter of this version that an unprivileged user may run")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("drop",)])
def test_an_unprivileged_user_with_exactly_cap_net_raw_captures(wires: Cable, arguments: tuple[str, ...]) -> None:
    """Also after the capability is let go of: a deleted interface is captured again when it is made again."""
    process = unprivileged(wires, *arguments, capability="net_raw")
    assert process.stdout is not None
    try:
        if arguments:
            assert process.stdout.readline() == "left False\n"
        assert process.stdout.readline() == "uid 65534\n"
        wires.frames([FRAME])
        assert process.stdout.readline() == "messages 1\n"
        wires.unplug()
        wires.plug()
        for _ in range(500):  # it may look for its interface only once a second
            wires.frames([FRAME])
            if _can_read(process.stdout):
                break
        assert process.stdout.readline().startswith("messages ")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _can_read(stream: IO[str]) -> bool:
    return bool(select.select([stream], [], [], 0.02)[0])


@pytest.mark.slow
def test_without_the_capability_the_error_names_it(wires: Cable) -> None:
    process = unprivileged(wires)
    output, _ = process.communicate(timeout=30)
    assert output.startswith("refused to capture packets this process needs the capability CAP_NET_RAW")
    assert "sbc-agent setup --service" in output
    assert "setpriv" in output


def test_capabilities_are_read_from_the_kernel(wires: Cable) -> None:
    assert capabilities.has(capabilities.NET_RAW)
    assert capabilities.missing(capabilities.NET_ADMIN, "x").errno == errno.EPERM
