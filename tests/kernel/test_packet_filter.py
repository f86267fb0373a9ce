"""The assembler and the capture's filter, run by an interpreter of classic BPF."""

import ctypes
import socket
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.bpf import (
    IF_EQUAL,
    JUMP,
    LOAD_BYTE,
    LOAD_BYTE_X,
    RETURN,
    SET_X,
    Item,
    Jump,
    Step,
    assemble,
    capture_filter,
)
from tests.ingress.frames import ethernet, ipv4, ipv6, tcp, udp
from tests.kernel.bpf_machine import run

INVITE = b"INVITE sip:+13035550199@sbc.example.net SIP/2.0\r\n"
IPV6 = 0x86DD
METHODS = (b"INVITE", b"CANCEL", b"BYE")
FILTER = capture_filter((5060, 5080), METHODS)
ANY_METHOD = capture_filter((5060,))
TUNNELS = capture_filter((5060,), METHODS, tunnels=True)


def passes(frame: bytes, program: bytes = FILTER, kind: int = 0) -> bool:
    return run(program, frame, kind) > 0


def fragments(packet: bytes, size: int = 40) -> list[bytes]:
    """An IPv4 datagram's payload as fragments."""
    pieces = [packet[at : at + size] for at in range(0, len(packet), size)]
    return [
        ipv4(piece, fragment=at * size // 8 | (0x2000 if at < len(pieces) - 1 else 0))
        for at, piece in enumerate(pieces)
    ]


@pytest.mark.parametrize("start", [INVITE, b"CANCEL sip:x SIP/2.0", b"BYE sip:x SIP/2.0", b"SIP/2.0 200 OK"])
@pytest.mark.parametrize("ports", [(5060, 5060), (40000, 5060), (5060, 40000), (1, 5080)])
@pytest.mark.parametrize("tags", [(), ((0x8100, 100),), ((0x88A8, 7), (0x8100, 100)), ((0x9100, 1),) * 4])
def test_wanted_start_lines_pass_on_either_port_in_any_vlan_by_both_ip_versions(
    start: bytes, ports: tuple[int, int], tags: tuple[tuple[int, int], ...]
) -> None:
    datagram = udp(start, *ports)
    assert passes(ethernet(ipv4(datagram), tags=tags))
    assert passes(ethernet(ipv4(datagram, options=bytes(8)), tags=tags))
    assert passes(ethernet(ipv6(datagram), IPV6, tags=tags))


@pytest.mark.parametrize(
    "start", [b"OPTIONS sip:x SIP/2.0", b"REGISTER sip:x SIP/2.0", b"invite sip:x", b"\x80\0\0\0rtp", b"BYEE", b"SIP"]
)
def test_other_start_lines_are_dropped_unless_every_method_is_wanted(start: bytes) -> None:
    frame = ethernet(ipv4(udp(start)))
    assert not passes(frame)
    assert passes(frame, ANY_METHOD)


def test_line_breaks_before_a_start_line_pass() -> None:
    assert passes(ethernet(ipv4(udp(b"\r\n\r\n" + INVITE))))
    assert passes(ethernet(ipv4(udp(b"\n\n\n\n"))))


def test_other_ports_and_protocols_are_dropped() -> None:
    assert not passes(ethernet(ipv4(udp(INVITE, 5061, 40000))))
    assert not passes(ethernet(ipv4(tcp(INVITE, 1, sport=5061, dport=40000), protocol=6)))
    assert not passes(ethernet(ipv4(udp(INVITE), protocol=132)))
    assert not passes(ethernet(ipv6(udp(INVITE), protocol=58), IPV6))
    assert not passes(ethernet(bytes(28), 0x0806))


def test_tcp_of_the_ports_passes_whole() -> None:
    for flags, payload in ((0x02, b""), (0x18, b"middle of a message"), (0x04, b"")):
        assert passes(ethernet(ipv4(tcp(payload, 1, flags, sport=40000, dport=5080), protocol=6)))
        assert passes(ethernet(ipv6(tcp(payload, 1, flags), protocol=6), IPV6))


def test_first_and_later_fragments_pass_whatever_their_port() -> None:
    for port in (5060, 9999):
        pieces = fragments(udp(INVITE + bytes(100), dport=port, sport=port))
        assert len(pieces) > 3
        assert all(passes(ethernet(piece)) for piece in pieces)
        icmp = [piece[:9] + b"\x01" + piece[10:] for piece in pieces]
        assert not any(passes(ethernet(piece)) for piece in icmp)


def test_fragments_of_ipv6_pass_first_and_later_ones() -> None:
    for offset_and_more in (0x0001, 0x05A9, 0x0B50):
        header = struct.pack("!BBHI", 17, 0, offset_and_more, 7)
        assert passes(ethernet(ipv6(header + bytes(16), protocol=44), IPV6))
    assert not passes(ethernet(ipv6(struct.pack("!BBHI", 58, 0, 1, 7) + bytes(16), protocol=44), IPV6))


@pytest.mark.parametrize("header", [0, 43, 60, 51])
def test_extension_headers_pass_for_user_space_to_walk(header: int) -> None:
    for following in (17, 6, 4, 44, 60):
        assert passes(ethernet(ipv6(bytes([following, 0]) + bytes(6) + udp(INVITE), protocol=header), IPV6))
    assert not passes(ethernet(ipv6(bytes([58, 0]) + bytes(6), protocol=header), IPV6)), "a multicast listener report"


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
def test_ip_in_ip_is_filtered_by_what_is_inside(outer: int, inner: int) -> None:
    def wrapped(payload: bytes) -> bytes:
        packet = ipv4(payload) if inner == 4 else ipv6(payload)
        protocol = 4 if inner == 4 else 41
        return ethernet(ipv4(packet, protocol)) if outer == 4 else ethernet(ipv6(packet, protocol), IPV6)

    assert passes(wrapped(udp(INVITE)))
    assert not passes(wrapped(udp(INVITE, 1, 2)))
    assert not passes(wrapped(udp(b"\x80rtp")))


def test_ip_in_ip_in_ip_and_fragments_inside_pass() -> None:
    assert passes(ethernet(ipv4(ipv4(ipv4(udp(b"rtp", 1, 2)), 4), 4)))
    assert passes(ethernet(ipv4(fragments(udp(INVITE))[1], 4)))


def test_other_tunnels_pass_only_where_they_are_asked_for() -> None:
    gre = ethernet(ipv4(bytes(4) + ipv4(udp(INVITE)), 47))
    vxlan = ethernet(ipv4(udp(bytes(8) + ethernet(ipv4(udp(INVITE))), 40000, 4789)))
    mpls, pppoe = ethernet(bytes(8), 0x8847), ethernet(bytes(8), 0x8864)
    for frame in (gre, vxlan, mpls, pppoe):
        assert passes(frame, TUNNELS)
        assert not passes(frame)


def test_what_the_host_sends_is_left_out_on_request() -> None:
    frame = ethernet(ipv4(udp(INVITE)))
    program = capture_filter((5060,), METHODS, skip_outgoing=True)
    assert passes(frame, program, kind=0)
    assert not passes(frame, program, kind=4)
    assert passes(frame, kind=4)


def test_without_a_link_header_the_version_decides() -> None:
    program = capture_filter((5060,), METHODS, ethernet=False)
    assert passes(ipv4(udp(INVITE)), program)
    assert passes(ipv6(udp(INVITE)), program)
    assert not passes(ipv4(udp(INVITE, 1, 2)), program)
    assert not passes(ethernet(ipv4(udp(INVITE))), program)


@given(st.binary(max_size=200))
def test_whatever_the_packet_the_filter_returns(packet: bytes) -> None:
    for program in (FILTER, TUNNELS):
        assert run(program, packet) in (0, 0x40000)


@given(st.binary(min_size=1, max_size=90), st.integers(0, 150))
def test_a_packet_cut_anywhere_is_dropped_or_passes(payload: bytes, cut: int) -> None:
    assert run(FILTER, ethernet(ipv4(ipv6(udp(payload), 17), 41))[:cut]) in (0, 0x40000)


@pytest.mark.parametrize(
    "program",
    [
        FILTER,
        TUNNELS,
        capture_filter(range(5000, 5064), [b"METHOD%d" % n for n in range(32)], tunnels=True, skip_outgoing=True),
        capture_filter((5060,), ethernet=False),
    ],
)
def test_the_kernel_accepts_the_program(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        described = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
        any_socket.setsockopt(socket.SOL_SOCKET, 26, described)  # SO_ATTACH_FILTER


def test_many_ports_filter_the_same_as_few() -> None:
    many = capture_filter(range(6000, 6064), [b"INVITE", *(b"X%02dY" % n for n in range(31))], tunnels=True)
    for port, expected in ((6000, True), (6063, True), (6064, False)):
        assert passes(ethernet(ipv6(udp(INVITE, 1, port)), IPV6), many) is expected
        assert passes(ethernet(ipv4(ipv4(udp(INVITE, 1, port)), 4)), many) is expected


@pytest.mark.parametrize("ports", [(), (0,), (65536,), range(1, 66)])
def test_ports_that_cannot_be_filtered_are_refused(ports: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ports"):
        capture_filter(ports)


def test_methods_that_cannot_be_filtered_are_refused() -> None:
    for methods in ([b""], [b"M"] * 33):
        with pytest.raises(ValueError, match="methods"):
            capture_filter((5060,), methods)


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 600), st.integers(0, 600)), min_size=1, max_size=600),
    st.integers(0, 255),
)
def test_long_jumps_go_where_short_ones_would(rows: list[tuple[int, int, int]], byte: int) -> None:
    """A random program of forward jumps, beside a direct reading of it."""
    count = len(rows)
    items: list[Item] = [Step(SET_X, 0), Step(LOAD_BYTE_X, 0)]
    for at, (k, yes, no) in enumerate(rows):
        items += [f"l{at}", Jump(IF_EQUAL, k, f"l{min(at + 1 + yes, count)}", f"l{min(at + 1 + no, count + 1)}")]
    items += [f"l{count}", Step(RETURN, 1), f"l{count + 1}", Step(RETURN, 2)]
    at = 0
    while at < count:
        k, yes, no = rows[at]
        at = min(at + 1 + yes, count) if byte == k else min(at + 1 + no, count + 1)
    assert run(assemble(items), bytes([byte])) == at - count + 1


def test_jumps_to_nowhere_and_backwards_are_errors() -> None:
    with pytest.raises(ValueError, match="no label"):
        assemble([Jump(IF_EQUAL, 1, "nowhere", None), Step(RETURN, 0)])
    with pytest.raises(ValueError, match="backwards"):
        assemble(["back", Step(LOAD_BYTE, 0), Step(JUMP, to="back")])
    with pytest.raises(ValueError, match="backwards"):
        assemble(["back", Jump(IF_EQUAL, 1, "back", None), Step(RETURN, 0)])
    with pytest.raises(ValueError, match="longer"):
        assemble([Step(RETURN, 0)] * 4097)


def test_programs_do_not_grow_with_what_is_not_asked_for() -> None:
    sizes = [len(capture_filter(range(5060, 5060 + n))) for n in (1, 2, 3)]
    assert all(later - earlier == 4 * 8 for earlier, later in pairwise(sizes))
