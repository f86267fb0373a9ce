"""Agents, their sessions and their copies, on both databases."""

import asyncio
from dataclasses import replace

import pytest

from controller.errors import Denied, NotFound
from controller.model import Advance, FleetLimit, HealthNote, OfferPhase, Topic
from controller.store import Store, StoreSettings
from controller.store.agents import COUNTERS_MAX, TROUBLE_MAX
from controller.store.clones import RETURNS, RETURNS_SECONDS
from tests.controller.stores import JANE, PLAN, WHEN, draft, enrol, opened, session, with_store

NOTE = HealthNote(
    at=WHEN,
    active_generation=3,
    active_sha256=bytes(range(32)),
    trouble={"spool": "disk full"},
    counters={"attempts": 1 << 63, "refusals": 7},
    attempts_per_second=12.5,
    refused_share=0.25,
    clock_offset=-1.5,
)


def test_an_agent_is_shown_with_all_that_is_known_of_it(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id, other = await enrol(store, 1), await enrol(store, 2)
        await store.sessions.open(session(agent_id))
        await store.agents.observe({agent_id: NOTE}, WHEN + 1)
        await store.policies.add(draft("a"), WHEN, JANE, plan=PLAN)
        term = store.leadership.term()
        assert term is not None
        await store.rollouts.assign(1, [agent_id], 0, WHEN, term)
        for epoch in (5, (1 << 64) - 1):
            await store.records.commit([], [Advance(agent_id, epoch, 0, 10, 10)], [], WHEN)
        agent = await store.agents.get(agent_id, WHEN + 2)
        assert agent.health == NOTE
        assert agent.session == session(agent_id)
        assert agent.last_seen == WHEN + 1
        assert agent.offer is not None
        assert (agent.offer.generation, agent.offer.phase) == (1, OfferPhase.OFFERED)
        assert agent.records_committed == 20
        listed = {one.id: one for one in await store.agents.all(WHEN + 2)}
        assert listed[agent_id] == replace(agent, health=replace(NOTE, counters={}))
        bare = listed[other]
        assert (bare.session, bare.offer, bare.health, bare.records_committed) == (None, None, None, 0)
        with pytest.raises(NotFound):
            await store.agents.get("agent-none\0", WHEN)

    with_store(store_settings, work)


def test_being_heard_of_keeps_what_was_said_last(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        await store.agents.observe({agent_id: NOTE, "stranger": NOTE}, WHEN)
        await store.agents.observe({agent_id: None, "stranger": None}, WHEN + 5)
        agent = await store.agents.get(agent_id, WHEN)
        assert (agent.health, agent.last_seen) == (NOTE, WHEN + 5)
        assert len(await store.agents.all(WHEN)) == 1

    with_store(store_settings, work)


def test_a_talkative_agent_fills_no_disk(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        many = {f"{n:06}": "x" for n in range(5000)}
        note = HealthNote(WHEN, trouble=many, counters=dict.fromkeys(many, 1))
        await store.agents.observe({agent_id: note}, WHEN)
        health = (await store.agents.get(agent_id, WHEN)).health
        assert health is not None
        assert (len(health.trouble), len(health.counters)) == (TROUBLE_MAX, COUNTERS_MAX)

    with_store(store_settings, work)


def test_thousands_of_agents_are_heard_of_in_one_call(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        await store.agents.observe({f"agent-{n}": None for n in range(5000)} | {agent_id: NOTE}, WHEN)
        assert (await store.agents.get(agent_id, WHEN)).health == NOTE

    with_store(store_settings, work)


def test_a_second_session_takes_the_place_of_the_first(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        first, second = session(agent_id), session(agent_id, boot="boot-2")
        assert (await store.sessions.open(first)).replaced is None
        assert (await store.sessions.open(second)).replaced == first
        assert await store.sessions.of_agent(agent_id, WHEN) == second
        assert not await store.sessions.close(agent_id, first.id, WHEN)
        assert await store.sessions.of_agent(agent_id, WHEN) == second
        assert await store.sessions.close(agent_id, second.id, WHEN + 3)
        assert await store.sessions.of_agent(agent_id, WHEN) is None
        assert (await store.agents.get(agent_id, WHEN)).last_seen == WHEN + 3

    with_store(store_settings, work)


def test_who_may_not_have_a_session_is_told_why(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        with pytest.raises(NotFound):
            await store.sessions.open(session("agent-none"))
        with pytest.raises(Denied, match="another installation"):
            await store.sessions.open(session(agent_id, 2))
        await store.agents.revoke(agent_id, "stolen", WHEN, JANE)
        await store.agents.revoke(agent_id, "again", WHEN + 1, JANE)
        with pytest.raises(Denied, match="revoked: stolen"):
            await store.sessions.open(session(agent_id))
        with pytest.raises(NotFound):
            await store.agents.revoke("agent-none", "", WHEN, JANE)
        assert await store.agents.revoked() == {agent_id}
        agent = await store.agents.get(agent_id, WHEN)
        assert (agent.revoked, agent.revoked_at, agent.revoked_why) == (True, WHEN, "stolen")

    with_store(store_settings, work)


def test_the_later_of_two_machines_that_take_turns_is_out(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)

        async def opens(boot: str, second: int) -> str:
            return (await store.sessions.open(session(agent_id, boot=boot, opened_at=WHEN + second))).banned

        banned = [await opens("first" if second % 2 == 0 else "copy", second) for second in range(2 + RETURNS - 1)]
        assert banned == [""] * (1 + RETURNS)
        assert await opens("first", 10) in ("", "copy")
        with pytest.raises(Denied, match="copy"):
            await opens("copy", 11)
        with pytest.raises(Denied, match="copy"):
            await opens("copy", 5000)
        current = await store.sessions.of_agent(agent_id, WHEN)
        assert current is not None
        assert current.boot_id == "first", "who is out has not taken the session"
        actions = [entry.action for entry in await store.audit.entries()]
        assert actions.count("clone.ban") == 1

    with_store(store_settings, work)


def test_one_machine_that_starts_again_and_again_is_no_copy(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        for n in range(100):
            for _ in range(3):
                opened = await store.sessions.open(session(agent_id, boot=f"boot-{n}", opened_at=WHEN + n))
                assert not opened.banned

    with_store(store_settings, work)


def test_a_greeting_that_was_overtaken_bans_nobody(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        when = WHEN
        for n in range(10):  # once in a while the last greeting of a process comes after the first of the next
            when += RETURNS_SECONDS
            for boot in (f"{n}", f"{n + 1}", f"{n}", f"{n + 1}"):
                when += 1
                assert not (await store.sessions.open(session(agent_id, boot=boot, opened_at=when))).banned

    with_store(store_settings, work)


def test_sessions_of_a_controller_that_is_silent_are_none(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings, "c1") as one, opened(postgres_settings, "c2") as two:
            agent_id = await enrol(one)
            await one.sessions.open(session(agent_id))
            await two.sessions.beat(WHEN + 10)
            assert [c.id for c in await two.sessions.controllers(WHEN + 10)] == ["c1", "c2"]
            assert (await two.agents.get(agent_id, WHEN + 10)).session is not None
            assert [c.id for c in await two.sessions.controllers(WHEN + 20)] == ["c2"]
            assert (await two.agents.get(agent_id, WHEN + 20)).session is None
            assert await two.sessions.of_agent(agent_id, WHEN + 20) is None
            await one.sessions.beat(WHEN + 20)
            assert (await two.agents.get(agent_id, WHEN + 20)).session is not None
            taken = session(agent_id, boot="boot-2", controller_id="c2")
            replaced = (await two.sessions.open(taken)).replaced
            assert replaced is not None
            assert replaced.controller_id == "c1"
        async with opened(postgres_settings, "c2", WHEN + 30) as two:
            assert await two.sessions.of_agent(agent_id, WHEN + 30) is None
            assert [(c.id, c.address) for c in await two.sessions.controllers(WHEN + 30)] == [
                ("c2", "c2.example.net:7443")
            ]

    asyncio.run(main())


def test_whoever_waits_hears_of_a_change_at_once(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        seen = await store.changes.seen()
        waiting = asyncio.create_task(store.changes.wait(seen, 10.0))
        await asyncio.sleep(0)
        agent_id = await enrol(store)
        changed = await asyncio.wait_for(waiting, 1.0)
        assert changed[Topic.AGENTS] > seen[Topic.AGENTS] or changed[Topic.ACCESS] > seen[Topic.ACCESS]
        seen = await store.changes.seen()
        assert await store.changes.wait(seen, 0.01) == seen
        await store.agents.observe({agent_id: NOTE}, WHEN)
        assert await store.changes.seen() == seen, "health is no news"

    with_store(store_settings, work)


def test_changes_that_are_committed_together_are_news_too(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        seen, commits = await store.changes.seen(), store.counters()["store_commits"]
        await asyncio.gather(*(store.limits.put(FleetLimit(f"{n}", 1.0, 1.0), WHEN, JANE) for n in range(50)))
        commits = store.counters()["store_commits"] - commits
        assert 0 < commits < 50, "what waits goes together"
        assert (await store.changes.seen())[Topic.LIMITS] - seen[Topic.LIMITS] == commits, "once for each transaction"

    with_store(store_settings, work)


def test_another_controller_hears_of_a_change_within_a_second(postgres_settings: StoreSettings) -> None:
    async def main() -> None:
        async with opened(postgres_settings, "c1") as one, opened(postgres_settings, "c2") as two:
            seen = await two.changes.seen()
            waiting = asyncio.create_task(two.changes.wait(seen, 10.0))
            await one.policies.add(draft("a"), WHEN, JANE)
            changed = await asyncio.wait_for(waiting, 1.0)
            assert changed[Topic.POLICIES] > seen[Topic.POLICIES]

    asyncio.run(main())
