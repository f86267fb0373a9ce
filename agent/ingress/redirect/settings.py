"""Where the redirect server listens, and what it bounds. Knows no file format and opens nothing."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, NamedTuple

from agent.model import ConfigError
from agent.sip.transactions import CAPACITY

MAX_PORT: Final = 65_535


class Listen(NamedTuple):
    """A numeric address without brackets, and a port; port 0 takes any free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class RedirectSettings:
    """Everything an operator may say about the redirect server. Raises ConfigError that names the field."""

    udp: tuple[Listen, ...] = ()
    tcp: tuple[Listen, ...] = ()
    tls: tuple[Listen, ...] = ()

    certificate: Path | None = None
    """PEM file with the server's certificate and its chain; TLS needs it."""
    key: Path | None = None
    """PEM file with its private key."""
    client_ca: Path | None = None
    """PEM file; with it, a TLS client must show a certificate of one of these authorities."""

    transactions: int = CAPACITY
    """Answers per socket that wait for their ACK, or absorb copies of it. One takes about 1 kB."""
    receive_buffer: int = 4 << 20
    """Bytes that the kernel keeps of datagrams not yet read: 2,500 INVITEs, 25 ms of a flood at 100,000 a second."""

    max_connections: int = 512
    """TCP and TLS connections at once. An SBC keeps a handful open; each takes up to 256 kB if it tries to."""
    max_connections_per_source: int = 128
    """Of one address, so that one peer cannot take them all."""
    max_half_open: int = 128
    """Connections that have not yet brought one whole message; with one more, the oldest of them is cut."""
    first_message_seconds: float = 10.0
    """How long a new connection may take to bring its first message, TLS handshake included."""
    message_seconds: float = 10.0
    """How long one message may take from its first byte to its last, however slowly its bytes trickle in."""
    idle_seconds: float = 600.0
    """How long a connection that has brought messages may be silent. SBCs send OPTIONS every half minute or so."""
    max_unsent: int = 131_072
    """Bytes of answers that a peer may leave unread before its connection is cut: about 250 answers."""

    def __post_init__(self) -> None:
        for name in ("udp", "tcp", "tls"):
            for number, listen in enumerate(getattr(self, name)):
                if not 0 <= listen.port <= MAX_PORT:
                    raise ConfigError(f"{name}[{number}].port", f"{listen.port} is not within 0..{MAX_PORT}")
        if self.tls and (self.certificate is None or self.key is None):
            raise ConfigError("certificate" if self.certificate is None else "key", "TLS needs it")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not value > 0:
                raise ConfigError(field.name, f"{value!r} is not positive")
