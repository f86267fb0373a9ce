"""Asking another controller of the same fleet: mTLS, by the name that its certificate has for controllers.

Knows addresses and gRPC. A connection is made for each question: there are few, and of operators.
"""

import base64
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import grpc
from grpc import StatusCode, aio

from controller.authority.authority import Authority, KeyedCertificate
from controller.errors import Busy, Conflict, ControllerError, Denied, Invalid, NoAnswer, NotFound, StoreUnavailable
from controller.fleet.messages import Order
from sbcedge.fleet.v1 import fleet_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2_grpc as pb_grpc

SLACK_SECONDS: Final = 5.0
RENEW_AT: Final = 0.5
"""Of its life, our certificate is made anew."""

_ERRORS: Final[dict[StatusCode, Callable[[str], ControllerError]]] = {
    StatusCode.NOT_FOUND: lambda text: NotFound("agent", text),
    StatusCode.FAILED_PRECONDITION: Conflict,
    StatusCode.INVALID_ARGUMENT: lambda text: Invalid("", text),
    StatusCode.DEADLINE_EXCEEDED: NoAnswer,
    StatusCode.RESOURCE_EXHAUSTED: lambda text: Busy(text, SLACK_SECONDS),
    StatusCode.PERMISSION_DENIED: Denied,
}


class Peers:
    """The other controllers."""

    def __init__(self, authority: Authority, names: Sequence[str], clock: Callable[[], float]) -> None:
        self._authority = authority
        self._names = names
        self._clock = clock
        self._identity: tuple[float, KeyedCertificate] | None = None  # since when

    async def channel(self, address: str) -> aio.Channel:
        """A connection to the controller at this address; the caller closes it."""
        return aio.secure_channel(address, await self._credentials())

    async def order(self, address: str, agent_id: str, order: Order) -> AsyncIterator[Sequence[str]]:
        """See `controller.fleet.orders.Relay`."""
        request = pb.RunCommandRequest(agent_id=agent_id, command=order.word, argument=argument_of(order))
        request.duration.FromNanoseconds(int(order.duration * 1e9))
        left = max(0.0, order.expires_at - self._clock()) + SLACK_SECONDS
        async with await self.channel(address) as channel:
            try:
                async for response in pb_grpc.FleetServiceStub(channel).RunCommand(request, timeout=left):
                    yield tuple(response.json)
            except aio.AioRpcError as error:
                text = error.details() or error.code().name
                make = _ERRORS.get(error.code())
                if make is None:
                    raise StoreUnavailable(f"the controller at {address}: {text}") from None
                raise make(text) from None

    async def _credentials(self) -> grpc.ChannelCredentials:
        now = self._clock()
        if self._identity is None or now > self._identity[0] + RENEW_AT * (
            self._identity[1].not_after - self._identity[0]
        ):
            self._identity = (now, await self._authority.server_identity(self._names, now))
        _, made = self._identity
        bundle = b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in self._authority.trust_bundle)
        return grpc.ssl_channel_credentials(bundle, made.key_pem, made.chain_pem)


def argument_of(order: Order) -> str:
    """What goes into RunCommand's argument between controllers: a policy as base64."""
    return base64.b64encode(order.policy).decode() if order.policy else order.argument


def policy_of(argument: str) -> bytes:
    """The other way. Raises Invalid."""
    try:
        return base64.b64decode(argument, validate=True)
    except ValueError:
        raise Invalid("argument", "is no policy") from None
