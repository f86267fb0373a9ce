"""Agents, policies, rollouts, limits and records from an operator's terminal, with agents that are played over mTLS."""

import asyncio
import json
import signal
import sys
from typing import Any

import pytest
from grpc.aio import EOF

from sbcedge.control.v1 import control_pb2 as pb
from tests.conftest import ROOT
from tests.controller.agents import PATIENCE, PlayedSession, a_policy
from tests.controller.artifacts.lists import dno
from tests.controller.ctl.conftest import AtDesk
from tests.controller.ctl.running import Desk
from tests.fakes.certificates import Authority

NOW = ("--at-once", "--soak", "0s")


def answering(session: PlayedSession, answers: dict[str, list[Any]]) -> None:
    """It takes every offer, and answers commands with these objects, by their field in the contract."""

    async def live() -> None:
        while (message := await session.call.read()) is not EOF:
            session.heard.append(message)
            match message.WhichOneof("message"):
                case "offer":
                    await session.takes(message.offer)
                case "command":
                    word = message.command.WhichOneof("command")
                    said = [json.dumps(item) for item in answers.get(word, ())]
                    result = pb.CommandResult(id=message.command.id, json=said, last=True)
                    await session.send(command_result=result)

    session.keeps(live())


def test_agents_are_listed_with_what_is_wrong_with_them(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        first, second = await desk.controller.enrol(), await desk.controller.enrol()
        async with first.session() as session:
            answering(session, {})
            await session.is_well(100, 5, {"spool": "disk full"})
            await desk.controller.operator().sees(lambda agents: any(agent.trouble for agent in agents))
            listed = {agent["id"]: agent for agent in (await desk.ok("agents", "--json")).json}
            assert listed[first.id]["connected"]
            assert listed[first.id]["trouble"] == {"spool": "disk full"}
            shown = (await desk.ok("agents")).out
            assert "spool: disk full" in shown
            assert "2 agents, 1 connected" in shown
            ill = (await desk.ok("agents", "--trouble", "--json")).json
            assert {agent["id"] for agent in ill} == {first.id, second.id}
            one = (await desk.ok("agent", "show", first.id, "--json")).json
            assert one["counters"]["attempts"] == 100
            assert "NOT WELL" in (await desk.ok("agent", "show", first.id)).out

    at_desk(work)


def test_an_agent_goes_by_its_host_name_where_only_one_has_it(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        first = await desk.controller.enrol()
        assert first.id in (await desk.ok("agent", "show", "sbc.example.net")).out
        second = await desk.controller.enrol()
        said = await desk.run("agent", "show", "sbc.example.net")
        assert said.code == 1
        assert "AGENT: 2 agents are on a host sbc.example.net: " in said.err
        assert first.id in said.err
        await desk.ok("agent", "revoke", second.id, "--reason", "gone")
        assert first.id in (await desk.ok("agent", "show", "sbc.example.net")).out
        assert "revoked" in (await desk.ok("agents")).out
        said = await desk.run("agent", "show", first.id[:-1])
        assert (said.code, f"did you mean {first.id}?" in said.err) == (1, True)

    at_desk(work)


RECORD = {
    "time": "2026-10-14T15:04:05.000Z",
    "action": "refuse",
    "answer": "603 Decline",
    "rule": "do-not-originate",
    "why": "on list industry",
    "calling": "12015550123",
    "called": "13035550199",
    "trunk": "east",
    "call_id": "1@a.example.net",
}


def test_what_an_agent_says_comes_back_through_the_controller(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        agent = await desk.controller.enrol()
        async with agent.session() as session:
            answers: dict[str, list[Any]] = {
                "get_status": [{"version": "0.1.0", "policy_generation": "3", "counters": {"attempts": "7"}}],
                "explain": [RECORD],
                "tail": [RECORD, RECORD, {"not_shown": 4}],
                "collect_diagnostics": [{"config": {}}],
            }
            answering(session, answers)
            assert "policy generation 3" in (await desk.ok("agent", "status", agent.id)).out
            assert (await desk.ok("agent", "status", agent.id, "--json")).json["counters"] == {"attempts": "7"}
            assert "on list industry" in (await desk.ok("agent", "explain", agent.id, "1@a.example.net")).out
            tail = await desk.ok("agent", "tail", agent.id, "--refused", "--for", "1s")
            assert tail.out.count("12015550123 -> 13035550199") == 2
            assert "4 calls more" in tail.err
            assert (await desk.ok("agent", "tail", agent.id, "--for", "1s", "--json")).lines[0] == RECORD
            assert (await desk.ok("agent", "diagnostics", agent.id)).json == {"config": {}}
            await desk.ok("agent", "drain", agent.id)
            answers["explain"] = []
            said = await desk.run("agent", "explain", agent.id, "2@a.example.net")
            assert (said.code, "CALL-ID: " in said.err) == (1, True)
        said = await desk.run("agent", "status", agent.id)
        assert (said.code, "not connected" in said.err) == (1, True)

    at_desk(work)


def test_a_policy_goes_to_the_agents_and_its_history_says_so(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        agent = await desk.controller.enrol()
        async with agent.session() as session:
            answering(session, {})
            file = desk.file("policy.toml", a_policy(rate=10))
            assert (await desk.ok("policy", "check", file)).out == f"{file}: ok\n"
            said = await desk.ok("policy", "apply", file, "--comment", "first", "--watch", *NOW)
            assert "generation 1: done" in said.out
            assert (await desk.ok("policy", "show")).out == a_policy(rate=10)
            changed = desk.file("changed.toml", a_policy(rate=20))
            diff = await desk.run("policy", "diff", changed)
            assert diff.code == 1
            assert "-rate = 10" in diff.out
            assert "+rate = 20" in diff.out
            assert (await desk.ok("policy", "diff", file)).out == "no difference\n"
            lines = (await desk.ok("policy", "apply", changed, "--json", "--watch", *NOW)).lines
            assert lines[-1]["state"] == "done"
            await desk.ok("policy", "rollback", "1", "--comment", "back", "--watch", "--soak", "0s")
            history = (await desk.ok("policy", "history", "--json")).json
            assert [(p["generation"], p["rolled_back_to"], p["rollout_state"]) for p in history] == [
                (3, 1, "done"),
                (2, 0, "done"),
                (1, 0, "done"),
            ]
            assert "back to 1; back" in (await desk.ok("policy", "history")).out
            said = await desk.run("policy", "apply", changed, "--expected-generation", "2")
            assert said.code == 1

    at_desk(work)


def test_a_policy_that_is_wrong_changes_nothing_and_every_field_is_named(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        file = desk.file("wrong.toml", a_policy().replace("rate = 10", "rate = -1") + '[[trunks]]\nid = "peer"\n')
        for word in ("check", "apply"):
            said = await desk.run("policy", word, file)
            assert said.code == 1
            assert f"sbcctl: {file}: limits[0].rate: " in said.err
            assert "nothing was changed" in said.err
        errors = await desk.run("policy", "check", file, "--json")
        assert errors.code == 1
        assert any(error["field"].startswith("trunks[1]") for error in errors.json["errors"])
        said = await desk.run("policy", "apply", desk.file("no.toml", "rate = ]"))
        assert said.code == 1
        assert "line 1" in said.err
        assert (await desk.ok("policy", "history", "--json")).json == []
        assert (await desk.run("policy", "apply", "/nowhere/policy.toml")).code == 1

    at_desk(work)


def test_a_replay_shows_which_calls_would_have_gone_otherwise(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        agent = await desk.controller.enrol()
        async with agent.session() as session:
            changed = {"call_id": "1@a.example.net", "before": "allow", "after": "refuse: rate-per-trunk"}
            answering(session, {"replay_policy": [changed, {"replayed": 120, "left_out": {"calls": "not known"}}]})
            await desk.ok("policy", "apply", desk.file("policy.toml", a_policy()), "--watch", *NOW)
            said = await desk.run("policy", "diff", desk.file("new.toml", a_policy(rate=5)), "--replay", "LAST-HOUR")
            assert "120 recorded calls decided again: 1 would have gone otherwise" in said.out
            assert "refuse: rate-per-trunk" in said.out
            assert "sbcctl: not replayed: calls: not known" in said.err
            command = next(m.command for m in session.heard if m.WhichOneof("message") == "command")
            assert command.replay_policy.window.seconds == 3600

    at_desk(work)


def test_a_rollout_that_an_agent_refuses_ends_and_says_why(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        agent = await desk.controller.enrol()
        async with agent.session() as session:

            async def refuse(played: PlayedSession, offer: pb.ConfigOffer) -> None:
                problem = pb.Problem(
                    code=3, message="no", fields=[pb.FieldViolation(field="policy.x", description="bad")]
                )
                await played.says(offer, "RECEIVED")
                await played.says(offer, "REJECTED", problem=problem)

            session.lives(refuse)
            said = await desk.run("policy", "apply", desk.file("policy.toml", a_policy()), "--watch", *NOW)
            assert said.code == 1
            shown = (await desk.ok("rollout", "status")).out
            assert agent.id in shown
            assert "policy.x: bad" in shown

    at_desk(work)


def test_a_rollout_is_halted_and_started_again(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        said = await desk.run("rollout", "status")
        assert (said.code, said.err) == (1, "sbcctl: no rollout has begun yet\n")
        agent = await desk.controller.enrol()
        async with agent.session() as session:
            session.lives()
            await desk.ok("policy", "apply", desk.file("policy.toml", a_policy()), "--soak", "1h")
            said = await desk.ok("rollout", "halt", "--reason", "customers complain")
            assert "halted (customers complain)" in said.out
            assert (await desk.run("rollout", "halt")).code == 1
            lines = (await desk.ok("rollout", "start", "1", "--watch", "--json", *NOW)).lines
            assert lines[-1]["phases"] == {"confirmed": 1}
            assert (await desk.ok("rollout", "status", "--watch")).out.startswith("generation 1: done")
            assert (await desk.run("rollout", "start", "7")).code == 1

    at_desk(work)


def test_lists_are_imported_shown_and_looked_up(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        file = desk.file("industry.list", dno(["2015550123"]))
        assert "generation 1: imported" in (await desk.ok("dno", "import", "industry", file)).out
        assert "unchanged" in (await desk.ok("dno", "import", "industry", file)).out
        assert "industry" in (await desk.ok("dno", "show")).out
        found = (await desk.ok("dno", "lookup", "2015550123", "2015550199", "--json")).json
        assert ["industry" in item["hits"] for item in found] == [True, False]
        assert "on no list" in (await desk.ok("dno", "lookup", "2015550199")).out
        said = await desk.run("dno", "import", "industry", desk.file("no.list", b"hello"))
        assert (said.code, said.err.startswith("sbcctl: data: ")) == (1, True)
        said = await desk.run("dno", "import", "No Name", file)
        assert (said.code, said.err.startswith("sbcctl: name: ")) == (1, True)
        said = await desk.run("dno", "import", "industry", "/nowhere/dno.list")
        assert (said.code, "cannot be read" in said.err) == (1, True)
        said = await desk.run("dno", "import", "industry", file, "--not-after", "2020-01-01")
        assert (said.code, "not_after: is in the past" in said.err) == (1, True)
        assert [item["kind"] for item in (await desk.ok("lists", "show", "--json")).json["lists"]] == ["dno"]

    at_desk(work)


def test_lists_are_shown_where_they_are_agent_by_agent(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        await desk.ok("lists", "import", "dno", "industry", desk.file("1", dno(["2015550123"])))
        await desk.ok("lists", "import", "trust-list", "lab", desk.file("2", Authority("lab").certificate))
        rules = '[do_not_originate]\nlists = ["industry"]\n[identity]\ntrust_lists = ["lab"]\n'
        policy = desk.file("policy.toml", a_policy() + rules)
        agent = await desk.controller.enrol()
        assert (await desk.ok("lists", "status", "--json")).json == []
        async with agent.session() as session:
            answering(session, {})
            await desk.ok("policy", "apply", policy, *NOW, "--watch")
            await desk.controller.operator().sees(lambda agents: agents[0].active_generation == 1)
            found = {(row["kind"], row["name"]): row for row in (await desk.ok("lists", "status", "--json")).json}
            assert found.keys() == {("dno", "industry"), ("trust-list", "lab")}
            assert {(row["generation"], row["latest"], row["offered"]) for row in found.values()} == {(1, 1, 1)}
            session.active = (0, b"")
            await session.is_well()
            await desk.controller.operator().sees(lambda agents: agents[0].active_generation == 0)
            (row,) = (await desk.ok("lists", "status", "--kind", "dno", "--json")).json
            assert (row["generation"], row["problem"]) == (0, "decides by a policy of its own")
        await desk.ok("lists", "import", "dno", "industry", desk.file("1", dno(["2015550124"])))
        (row,) = (await desk.ok("lists", "status", "--name", "industry", "--json")).json
        assert row["latest"] == 2
        assert "industry" in (await desk.ok("lists", "status")).out
        assert (await desk.ok("lists", "status", "--name", "nothing", "--json")).json == []

    at_desk(work)


def test_limits_are_set_listed_and_deleted(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        await desk.ok("limits", "set", "east", "--rate", "200", "--burst", "50", "--partition", "hold")
        (limit,) = (await desk.ok("limits", "list", "--json")).json
        assert (limit["name"], limit["rate"], limit["burst"], limit["partition"]) == ("east", 200, 50, "hold")
        assert "east" in (await desk.ok("limits", "list")).out
        said = await desk.run("limits", "set", "east", "--rate", "200", "--burst", "0.5")
        assert (said.code, "limit.burst: " in said.err) == (1, True)
        assert limit["warn_at"] == 0.8
        await desk.ok("limits", "set", "east", "--rate", "200", "--warn-at", "0")
        (limit,) = (await desk.ok("limits", "list", "--json")).json
        assert limit["warn_at"] == 0
        said = await desk.run("limits", "set", "east", "--rate", "200", "--warn-at", "1.5")
        assert (said.code, "no share from 0 to 1" in said.err) == (2, True)
        await desk.ok("limits", "delete", "east")
        assert (await desk.run("limits", "delete", "east")).code == 1

    at_desk(work)


def test_records_are_asked_for_with_the_field_named_that_is_wrong(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        assert (await desk.ok("records", "query", "--since", "15m", "--refused", "--json")).lines == []
        said = await desk.run("records", "query", "--calling", "anonymous")
        assert (said.code, "calling: " in said.err) == (1, True)
        said = await desk.run("records", "query", "--since", "2026-10-14", "--until", "2026-10-13")
        assert (said.code, "until: " in said.err) == (1, True)
        said = await desk.run("records", "query", "--agent", "nobody")
        assert (said.code, "AGENT: " in said.err) == (1, True)

    at_desk(work)


def test_a_live_view_goes_on_until_it_is_interrupted(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "controller.ctl.main", "agents", "--watch", "--json"),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert json.loads(await process.stdout.readline()) == {"agents": []}
            agent = await desk.controller.enrol()
            assert json.loads(await process.stdout.readline())["agents"][0]["id"] == agent.id
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            await process.stdout.read()

    at_desk(work)


@pytest.mark.parametrize(
    "arguments",
    [
        ("agents", "--unknown"),
        ("policy", "apply", "p.toml", "--steps", "0.5,0.1,1"),
        ("policy", "apply", "p.toml", "--steps", "0.5"),
        ("policy", "diff", "p.toml", "--replay", "2d"),
        ("policy", "rollback", "0"),
        ("rollout", "start", "-1"),
        ("limits", "set", "x", "--rate", "nan"),
        ("records", "query", "--since", "yesterday"),
        ("tokens", "create", "--valid-for", "soon"),
        ("lists", "import", "blacklist", "x", "y"),
        ("nothing",),
        ("agent",),
    ],
)
def test_wrong_usage_ends_with_2_and_asks_nobody(at_desk: AtDesk, arguments: tuple[str, ...]) -> None:
    async def work(desk: Desk) -> None:
        calls = desk.controller.parts.gate.tally.calls
        assert (await desk.run(*arguments)).code == 2
        assert desk.controller.parts.gate.tally.calls == calls

    at_desk(work)
