"""What the program in front of the guard's table has to say to a packet, written a second time: plainly, and in Python.

And packets to ask it about.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent.kernel.ebpf import Attach

STATION: Final = bytes(6)  # what the kernel takes for its own when it runs a program for a test
SOURCE4, SOURCE6 = bytes([192, 0, 2, 2]), bytes.fromhex("20010db8000100000000000000000002")

_INVITE: Final = re.compile(rb"(?i:INVITE)")
_EMERGENCY: Final = r"(?is).{7}(?:urn:service:sos|(?:sips?:|tel:)(?:\+1|\+(?!1)|(?!\+))(?:%s)[^0-9])"


def is_excess(
    packet: bytes, way: Attach, ports: Sequence[int] = (5060,), numbers: Sequence[str] = ("911", "933", "112")
) -> bool:
    """Whether this is to be dropped if its source is beyond the limit or blocked, and not exempt."""
    found = _udp(packet, way)
    if found is None:
        return False
    header, payload = found[:8], found[8:]
    if int.from_bytes(header[2:4], "big") not in ports:
        return False
    if payload[:1] in (b"\r", b"\n"):
        if int.from_bytes(header[4:6], "big") <= 12:
            return False
    elif not _INVITE.match(payload):
        return False
    return not re.match((_EMERGENCY % "|".join(numbers)).encode(), payload)


def _udp(frame: bytes, way: Attach) -> bytes | None:
    """The UDP header and all behind it; None for what is left to the table."""
    for_others = frame[:6] != STATION and not (frame[0] & 1 and way is Attach.TCX)
    if for_others:
        return None
    at = 12
    for _ in range(2):
        if frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
    kind, packet = frame[at : at + 2], frame[at + 2 :]
    if kind == b"\x08\x00" and len(packet) >= 28:
        fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
        return packet[20:] if packet[0] == 0x45 and packet[9] == 17 and not fragment else None
    if kind == b"\x86\xdd" and len(packet) >= 48:
        return packet[40:] if packet[0] >> 4 == 6 and packet[6] == 17 else None
    return None


@dataclass(frozen=True)
class Frame:
    """A packet in parts, so that a test can have any of them wrong."""

    payload: bytes = b"INVITE sip:+12025550100@x SIP/2.0\r\n"
    version: int = 4
    port: int = 5060
    station: bytes = STATION
    tags: tuple[int, ...] = ()
    first: int = 0x45  # version and header length of IPv4, version of IPv6
    fragment: int = 0
    protocol: int = 17
    length: int | None = None  # that the UDP header tells

    def bytes(self) -> bytes:
        """It, whole."""
        length = 8 + len(self.payload) if self.length is None else self.length
        udp = b"".join(n.to_bytes(2, "big") for n in (5060, self.port, length, 0))
        if self.version == 4:
            head = bytearray(20)
            head[0], head[9] = self.first, self.protocol
            head[2:4] = (28 + len(self.payload)).to_bytes(2, "big")
            head[6:8] = self.fragment.to_bytes(2, "big")
            head[12:16] = SOURCE4
        else:
            head = bytearray(40)
            head[0], head[6] = self.first + 0x1B & 0xFF, self.protocol
            head[8:24] = SOURCE6
        kind = 0x0800 if self.version == 4 else 0x86DD
        tags = b"".join(tag.to_bytes(2, "big") + b"\x00\x05" for tag in self.tags)
        link = self.station + bytes(6) + tags + kind.to_bytes(2, "big")
        return link + bytes(head) + udp + self.payload

    def but(self, **parts: object) -> "Frame":
        """The same with other parts."""
        return replace(self, **parts)  # type: ignore[arg-type]
