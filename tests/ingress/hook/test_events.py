"""What becomes of calls: told events move the counts of sessions, and nothing that is told is screened."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from agent.calls.sessions import SETUP_SECONDS
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.calls import invite, response
from tests.fakes.waiting import until
from tests.ingress.hook.hooks import PATIENCE, Hook, a_client, a_hook, request

CALL: dict[str, Any] = {"call_id": "c1@x", "from_tag": "9f", "to_tag": "b1"}
ANSWERED = pb.CallEvent(**CALL, answered=pb.Answered())
INVITE = invite(call_id="c1@x", from_tag="9f")


def ended(code: int = 0) -> pb.CallEvent:
    return pb.CallEvent(**CALL, ended=pb.Ended(sip_code=code))


async def tell(client: Any, *events: pb.CallEvent) -> tuple[int, int]:
    """(accepted, ignored), as the hook says."""
    call = client.ReportEvents(timeout=PATIENCE)
    for event in events:
        await call.write(pb.ReportEventsRequest(events=[event]))
    await call.done_writing()
    answer = await call
    return answer.accepted, answer.ignored


def in_progress(hook: Hook) -> int:
    return hook.service.screening.sessions.count(("sessions", "peer"))


def test_a_call_is_counted_from_its_invite_until_it_is_said_to_be_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            await client.Screen(request(INVITE), timeout=PATIENCE)
            assert await tell(client, ANSWERED) == (1, 0)
            hook.now = 2 * SETUP_SECONDS
            assert hook.service.screening.sessions.sweep(hook.now) == 0, "an answered call is no call in setup"
            assert in_progress(hook) == 1
            assert await tell(client, ended()) == (1, 0)
            assert in_progress(hook) == 0

    asyncio.run(run())


def test_a_challenge_is_not_the_end_of_a_call(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            await client.Screen(request(INVITE), timeout=PATIENCE)
            assert await tell(client, ended(407)) == (1, 0)
            assert in_progress(hook) == 1
            assert await tell(client, ended(486)) == (1, 0)
            assert in_progress(hook) == 0

    asyncio.run(run())


def test_raw_messages_tell_the_same(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            await client.Screen(request(INVITE), timeout=PATIENCE)
            bye = invite(call_id="c1@x", from_tag="9f", to_tag="b1", method="BYE")
            assert await tell(client, pb.CallEvent(sip_message=response(INVITE, 200))) == (1, 0)
            assert hook.service.screening.sessions.answered == 1
            assert await tell(client, pb.CallEvent(sip_message=bye)) == (1, 0)
            assert in_progress(hook) == 0

    asyncio.run(run())


def test_an_invite_that_is_told_is_not_screened(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            egress = pb.CallEvent(**CALL, egress_invite=pb.EgressInvite(sip_message=invite(call_id="leg2@x")))
            assert await tell(client, egress) == (0, 1), "of a call that nobody asked about"
            await client.Screen(request(INVITE), timeout=PATIENCE)
            assert await tell(client, egress, pb.CallEvent(sip_message=INVITE)) == (2, 0)
            assert len(hook.records.decisions) == 1
            assert in_progress(hook) == 1
            await tell(client, ended())
            assert in_progress(hook) == 0, "the second leg did not hold the call open"

    asyncio.run(run())


@pytest.mark.parametrize(
    "event",
    [
        pb.CallEvent(),
        pb.CallEvent(**CALL),
        pb.CallEvent(call_id="other", from_tag="9f", answered=pb.Answered()),
        pb.CallEvent(call_id="c1@x", from_tag="other", ended=pb.Ended()),
        pb.CallEvent(**CALL, sip_message=b"nonsense"),
        pb.CallEvent(**CALL, sip_message=b""),
        pb.CallEvent(**CALL, egress_invite=pb.EgressInvite(sip_message=response(INVITE, 200))),
        pb.CallEvent(sip_message=invite(method="BYE", to_tag="x")),
    ],
)
def test_what_says_nothing_or_is_of_no_known_call_is_ignored_and_counted(tmp_path: Path, event: pb.CallEvent) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            await client.Screen(request(INVITE), timeout=PATIENCE)
            assert await tell(client, event, ANSWERED) == (1, 1)
            assert (hook.count("events_accepted"), hook.count("events_ignored")) == (1, 1)
            assert in_progress(hook) == 1

    asyncio.run(run())


def test_events_come_in_batches_and_no_events_are_none(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            for n in range(200):
                await client.Screen(request(invite(call_id=f"{n}@x", from_tag="t")), timeout=PATIENCE)
            call = client.ReportEvents(timeout=PATIENCE)
            events = [pb.CallEvent(call_id=f"{n}@x", from_tag="t", ended=pb.Ended(sip_code=486)) for n in range(200)]
            await call.write(pb.ReportEventsRequest(events=events))
            await call.done_writing()
            assert (await call).accepted == 200
            assert in_progress(hook) == 0
            assert await tell(client) == (0, 0)

    asyncio.run(run())


def test_unreadable_events_end_their_call(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, hook.channel() as channel:
            raw_calls: Any = channel
            for data, word in ((b"\x0a\x05abc", "message"), (b"\x0a\x00" * 1025, "events")):
                call = raw_calls.stream_unary("/sbcedge.screening.v1.ScreeningService/ReportEvents")(timeout=PATIENCE)
                await call.write(data)
                with pytest.raises(aio.AioRpcError, match=word) as refused:
                    await call
                assert refused.value.code() is StatusCode.INVALID_ARGUMENT

    asyncio.run(run())


def test_what_a_client_told_before_it_went_away_counts(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            await client.Screen(request(INVITE), timeout=PATIENCE)
            call = client.ReportEvents(timeout=PATIENCE)
            await call.write(pb.ReportEventsRequest(events=[ended(486)]))
            await until(lambda: hook.count("events_accepted") == 1)
            call.cancel()
            await until(lambda: "0 calls in flight" in hook.server.health()[1])
            assert in_progress(hook) == 0

    asyncio.run(run())
