"""The redirect server as one part of the daemon: every socket of it, started together and stopped together."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from agent.ingress.redirect.settings import Listen, RedirectSettings
from agent.ingress.redirect.stream import StreamEndpoint
from agent.ingress.redirect.udp import UdpEndpoint
from agent.service import Service

_RESPONDER: Final = (
    "requests", "answers", "acks", "responses", "dropped", "bad_requests", "ignored", "undecided", "failures"
)  # fmt: skip
_TRANSACTIONS: Final = ("overflows", "shortened", "retransmissions", "acknowledged", "unacknowledged")


class RedirectServer:
    """A component of the daemon (agent.ops.component.Server). `clock` is monotonic seconds, `wall` epoch seconds.

    `on_failure` hears of faults of ours; the calls that they happened on passed.
    """

    name: Final = "redirect"

    def __init__(
        self,
        service: Service,
        settings: RedirectSettings,
        on_failure: Callable[[Exception], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        shared = (settings, clock, wall, on_failure)
        self.udp = [UdpEndpoint(service, listen, *shared) for listen in settings.udp]
        self.streams = [StreamEndpoint(service, listen, *shared) for listen in settings.tcp]
        self.streams += [StreamEndpoint(service, listen, *shared, tls=True) for listen in settings.tls]
        self._running = False

    @property
    def addresses(self) -> tuple[tuple[str, Listen], ...]:
        """Where it listens: ("udp", Listen(host, port)), ... The ports are known once it has started."""
        return tuple((endpoint.transport, endpoint.address) for endpoint in self._endpoints)

    async def start(self) -> None:
        """Listen everywhere, or nowhere. Raises OSError for an address that cannot be had, ConfigError for TLS."""
        try:
            for endpoint in self._endpoints:
                await endpoint.start()
        except BaseException:
            await self.stop(0.0)
            raise
        self._running = True

    async def stop(self, grace: float) -> None:
        """Take no more connections, wait up to `grace` seconds for ACKs and unsent answers, and close."""
        self._running = False
        await asyncio.gather(*(endpoint.stop(grace) for endpoint in self._endpoints))

    def health(self) -> tuple[bool, str]:
        """Whether it listens, where, and what could be better."""
        if not self._running:
            return False, "not running"
        where = ", ".join(f"{transport} {listen.host} port {listen.port}" for transport, listen in self.addresses)
        complaints = {complaint for endpoint in self.udp if (complaint := endpoint.complaint())}
        return True, "; ".join((f"listening on {where}" if where else "no address to listen on", *sorted(complaints)))

    def counters(self) -> Mapping[str, int]:
        """Everything counted since the start, over all sockets; the last three are what is held now."""
        counts: Counter[str] = Counter()
        for endpoint in self._endpoints:
            for name in _TRANSACTIONS:
                counts[name] += getattr(endpoint.transactions, name)
            for name in _RESPONDER:
                counts[name] += getattr(endpoint.responder, name, 0)
        for udp in self.udp:
            counts["datagrams"] += udp.received
            counts["unsent"] += udp.unsent
            counts["socket_errors"] += udp.socket_errors
            counts["kernel_drops"] += udp.kernel_drops()
        for stream in self.streams:
            counts["accepted_connections"] += stream.accepted
            counts["refused_connections"] += stream.refused
            counts["failed_handshakes"] += stream.handshakes_failed
            counts["accept_errors"] += stream.accept_errors
            for why, number in stream.cut.items():
                counts[f"cut_{why.value}"] += number
        counts["transactions"] = sum(len(endpoint.transactions) for endpoint in self._endpoints)
        counts["waiting_for_ack"] = sum(endpoint.transactions.waiting for endpoint in self._endpoints)
        counts["connections"] = sum(stream.connections for stream in self.streams)
        return {f"redirect_{name}": number for name, number in counts.items()}

    @property
    def _endpoints(self) -> list[UdpEndpoint | StreamEndpoint]:
        return [*self.udp, *self.streams]
