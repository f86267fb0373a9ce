"""From packets to SIP messages: datagrams, fragments put together, streams put in order. Of a file or of an interface.

Holds only bounded tables, and reads no clock. Must not know where packets come from or what becomes of the messages;
what it meets on the way it adds to the counts of whoever feeds it.
"""

from collections.abc import Sequence

from agent.ingress.counts import WireCounts
from agent.ingress.fragments import Fragments
from agent.ingress.layers import TUNNEL, VLAN, Fragment, Skip, Tcp, Udp, decode, reassembled
from agent.ingress.recognition import SIP_PORTS, Message, SipStream, begins_like_sip, message_of
from agent.ingress.streams import Streams


class Assembly:
    """Fragments and streams on their way to be messages. `counts` may be exchanged at any time.

    `ports` empty: every port is looked at, and SIP is told by its content.
    """

    def __init__(self, counts: WireCounts, ports: frozenset[int] = frozenset()) -> None:
        self.counts = counts
        self.fragments = Fragments()
        self.streams: Streams[Message] = Streams(self._accept)
        self._only_ports = ports
        self._sip_ports = ports or SIP_PORTS

    def add(self, linktype: int, data: bytes, now: float) -> Sequence[Message]:
        """The messages that one packet completes: of a datagram, of fragments, or of a stream."""
        counts = self.counts
        found = decode(linktype, data)
        if isinstance(found, Skip):
            self._skip(found, linktype)
            return ()
        if found.layers:
            counts.vlan += found.layers & VLAN != 0
            counts.tunnels += found.layers & TUNNEL != 0
        while isinstance(found, Fragment):  # a reassembled datagram may be a tunnel with fragments inside
            counts.fragments += 1
            whole = self.fragments.add(found, now)
            if whole is None:
                return ()
            found = reassembled(found, *whole)
        if isinstance(found, Skip):
            self._skip(found, linktype)
            return ()
        if self._only_ports and not {found.source_port, found.destination_port} & self._only_ports:
            return ()
        return self._datagram(found) if isinstance(found, Udp) else self.streams.add(found, now)

    def finish(self) -> Sequence[Message]:
        """What the streams still hold: nothing more will come."""
        return self.streams.finish()

    def _skip(self, reason: Skip, linktype: int) -> None:
        if reason is Skip.LINK_TYPE:
            self.counts.count(self.counts.unsupported_links, str(linktype))
        else:
            self.counts.count(self.counts.skipped, reason.value)

    def _datagram(self, found: Udp) -> Sequence[Message]:
        if begins_like_sip(found.payload):
            return (message_of(found),)
        if found.source_port in self._sip_ports or found.destination_port in self._sip_ports:
            self.counts.not_sip += 1
        return ()

    def _accept(self, first: Tcp, from_start: bool) -> SipStream:
        on_sip_port = first.source_port in self._sip_ports or first.destination_port in self._sip_ports
        return SipStream(first, from_start, on_sip_port, self._without_message)

    def _without_message(self, sip: bool) -> None:
        if sip:
            self.counts.incomplete += 1
        else:
            self.counts.not_sip += 1
