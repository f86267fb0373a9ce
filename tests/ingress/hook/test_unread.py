"""An SBC whose streams are never read: what is answered is bounded, and other SBCs are answered as ever."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from agent.rpc import server
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.calls import invite
from tests.fakes.waiting import until
from tests.ingress.hook.hooks import PATIENCE, REFUSED_CALLED, a_client, a_hook, batch, request

BOUND = 1 << 20
TURN = 4 << 20
"""Streams times what a message of theirs is answered with, at most."""

REFUSED = request(invite(REFUSED_CALLED))


async def ask_for_ever(stream: Any) -> None:
    while True:
        await stream.write(batch([REFUSED] * 200))


def test_a_client_that_never_reads_is_let_go_and_another_is_answered_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_BYTES", BOUND)

    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as other, a_client(hook, **{"http2.bdp_probe": 0}) as deaf:
            (served,) = hook.server._servers
            streams = [deaf.ScreenStream() for _ in range(8)]
            asking = [asyncio.create_task(ask_for_ever(stream)) for stream in streams]
            heaviest = answered = 0
            while not hook.count("unread_connections"):
                answer = await other.Screen(request(invite()), timeout=PATIENCE)
                assert answer.decision == pb.DECISION_ALLOW
                answered += 1
                heaviest = max(heaviest, served.unread)
                assert answered < 100_000, "nobody was let go"
            await asyncio.gather(*asking, return_exceptions=True)
            for stream in streams:
                assert await stream.code() is not StatusCode.OK
            assert heaviest < BOUND + TURN
            await until(lambda: hook.server.health()[1].endswith("; 0 calls in flight, 0 of them streams"), PATIENCE)
            await until(lambda: served.unread == 0, PATIENCE)
            assert (await other.Screen(request(invite()), timeout=PATIENCE)).decision == pb.DECISION_ALLOW
            assert (hook.count("unread_connections"), hook.faults) == (1, [])

    asyncio.run(run())


def test_what_is_kept_for_a_stream_outside_of_its_connection_is_weighed_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook, **{"http2.bdp_probe": 0}) as client:
            (served,) = hook.server._servers
            stream = client.ScreenStream()
            asking = asyncio.create_task(ask_for_ever(stream))
            (link,) = await linked(served)
            await until(lambda: link.kept > 200_000, PATIENCE)
            assert served.unread >= link.kept
            asking.cancel()
            stream.cancel()
            await until(lambda: served.unread == 0, PATIENCE)
            assert link.kept == 0

    asyncio.run(run())


async def linked(served: Any) -> list[Any]:
    await until(lambda: bool(served._links), PATIENCE)
    return list(served._links)
