"""Real clients over a real Unix socket: what is asked, what is answered, and what goes wrong."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agent.model import Reply
from agent.screening import Decision, Observation
from agent.service import Finding
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.calls import PEER, SBC, invite, response
from tests.fakes.waiting import until
from tests.ingress.hook.hooks import (
    PATIENCE,
    REFUSED_CALLED,
    WHEN,
    a_client,
    a_hook,
    batch,
    how_it_ended,
    request,
    responses_to,
)

SCREEN = "/sbcedge.screening.v1.ScreeningService/Screen"
STREAM = "/sbcedge.screening.v1.ScreeningService/ScreenStream"


def test_a_call_is_let_pass_and_recorded(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            answer = await client.Screen(request(invite(call_id="one@x"), 42), timeout=PATIENCE)
            assert (answer.id, answer.decision, answer.policy_generation) == (42, pb.DECISION_ALLOW, 7)
            (decision,) = hook.records.decisions
            assert decision.attempt.message.call_id == b"one@x"
            assert decision.attempt.when == pytest.approx(WHEN)
            assert (decision.attempt.trunk, decision.attempt.source) == ("peer", PEER)

    asyncio.run(run())


def test_a_refusal_holds_the_very_bytes_that_screening_would_send(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            answer = await client.Screen(request(invite(REFUSED_CALLED)), timeout=PATIENCE)
            _, reply = hook.service.effects(hook.records.decisions[0])
            assert isinstance(reply, Reply)
            assert answer.decision == pb.DECISION_REFUSE
            assert answer.answer.sip_message == reply.payload
            assert reply.payload.startswith(b"SIP/2.0 607 Unwanted\r\n")

    asyncio.run(run())


def test_a_retransmission_gets_the_same_answer_and_says_that_it_is_one(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            raw = invite(REFUSED_CALLED)
            first, again = [await client.Screen(request(raw, 1), timeout=PATIENCE) for _ in range(2)]
            assert (first.repeated_attempt, again.repeated_attempt) == (False, True)
            again.repeated_attempt = False
            assert first == again
            assert len(hook.records.decisions) == 1

    asyncio.run(run())


def test_a_parsed_request_is_screened_like_a_raw_one_and_refused_in_parts_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            parsed = pb.ParsedRequest(
                request_uri=REFUSED_CALLED, call_id="p@x", from_uri="sip:+12015550123@a.example.net", from_tag="t",
                cseq=1, via_branch="z9hG4bKp", identity=[b"row"],
            )  # fmt: skip
            answer = await client.Screen(pb.ScreenRequest(id=1, parsed=parsed, source_address=PEER), timeout=PATIENCE)
            assert (answer.decision, answer.answer.code) == (pb.DECISION_REFUSE, 607)
            assert answer.answer.sip_message == b"", "an answer to a message that nobody sent would be made up"
            attempt = hook.records.decisions[0].attempt
            assert (attempt.calling.digits, attempt.trunk) == ("12015550123", "peer")
            parsed.request_uri, parsed.call_id = "sip:+13035550199@x", "q@x"
            answer = await client.Screen(pb.ScreenRequest(id=1, parsed=parsed, source_address=PEER), timeout=PATIENCE)
            assert answer.decision == pb.DECISION_ALLOW
            assert [header.value for header in answer.egress_headers] == [b"row"]

    asyncio.run(run())


def test_the_sbc_may_name_trunk_and_customer(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            for trunk, customer in (("other", "customer-1"), ("nobody", "nobody")):
                await client.Screen(request(invite(), trunk=trunk, customer=customer), timeout=PATIENCE)
            # The SBC's own address, as its peer is behind it: only the name tells that it is no egress leg.
            own = [await client.Screen(request(invite(), source=SBC, trunk=t), timeout=PATIENCE) for t in ("peer", "")]
            attempts = [decision.attempt for decision in hook.records.decisions]
            assert [(a.trunk, a.customer) for a in attempts] == [("other", "customer-1"), ("peer", ""), ("peer", "")]
            assert [a.decision for a in own] == [pb.DECISION_ALLOW, pb.DECISION_NOT_DECIDED]

    asyncio.run(run())


@pytest.mark.parametrize("raw", [b"nonsense", invite(to_tag="b"), invite(method="OPTIONS"), b"\0" * 70_000],
                         ids=["unreadable", "in-dialog", "options", "too-long"])  # fmt: skip
def test_what_is_not_decided_goes_on(tmp_path: Path, raw: bytes) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            answer = await client.Screen(request(raw, 8), timeout=PATIENCE)
            assert (answer.id, answer.decision) == (8, pb.DECISION_NOT_DECIDED)
            assert not hook.records.decisions

    asyncio.run(run())


def test_a_fault_of_ours_lets_the_call_pass_and_is_reported(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:

            def broken(_decision: Decision) -> Any:
                raise RuntimeError("a fault of ours")

            hook.service.effects = broken  # type: ignore[method-assign, assignment]
            answer = await client.Screen(request(invite(REFUSED_CALLED), 3), timeout=PATIENCE)
            assert (answer.id, answer.decision) == (3, pb.DECISION_NOT_DECIDED)
            assert "a fault of ours" not in answer.why, "what is wrong here is nothing for a peer"
            assert [str(fault) for fault in hook.faults] == ["a fault of ours"]
            assert hook.count("failures") == 1

    asyncio.run(run())


def test_a_stream_answers_each_request_once_whatever_the_ids_and_the_batches(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            stream = client.ScreenStream(timeout=PATIENCE)
            ids = [2**64 - 1, 5, 0, 99_999, 7, 300, *range(1000, 1600)]
            for numbers in (ids[:3], ids[3:4], ids[4:]):
                called = [REFUSED_CALLED if n == 5 else f"sip:+1303555{n % 10_000:04}@x" for n in numbers]
                await stream.write(batch(request(invite(to), n) for n, to in zip(numbers, called, strict=True)))
            await stream.done_writing()
            answers = await responses_to(stream, len(ids))
            assert sorted(answer.id for answer in answers) == sorted(ids)
            assert {a.id for a in answers if a.decision == pb.DECISION_REFUSE} == {5}
            assert await how_it_ended(stream) == (StatusCode.OK, "")

    asyncio.run(run())


def test_a_batch_of_the_largest_size_is_answered_and_one_more_names_the_field(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            stream = client.ScreenStream(timeout=PATIENCE)
            await stream.write(batch(request(invite(), n) for n in range(1024)))
            assert len(await responses_to(stream, 1024)) == 1024
            await stream.write(batch(pb.ScreenRequest() for _ in range(1025)))
            why = "requests: are 1025, at most 1024 go into one message"
            assert await how_it_ended(stream) == (StatusCode.INVALID_ARGUMENT, why)

    asyncio.run(run())


def test_an_unusable_request_on_a_stream_spoils_nothing_beside_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            stream = client.ScreenStream(timeout=PATIENCE)
            bad = pb.ScreenRequest(id=2, parsed=pb.ParsedRequest(request_uri="sip:a@b", call_id="x\r\nIdentity: y",
                                                                 from_uri="sip:c@d"))  # fmt: skip
            await stream.write(batch([request(invite(), 1), bad, request(invite(), 3)]))
            answers = {answer.id: answer for answer in await responses_to(stream, 3)}
            allow, not_decided = pb.DECISION_ALLOW, pb.DECISION_NOT_DECIDED
            assert [answers[n].decision for n in (1, 2, 3)] == [allow, not_decided, allow]
            assert answers[2].why.startswith("parsed.call_id: ")
            assert hook.count("unusable_requests") == 1
            with pytest.raises(aio.AioRpcError, match=r"parsed\.call_id") as alone:
                await client.Screen(bad, timeout=PATIENCE)
            assert alone.value.code() is StatusCode.INVALID_ARGUMENT

    asyncio.run(run())


def test_garbage_ends_the_call_that_it_came_on_and_no_other(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, hook.channel() as channel, a_client(hook) as client:
            raw_calls: Any = channel
            other = client.ScreenStream(timeout=PATIENCE)
            await other.write(batch([request(invite(), 1)]))
            await responses_to(other, 1)
            with pytest.raises(aio.AioRpcError) as refused:
                await raw_calls.unary_unary(SCREEN)(b"\xff\xff\xff", timeout=PATIENCE)
            assert refused.value.code() is StatusCode.INVALID_ARGUMENT
            stream = raw_calls.stream_stream(STREAM)(timeout=PATIENCE)
            await stream.write(b"\x0a\x05abc")
            assert (await how_it_ended(stream))[0] is StatusCode.INVALID_ARGUMENT
            assert hook.count("unreadable_messages") == 2
            await other.write(batch([request(invite(), 2)]))
            assert [answer.id for answer in await responses_to(other, 1)] == [2]

    asyncio.run(run())


def test_bytes_that_are_no_http_2_close_their_connection_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            reader, writer = await asyncio.open_unix_connection(hook.path)
            writer.write(b"INVITE sip:a@b SIP/2.0\r\n\r\n" * 100)
            await asyncio.wait_for(reader.read(), PATIENCE)  # until it is closed
            writer.close()
            assert (await client.Screen(request(invite()), timeout=PATIENCE)).decision == pb.DECISION_ALLOW

    asyncio.run(run())


def test_a_message_beyond_one_mebibyte_is_not_taken(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            with pytest.raises(aio.AioRpcError) as refused:
                await client.Screen(request(b"x" * (1 << 20)), timeout=PATIENCE)
            assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
            stream = client.ScreenStream(timeout=PATIENCE)
            await stream.write(batch([request(b"x" * (1 << 19), n) for n in range(3)]))
            assert (await how_it_ended(stream))[0] is StatusCode.RESOURCE_EXHAUSTED
            assert (await client.Screen(request(invite()), timeout=PATIENCE)).decision == pb.DECISION_ALLOW

    asyncio.run(run())


def test_a_client_with_too_many_calls_in_flight_is_told_so_and_served_when_some_are_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path, max_in_flight=4) as hook, a_client(hook) as client:
            streams = [client.ScreenStream(timeout=PATIENCE) for _ in range(4)]
            for stream in streams:
                await stream.write(batch([request(invite())]))
                await responses_to(stream, 1)
            with pytest.raises(aio.AioRpcError) as refused:
                await client.Screen(request(invite()), timeout=PATIENCE)
            assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert hook.count("turned_away") == 1
            await streams[0].done_writing()
            assert await streams[0].code() is StatusCode.OK
            await until(lambda: "3 calls in flight" in hook.server.health()[1])
            assert (await client.Screen(request(invite()), timeout=PATIENCE)).decision == pb.DECISION_ALLOW

    asyncio.run(run())


def test_a_request_whose_deadline_went_by_is_not_decided_any_more(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client, a_client(hook) as late:
            handle = hook.service.handle
            deadline = 0.2

            def slow(observation: Observation, finding: Finding = None) -> Decision | None:
                hook.service.handle = handle  # type: ignore[method-assign]
                loop = asyncio.get_running_loop()
                until_then = loop.time() + 2 * deadline
                while loop.time() < until_then:  # the event loop stands still, as it would under overload
                    pass
                return handle(observation, finding)

            for connected in (client, late):
                await connected.Screen(request(invite()), timeout=PATIENCE)
            before = len(hook.records.decisions)
            hook.service.handle = slow  # type: ignore[method-assign, assignment]
            calls = [client.Screen(request(invite()), timeout=PATIENCE)]
            calls += [late.Screen(request(invite()), timeout=deadline) for _ in range(20)]
            codes = [await call.code() for call in calls]
            assert codes[0] is StatusCode.OK
            assert codes[1:] == [StatusCode.DEADLINE_EXCEEDED] * 20
            await until(lambda: "0 calls in flight" in hook.server.health()[1])
            # The slow one, and where that was a late one the patient one, too; the others must consume nothing.
            assert len(hook.records.decisions) - before <= 2

    asyncio.run(run())


def test_a_client_that_does_not_read_holds_up_nobody_and_costs_little(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook, **{"http2.lookahead_bytes": 65_536}) as slow, \
                a_client(hook) as fast:  # fmt: skip
            stream = slow.ScreenStream(timeout=PATIENCE)
            identity = (f"Identity: {'x' * 1500}",)
            raw = [request(invite(headers=identity), n) for n in range(300)]
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    await stream.write(batch(raw))
                    sent += 1

            flooding = asyncio.create_task(flood())
            loop = asyncio.get_running_loop()
            waited: list[float] = []
            requests_before = -1
            # Until the flow control of HTTP/2 has stopped the slow one, and some more.
            while len(waited) < 300 or requests_before != hook.count("requests"):
                requests_before = hook.count("requests") + 1  # the one that follows
                began = loop.time()
                await fast.Screen(request(invite()), timeout=PATIENCE)
                waited.append(loop.time() - began)
                assert len(waited) < 5000
            assert sorted(waited)[len(waited) // 2] < 0.05
            held = next(iter(hook.server._exchanges))
            assert held._heap_bytes < 2 << 20  # type: ignore[attr-defined]
            flooding.cancel()
            stream.cancel()
            await until(lambda: "0 calls in flight" in hook.server.health()[1])

    asyncio.run(run())


def test_clients_in_number_are_each_answered(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(a_client(hook)) for _ in range(20)]

            async def ask(client: Any, n: int) -> list[int]:
                stream = client.ScreenStream(timeout=PATIENCE)
                for i in range(10):
                    await stream.write(batch([request(invite(), n * 100 + i)]))
                return [a.id for a in await responses_to(stream, 10)]

            answers = await asyncio.gather(*(ask(client, n) for n, client in enumerate(clients)))
            assert answers == [[n * 100 + i for i in range(10)] for n in range(20)]

    asyncio.run(run())


def test_health_and_reflection_are_on_the_local_socket(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, hook.channel() as channel:
            local: Any = channel
            health: Any = health_pb2_grpc.HealthStub(local)
            check = await health.Check(
                health_pb2.HealthCheckRequest(service="sbcedge.screening.v1.ScreeningService"), timeout=PATIENCE
            )
            assert check.status == health_pb2.HealthCheckResponse.SERVING
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(local)
            call = reflection.ServerReflectionInfo(timeout=PATIENCE)
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            answer = await call.read()
            names = {service.name for service in answer.list_services_response.service}
            assert "sbcedge.screening.v1.ScreeningService" in names
            await call.done_writing()
            assert await call.code() is StatusCode.OK

    asyncio.run(run())


def test_a_client_of_grpcs_other_interface_is_served_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook:

            def ask() -> list[int]:
                with grpc.insecure_channel(f"unix:{hook.path}") as channel:
                    call = channel.stream_stream(
                        STREAM, pb.ScreenStreamRequest.SerializeToString, pb.ScreenStreamResponse.FromString
                    )
                    messages = call(iter([batch([request(invite(), n)]) for n in range(5)]), timeout=PATIENCE)
                    return [answer.id for message in messages for answer in message.responses]

            assert await asyncio.to_thread(ask) == [0, 1, 2, 3, 4]

    asyncio.run(run())


def test_a_response_to_a_call_moves_on_a_stream_as_everywhere(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path) as hook, a_client(hook) as client:
            raw = invite()
            await client.Screen(request(raw), timeout=PATIENCE)
            sessions = hook.service.screening.sessions
            assert sessions.in_progress == 1
            answer = await client.Screen(request(response(raw, 486), source=SBC), timeout=PATIENCE)
            assert answer.decision == pb.DECISION_NOT_DECIDED
            assert sessions.in_progress == 0

    asyncio.run(run())
