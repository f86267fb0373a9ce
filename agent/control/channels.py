"""Channels to the controller with this agent's certificate. Knows gRPC's options, and when the certificate changed.

Every stream of the agent has a channel of its own, so that a backlog of records never delays control. gRPC takes a
certificate when a channel is made: after a renewal, streams end in a quiet moment and open another channel.
"""

from typing import Final

import grpc
from grpc import aio

from agent.control.credentials import Credentials
from agent.control.errors import ControllerError, Trouble
from agent.control.settings import ControllerSettings

MESSAGE_MAX: Final = 20 << 20
"""Bytes of a message that we take: a policy as large as a file may be (16 MiB), and its wrapping."""

KEEPALIVE_SECONDS: Final = 60
KEEPALIVE_PATIENCE: Final = 20

OPTIONS: Final = (
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_PATIENCE * 1000),
    # Without it a ping has a minute (grpc 1.85), whatever the line above says.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_PATIENCE * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    # Our own back-off knows more of what went wrong: gRPC only tries when it is asked.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # Channels that share a connection would share its fate, and its certificate.
    ("grpc.use_local_subchannel_pool", 1),
)


class Channels:
    """Made once. `take` is called by whoever keeps the credentials."""

    def __init__(self, settings: ControllerSettings) -> None:
        self.edition = 0
        """Rises with every change of the credentials."""
        self.address = settings.address
        self._credentials: Credentials | None = None
        self._why_not = "not enrolled: run `sbc-agent enroll`"

    @property
    def agent_id(self) -> str:
        """ "" as long as there is none."""
        return "" if self._credentials is None else self._credentials.agent_id

    def take(self, credentials: Credentials | None, why_not: str = "") -> None:
        """From now on these; None: there are none to be had, and why."""
        if credentials is not None and credentials == self._credentials:
            return
        self._credentials = credentials
        self._why_not = why_not or self._why_not
        self.edition += 1

    def open(self, name: str) -> aio.Channel:
        """A channel of its own for `name`; the caller closes it. Raises ControllerError: not enrolled."""
        credentials = self._credentials
        if credentials is None:
            raise ControllerError(Trouble.STRANGER, self._why_not)
        secret = grpc.ssl_channel_credentials(credentials.trust, credentials.key, credentials.chain)
        return aio.secure_channel(self.address, secret, [*OPTIONS, ("grpc.primary_user_agent", f"sbc-agent-{name}")])
