"""Live calls for the demo of a fleet: every agent is asked, call by call, as its SBC would, for as long as it takes.

Counts what was asked and answered, and how long the slowest answer took. An emergency call that is refused, or a call
without an answer, is counted as wrong.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import grpc

from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc as rpc

STEP: Final = 0.05
PATIENCE: Final = 5.0


@dataclass(frozen=True)
class Kind:
    """Calls of one kind: from which trunk, how many a second, who calls whom."""

    source: str
    rate: float
    calling: str
    called: str = "+1303555{:04d}"


KINDS: Final = (
    Kind("198.51.100.10", 24, "+1212555{:04d}"),
    Kind("198.51.100.20", 3, "+1312555{:04d}"),
    Kind("198.51.100.10", 2, "+12025550150"),  # never originates calls: on the list
    Kind("198.51.100.10", 1, "+12025550150", "911"),
)

_number = count(1)


@dataclass
class Traffic:
    """To one agent. `answered` by call id."""

    name: str
    socket: Path
    asked: int = 0
    answered: dict[str, str] = field(default_factory=dict)
    wrong: int = 0
    slowest: float = 0.0
    _waiting: dict[int, tuple[str, float, bool]] = field(default_factory=dict)
    _ending: bool = False

    async def run(self) -> None:
        """Until `end`, and the last answer."""
        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            try:
                async for batch in rpc.ScreeningServiceStub(channel).ScreenStream(self._requests()):
                    for response in batch.responses:
                        self._answer(response)
            except grpc.aio.AioRpcError as error:  # the agent has ended: no call of the demo may see that
                print(f"{self.name} does not answer any more: {error.details()}")
        self.wrong += len(self._waiting)

    def end(self) -> None:
        """Begin no more calls."""
        self._ending = True

    def summary(self) -> str:
        """In one line."""
        words = ", ".join(f"{number} {answer}" for answer, number in Counter(self.answered.values()).most_common())
        return f"{self.name}: {self.asked} calls, {words}; slowest answer {self.slowest * 1000:.0f} ms"

    async def _requests(self) -> AsyncIterator[pb.ScreenStreamRequest]:
        begin = time.monotonic()
        for step in count():
            if self._ending:
                break
            await asyncio.sleep(max(0.0, begin + step * STEP - time.monotonic()))
            due = [k for k in KINDS for _ in range(int((step + 1) * k.rate * STEP) - int(step * k.rate * STEP))]
            if due:
                yield pb.ScreenStreamRequest(requests=[self._request(kind) for kind in due])
        deadline = time.monotonic() + PATIENCE
        while self._waiting and time.monotonic() < deadline:
            await asyncio.sleep(STEP)

    def _request(self, kind: Kind) -> pb.ScreenRequest:
        number = next(_number)
        call_id = f"{number}@{self.name}.example.net"
        self.asked += 1
        self._waiting[number] = (call_id, time.monotonic(), kind.called == "911")
        return pb.ScreenRequest(
            id=number,
            sip_message=_invite(kind, number, call_id),
            source_address=kind.source,
            source_port=5060,
            local_address="203.0.113.5",
            local_port=5060,
            transport="udp",
        )

    def _answer(self, response: pb.ScreenResponse) -> None:
        call_id, asked_at, emergency = self._waiting.pop(response.id)
        self.slowest = max(self.slowest, time.monotonic() - asked_at)
        refused = response.decision == pb.DECISION_REFUSE
        self.answered[call_id] = f"{response.answer.code} {response.answer.phrase}" if refused else "passed"
        self.wrong += emergency and refused


def _invite(kind: Kind, number: int, call_id: str) -> bytes:
    """Every call has numbers of its own within 555-01XX."""
    line = 100 + number % 100
    called, calling = kind.called.format(line), kind.calling.format(line)
    rows = [
        f"INVITE sip:{called}@sbc.example.net;user=phone SIP/2.0",
        f"Via: SIP/2.0/UDP {kind.source}:5060;branch=z9hG4bK-fleet-{number}",
        "Max-Forwards: 70",
        f"From: <sip:{calling}@a.example.net;user=phone>;tag=fleet{number}",
        f"To: <sip:{called}@sbc.example.net;user=phone>",
        f"Call-ID: {call_id}",
        "CSeq: 1 INVITE",
        f"Contact: <sip:{kind.source}:5060>",
        "Content-Length: 0",
    ]
    return ("\r\n".join(rows) + "\r\n\r\n").encode()
