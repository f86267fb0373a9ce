"""An agent that is being stopped answers what it was asked, says good-bye, and is gone in time."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent.ingress.hook import exchange
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.calls import invite
from tests.ingress.hook.hooks import PATIENCE, Hook, a_client, a_hook, batch, how_it_ended, request, responses_to

GRACE = 5.0


def test_every_request_in_flight_is_answered_and_a_quiet_stream_is_ended(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            stream = client.ScreenStream(timeout=PATIENCE)
            await stream.write(batch([request(invite(), 0)]))
            await responses_to(stream, 1)
            for n in range(20):
                await stream.write(batch(request(invite(), 50 * n + i) for i in range(50)))
            began = time.monotonic()
            stopping = asyncio.create_task(hook.server.stop(GRACE))
            assert {answer.id for answer in await responses_to(stream, 1000)} == set(range(1000))
            assert await how_it_ended(stream) == (StatusCode.UNAVAILABLE, exchange.DRAINING)
            await stopping
            assert time.monotonic() - began < GRACE / 2, "nothing was left to wait for"
            assert hook.server.health() == (False, "stopping")

    asyncio.run(run())


def test_who_has_begun_to_tell_hears_how_much_was_taken(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            call = client.ReportEvents(timeout=PATIENCE)
            await call.write(pb.ReportEventsRequest(events=[pb.CallEvent()]))
            stopping = asyncio.create_task(hook.server.stop(GRACE))
            assert (await call).ignored == 1
            await stopping

    asyncio.run(run())


def test_a_busy_stream_is_ended_within_the_grace_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            stream = client.ScreenStream(timeout=PATIENCE)
            sent = answered = 0
            stopping = None
            began = time.monotonic()
            while True:
                try:
                    await stream.write(batch([request(invite(), sent)]))
                    sent += 1
                    answered += len((await stream.read()).responses)
                except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError, AttributeError):
                    break
                if sent == 10:
                    stopping = asyncio.create_task(hook.server.stop(0.5))
                assert time.monotonic() - began < PATIENCE
            # Python's client says INTERNAL instead where it was just about to write.
            assert (await how_it_ended(stream))[0] in (StatusCode.UNAVAILABLE, StatusCode.INTERNAL)
            assert sent - answered <= 1
            assert stopping is not None
            await stopping

    asyncio.run(run())


def test_health_says_it_first_and_a_watcher_holds_up_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, hook.channel() as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            began = time.monotonic()
            stopping = asyncio.create_task(hook.server.stop(GRACE))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await stopping
            assert time.monotonic() - began < GRACE / 2

    asyncio.run(run())


def test_afterwards_nobody_is_there_and_nothing_runs(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            stream = client.ScreenStream(timeout=PATIENCE)
            await stream.write(batch([request(invite())]))
            await responses_to(stream, 1)
            await hook.server.stop(0.0)
            await hook.server.stop(GRACE)
            with pytest.raises(aio.AioRpcError) as refused:
                await client.Screen(request(invite()), timeout=PATIENCE)
            assert refused.value.code() is StatusCode.UNAVAILABLE
            assert not hook.path.exists()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), PATIENCE)

    asyncio.run(run())


def test_a_hook_that_was_never_started_stops(tmp_path: Path) -> None:
    asyncio.run(Hook(tmp_path).server.stop(GRACE))
