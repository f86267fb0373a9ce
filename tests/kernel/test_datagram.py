"""From packets as netfilter hands them over to datagrams."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from agent.kernel.datagram import read_datagram

V4 = IP(src="192.0.2.2", dst="192.0.2.1")
V6 = IPv6(src="2001:db8::2", dst="2001:db8::1")
BODY = UDP(sport=5070, dport=5060) / Raw(b"INVITE x")


def payload_of(packet: Packet) -> bytes | None:
    found = read_datagram(bytes(packet))
    if found is not None:
        assert (found.source_port, found.target_port) == (5070, 5060)
    return None if found is None else found.payload


def test_both_families_with_options_and_extensions_are_read() -> None:
    assert read_datagram(bytes(V4 / BODY)) == (b"\xc0\x00\x02\x02", 5070, b"\xc0\x00\x02\x01", 5060, b"INVITE x")
    for packet in (
        IP(options=[IPOption_RR(length=11)]) / BODY,
        V6 / BODY,
        V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / BODY,
        V6 / IPv6ExtHdrRouting(addresses=["2001:db8::3"]) / BODY,
    ):
        assert payload_of(packet) == b"INVITE x"


def test_fragments_other_protocols_and_cut_packets_are_none() -> None:
    for packet in (
        IP(flags="MF") / BODY,
        IP(frag=3, proto=17) / Raw(b"INVITE x"),
        V6 / IPv6ExtHdrFragment(m=1) / BODY,
        V4 / TCP(sport=5070, dport=5060) / Raw(b"INVITE x"),
    ):
        assert payload_of(packet) is None
    for whole in (bytes(V4 / BODY), bytes(V6 / BODY)):
        assert all(read_datagram(whole[:length]) is None for length in range(len(whole)))


def test_what_follows_the_datagram_is_not_part_of_it() -> None:
    assert payload_of(Raw(bytes(V4 / BODY) + b"padding")) == b"INVITE x"


def test_a_length_that_lies_is_no_datagram() -> None:
    for length in (0, 7, 17, 65_535):
        assert payload_of(V4 / UDP(sport=5070, dport=5060, len=length) / Raw(b"INVITE x")) is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    read_datagram(data)


@given(st.sampled_from([b"\x45", b"\x60", b"\x4f", b"\x40"]), st.binary(min_size=40, max_size=200))
def test_arbitrary_bytes_that_begin_like_a_packet_never_raise(first: bytes, rest: bytes) -> None:
    found = read_datagram(first + rest)
    assert found is None or len(found.payload) <= len(rest)
