"""Live traffic for the demo: some seconds of calls by SIP to the redirect server and over gRPC to the hook.

    python tools/demo_live.py --redirect 127.0.0.1:5070 --hook build/demo/hook.sock [--seconds 6]

Over the redirect each trunk calls from a loopback address of its own; over the hook the SBC says where calls came from.
Prints what was answered. Exits with 1 if a call got no answer, or an emergency call a refusal.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc

from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc as rpc

STEP = 0.05  # seconds from one handful of calls to the next
PATIENCE = 3.0  # seconds for the last answers

_number = count(1)


@dataclass(frozen=True)
class Stream:
    """Calls of one kind: from where, how many a second, in which share of the time."""

    source: str
    rate: float
    calling: str
    called: str = "+1303555{:04d}"
    begin: float = 0.0
    end: float = 1.0

    def due(self, step: int, steps: int) -> int:
        """How many calls begin in this step."""
        if not self.begin <= step / steps < self.end:
            return 0
        return int((step + 1) * self.rate * STEP) - int(step * self.rate * STEP)


# Trunks of build/demo/live-policy.toml by their loopback addresses: east, west, north (floods), and a blocked provider.
BY_REDIRECT = (
    Stream("127.0.0.10", 12, "+1212555{:04d}"),
    Stream("127.0.0.20", 12, "+1312555{:04d}"),
    Stream("127.0.0.30", 120, "+1415555{:04d}", begin=0.3, end=0.8),
    Stream("127.0.0.66", 4, "+1617555{:04d}"),
    Stream("127.0.0.66", 2, "+1617555{:04d}", "911"),
)
# The same trunks by the addresses that an SBC would see.
BY_HOOK = (
    Stream("198.51.100.10", 14, "+1212555{:04d}"),
    Stream("198.51.100.20", 3, "+12025550150"),  # a number that never originates calls
    Stream("198.51.100.20", 2, "+12025550150", "911"),
    Stream("192.0.2.10", 4, "+12015550101"),  # a customer with three sessions
    Stream("192.0.2.10", 1, "+17185550199", begin=0.6),  # the same, with a number that is not its own
)


@dataclass
class Call:
    """One INVITE and what became of it."""

    stream: Stream
    number: int = field(default_factory=lambda: next(_number))

    @property
    def emergency(self) -> bool:
        return self.stream.called == "911"

    @property
    def call_id(self) -> str:
        return f"{self.number}@live.example.net"

    @property
    def from_tag(self) -> str:
        return f"live{self.number}"

    def event(self, **what: Any) -> pb.CallEvent:
        """What an SBC tells about this call."""
        return pb.CallEvent(call_id=self.call_id, from_tag=self.from_tag, to_tag="b1", **what)

    def invite(self, port: int = 5060) -> bytes:
        """The message; every call has numbers of its own within 555-01XX."""
        line = 100 + self.number % 100
        called = self.stream.called.format(line)
        rows = [
            f"INVITE sip:{called}@sbc.example.net;user=phone SIP/2.0",
            f"Via: SIP/2.0/UDP {self.stream.source}:{port};branch=z9hG4bK-live-{self.number}",
            "Max-Forwards: 70",
            f"From: <sip:{self.stream.calling.format(line)}@a.example.net;user=phone>;tag={self.from_tag}",
            f"To: <sip:{called}@sbc.example.net;user=phone>",
            f"Call-ID: {self.call_id}",
            "CSeq: 1 INVITE",
            f"Contact: <sip:{self.stream.source}:{port}>",
            "Content-Length: 0",
        ]
        return ("\r\n".join(rows) + "\r\n\r\n").encode()


class Caller(asyncio.DatagramProtocol):
    """One trunk that calls by SIP: sends INVITEs, acknowledges the answers, counts them."""

    def __init__(self, answers: Counter[str]) -> None:
        self.pending: dict[str, Call] = {}
        self.wronged: list[Call] = []
        self._answers = answers
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def call(self, call: Call) -> None:
        self.pending[call.call_id] = call
        self._transport.sendto(call.invite(self._transport.get_extra_info("sockname")[1]))

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002  asyncio's signature
        status, *rows = data.decode().split("\r\n")
        found = {name: value for name, _, value in (row.partition(": ") for row in rows)}
        call = self.pending.get(found.get("Call-ID", ""))
        if call is None or status[8:9] == "1":
            return
        self._transport.sendto(_ack(call.invite(self._transport.get_extra_info("sockname")[1]), found["To"]))
        del self.pending[call.call_id]
        passed = status[8:11] in {"302", "404"}
        self._answers["passed" if passed else status[8:]] += 1
        if call.emergency and not passed:
            self.wronged.append(call)


def _ack(invite: bytes, to: str) -> bytes:
    """The ACK of a final response that is no 2xx (RFC 3261 17.1.1.3)."""
    rows = invite.decode().split("\r\n")
    rows = [f"To: {to}" if row.startswith("To:") else row for row in rows if not row.startswith("Contact:")]
    return "\r\n".join(rows).replace("INVITE", "ACK").encode()


def steps_of(seconds: float) -> int:
    return round(seconds / STEP)


async def by_redirect(address: tuple[str, int], seconds: float) -> tuple[Counter[str], int]:
    """Call by SIP; what was answered, and how many calls went wrong."""
    loop = asyncio.get_running_loop()
    answers: Counter[str] = Counter()
    callers: dict[str, tuple[asyncio.DatagramTransport, Caller]] = {}
    for stream in BY_REDIRECT:
        if stream.source not in callers:
            callers[stream.source] = await loop.create_datagram_endpoint(
                lambda: Caller(answers), local_addr=(stream.source, 0), remote_addr=address
            )
    async for step in _ticks(seconds):
        for stream in BY_REDIRECT:
            for _ in range(stream.due(step, steps_of(seconds))):
                callers[stream.source][1].call(Call(stream))
    deadline = loop.time() + PATIENCE
    # A flood above drop_above gets no answer at all; here nobody is dropped, and every call must have one.
    while any(caller.pending for _, caller in callers.values()) and loop.time() < deadline:
        await asyncio.sleep(STEP)
    for transport, _ in callers.values():
        transport.close()
    return answers, sum(len(caller.pending) + len(caller.wronged) for _, caller in callers.values())


async def by_hook(socket: str, seconds: float) -> tuple[Counter[str], int]:
    """Ask over one stream, and report that calls are answered and, one second later, over."""
    answers: Counter[str] = Counter()
    asked: dict[int, Call] = {}
    events: asyncio.Queue[pb.CallEvent | None] = asyncio.Queue()
    wrong = 0

    async def requests() -> AsyncIterator[pb.ScreenStreamRequest]:
        async for step in _ticks(seconds):
            calls = [Call(stream) for stream in BY_HOOK for _ in range(stream.due(step, steps_of(seconds)))]
            asked.update((call.number, call) for call in calls)
            batch = [
                pb.ScreenRequest(
                    id=call.number,
                    sip_message=call.invite(),
                    source_address=call.stream.source,
                    source_port=5060,
                    local_address="203.0.113.5",
                    local_port=5060,
                    transport="udp",
                )
                for call in calls
            ]
            if batch:
                yield pb.ScreenStreamRequest(requests=batch)

    async def reports() -> AsyncIterator[pb.ReportEventsRequest]:
        while (event := await events.get()) is not None:
            yield pb.ReportEventsRequest(events=[event])

    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        service = rpc.ScreeningServiceStub(channel)
        reporting = asyncio.ensure_future(_report(service, reports()))
        loop = asyncio.get_running_loop()
        async for batch in service.ScreenStream(requests()):
            for response in batch.responses:
                call = asked.pop(response.id)
                refused = response.decision == pb.DECISION_REFUSE
                answers[f"{response.answer.code} {response.answer.phrase}" if refused else "passed"] += 1
                wrong += call.emergency and refused
                if not refused:
                    events.put_nowait(call.event(answered=pb.Answered()))
                    loop.call_later(1.0, events.put_nowait, call.event(ended=pb.Ended()))
        await asyncio.sleep(1.0)  # until the last calls are over
        events.put_nowait(None)
        await reporting
    return answers, wrong + len(asked)


async def _report(service: Any, events: AsyncIterator[pb.ReportEventsRequest]) -> None:
    await service.ReportEvents(events)


async def _ticks(seconds: float) -> AsyncIterator[int]:
    """The number of each step, when it is due."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for step in range(steps_of(seconds)):
        await asyncio.sleep(max(begin + step * STEP - loop.time(), 0.0))
        yield step


async def run(redirect: tuple[str, int], hook: str, seconds: float) -> int:
    """Both ways at once; the exit code."""
    results = await asyncio.gather(by_redirect(redirect, seconds), by_hook(hook, seconds))
    for way, (answers, _) in zip(("redirect", "hook"), results, strict=True):
        words = ", ".join(f"{number} {answer}" for answer, number in answers.most_common())
        print(f"{way}: {answers.total()} calls: {words}")
    wrong = sum(number for _, number in results)
    if wrong:
        print(f"{wrong} calls without answer, or emergency calls that were refused", file=sys.stderr)
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Live traffic for the demo")
    parser.add_argument("--redirect", required=True, metavar="HOST:PORT")
    parser.add_argument("--hook", required=True, metavar="SOCKET")
    parser.add_argument("--seconds", type=float, default=6.0)
    args = parser.parse_args()
    host, _, port = args.redirect.rpartition(":")
    return asyncio.run(run((host, int(port)), args.hook, args.seconds))


if __name__ == "__main__":
    sys.exit(main())
