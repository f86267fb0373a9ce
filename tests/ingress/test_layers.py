"""Frames of every link type and tunnel lead to the same datagram; no bytes make the decoder raise."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ingress import layers
from agent.ingress.layers import FRAGMENTED, TUNNEL, VLAN, Fragment, Skip, Tcp, Udp, decode, reassembled
from tests.ingress.frames import CLIENT, CLIENT6, SERVER, SERVER6, ethernet, ipv4, ipv6, tcp, udp

SIP = b"OPTIONS sip:a@example.com SIP/2.0\r\n\r\n"
INNER = ipv4(udp(SIP, 5070, 5080))
INNER6 = ipv6(udp(SIP, 5070, 5080))
ETHERNET = ethernet(INNER)


def sll(packet: bytes, ethertype: int = 0x0800) -> bytes:
    return struct.pack("!HHH8sH", 0, 1, 6, bytes(8), ethertype) + packet


def sll2(packet: bytes, ethertype: int = 0x0800) -> bytes:
    return struct.pack("!HHIHBB8s", ethertype, 0, 1, 1, 0, 6, bytes(8)) + packet


def gre(payload: bytes, protocol: int = 0x0800, flags: int = 0) -> bytes:
    fields = sum(4 for flag in (0x8000, 0x2000, 0x1000) if flags & flag)
    fields += 4 if flags & 0x0087 == 0x0081 else 0
    return ipv4(struct.pack("!HH", flags, protocol) + bytes(fields) + payload, 47)


LINKS = {
    "ethernet": (1, ETHERNET, 0),
    "ethernet with padding": (1, ETHERNET + bytes(20), 0),
    "ethernet ipv6": (1, ethernet(INNER6, 0x86DD), 0),
    "802.1Q": (1, ethernet(INNER, tags=[(0x8100, 7)]), VLAN),
    "QinQ": (1, ethernet(INNER, tags=[(0x88A8, 7), (0x8100, 8)]), VLAN),
    "old QinQ": (1, ethernet(INNER, tags=[(0x9100, 7), (0x8100, 8)]), VLAN),
    "cooked v1": (113, sll(INNER), 0),
    "cooked v1 ipv6": (113, sll(INNER6, 0x86DD), 0),
    "cooked v2": (276, sll2(INNER), 0),
    "raw": (101, INNER, 0),
    "raw ipv6": (101, INNER6, 0),
    "raw 12": (12, INNER, 0),
    "raw 14": (14, INNER6, 0),
    "raw 228": (228, INNER, 0),
    "raw 229": (229, INNER6, 0),
    "null little": (0, struct.pack("<I", 2) + INNER, 0),
    "null big": (0, struct.pack(">I", 2) + INNER, 0),
    "null darwin ipv6": (0, struct.pack("<I", 30) + INNER6, 0),
    "null freebsd ipv6": (0, struct.pack(">I", 28) + INNER6, 0),
    "loop": (108, struct.pack(">I", 2) + INNER, 0),
    "ppp": (9, b"\xff\x03\x00\x21" + INNER, 0),
    "ppp compressed": (9, b"\x21" + INNER, 0),
    "pppoe": (1, ethernet(b"\x11\0\0\1\0\0\0\x21" + INNER, 0x8864), TUNNEL),
    "pppoe ipv6 in vlan": (1, ethernet(b"\x11\0\0\1\0\0\0\x57" + INNER6, 0x8864, [(0x8100, 5)]), TUNNEL | VLAN),
    "mpls": (1, ethernet(b"\0\x01\0\x40\0\x02\x01\x40" + INNER, 0x8847), TUNNEL),
    "ipv4 options": (101, ipv4(udp(SIP, 5070, 5080), options=b"\1" * 8), 0),
    "4in4": (101, ipv4(INNER, 4), TUNNEL),
    "6in4": (101, ipv4(INNER6, 41), TUNNEL),
    "4in6": (101, ipv6(INNER, 4), TUNNEL),
    "6in6": (101, ipv6(INNER6, 41), TUNNEL),
    "gre": (101, gre(INNER), TUNNEL),
    "gre ipv6": (101, gre(INNER6, 0x86DD), TUNNEL),
    "gre checksum key sequence": (101, gre(INNER, flags=0xB000), TUNNEL),
    "gre ethernet": (101, gre(ethernet(INNER, tags=[(0x8100, 9)]), 0x6558, 0x2000), TUNNEL | VLAN),
    "gre ppp": (101, gre(b"\xff\x03\x00\x21" + INNER, 0x880B, 0x3001), TUNNEL),
    "gre ppp with ack": (101, gre(b"\xff\x03\x00\x21" + INNER, 0x880B, 0x3081), TUNNEL),
    "erspan 1": (101, gre(ETHERNET, 0x88BE), TUNNEL),
    "erspan 2": (101, gre(bytes(8) + ETHERNET, 0x88BE, 0x1000), TUNNEL),
    "erspan 3": (101, gre(bytes(11) + b"\1" + bytes(8) + ETHERNET, 0x22EB, 0x1000), TUNNEL),
    "vxlan": (101, ipv4(udp(b"\x08\0\0\0\0\0\1\0" + ETHERNET, 40000, 4789)), TUNNEL),
    "gtp": (101, ipv4(udp(b"\x30\xff\0\0\0\0\0\1" + INNER, 2152, 2152)), TUNNEL),
    "gtp sequence": (101, ipv4(udp(b"\x32\xff\0\0\0\0\0\1\0\1\0\0" + INNER, 2152, 2152)), TUNNEL),
    "gtp extension": (101, ipv4(udp(b"\x34\xff\0\0\0\0\0\1\0\0\0\x85\1\0\0\0" + INNER, 2152, 2152)), TUNNEL),
    "extension headers": (
        101,
        ipv6(b"\x3c\0" + bytes(6) + b"\x2b\1" + bytes(14) + b"\x11\0" + bytes(6) + udp(SIP, 5070, 5080), 0),
        0,
    ),
    "authentication header": (101, ipv4(b"\x11\4" + bytes(22) + udp(SIP, 5070, 5080), 51), 0),
    "atomic fragment": (101, ipv6(b"\x11\0\0\0\0\0\0\1" + udp(SIP, 5070, 5080), 44), 0),
    "length left to the card": (101, INNER[:2] + b"\0\0" + INNER[4:], 0),
    "udp length left to the card": (101, INNER[:24] + b"\0\0" + INNER[26:], 0),
}


@pytest.mark.parametrize(("linktype", "frame", "flags"), LINKS.values(), ids=LINKS)
def test_datagram_is_found_in_every_wrapping(linktype: int, frame: bytes, flags: int) -> None:
    found = decode(linktype, frame)
    six = isinstance(found, Udp) and len(found.source) == 16
    assert found == Udp(CLIENT6 if six else CLIENT, SERVER6 if six else SERVER, 5070, 5080, SIP, flags)


@pytest.mark.parametrize(("linktype", "frame", "flags"), LINKS.values(), ids=LINKS)
def test_frame_cut_anywhere_is_cut_and_never_raises(linktype: int, frame: bytes, flags: int) -> None:
    for size in range(len(frame)):
        found = decode(linktype, frame[:size])
        assert isinstance(found, Skip) or (isinstance(found, Udp) and len(found.payload) <= len(frame))


def test_padding_and_bytes_behind_the_stated_length_are_not_payload() -> None:
    assert decode(1, ethernet(ipv4(udp(b"ab") + b"behind udp")) + b"padding").payload == b"ab"  # type: ignore[union-attr]
    assert decode(1, ethernet(ipv4(tcp(b"ab", 1), 6)) + b"padding").payload == b"ab"  # type: ignore[union-attr]
    assert decode(1, ethernet(ipv6(tcp(b"ab", 1), 6), 0x86DD) + b"pad").payload == b"ab"  # type: ignore[union-attr]


def test_tcp_segment_tells_sequence_flags_and_payload_behind_options() -> None:
    found = decode(101, ipv4(tcp(SIP, 0xFFFFFFFE, 0x02, 1000, 2000, options=b"\1" * 12), 6))
    assert found == Tcp(CLIENT, SERVER, 1000, 2000, SIP, 0, 0xFFFFFFFE, 2)


def test_fragments_are_told_apart_from_datagrams() -> None:
    assert decode(101, ipv4(b"x" * 16, fragment=0x2000 | 3, identification=9)) == Fragment(
        CLIENT, SERVER, 9, 17, 24, True, b"x" * 16, 0, 1
    )
    last = ipv6(b"\x11\0" + struct.pack("!HI", 48, 0xABCDEF01) + b"y" * 5, 44)
    assert decode(101, last) == Fragment(CLIENT6, SERVER6, 0xABCDEF01, 17, 48, False, b"y" * 5, 0, 1)


def test_reassembled_datagram_goes_on_where_its_fragments_were() -> None:
    fragment = decode(1, ethernet(ipv4(b"x" * 16, 4, fragment=0x2000), tags=[(0x8100, 5)]))
    assert isinstance(fragment, Fragment)
    assert reassembled(fragment, 4, INNER) == Udp(CLIENT, SERVER, 5070, 5080, SIP, VLAN | TUNNEL | FRAGMENTED)
    assert reassembled(fragment, 17, udp(SIP)) == Udp(CLIENT, SERVER, 5060, 5060, SIP, VLAN | FRAGMENTED)


def test_fragment_cut_by_the_snap_length_is_not_used() -> None:
    assert decode(101, ipv4(b"x" * 16, fragment=0x2000)[:-1]) is Skip.CUT
    assert decode(101, ipv6(b"\x11\0\0\1\0\0\0\1" + b"x" * 8, 44)[:-1]) is Skip.CUT


def test_datagram_cut_by_the_snap_length_gives_what_is_there() -> None:
    assert decode(101, INNER[:-5]) == Udp(CLIENT, SERVER, 5070, 5080, SIP[:-5], 0)


def nested(times: int) -> bytes:
    packet = INNER
    for _ in range(times):
        packet = ipv4(packet, 4)
    return packet


def test_nesting_is_followed_to_its_bound_and_no_further() -> None:
    assert isinstance(decode(101, nested(layers.MAX_DEPTH - 1)), Udp)
    assert decode(101, nested(layers.MAX_DEPTH)) is Skip.TOO_DEEP
    assert decode(1, ethernet(INNER, tags=[(0x8100, 1)] * (layers.MAX_TAGS + 1))) is Skip.TOO_DEEP
    assert decode(1, ethernet(b"\0\0\0\x40" * 9 + INNER, 0x8847)) is Skip.TOO_DEEP
    assert decode(101, ipv6(b"\0\0" + bytes(6) + b"\0" * 800, 0)) is Skip.OTHER_TRANSPORT


@pytest.mark.parametrize(
    ("linktype", "frame", "reason"),
    [
        (105, INNER, Skip.LINK_TYPE),
        (1, ethernet(b"\0" * 28, 0x0806), Skip.NOT_IP),
        (1, ethernet(b"\xaa\xaa\x03" + INNER, 0x0100), Skip.NOT_IP),
        (0, struct.pack("<I", 7) + INNER, Skip.NOT_IP),
        (9, b"\xc0\x21" + INNER, Skip.NOT_IP),
        (101, ipv4(b"echo" * 4, 1), Skip.OTHER_TRANSPORT),
        (101, gre(INNER, flags=0x4000), Skip.OTHER_TRANSPORT),
        (101, b"\x55" + INNER[1:], Skip.MALFORMED),
        (101, b"\x44" + INNER[1:], Skip.MALFORMED),
        (101, INNER[:2] + b"\0\x13" + INNER[4:], Skip.MALFORMED),
        (101, INNER[:24] + b"\0\7" + INNER[26:], Skip.MALFORMED),
        (101, ipv4(tcp(b"", 1)[:12] + b"\x40" + tcp(b"", 1)[13:], 6), Skip.MALFORMED),
    ],
)
def test_what_cannot_be_used_has_a_reason(linktype: int, frame: bytes, reason: Skip) -> None:
    assert decode(linktype, frame) is reason


def test_tunnel_port_with_something_else_inside_is_an_ordinary_datagram() -> None:
    for port in (4789, 2152):
        assert decode(101, ipv4(udp(SIP, 5060, port))) == Udp(CLIENT, SERVER, 5060, port, SIP, 0)


@given(st.sampled_from([*layers.LINK_TYPES, 105]), st.binary(max_size=200))
def test_random_bytes_never_raise(linktype: int, data: bytes) -> None:
    decode(linktype, data)


@given(st.sampled_from(sorted(LINKS)), st.data())
def test_frames_with_flipped_bytes_never_raise(name: str, data: st.DataObject) -> None:
    linktype, frame, _ = LINKS[name]
    damaged = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    found = decode(linktype, bytes(damaged))
    if not isinstance(found, Skip):
        assert found.payload in bytes(damaged)
        assert len(found.source) == len(found.destination)
