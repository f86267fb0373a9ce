"""Live captures in network namespaces: counts equal tshark's on the same traffic, whatever it comes in."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from agent.ingress.capture.server import CaptureServer
from agent.ingress.capture_file import CaptureFile
from tests.fakes.calls import invite, response
from tests.fakes.waiting import until
from tests.ingress.frames import ethernet, ipv4, ipv6, tcp, udp
from tests.ingress.test_expected_counts import EXPECTED
from tests.ingress.wires import PEER, PEER6, SBC, SBC6, Cable, cable, captured, recording, settings

pytestmark = pytest.mark.kernel

LONG = ("X-Long: " + "x" * 3000,)
TRAFFIC = [invite(), invite(headers=LONG), invite(method="BYE", to_tag="1"), response(invite(), 200)]
TRAFFIC += [invite(method="OPTIONS"), response(invite(), 503), invite(headers=LONG, method="CANCEL")]


@pytest.fixture(scope="module")
def wires() -> Iterator[Cable]:
    with cable() as made:
        yield made


def all_of(server: CaptureServer) -> tuple[Counter[str], Counter[str]]:
    return Counter(server.counts.methods), Counter(server.counts.responses)


def same_as_tshark(
    wires: Cable, folder: Path, traffic: Callable[[], Awaitable[None] | None], messages: int, *, tunnels: bool = False
) -> CaptureServer:
    """Capture the traffic beside dumpcap, wait for so many messages, and compare."""

    async def during(server: CaptureServer) -> None:
        waiting = traffic()
        if waiting is not None:
            await waiting
        await until(lambda: server.counts.sip_messages >= messages, 10.0)

    with recording(wires, folder) as recorded:
        server = captured(wires, settings(tunnels=tunnels), during)
    assert all_of(server) == recorded.messages()
    assert server.counts.sip_messages == messages
    counters = server.counters()
    assert counters["capture_kernel_drops"] == counters["capture_parse_errors"] == counters["capture_failures"] == 0
    return server


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_udp_with_fragments_in_both_directions(wires: Cable, tmp_path: Path, family: int) -> None:
    """From real sockets; the kernel makes fragments of what is longer than the link takes."""
    there, here = (PEER, SBC) if family == socket.AF_INET else (PEER6, SBC6)
    peer, sbc = wires.socket(wires.peer, family=family), wires.socket(wires.sbc, family=family)
    with peer, sbc:
        peer.bind((there, 5060))
        sbc.bind((here, 5060))

        def traffic() -> None:
            for raw in TRAFFIC:
                peer.sendto(raw, (here, 5060))
                sbc.sendto(raw, (there, 5060))

        server = same_as_tshark(wires, tmp_path, traffic, 2 * len(TRAFFIC))
    counters = server.counters()
    assert counters["capture_reassembled"] == 4
    assert counters["capture_fragments"] == 12
    assert 0 < counters["capture_outgoing"] < counters["capture_packets"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_tcp_in_pieces_and_several_in_one(wires: Cable, tmp_path: Path, family: int) -> None:
    there, here = (PEER, SBC) if family == socket.AF_INET else (PEER6, SBC6)
    listener = wires.socket(wires.sbc, socket.SOCK_STREAM, family)
    peer = wires.socket(wires.peer, socket.SOCK_STREAM, family)
    with listener, peer:
        listener.bind((here, 5060))
        listener.listen()
        peer.bind((there, 0))

        async def traffic() -> None:
            peer.connect((here, 5060))
            connection, _ = listener.accept()
            stream = b"".join(TRAFFIC)
            with connection:
                for side in (peer, connection):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for at in range(0, len(stream), 1111):
                        side.sendall(stream[at : at + 1111])
                await asyncio.to_thread(_read, connection, len(stream))
                await asyncio.to_thread(_read, peer, len(stream))

        server = same_as_tshark(wires, tmp_path, traffic, 2 * len(TRAFFIC))
    assert server.counts.transports == {"tcp": 2 * len(TRAFFIC)}
    assert server.counters()["capture_tcp_gaps"] == 0


def _read(connection: socket.socket, size: int) -> None:
    while size:
        size -= len(connection.recv(min(size, 65536)))


PACKETS = {
    "IPv4": [ipv4(udp(raw)) for raw in TRAFFIC if len(raw) < 1400],
    "IPv6": [ipv6(udp(raw)) for raw in TRAFFIC if len(raw) < 1400],
}


TAGS = [
    ((0x8100, 100),),
    ((0x88A8, 7), (0x8100, 100)),
    ((0x8100, 5), (0x8100, 6)),
    ((0x88A8, 1), (0x8100, 2), (0x8100, 3)),
]


@pytest.mark.parametrize("version", PACKETS)
@pytest.mark.parametrize("tags", TAGS)
def test_vlan_and_qinq(wires: Cable, tmp_path: Path, tags: tuple[tuple[int, int], ...], version: str) -> None:
    """Whichever tags the kernel takes out of the frame and shows beside it."""
    ethertype = 0x0800 if version == "IPv4" else 0x86DD
    packets = PACKETS[version]
    frames = [ethernet(packet, ethertype, tags) for packet in packets]
    server = same_as_tshark(wires, tmp_path, lambda: wires.frames(frames), len(frames))
    assert server.counts.vlan == len(frames)


def test_fragments_in_any_order_in_a_vlan(wires: Cable, tmp_path: Path) -> None:
    """The first one last: what comes before it names no port."""
    frames = []
    for number, raw in enumerate([invite(headers=LONG), invite(headers=LONG, method="BYE")]):
        datagram = udp(raw)
        pieces = [datagram[at : at + 1200] for at in range(0, len(datagram), 1200)]
        for at, piece in reversed(list(enumerate(pieces))):
            flags = at * 1200 // 8 | (0x2000 if at < len(pieces) - 1 else 0)
            packet = ipv4(piece, fragment=flags, identification=number + 1)
            frames.append(ethernet(packet, tags=((0x8100, 9),)))
        header = [
            struct.pack("!BBHI", 17, 0, at * 1200 | (at < len(pieces) - 1), number + 1) for at in range(len(pieces))
        ]
        for at, piece in reversed(list(enumerate(pieces))):
            frames.append(ethernet(ipv6(header[at] + piece, 44), 0x86DD))
    same_as_tshark(wires, tmp_path, lambda: wires.frames(frames), 4)


def test_ip_in_ip_and_extension_headers(wires: Cable, tmp_path: Path) -> None:
    raw = invite()
    frames = [
        ethernet(ipv4(ipv4(udp(raw)), 4)),
        ethernet(ipv4(ipv6(udp(raw)), 41)),
        ethernet(ipv6(ipv4(udp(raw)), 4), 0x86DD),
        ethernet(ipv6(bytes([17, 0]) + b"\1\4\0\0\0\0" + udp(raw), 0), 0x86DD),
    ]
    server = same_as_tshark(wires, tmp_path, lambda: wires.frames(frames), len(frames))
    assert server.counts.tunnels == 3


@pytest.mark.slow
def test_tcp_out_of_order_overlapping_and_lost(wires: Cable, tmp_path: Path) -> None:
    """Segments swapped and repeated are put in order; after one that is lost, it goes on at a start line."""
    stream = b"".join(invite(method=method) for method in ("INVITE", "BYE", "OPTIONS", "CANCEL", "INFO"))
    cut = 300

    def segment(at: int, size: int = cut, flags: int = 0x18) -> bytes:
        return ethernet(ipv4(tcp(stream[at : at + size], 1001 + at, flags, sport=40001), 6))

    places = list(range(0, len(stream), cut))
    places[1], places[2] = places[2], places[1]
    frames = [ethernet(ipv4(tcp(b"", 1000, 0x02, sport=40001), 6))]
    frames += [segment(at) for at in places]
    frames[4:4] = [segment(cut // 2), frames[3]]  # an overlap and a copy

    async def during(server: CaptureServer) -> None:
        wires.frames(frames)
        await until(lambda: server.counts.sip_messages == 5)
        lost = [segment(at, size=100) for at in range(0, len(stream), 100)]
        shifted = [_ports(frame, 40002) for frame in [frames[0], *lost]]
        del shifted[2]  # within the first message
        wires.frames([*shifted, _ports(ethernet(ipv4(tcp(b"", 1001 + len(stream), 0x11, sport=40001), 6)), 40002)])
        await until(lambda: server.counts.sip_messages == 9, 10.0)  # the gap lasts three seconds

    server = captured(wires, settings(), during)
    assert server.counters()["capture_tcp_gaps"] == 1
    assert server.counts.methods == {"INVITE": 1, "BYE": 2, "OPTIONS": 2, "CANCEL": 2, "INFO": 2}


def _ports(frame: bytes, source: int) -> bytes:
    return frame[:34] + struct.pack("!H", source) + frame[36:]


def test_only_the_methods_asked_for_come_by_udp(wires: Cable, tmp_path: Path) -> None:
    frames = [ethernet(packet) for packet in PACKETS["IPv4"]]

    async def during(server: CaptureServer) -> None:
        wires.frames(frames)
        await until(lambda: server.counts.sip_messages == 4)

    server = captured(wires, settings(methods=("INVITE", "CANCEL", "BYE")), during)
    assert server.counts.methods == {"INVITE": 1, "BYE": 1}
    assert server.counts.responses == {"200": 1, "503": 1}
    assert server.counts.packets == 4


ON_5060 = {name: expected for name, expected in EXPECTED.items() if expected["methods"] or expected["status"]}


@pytest.mark.parametrize("name", ON_5060 or [pytest.param("", marks=pytest.mark.skip("no third-party captures"))])
def test_traffic_of_public_captures_counts_as_tshark_counts_it(
    wires: Cable, shared_data: Path, tmp_path: Path, name: str
) -> None:
    """Frames of captures put on the cable: other people's TCP, tunnels, fragments and odd messages."""
    packets = list(CaptureFile(shared_data / name).packets())
    if any(packet.linktype != 1 for packet in packets) or "fuzz" in name:
        pytest.skip("not Ethernet, or broken on purpose: replayed as a file elsewhere")
    for namespace, interface in ((wires.peer, "peer0"), (wires.sbc, "sbc0")):
        namespace.ip("link", "set", interface, "mtu", "9000")
    frames = [packet.data.ljust(60, b"\0") for packet in packets if packet.wire_length == len(packet.data) <= 9014]

    async def during(server: CaptureServer) -> None:
        wires.frames(frames)
        last = invite(method="NOTIFY", call_id="the-end")
        wires.frames([ethernet(ipv4(udp(last)))])
        await until(lambda: server.counts.methods.get("NOTIFY", 0) > before, 10.0)

    before = ON_5060[name]["methods"].get("NOTIFY", 0)
    with recording(wires, tmp_path) as recorded:
        server = captured(wires, settings(tunnels=True), during)
    assert all_of(server) == recorded.messages()
