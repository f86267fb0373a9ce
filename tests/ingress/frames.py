"""Builds frames and captures byte by byte: tests state what is on the wire, and scapy does not judge it."""

import struct
from collections.abc import Iterable, Sequence

CLIENT, SERVER = b"\xc0\x00\x02\x0a", b"\xc6\x33\x64\x01"  # 192.0.2.10, 198.51.100.1
CLIENT6, SERVER6 = bytes.fromhex("20010db8" + "00" * 11 + "0a"), bytes.fromhex("20010db8" + "00" * 11 + "01")


def udp(payload: bytes, sport: int = 5060, dport: int = 5060) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def tcp(
    payload: bytes, sequence: int, flags: int = 0x18, sport: int = 5060, dport: int = 5060, options: bytes = b""
) -> bytes:
    header = struct.pack(
        "!HHIIBBHHH", sport, dport, sequence & 0xFFFFFFFF, 0, (20 + len(options)) // 4 << 4, flags, 65535, 0, 0
    )
    return header + options + payload


def ipv4(
    payload: bytes,
    protocol: int = 17,
    source: bytes = CLIENT,
    destination: bytes = SERVER,
    fragment: int = 0,
    identification: int = 1,
    options: bytes = b"",
) -> bytes:
    header = 20 + len(options)
    return (
        struct.pack(
            "!BBHHHBBH4s4s",
            0x40 | header // 4,
            0,
            header + len(payload),
            identification,
            fragment,
            64,
            protocol,
            0,
            source,
            destination,
        )
        + options
        + payload
    )


def ipv6(payload: bytes, protocol: int = 17, source: bytes = CLIENT6, destination: bytes = SERVER6) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, source, destination) + payload


def ethernet(payload: bytes, ethertype: int = 0x0800, tags: Sequence[tuple[int, int]] = ()) -> bytes:
    """A frame; each tag is (its EtherType, VLAN id), outermost first."""
    head = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02"
    for tag, vlan in tags:
        head += struct.pack("!HH", tag, vlan)
    return head + struct.pack("!H", ethertype) + payload


def pcap(
    frames: Iterable[bytes],
    linktype: int = 1,
    endian: str = "<",
    nano: bool = False,
    start: float = 1e9,
    step: float = 0.001,
    snaplen: int = 262144,
) -> bytes:
    """A pcap file; the packets are `step` seconds apart, cut at `snaplen`."""
    unit = 10**9 if nano else 10**6
    out = [struct.pack(endian + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, linktype)]
    for index, frame in enumerate(frames):
        seconds, fraction = divmod(round((start + index * step) * unit), unit)
        data = frame[:snaplen]
        out.append(struct.pack(endian + "IIII", seconds, fraction, len(data), len(frame)) + data)
    return b"".join(out)


def block(kind: int, body: bytes, endian: str = "<") -> bytes:
    """One pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack(endian + "I", 12 + len(body))
    return struct.pack(endian + "I", kind) + length + body + length


def section(endian: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(endian + "IHHq", 0x1A2B3C4D, 1, 0, -1), endian)


def option(code: int, value: bytes, endian: str = "<") -> bytes:
    return struct.pack(endian + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(linktype: int = 1, options: bytes = b"", snaplen: int = 0, endian: str = "<") -> bytes:
    end = option(0, b"", endian) if options else b""
    return block(1, struct.pack(endian + "HHI", linktype, 0, snaplen) + options + end, endian)


def enhanced(frame: bytes, ticks: int, number: int = 0, wire: int | None = None, endian: str = "<") -> bytes:
    """An enhanced packet block; `ticks` in units of the interface's if_tsresol."""
    head = struct.pack(
        endian + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame) if wire is None else wire
    )
    return block(6, head + frame, endian)
