"""What the hook costs: decisions over a Unix socket, beside handlers that do nothing, in one server process.

The server process has two sockets: the hook with a policy of four limits, and a service written the ordinary way on
grpc.aio, with messages that gRPC parses and serialises, which answers every request with the same "allowed".
The client is a process of its own: Python's grpc.aio with bytes made beforehand, as no C++ client is at hand. It takes
about as much of a core as the empty server, so what is measured there is both together.

Run as a module it is the server, `--client` is the client: it prints one JSON object.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from grpc import aio

from agent.ingress.hook.server import MESSAGE_MAX, HookServer
from agent.ingress.hook.settings import HookSettings
from agent.ops.collection import Collection
from agent.policy.compile import compile_policy
from agent.screening import Decision, Passed, RefusedCall, Screening
from agent.service import Service
from sbcedge.policy.v1 import policy_pb2 as policy_pb
from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc as pb_grpc
from tests.benchmarks.messages import invite

BATCH = 64
ROUNDS = 4
SECONDS = 0.7  # of one measurement
IN_FLIGHT = {"unary": 8, "stream": 64, "batch": 6}  # messages; a client that waited for each would measure the turns
SERVICE = "/sbcedge.screening.v1.ScreeningService/"
MARK = b"ROUND-000000"  # in every Call-ID and branch, replaced so that no call comes twice


# -- the server -----------------------------------------------------------------------------------------------------


class Empty(pb_grpc.ScreeningServiceServicer):
    """Answers at once, with a message that is ready."""

    def __init__(self) -> None:
        self._one = pb.ScreenResponse(decision=pb.DECISION_ALLOW, category="none", why="no rule objects")
        self._batches: dict[int, pb.ScreenStreamResponse] = {}

    async def Screen(self, request: pb.ScreenRequest, context: object) -> pb.ScreenResponse:
        return self._one

    async def ScreenStream(
        self, requests: AsyncIterator[pb.ScreenStreamRequest], context: object
    ) -> AsyncIterator[pb.ScreenStreamResponse]:
        async for message in requests:
            count = len(message.requests)
            if count not in self._batches:
                self._batches[count] = pb.ScreenStreamResponse(responses=[self._one] * count)
            yield self._batches[count]


class NoRecords:
    def put(self, decision: Decision) -> None:
        pass

    def put_passed(self, calls: Sequence[Passed]) -> None:
        pass

    def put_refused(self, one: RefusedCall) -> None:
        pass


def a_service() -> Service:
    """Every call passes, which is the common case."""
    limits = [
        policy_pb.Limit(name=f"limit-{scope}", scope=scope, rate=1e7, burst=1e7)
        for scope in (policy_pb.SCOPE_GLOBAL, policy_pb.SCOPE_TRUNK, policy_pb.SCOPE_CALLING, policy_pb.SCOPE_CALLED)
    ]
    trunk = policy_pb.Trunk(id="peer", sources=["192.0.2.10"], trust_asserted_identity=True)
    return Service(Screening(compile_policy(policy_pb.Policy(trunks=[trunk], limits=limits), {})), NoRecords())


async def serve(folder: Path) -> None:
    """Both, until standard input ends."""
    hook = HookServer(HookSettings(socket=folder / "hook.sock"), a_service())
    await hook.start()
    empty = aio.server(options=[("grpc.max_receive_message_length", MESSAGE_MAX), ("grpc.so_reuseport", 0)])
    pb_grpc.add_ScreeningServiceServicer_to_server(Empty(), empty)
    empty.add_insecure_port(f"unix:{folder}/empty.sock")
    await empty.start()
    Collection(0.0).begin()  # as the daemon does
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(hook.stop(0.0), empty.stop(0.0))


# -- the client -----------------------------------------------------------------------------------------------------


def messages(batch: int, count: int) -> list[bytes]:
    """Serialised ScreenStreamRequests of different calls, each with Identity and SDP: 1.6 kB."""
    made = []
    for n in range(count):
        requests = []
        for i in range(n * batch, (n + 1) * batch):
            mark = MARK.decode()
            raw = invite(
                f"12015{i % 600_000:06d}", f"13035{i * 7 % 600_000:06d}", f"{mark}-{i}@x", f"z9hG4bK{mark}-{i}"
            )
            requests.append(
                pb.ScreenRequest(
                    id=i, sip_message=raw, source_address="192.0.2.10", source_port=5060,
                    local_address="198.51.100.1", local_port=5060, transport="udp",
                )
            )  # fmt: skip
        made.append(pb.ScreenStreamRequest(requests=requests).SerializeToString())
    return made


class Load:
    """Messages that never repeat: the same ones with another mark in every pass."""

    def __init__(self, made: list[bytes]) -> None:
        self._made = made
        self._pass = 0

    def fresh(self) -> list[bytes]:
        self._pass += 1
        mark = b"ROUND-%06d" % self._pass
        return [message.replace(MARK, mark) for message in self._made]


async def unary(channel: Any, ready: list[bytes]) -> tuple[int, float]:
    """Requests and seconds."""
    call = channel.unary_unary(SERVICE + "Screen")
    items = iter(ready)

    async def caller() -> int:
        done = 0
        for item in items:
            await call(item)
            done += 1
        return done

    started = perf_counter()
    done = await asyncio.gather(*(caller() for _ in range(IN_FLIGHT["unary"])))
    return sum(done), perf_counter() - started


def count_of(message: bytes) -> int:
    return len(pb.ScreenStreamResponse.FromString(message).responses)


async def stream(channel: Any, ready: list[bytes], batch: int, in_flight: int) -> tuple[int, float]:
    """Requests and seconds, with so many messages on their way."""
    call = channel.stream_stream(SERVICE + "ScreenStream")()
    room = asyncio.Semaphore(in_flight)
    total = len(ready) * batch

    async def write() -> None:
        for message in ready:
            await room.acquire()
            await call.write(message)
        await call.done_writing()

    started = perf_counter()
    writing = asyncio.create_task(write())
    answered = released = 0
    while answered < total:
        answered += count_of(await call.read())
        while released < answered // batch:
            room.release()
            released += 1
    seconds = perf_counter() - started
    await writing
    return total, seconds


async def paced(channel: Any, ready: list[bytes], rate: float) -> list[float]:
    """Seconds from each request to its response, at so many requests per second on one stream."""
    call = channel.stream_stream(SERVICE + "ScreenStream")()
    sent: dict[int, float] = {}
    loop = asyncio.get_running_loop()
    ids = [pb.ScreenStreamRequest.FromString(message).requests[0].id for message in ready]

    async def write() -> None:
        began = loop.time()
        for n, message in enumerate(ready):
            while began + n / rate > loop.time():  # asyncio's timers have a millisecond's grain: they would make bursts
                await asyncio.sleep(0)
            sent[ids[n]] = perf_counter()
            await call.write(message)
        await call.done_writing()

    writing = asyncio.create_task(write())
    times: list[float] = []
    while len(times) < len(ready):
        message = await call.read()
        now = perf_counter()
        times += [now - sent[response.id] for response in pb.ScreenStreamResponse.FromString(message).responses]
    await writing
    return times


async def client(folder: Path) -> dict[str, float]:
    """Rates of both sides in turn, and the time of an answer at half of the hook's rate."""
    ones, batches = Load(messages(1, 4000)), Load(messages(BATCH, 400))
    options = [("grpc.use_local_subchannel_pool", 1)]
    rates: dict[str, list[float]] = {}
    async with (
        aio.insecure_channel(f"unix:{folder}/hook.sock", options=options) as hook,
        aio.insecure_channel(f"unix:{folder}/empty.sock", options=options) as empty,
    ):
        kinds: dict[str, Callable[[Any], Awaitable[tuple[int, float]]]] = {
            "unary": lambda channel: unary(channel, [_unframed(m) for m in ones.fresh()[:2500]]),
            "stream": lambda channel: stream(channel, ones.fresh(), 1, IN_FLIGHT["stream"]),
            "batch": lambda channel: stream(channel, batches.fresh(), BATCH, IN_FLIGHT["batch"]),
        }
        for number in range(ROUNDS + 1):
            for kind, measure in kinds.items():
                for name, channel in (("hook", hook), ("empty", empty)):
                    done, seconds = await measure(channel)
                    if number:  # the first round is for connecting and warming up
                        rates.setdefault(f"{kind}_{name}", []).append(done / seconds)
        result = {name: median(values) for name, values in rates.items()}
        for kind in kinds:
            pairs = zip(rates[f"{kind}_hook"], rates[f"{kind}_empty"], strict=True)
            result[f"{kind}_ratio"] = median(ours / theirs for ours, theirs in pairs)
        times = sorted(await paced(hook, ones.fresh(), result["stream_hook"] / 2))
    result["p50"], result["p99"] = (times[int(len(times) * share)] * 1e3 for share in (0.5, 0.99))
    return result


def _unframed(message: bytes) -> bytes:
    """The one ScreenRequest of a stream's message."""
    return pb.ScreenStreamRequest.FromString(message).requests[0].SerializeToString()


def run() -> dict[str, float]:
    """Start both processes and measure. Rates per second, ratios, and milliseconds."""
    with tempfile.TemporaryDirectory(prefix="hook-") as folder:
        command = [sys.executable, "-m", "tests.benchmarks.hook", folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            assert next(islice(server.stdout, 1)) == "ready\n"
            output = subprocess.run([*command, "--client"], stdout=subprocess.PIPE, check=True).stdout
            server.stdin.close()
    figures: dict[str, float] = json.loads(output)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--client", action="store_true")
    args = parser.parse_args()
    if args.client:
        gc.disable()
        print(json.dumps(asyncio.run(client(args.folder))))
    else:
        asyncio.run(serve(args.folder))


if __name__ == "__main__":
    main()
