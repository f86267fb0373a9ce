"""Which payloads and TCP streams are SIP: told by what they begin with, not by their port alone.

Knows start lines (RFC 3261 7.1, 7.2), loosely, so that broken SIP is called broken SIP and everything else is
left alone. Must not know headers: what begins like SIP goes to the framer and the scan.
"""

import re
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from agent.ingress.layers import Tcp, Udp
from agent.sip.framer import Framer
from agent.sip.scan import MAX_MESSAGE

SIP_PORTS: Final = frozenset((5060,))
"""Ports on which what is not SIP is worth counting. 5061 is TLS, of which a capture shows nothing."""

MAX_BODY: Final = 1 << 20
"""Bytes of a body in a stream. Screening needs none of it, but whoever pads it must not hide the call."""

NOT_SIP_AFTER: Final = MAX_BODY + (256 << 10)
"""Bytes of a stream without one whole message after which it is no SIP."""

MAX_FIRST_LINE: Final = 4096
"""Bytes of a stream's first line on a port that is not known for SIP; a Request-URI fits."""

MID_STREAM_TRIES: Final = 64
"""Segments at which a stream that the capture joined in the middle may turn out to be SIP, on other ports."""

_TOKEN: Final = rb"[A-Za-z0-9\-.!%*_+`'~]"  # RFC 3261 25.1
_STARTS: Final = re.compile(
    rb"[\r\n]*+(?:SIP/[0-9]|" + _TOKEN + rb"{1,64}+[ \t]++[^\r\n]*SIP/[0-9.]++[ \t]*+(?:\r?\n|\Z))", re.IGNORECASE
)
_MAY_START: Final = re.compile(rb"[\r\n]*+(?:" + _TOKEN + rb"{0,64}+(?:[ \t]++[^\r\n]*+\r?)?|SIP/[0-9.]*+)\Z")


class Message(NamedTuple):
    """One SIP message, or what begins like one. Addresses are packed, 4 or 16 bytes.

    Behind MAX_MESSAGE bytes `raw` is cut, which in a stream can only be a body's end.
    """

    raw: bytes
    transport: str  # "udp" or "tcp"
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int


def begins_like_sip(payload: bytes) -> bool:
    """Whether a datagram begins, after line breaks, with what a start line looks like from afar."""
    return _STARTS.match(payload) is not None


def message_of(datagram: Udp) -> Message:
    """The datagram as a message; RFC 3261 18.3: it holds exactly one."""
    return Message(
        datagram.payload, "udp", datagram.source, datagram.destination, datagram.source_port, datagram.destination_port
    )


class SipStream:
    """Takes one direction of a TCP connection (a `streams.Sink`) and makes messages of it, if it is SIP.

    On a SIP port the framer looks for start lines from the first byte on. Elsewhere the stream has to begin
    with one: at its first byte, or, where the capture joined it later, at the beginning of a segment.
    """

    def __init__(self, first: Tcp, from_start: bool, on_sip_port: bool, ended: Callable[[bool], None]) -> None:
        """`ended(sip)` is told of a stream that gave no message: one that began like SIP, or none on a SIP port."""
        self.refused = False
        self._ends = first[:4]
        self._on_sip_port = on_sip_port
        self._ended = ended
        self._began_like_sip = False
        self._framer = Framer(resync=True, max_body=MAX_BODY) if on_sip_port else None
        self._tries = 1 if from_start else MID_STREAM_TRIES
        self._head = b""
        self._fruitless = 0  # bytes without a message, until there is one; then -1

    @property
    def pending(self) -> int:
        """Bytes of what is not a whole message yet."""
        return len(self._head) if self._framer is None else self._framer.pending

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete."""
        if self._framer is None:
            self._head += data
            if not self._decide():
                return []
            data, self._head = self._head, b""
        assert self._framer is not None
        if not self._fruitless:
            self._began_like_sip = begins_like_sip(data)
        messages = self._framer.feed(data)
        if messages:
            self._fruitless = -1
        elif self._fruitless >= 0:
            self._fruitless += len(data)
            if self._fruitless > NOT_SIP_AFTER:
                self._refuse()
        source, destination, source_port, destination_port = self._ends
        return [
            Message(raw[:MAX_MESSAGE], "tcp", source, destination, source_port, destination_port) for raw in messages
        ]

    def gap(self) -> None:
        """Bytes are missing here."""
        self._head = b""
        if self._framer is not None:
            self._framer.gap()

    def finish(self) -> None:
        """The stream has ended."""
        if self._fruitless > 0 and not self.refused:
            self._report()

    def _decide(self) -> bool:
        """Whether the stream is SIP by what is there; undecided (False) while its first line is not whole."""
        if _STARTS.match(self._head):
            self._framer = Framer(resync=True, max_body=MAX_BODY)
            return True
        if len(self._head) > MAX_FIRST_LINE or not _MAY_START.match(self._head):
            self._head = b""
            self._tries -= 1
            self.refused = not self._tries
        return False

    def _refuse(self) -> None:
        self.refused = True
        self._report()

    def _report(self) -> None:
        if self._on_sip_port or self._began_like_sip:
            self._ended(self._began_like_sip)


@lru_cache(maxsize=4096)
def address_text(packed: bytes) -> str:
    """An address as text, without brackets; "192.0.2.1" also where IPv6 carries it (RFC 4291 2.5.5.2)."""
    if len(packed) == 16 and packed.startswith(b"\0\0\0\0\0\0\0\0\0\0\xff\xff"):
        packed = packed[12:]
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
