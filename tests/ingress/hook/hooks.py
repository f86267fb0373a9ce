"""A hook with a policy, on a socket of its own, and clients of it."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from grpc import StatusCode, aio

from agent.ingress.hook.server import HookServer
from agent.ingress.hook.settings import HookSettings
from agent.screening import Decision, Screening
from agent.service import RecordSink, Service
from sbcedge.policy.v1 import policy_pb2 as policy_pb
from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc as pb_grpc
from tests.fakes.calls import PEER, SBC, policy

WHEN = 1_800_000_000.0
PATIENCE = 20.0  # of a client in a test, seconds; never waited for where all is well
REFUSED_CALLED = "sip:+13035550111@sbc.example.net;user=phone"


class Records(RecordSink):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def put(self, decision: Decision) -> None:
        self.decisions.append(decision)


def a_policy(mode: policy_pb.Mode = policy_pb.MODE_ENFORCE, **fields: Any) -> policy_pb.Policy:
    """Two trunks and a customer; a session limit, so that calls are counted; a subscriber who refuses one caller."""
    return policy_pb.Policy(
        generation=7,
        trunks=[
            policy_pb.Trunk(id="peer", sources=[PEER]),
            policy_pb.Trunk(id="other", sources=["203.0.113.0/24"]),
        ],
        customers=[policy_pb.Customer(id="customer-1")],
        local_addresses=[SBC],
        limits=[policy_pb.Limit(name="sessions", scope=policy_pb.SCOPE_TRUNK, sessions=1000)],
        subscriber_lists=policy_pb.SubscriberListRule(
            mode=mode, lists=[policy_pb.SubscriberList(called="+13035550111", unwanted=["+12015550123"])]
        ),
        **fields,
    )


class Hook:
    """A running hook."""

    def __init__(self, folder: Path, message: policy_pb.Policy | None = None, **settings: Any) -> None:
        self.path = folder / "hook.sock"
        self.records = Records()
        self.now = 0.0
        self.faults: list[Exception] = []
        self.service = Service(Screening(policy(message or a_policy())), self.records, clock=lambda: self.now)
        self.server = HookServer(
            HookSettings(socket=self.path, **settings), self.service, self.faults.append, clock=lambda: self.now
        )

    @property
    def count(self) -> Callable[[str], int]:
        return lambda name: self.server.counters()[f"hook_{name}"]

    def channel(self, **options: int) -> aio.Channel:
        """Of its own connection: gRPC would else share one among all channels of a process."""
        arguments = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{k}", v) for k, v in options.items())]
        return aio.insecure_channel(f"unix:{self.path}", options=arguments)


@asynccontextmanager
async def a_hook(folder: Path, message: policy_pb.Policy | None = None, **settings: Any) -> AsyncIterator[Hook]:
    """A hook that runs until the end of the block."""
    hook = Hook(folder, message, **settings)
    await hook.server.start()
    try:
        yield hook
    finally:
        await hook.server.stop(0.0)


@asynccontextmanager
async def a_client(hook: Hook, **options: int) -> AsyncIterator[Any]:
    """A stub with a connection of its own."""
    async with hook.channel(**options) as channel:
        yield pb_grpc.ScreeningServiceStub(channel)


def request(raw: bytes, number: int = 1, source: str = PEER, **fields: Any) -> pb.ScreenRequest:
    """A raw message as the peer sent it to the SBC."""
    return pb.ScreenRequest(
        id=number,
        sip_message=raw,
        source_address=source,
        source_port=5060,
        local_address=SBC,
        local_port=5060,
        received_at_unix_micros=int(WHEN * 1e6),
        **fields,
    )


def batch(requests: Iterable[pb.ScreenRequest]) -> pb.ScreenStreamRequest:
    return pb.ScreenStreamRequest(requests=requests)


async def how_it_ended(stream: Any) -> tuple[StatusCode, str]:
    """Status and details of a stream on which nothing more is to come."""
    with suppress(aio.AioRpcError):
        assert await stream.read() is aio.EOF
    return await stream.code(), await stream.details()


async def responses_to(stream: Any, count: int) -> list[pb.ScreenResponse]:
    """So many responses, from as many messages as they come in."""
    responses: list[pb.ScreenResponse] = []
    while len(responses) < count:
        message = await stream.read()
        assert message is not aio.EOF, f"the stream ended after {len(responses)} of {count} responses"
        responses += message.responses
    return responses
