"""Sessions over real connections: one for each agent, copies found out, orders carried out, farewells."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from controller.model import Role
from controller.services.statuses import PROBLEM_KEY
from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PATIENCE, Operator, PlayedSession, a_controller, a_policy
from tests.fakes.waiting import until


def command(agent_id: str, word: str, argument: str = "", seconds: float = 0.0) -> fleet.RunCommandRequest:
    request = fleet.RunCommandRequest(agent_id=agent_id, command=word, argument=argument)
    request.duration.FromNanoseconds(int(seconds * 1e9))
    return request


async def said(call: Any) -> list[Any]:
    """Everything that an agent answered."""
    return [json.loads(piece) async for response in call for piece in response.json]


async def problem_of(call: Any) -> tuple[StatusCode, str]:
    """How a call failed: status and, where one is named, the field."""
    with pytest.raises(aio.AioRpcError) as raised:
        await said(call)
    for key, value in raised.value.trailing_metadata() or ():
        if key == PROBLEM_KEY and isinstance(value, bytes):
            return raised.value.code(), pb.Problem.FromString(value).fields[0].field
    return raised.value.code(), ""


async def audited(operator: Operator, action: str) -> list[dict[str, Any]]:
    entries = (await operator.audit.ListAuditEntries(fleet.ListAuditEntriesRequest(limit=1000))).entries
    return [json.loads(entry.detail) for entry in entries if entry.action == action]


def test_a_second_session_ends_the_first_and_says_so(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller:
            agent = await controller.enrol()
            async with agent.session() as first, agent.session() as second:
                goodbye = await first.hears("goodbye")
                assert (goodbye.problem.code, goodbye.problem.message) == (0, "another session of this agent has begun")
                assert goodbye.retry_after.ToSeconds() > 0
                assert await first.ends() is StatusCode.OK
                await second.is_well()
                await controller.operator().sees(lambda agents: agents[0].connected)
                assert controller.parts.sessions.agents() == {agent.id}
            await controller.operator().sees(lambda agents: not agents[0].connected)

    asyncio.run(main())


def test_two_machines_with_one_identity_are_found_out_and_the_later_one_is_sent_away(
    tmp_path: Path, store_settings: StoreSettings
) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller:
            agent = await controller.enrol()
            clone = agent.copy()
            refused = {"original": 0, "clone": 0}
            for _ in range(12):  # each comes back as soon as the other one has taken its place
                for who, boot in ((agent, "original"), (clone, "clone")):
                    async with who.session(boot, welcome=False) as session:
                        first = await session.call.read()
                        if first.WhichOneof("message") != "welcome":
                            assert first.goodbye.problem.code == StatusCode.PERMISSION_DENIED.value[0]
                            assert await session.ends() is StatusCode.PERMISSION_DENIED
                            refused[boot] += 1
            assert refused["clone"] > 5
            assert refused["original"] == 0
            async with agent.session("original"):
                pass

    asyncio.run(main())


def test_hello_with_a_wrong_field_is_answered_with_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent = await controller.enrol()
            async with agent.session("", welcome=False) as session:
                goodbye = await session.hears("goodbye")
                assert goodbye.problem.fields[0].field == "hello.boot_id"
                assert await session.ends() is StatusCode.INVALID_ARGUMENT
            async with agent.session(welcome=False, capabilities=["x" * 65]) as session:
                assert await session.ends() is StatusCode.INVALID_ARGUMENT

    asyncio.run(main())


def test_what_an_agent_says_of_itself_is_shown(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller:
            agent = await controller.enrol()
            operator = controller.operator()
            async with agent.session() as session:
                await session.is_well()
                await asyncio.sleep(0.6)
                await session.is_well(600, 150, {"spool": "disk full"})
                await operator.sees(lambda agents: bool(agents[0].trouble))
                got = await operator.fleet.GetAgent(fleet.GetAgentRequest(id=agent.id))
                assert dict(got.agent.trouble) == {"spool": "disk full"}
                assert got.agent.refused_share == 0.25
                assert 0 < got.agent.attempts_per_second <= 1200
                assert abs(got.agent.clock_offset_seconds) < 5
                assert dict(got.counters) == {"attempts": 600}

    asyncio.run(main())


def test_an_agent_that_lost_its_policy_gets_it_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent = await controller.enrol()
            async with agent.session() as session:
                session.lives()
                await controller.operator().apply(a_policy())
                assert (await controller.operator().rollout_ends()).state == "done"
                session.active = (0, b"")
                await session.is_well()
                await session.is_well()
                await until(lambda: session.active[0] == 1, PATIENCE)

    asyncio.run(main())


def test_a_controller_that_stops_says_goodbye_and_when_to_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent = await controller.enrol()
            async with agent.session() as session:
                stopping = asyncio.create_task(controller.parts.sessions.stop(5.0))
                goodbye = await session.hears("goodbye")
                assert (goodbye.problem.code, goodbye.problem.message) == (0, "the controller stops")
                assert goodbye.retry_after.ToMilliseconds() > 0
                await session.ends()
                await stopping

    asyncio.run(main())


async def obey(session: PlayedSession) -> None:
    """Answer commands in two pieces."""
    while (message := await session.call.read()) is not aio.EOF:
        session.heard.append(message)
        if message.WhichOneof("message") == "command":
            order = message.command
            what = order.WhichOneof("command")
            await session.send(command_result=pb.CommandResult(id=order.id, json=[json.dumps({"did": what})]))
            if what == "drain":
                problem = pb.Problem(code=9, message="not now")
                await session.send(command_result=pb.CommandResult(id=order.id, problem=problem, last=True))
            elif what != "tail":
                await session.send(command_result=pb.CommandResult(id=order.id, json=["{}"], last=True))


def test_orders_are_carried_out_and_audited(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent, viewer = await controller.enrol(), await controller.make_operator(Role.VIEWER)
            admin = controller.operator()
            async with agent.session() as session:
                session.keeps(obey(session))
                run = viewer.fleet.RunCommand
                assert await said(run(command(agent.id, "status"))) == [{"did": "get_status"}, {}]
                assert await said(run(command(agent.id, "explain", "abc@example.net"))) == [{"did": "explain"}, {}]
                assert session.heard[-1].command.explain.call_id == "abc@example.net"
                assert await problem_of(run(command(agent.id, "drain"))) == (StatusCode.PERMISSION_DENIED, "")
                assert await problem_of(run(command(agent.id, "rm -rf"))) == (StatusCode.INVALID_ARGUMENT, "command")
                assert await problem_of(run(command(agent.id, "explain"))) == (StatusCode.INVALID_ARGUMENT, "argument")
                assert await problem_of(run(command(agent.id, "replay", "x"))) == (
                    StatusCode.INVALID_ARGUMENT,
                    "command",
                )
                assert await problem_of(run(command("agent-none", "status"))) == (StatusCode.NOT_FOUND, "")
                assert await problem_of(admin.fleet.RunCommand(command(agent.id, "drain"))) == (
                    StatusCode.FAILED_PRECONDITION,
                    "",
                )
            done = await audited(admin, "agent.command")
            assert [entry["command"] for entry in done] == ["status", "explain", "drain"]
            assert (await admin.audit.VerifyAudit(fleet.VerifyAuditRequest())).intact
            assert await problem_of(run(command(agent.id, "status"))) == (StatusCode.FAILED_PRECONDITION, "")

    asyncio.run(main())


def test_an_order_that_nobody_answers_ends_with_its_time_and_a_lost_agent_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent, admin = await controller.enrol(), controller.operator()
            async with agent.session() as session:
                call = admin.fleet.RunCommand(command(agent.id, "status", seconds=0.2))
                assert await problem_of(call) == (StatusCode.DEADLINE_EXCEEDED, "")
                waiting = asyncio.create_task(problem_of(admin.fleet.RunCommand(command(agent.id, "status"))))
                await session.hears("command")
                await session.hears("command")
            assert await waiting == (StatusCode.FAILED_PRECONDITION, "")

    asyncio.run(main())


def test_a_new_policy_is_tried_on_what_agents_saw(tmp_path: Path) -> None:
    async def main() -> None:
        async def replay(session: PlayedSession) -> None:
            order = await session.hears("command")
            assert order.replay_policy.window.ToSeconds() == 3600
            changed = {"call_id": "a@example.net", "before": "allow", "after": "refuse 503"}
            pieces = [json.dumps(changed), "no json", '{"replayed": 7}']
            await session.send(command_result=pb.CommandResult(id=order.id, json=pieces, last=True))

        async with a_controller(tmp_path) as controller:
            agent, other, viewer = (
                await controller.enrol(),
                await controller.enrol(),
                await controller.make_operator(Role.VIEWER),
            )
            async with agent.session() as session, other.session(capabilities=["policy.v1"]):
                session.keeps(replay(session))
                await controller.parts.publisher.apply(a_policy(rate=10), "", None, 0, _act)
                request = fleet.DiffPolicyRequest(to_toml=a_policy(rate=20))
                request.replay.FromSeconds(3600)
                diff = await viewer.policy.DiffPolicy(request)
                assert "-rate = 10" in diff.diff
                assert "+rate = 20" in diff.diff
                assert (diff.replayed, diff.changed[0].call_id, diff.changed[0].agent_id) == (
                    7,
                    "a@example.net",
                    agent.id,
                )
                assert set(diff.problems) == {agent.id, other.id}

    asyncio.run(main())


def _act(action: str, **detail: Any) -> Any:
    from controller.model import Act

    return Act("operator:test", action, detail)


def test_a_policy_that_is_wrong_is_answered_with_every_field(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            operator = controller.operator()
            wrong = a_policy(rate=-1) + '\n[do_not_originate]\nlists = ["industry"]\n'
            answer = await operator.apply(wrong)
            assert {p.field for p in answer.problems} == {"limits[0].rate", "limits[0]", "do_not_originate.lists[0]"}
            assert not answer.HasField("policy")
            assert not (await operator.policy.ListPolicies(fleet.ListPoliciesRequest())).policies
            checked = await operator.apply(a_policy(), dry_run=True)
            assert (checked.policy.name, checked.policy.generation) == ("trial", 0)
            await operator.apply(a_policy())
            with pytest.raises(aio.AioRpcError) as raised:
                await operator.apply(a_policy("late"), expected_generation=7)
            assert raised.value.code() is StatusCode.FAILED_PRECONDITION
            for steps in ((0.5,), (0.5, 0.1, 1.0), (2.0,)):
                with pytest.raises(aio.AioRpcError) as raised:
                    await operator.apply(a_policy(), steps)
                assert raised.value.code() is StatusCode.INVALID_ARGUMENT

    asyncio.run(main())
