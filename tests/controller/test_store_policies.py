"""Generations, rollouts and offers, on both databases."""

import asyncio
import hashlib
from dataclasses import replace

import pytest

from controller.errors import Conflict, NotFound, StaleEpoch
from controller.model import (
    Act,
    ArtifactKey,
    FieldViolation,
    OfferPhase,
    Problem,
    RolloutState,
    Term,
)
from controller.store import Store, StoreSettings
from tests.controller.stores import JANE, PLAN, WHEN, draft, enrol, with_store


def term_of(store: Store) -> Term:
    term = store.leadership.term()
    assert term is not None
    return term


def test_generations_are_numbered_and_stay_as_they_are(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(NotFound):
            await store.policies.get()
        first = await store.policies.add(draft("one", comment="first"), WHEN, Act("operator:jane", "policy.apply"))
        second = await store.policies.add(draft("two \u00e9", rolled_back_to=1), WHEN + 1, JANE, 1)
        assert (first.info.generation, second.info.generation) == (1, 2)
        assert first.info.sha256 == hashlib.sha256(b"one").digest()
        assert await store.policies.get(1) == first
        assert await store.policies.get() == second
        assert [info.generation for info in await store.policies.history()] == [2, 1]
        assert await store.policies.history(1) == [second.info]
        with pytest.raises(NotFound):
            await store.policies.get(3)
        entry = (await store.audit.entries())[0]
        assert (entry.actor, entry.action) == ("operator:jane", "policy.apply")
        assert f'"sha256":"{first.info.sha256.hex()}"' in entry.detail

    with_store(store_settings, work)


def test_who_started_from_an_old_generation_is_told(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await store.policies.add(draft("one"), WHEN, JANE)
        await store.policies.add(draft("two"), WHEN, JANE, 1)
        with pytest.raises(Conflict, match="generation 2 came after generation 1"):
            await store.policies.add(draft("three"), WHEN, JANE, 1)
        assert len(await store.policies.history()) == 2
        assert (await store.audit.verify()).entries == 2

    with_store(store_settings, work)


def test_generations_that_are_made_at_once_get_different_numbers(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        made = await asyncio.gather(*(store.policies.add(draft(f"{n}"), WHEN, JANE) for n in range(20)))
        assert sorted(policy.info.generation for policy in made) == list(range(1, 21))
        assert (await store.audit.verify()).intact

    with_store(store_settings, work)


def test_a_policy_needs_its_lists_to_be_there(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(Conflict, match="no dno list industry of generation 1"):
            await store.policies.add(draft("a", artifacts=(ArtifactKey("dno", "industry", 1),)), WHEN, JANE)

    with_store(store_settings, work)


def test_a_rollout_can_begin_with_its_generation(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        policy = await store.policies.add(draft("a"), WHEN, JANE, plan=PLAN)
        assert policy.info.rollout is RolloutState.RUNNING
        rollout = await store.rollouts.get()
        assert (rollout.generation, rollout.plan, rollout.started_at) == (1, PLAN, WHEN)
        assert await store.rollouts.running() == [rollout]
        with pytest.raises(Conflict, match="is running"):
            await store.rollouts.start(1, PLAN, WHEN, JANE)
        with pytest.raises(NotFound):
            await store.rollouts.start(2, PLAN, WHEN, JANE)

    with_store(store_settings, work)


def test_a_later_rollout_halts_the_one_that_runs(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await store.policies.add(draft("a"), WHEN, JANE, plan=PLAN)
        await store.policies.add(draft("b"), WHEN, JANE, plan=PLAN)
        first = await store.rollouts.get(1)
        assert (first.state, first.why) == (RolloutState.HALTED, "superseded by generation 2")
        with pytest.raises(Conflict, match="generation 2 came later"):
            await store.rollouts.start(1, PLAN, WHEN, JANE)
        assert [one.generation for one in await store.rollouts.running()] == [2]
        assert [info.rollout for info in await store.policies.history()] == [
            RolloutState.RUNNING,
            RolloutState.HALTED,
        ]

    with_store(store_settings, work)


def test_the_leader_moves_a_rollout_on_and_an_operator_halts_it(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await store.policies.add(draft("a"), WHEN, JANE, plan=PLAN)
        moved = replace(
            await store.rollouts.get(), step=1, step_started_at=WHEN + 30, why="canary is well", memory={"base": 0.1}
        )
        await store.rollouts.save(moved, term_of(store))
        assert await store.rollouts.get() == moved
        halted = await store.rollouts.halt(1, RolloutState.HALTED, "lunch", WHEN, JANE)
        assert await store.rollouts.get() == halted
        with pytest.raises(Conflict, match="not running"):
            await store.rollouts.save(moved, term_of(store))
        with pytest.raises(Conflict, match="halted"):
            await store.rollouts.halt(1, RolloutState.HALTED, "", WHEN, JANE)
        await store.rollouts.start(1, PLAN, WHEN + 60, JANE)
        assert (await store.rollouts.get()).state is RolloutState.RUNNING
        with pytest.raises(NotFound):
            await store.rollouts.halt(7, RolloutState.HALTED, "", WHEN, JANE)

    with_store(store_settings, work)


def test_what_an_earlier_leader_writes_does_not_count(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        await store.policies.add(draft("a"), WHEN, JANE, plan=PLAN)
        old = replace(term_of(store), epoch=term_of(store).epoch - 1)
        with pytest.raises(StaleEpoch):
            await store.rollouts.save(await store.rollouts.get(), old)
        with pytest.raises(StaleEpoch):
            await store.rollouts.assign(1, [agent_id], 0, WHEN, old)
        assert await store.rollouts.offers(1) == []

    with_store(store_settings, work)


def test_an_offer_goes_through_its_phases_and_a_refusal_is_for_good(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agents = [await enrol(store, n) for n in (1, 2, 3)]
        await store.policies.add(draft("a"), WHEN, JANE, plan=PLAN)
        await store.rollouts.assign(1, agents[:2], 0, WHEN, term_of(store))
        problem = Problem(3, "limits are wrong", (FieldViolation("limits[2].rate", "must be positive"),))
        await store.rollouts.report(agents[0], 1, OfferPhase.CONFIRMED, None, WHEN + 1)
        await store.rollouts.report(agents[1], 1, OfferPhase.REJECTED, problem, WHEN + 2)
        assert (await store.rollouts.report(agents[1], 1, OfferPhase.RECEIVED, None, WHEN + 3)).phase.word == "rejected"
        await store.rollouts.assign(1, agents, 1, WHEN + 9, term_of(store))
        offers = {offer.agent_id: offer for offer in await store.rollouts.offers(1)}
        assert [offers[agent].phase for agent in agents] == [
            OfferPhase.CONFIRMED,
            OfferPhase.REJECTED,
            OfferPhase.OFFERED,
        ]
        assert offers[agents[1]].problem == problem
        assert [offers[agent].step for agent in agents] == [0, 0, 1]
        assert await store.rollouts.refused(agents[1]) == {1}
        assert await store.rollouts.offer_of(agents[1]) is None
        assert await store.rollouts.offer_of(agents[0]) == offers[agents[0]]
        with pytest.raises(NotFound):
            await store.rollouts.report("agent-none", 1, OfferPhase.RECEIVED, None, WHEN)

    with_store(store_settings, work)


def test_what_an_agent_shall_have_is_the_latest_that_is_not_halted(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        soaked, away = await enrol(store, 1), await enrol(store, 2)

        async def wanted() -> list[int]:
            offers = [await store.rollouts.offer_of(agent) for agent in (soaked, away)]
            return [offer.generation if offer else 0 for offer in offers]

        for generation in (1, 2):
            await store.policies.add(draft(f"{generation}"), WHEN, JANE, plan=PLAN)
            await store.rollouts.assign(generation, [soaked, away], 0, WHEN, term_of(store))
            await store.rollouts.report(soaked, generation, OfferPhase.APPLIED, None, WHEN)
            if generation == 1:
                await store.rollouts.report(away, 1, OfferPhase.CONFIRMED, None, WHEN)
                done = replace(await store.rollouts.get(), state=RolloutState.DONE)
                await store.rollouts.save(done, term_of(store))
        assert await wanted() == [2, 2]
        await store.rollouts.halt(2, RolloutState.HALTED, "refusals rose", WHEN, JANE)
        assert await wanted() == [2, 1], "who runs it keeps it until something else is offered"

    with_store(store_settings, work)


def test_a_problem_without_end_is_cut_short(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id = await enrol(store)
        await store.policies.add(draft("a"), WHEN, JANE, plan=PLAN)
        await store.rollouts.assign(1, [agent_id], 0, WHEN, term_of(store))
        problem = Problem(3, "x\0" * 9000, (FieldViolation("f" * 9000, "d" * 9000),) * 9000)
        offer = await store.rollouts.report(agent_id, 1, OfferPhase.REJECTED, problem, WHEN)
        assert offer.problem is not None
        assert len(offer.problem.message) == 2000
        assert len(offer.problem.fields) == 100
        (stored,) = await store.rollouts.offers(1)
        assert stored == offer

    with_store(store_settings, work)
