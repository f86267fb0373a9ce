"""A packet socket on a cable: what it hands over and what stands beside each packet."""

import socket
import time
from collections.abc import Iterator
from select import select

import pytest

from agent.kernel.bpf import capture_filter
from agent.kernel.links import LinkWatch
from agent.kernel.packet import PacketSocket, Shape
from agent.kernel.ring import NO_VLAN, OTHER_HOST, OUTGOING, Packet
from tests.fakes.calls import invite
from tests.ingress.frames import ethernet, ipv4, udp
from tests.ingress.wires import PEER, WIRE, Cable, cable

pytestmark = pytest.mark.kernel

FRAME = ethernet(ipv4(udp(invite())))


@pytest.fixture
def wires() -> Iterator[Cable]:
    with cable() as made:
        yield made


def only_invites(shape: Shape, skip_outgoing: bool) -> bytes:
    return capture_filter((5060,), (b"INVITE",), ethernet=shape is Shape.ETHERNET, skip_outgoing=skip_outgoing)


@pytest.fixture
def tap(wires: Cable) -> Iterator[PacketSocket]:
    with wires.sbc.inside():
        made, watch = PacketSocket(WIRE, only_invites, 1 << 20), LinkWatch()
        link = watch.look(WIRE)
        assert link is not None
        made.open()
        made.bind(link)
    yield made
    made.close()
    watch.close()


def read(tap: PacketSocket, count: int) -> list[Packet]:
    """So many packets; AssertionError if they do not come."""
    packets: list[Packet] = []
    while len(packets) < count:
        assert select([tap], [], [], 5.0)[0], f"{len(packets)} of {count} packets"
        packets += tap.read() or []
    return packets


def test_a_packet_comes_with_its_time_its_direction_and_its_length(wires: Cable, tap: PacketSocket) -> None:
    began = time.time()
    wires.frames([FRAME])
    with wires.socket(wires.sbc) as sender:
        sender.sendto(invite(), (PEER, 5060))
    first, second = read(tap, 2)
    assert began - 1.0 < first[0] <= second[0] < time.time() + 1.0
    assert (first[1], first[2], first[3], first[4]) == (FRAME, len(FRAME), OTHER_HOST, NO_VLAN)
    assert second[3] == OUTGOING


def test_a_tag_that_the_kernel_took_out_is_shown_beside_the_packet(wires: Cable, tap: PacketSocket) -> None:
    wires.frames([ethernet(ipv4(udp(invite())), tags=((0x8100, 100),))])
    wires.frames([ethernet(ipv4(udp(invite())), tags=((0x88A8, 7), (0x8100, 100)))])
    one, two = read(tap, 2)
    assert (one[4], one[1][12:14]) == (100, b"\x08\x00")
    assert (two[4], two[1][12:18]) == (7, b"\x81\x00\x00\x64\x08\x00")


def test_nothing_gets_in_before_the_filter(wires: Cable) -> None:
    """Other traffic flows while the socket is opened and bound: none of it is seen."""
    junk = ethernet(ipv4(udp(b"\x80" * 100, 4000, 4002)))
    with wires.sbc.inside():
        watch = LinkWatch()
        for _ in range(20):
            made = PacketSocket(WIRE, only_invites, 1 << 20)
            made.open()
            wires.frames([junk] * 10)
            link = watch.look(WIRE)
            assert link is not None
            made.bind(link)
            wires.frames([junk] * 10 + [FRAME])
            assert [packet[1] for packet in read(made, 1)] == [FRAME]
            made.count()
            assert (made.received, made.lost) == (1, 0)
            made.close()
    watch.close()


def test_statistics_add_up_though_the_kernel_forgets_them(wires: Cable, tap: PacketSocket) -> None:
    for number in range(1, 4):
        wires.frames([FRAME, FRAME])
        read(tap, 2)
        tap.count()
        tap.count()
        assert (tap.received, tap.lost) == (2 * number, 0)
    tap.close()
    assert tap.received == 6


def test_a_closed_socket_gives_nothing(tap: PacketSocket) -> None:
    tap.close()
    assert tap.read() is None
    assert tap.take_error() == 0
    assert not tap.bound
    assert not tap.opened
    tap.close()


def test_links_are_seen_as_they_are(wires: Cable) -> None:
    with wires.sbc.inside():
        watch = LinkWatch()
    assert watch.look("lo") is not None
    assert watch.look("absent0") is None
    for name in ("", "a" * 16, "a\0b"):
        assert watch.look(name) is None
    watch.drain()
    assert not watch.drain()
    wires.sbc.ip("link", "set", WIRE, "down")
    assert select([watch], [], [], 5.0)[0]
    assert watch.drain()
    link = watch.look(WIRE)
    assert link is not None
    assert not link.up
    watch.close()


def test_a_bell_that_rang_too_often_still_rings(wires: Cable) -> None:
    """More changes than the socket has room for: the kernel drops messages and says so."""
    with wires.sbc.inside():
        watch = LinkWatch()
    watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(5):
        wires.sbc.ip("link", "set", WIRE, "down")
        wires.sbc.ip("link", "set", WIRE, "up")
    assert watch.drain()
    watch.close()
