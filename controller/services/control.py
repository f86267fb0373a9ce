"""Sessions of agents. Thin: what is said in them is controller/fleet."""

# ruff: noqa: N802  (names are those of the contract)

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from controller.fleet.live import LiveSessions
from controller.fleet.messages import FromAgent
from controller.services.caller import caller
from controller.services.gate import Context
from controller.services.wire import from_agent, to_agent
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc


class ControlService(pb_grpc.ControlServiceServicer):
    """Whose session it is says the certificate, and nothing else."""

    def __init__(self, sessions: LiveSessions, controller_id: str, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._controller_id = controller_id
        self._clock = clock

    async def OpenSession(
        self, requests: AsyncIterator[pb.OpenSessionRequest], context: Context
    ) -> AsyncIterator[pb.OpenSessionResponse]:
        async with aclosing(self._sessions.serve(caller().name, context.peer(), _read(requests))) as messages:
            async for message in messages:
                yield to_agent(message, self._controller_id, self._clock())


async def _read(requests: AsyncIterator[pb.OpenSessionRequest]) -> AsyncIterator[FromAgent]:
    async for request in requests:
        yield from_agent(request)
