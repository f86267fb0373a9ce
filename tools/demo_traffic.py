"""Writes build/demo/traffic.pcap: a minute of constructed calls for examples/demo-policy.toml to decide.

    python tools/demo_traffic.py [FILE]

Always the same bytes. Numbers are 555-01XX, hosts example.*, addresses those of RFC 5737 and RFC 3849.
"""

import argparse
import base64
import json
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter

START = 1_793_631_600  # 2026-11-02T15:00:00Z
SBC, SBC6 = "203.0.113.5", "2001:db8:5::5"

# Who calls; examples/demo-policy.toml knows them as trunks.
EAST, WEST, WEST6 = "198.51.100.10", "198.51.100.20", "2001:db8:20::20"
NORTH = "198.51.100.30"  # where the flood comes from
LINK = "198.51.100.40"  # speaks TCP
SHADY = "198.51.100.66"  # its provider is blocked
ACME = "192.0.2.10"  # a customer with the numbers 201-555-0100 to -0119

FLOOD_SECONDS, FLOOD_RATE = 1.5, 200
TIMER_A = (0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)  # copies of an unanswered INVITE over UDP, RFC 3261 17.1.1.2

_unique = count(1)


@dataclass
class Call:
    """One call: who calls whom, from where; makes its messages."""

    source: str
    calling: str
    called: str
    display: str = ""
    extra: str = ""  # header rows, each with its CRLF
    body: str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\n"
    transport: str = "UDP"
    cseq: int = 1
    number: int = field(default_factory=lambda: next(_unique))

    def request(self, method: str, *, branch: str = "", to_tag: str = "", extra: str = "") -> bytes:
        """A request of the caller; an INVITE's branch unless another one is given."""
        body = self.body if method == "INVITE" else ""
        host = f"[{self.source}]" if ":" in self.source else self.source
        type_row = "Content-Type: application/sdp\r\n" if body else ""
        return (
            f"{method} sip:{self.called}@sbc.example.net;user=phone SIP/2.0\r\n"
            f"{self._via(branch)}"
            "Max-Forwards: 69\r\n"
            f"From: {self.display}<sip:{self.calling}@{'anonymous.invalid' if 'anon' in self.calling else host}>"
            f";tag=c{self.number}\r\n"
            f"To: <sip:{self.called}@sbc.example.net;user=phone>{to_tag and f';tag={to_tag}'}\r\n"
            f"Call-ID: {self.number:04}@{host}\r\n"
            f"CSeq: {self.cseq} {method}\r\n"
            f"Contact: <sip:{host}>\r\n"
            f"{self.extra if method == 'INVITE' else ''}{extra}{type_row}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def response(self, status: str, method: str = "INVITE", branch: str = "") -> bytes:
        """A response of the SBC."""
        host = f"[{self.source}]" if ":" in self.source else self.source
        tag = "" if status.startswith("100") else f";tag=s{self.number}"
        return (
            f"SIP/2.0 {status}\r\n{self._via(branch)}"
            f"From: <sip:{self.calling}@{host}>;tag=c{self.number}\r\n"
            f"To: <sip:{self.called}@sbc.example.net;user=phone>{tag}\r\n"
            f"Call-ID: {self.number:04}@{host}\r\n"
            f"CSeq: {self.cseq} {method}\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()

    def _via(self, branch: str) -> str:
        host = f"[{self.source}]" if ":" in self.source else self.source
        branch = branch or f"z9hG4bK{self.number}-{self.cseq}"
        return f"Via: SIP/2.0/{self.transport} {host}:5060;branch={branch}\r\n"


class Capture:
    """Frames with their times; `write` sorts them."""

    def __init__(self) -> None:
        self._frames: list[tuple[float, int, Packet]] = []

    def add(self, at: float, packet: Packet, vlan: int = 0) -> None:
        """One packet `at` seconds after START."""
        link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        frame = link / Dot1Q(vlan=vlan) / packet if vlan else link / packet
        self._frames.append((at, len(self._frames), frame))

    def udp(self, at: float, source: str, destination: str, payload: bytes, vlan: int = 0) -> None:
        """One datagram from port 5060 to port 5060."""
        network = IPv6(src=source, dst=destination) if ":" in source else IP(src=source, dst=destination)
        self.add(at, network / UDP(sport=5060, dport=5060) / Raw(payload), vlan)

    def exchange(self, call: Call, steps: list[tuple[float, bytes, bool]], vlan: int = 0) -> None:
        """Messages of one call over UDP: (time, message, whether the caller sends it)."""
        sbc = SBC6 if ":" in call.source else SBC
        for at, message, outward in steps:
            self.udp(at, *((call.source, sbc) if outward else (sbc, call.source)), message, vlan)

    def write(self, path: Path) -> int:
        """Write the capture in the order of time; returns the number of frames."""
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = PcapWriter(str(path), linktype=1, sync=False)
        for at, _, frame in sorted(self._frames, key=lambda item: item[:2]):
            frame.time = START + at
            writer.write(frame)
        writer.close()
        return len(self._frames)


def answered(call: Call, at: float, talk: float) -> list[tuple[float, bytes, bool]]:
    """A call that is answered after two seconds and ended by the caller."""
    to_tag, end = f"s{call.number}", at + 2 + talk
    return [
        (at, call.request("INVITE"), True),
        (at + 0.02, call.response("100 Trying"), False),
        (at + 0.3, call.response("180 Ringing"), False),
        (at + 2, call.response("200 OK"), False),
        (at + 2.04, call.request("ACK", branch=f"z9hG4bK{call.number}-ack", to_tag=to_tag), True),
        (end, call.request("BYE", branch=f"z9hG4bK{call.number}-bye", to_tag=to_tag), True),
        (end + 0.03, call.response("200 OK", "BYE", branch=f"z9hG4bK{call.number}-bye"), False),
    ]


def normal_calls(capture: Capture) -> None:
    """Calls that pass: two carriers over UDP, one of them also over IPv6 and in a VLAN."""
    for index in range(20):
        source = (EAST, WEST)[index % 2]
        call = Call(source, f"+1212555{100 + index:04}", f"+1201555{100 + index % 10:04}")
        capture.exchange(call, answered(call, 0.4 + index * 2.1, 4 + index % 5))
    six = Call(WEST6, "+12125550171", "+12015550103")
    capture.exchange(six, answered(six, 3.3, 6))
    tagged = Call(EAST, "+12125550172", "+12015550104")
    capture.exchange(tagged, answered(tagged, 4.7, 5), vlan=120)


def passport(calling: str, called: str) -> str:
    """An Identity row as RFC 8224 and RFC 8588 write it. Its signature is 64 zero bytes: nobody signed it."""

    def encoded(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()

    info = "https://certs.example.net/sti/demo.pem"
    header = {"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": info}
    payload = {
        "attest": "A",
        "dest": {"tn": [called]},
        "iat": START,
        "orig": {"tn": calling},
        "origid": "00000000-0000-4000-8000-000000000001",
    }
    signature = base64.urlsafe_b64encode(bytes(64)).rstrip(b"=").decode()
    return f"Identity: {encoded(header)}.{encoded(payload)}.{signature};info=<{info}>;alg=ES256;ppt=shaken\r\n"


def signed_and_fragmented(capture: Capture) -> None:
    """A call with an Identity header, and one of 3 kB whose IP fragments arrive in the wrong order."""
    signed = Call(EAST, "+12125550173", "+12015550105", extra=passport("12125550173", "12015550105"))
    capture.exchange(signed, answered(signed, 6.1, 5))
    large = Call(WEST, "+12125550174", "+12015550106", extra=passport("12125550174", "12015550106"))
    large.body += "".join(f"a=rtpmap:{96 + n} constructed-codec-{n:03}/8000\r\n" for n in range(60))
    datagram = IP(src=WEST, dst=SBC, id=4711) / UDP(sport=5060, dport=5060) / Raw(large.request("INVITE"))
    for delay, piece in zip((0.002, 0.001, 0), fragment(datagram, fragsize=1480), strict=True):
        capture.add(8.2 + delay, piece)
    capture.exchange(large, answered(large, 8.21, 4)[1:])


def repeats(capture: Capture) -> None:
    """What must count once: copies of an unanswered INVITE, and a call that is challenged; and a cancelled call."""
    lost = Call(WEST, "+12125550175", "+12015550107")
    capture.exchange(lost, [(10 + delay, lost.request("INVITE"), True) for delay in TIMER_A])
    asked = Call(ACME, "+12015550101", "+13035550107")
    capture.exchange(
        asked,
        [
            (11, asked.request("INVITE"), True),
            (11.03, asked.response("407 Proxy Authentication Required"), False),
            (11.05, asked.request("ACK", to_tag=f"s{asked.number}"), True),
        ],
    )
    asked.cseq = 2
    asked.extra = (
        'Proxy-Authorization: Digest username="acme", realm="sbc.example.net", nonce="a1b2",'
        ' uri="sip:sbc.example.net", response="00000000000000000000000000000000"\r\n'
    )
    capture.exchange(asked, answered(asked, 11.08, 3))
    given_up = Call(EAST, "+12125550176", "+12015550108")
    capture.exchange(
        given_up,
        [
            (12, given_up.request("INVITE"), True),
            (12.02, given_up.response("100 Trying"), False),
            (12.4, given_up.response("180 Ringing"), False),
            (18, given_up.request("CANCEL"), True),
            (18.01, given_up.response("200 OK", "CANCEL"), False),
            (18.02, given_up.response("487 Request Terminated"), False),
            (18.04, given_up.request("ACK", to_tag=f"s{given_up.number}"), True),
        ],
    )


def tcp_calls(capture: Capture) -> None:
    """Three INVITEs in one TCP connection: two share a segment, the third takes three, out of order."""
    calls = [Call(LINK, f"+1212555018{n}", f"+1201555011{n}", transport="TCP") for n in range(3)]
    both, third = calls[0].request("INVITE") + calls[1].request("INVITE"), calls[2].request("INVITE")
    cuts = [both, third[:200], third[200:350], third[350:]]
    starts = [1001 + sum(map(len, cuts[:n])) for n in range(4)]
    ends = {"sport": 40001, "dport": 5060}

    def segment(at: float, seq: int, payload: bytes = b"", flags: str = "PA") -> None:
        capture.add(at, IP(src=LINK, dst=SBC) / TCP(seq=seq, ack=9001, flags=flags, **ends) / Raw(payload))

    segment(13, 1000, flags="S")
    back = IP(src=SBC, dst=LINK) / TCP(sport=5060, dport=40001, seq=9000, ack=1001, flags="SA")
    capture.add(13.01, back)
    for delay, index in ((0.02, 0), (0.50, 1), (0.51, 3), (0.52, 2), (0.60, 1)):  # the last is a copy
        segment(13 + delay, starts[index], cuts[index])
    replies = b"".join(call.response("480 Temporarily Unavailable") for call in calls)
    capture.add(13.7, IP(src=SBC, dst=LINK) / TCP(sport=5060, dport=40001, seq=9001, flags="PA") / Raw(replies))
    segment(14, starts[3] + len(cuts[3]), flags="FA")


def floods(capture: Capture) -> None:
    """Far more calls than one carrier may send, from ever new numbers; and one number that is called too often."""
    for index in range(int(FLOOD_SECONDS * FLOOD_RATE)):
        call = Call(NORTH, f"+1646555{100 + index % 100:04}", f"+1201555{100 + index % 100:04}")
        capture.udp(20 + index / FLOOD_RATE, NORTH, SBC, call.request("INVITE"))
    for index in range(8):
        call = Call(EAST, f"+1312555{120 + index:04}", "+12015550119")
        capture.udp(24 + index * 0.4, EAST, SBC, call.request("INVITE"))


def refusals(capture: Capture) -> None:
    """Calls that a rule refuses for what they show or whom they come from, and emergency calls, which pass."""

    def send(at: float, call: Call) -> None:
        capture.udp(at, call.source, SBC, call.request("INVITE"))

    # Numbers that never originate calls: on the list, and outside the numbering plan.
    send(26.0, Call(EAST, "+18005550199", "+12015550101", display='"Bank" '))
    send(26.7, Call(WEST, "+12025550140", "+12015550102"))
    send(27.3, Call(WEST, "+11115550100", "+12015550103"))
    # A customer that shows a neighbour of whom it calls, as spoofers do: the first time is a warning.
    warned = Call(ACME, "+13035550140", "+13035550151")
    capture.exchange(warned, answered(warned, 28, 5))
    for index in range(1, 3):
        send(28 + index, Call(ACME, f"+1303555014{index}", f"+1303555015{index}"))
    # A blocked provider, whose emergency calls pass.
    send(31.0, Call(SHADY, "+12125550177", "+12015550105"))
    send(31.5, Call(SHADY, "+12125550178", "911"))
    send(32.0, Call(SHADY, "+12125550179", "+1911"))
    send(32.5, Call(SHADY, "+12125550177", "+12015550106"))
    # Callers whom a subscriber does not want, by number and for showing none.
    send(33.0, Call(EAST, "+12125550133", "+13035550150"))
    send(33.5, Call(EAST, "anonymous", "+13035550150", display='"Anonymous" ', extra="Privacy: id\r\n"))
    # Expensive destinations, of which the policy lets few through.
    for index in range(3):
        send(34 + index * 0.5, Call(WEST, "+12125550180", f"+1900555010{index}"))


def busy_customer(capture: Capture) -> None:
    """A customer with more calls at once than it has bought, its alarm line and a keep-alive."""
    for index in range(6):
        call = Call(ACME, f"+1201555010{index}", f"+1617555010{index}")
        capture.exchange(call, answered(call, 130 + index * 0.5, 12))
    emergency = Call(ACME, "+12015550109", "911")
    capture.exchange(emergency, answered(emergency, 134, 20))
    capture.udp(135, ACME, SBC, b"\r\n\r\n")
    capture.udp(136, WEST, SBC, Call(WEST, "sipp", "ping").request("OPTIONS"))


SCENES = (normal_calls, signed_and_fragmented, repeats, tcp_calls, floods, refusals, busy_customer)


def main(arguments: list[str]) -> int:
    """Write the capture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("file", nargs="?", type=Path, default=Path("build/demo/traffic.pcap"))
    path = parser.parse_args(arguments).file
    capture = Capture()
    for scene in SCENES:
        scene(capture)
    print(f"{path}: {capture.write(path):,} packets")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
