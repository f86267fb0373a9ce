"""The conductor, stopped at every single thing that it asks of the store: what follows it comes to the same end."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.ops.log import LineWriter, Log
from controller.artifacts.signing import signing
from controller.authority import Authority, AuthoritySettings
from controller.errors import Conflict, Invalid
from controller.fleet.conductor import Conductor
from controller.fleet.messages import POLICY
from controller.fleet.publishing import Publisher, plan_of
from controller.model import (
    Act,
    ArtifactKey,
    HealthNote,
    Offer,
    OfferPhase,
    Problem,
    RolloutPlan,
    RolloutState,
    Session,
)
from controller.store import Store, StoreSettings
from controller.store.artifacts import ArtifactDraft
from tests.controller.agents import a_policy
from tests.controller.stores import HOUR, JANE, WHEN, enrol, opened, uid

PLAN = RolloutPlan((0.5, 1.0), 0.0, 0.2)


class Killed(BaseException):
    """As if the process were gone."""


class Mortal:
    """A store, or a part of one, that dies at the n-th call: just before it, or just after it was done."""

    def __init__(self, real: Any, lives: list[int], *, after: bool) -> None:
        self._real = real
        self._lives = lives
        self._after = after

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if asyncio.iscoroutinefunction(value):

            async def call(*args: Any, **kwargs: Any) -> Any:
                self._lives[0] -= 1
                if self._lives[0] == 0 and not self._after:
                    raise Killed
                result = await value(*args, **kwargs)
                if self._lives[0] == 0:
                    raise Killed
                return result

            return call
        if name in ("agents", "policies", "rollouts", "artifacts", "sessions", "audit"):
            return Mortal(value, self._lives, after=self._after)
        return value


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield Log(LineWriter(descriptor))
    os.close(descriptor)


class Fleet:
    """Three agents with sessions, whose answers the test writes into the store."""

    def __init__(self, store: Store, authority: Authority, log: Log) -> None:
        self.store = store
        self.log = log
        self.now = WHEN
        self.names: list[str] = []
        self.signer = authority.artifact_signer
        self.publisher = self.publisher_of(store)

    def publisher_of(self, store: Any) -> Publisher:
        return Publisher(store, lambda: self.signer, lambda: self.now)

    async def begin(self, size: int = 3) -> None:
        for number in range(1, size + 1):
            name = await enrol(self.store, number)
            self.names.append(name)
            await self.store.sessions.open(
                Session(f"s{number}", name, "c1", uid(number), "boot", "0.1.0", frozenset({POLICY}), "a", WHEN)
            )

    async def look(self, store: Any = None) -> bool:
        """A conductor that was started just now."""
        used = self.store if store is None else store
        term = self.store.leadership.term()
        assert term is not None
        self.now += 1
        await self.store.sessions.beat(self.now)
        return await Conductor(used, self.publisher_of(used), self.log, lambda: self.now).look(term)

    async def answer(self, generation: int, phase: OfferPhase = OfferPhase.CONFIRMED) -> None:
        """Of everybody who was asked."""
        for offer in await self.store.rollouts.offers(generation):
            if offer.phase is OfferPhase.OFFERED:
                problem = Problem(3, "no") if phase is OfferPhase.REJECTED else None
                await self.store.agents.observe({offer.agent_id: HealthNote(self.now, generation)}, self.now)
                await self.store.rollouts.report(offer.agent_id, generation, phase, problem, self.now)

    async def ends(self, generation: int, phase: OfferPhase = OfferPhase.CONFIRMED) -> RolloutState:
        for _ in range(20):
            if not await self.look() and (await self.store.rollouts.get()).state is not RolloutState.ROLLED_BACK:
                break
            await self.answer(generation, phase)
        return (await self.store.rollouts.get(generation)).state


def act(action: str, **detail: Any) -> Act:
    return Act("operator:jane", action, detail)


def with_fleet(settings: StoreSettings, folder: Path, log: Log, work: Any) -> Any:
    async def main() -> Any:
        async with opened(settings) as store:
            authority = Authority(AuthoritySettings(folder / "authority"), store)
            await authority.open(WHEN)
            fleet = Fleet(store, authority, log)
            await fleet.begin()
            return await work(fleet)

    return asyncio.run(main())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_call_a_rollout_ends_as_if_nothing_had_been(
    sqlite_settings: StoreSettings, tmp_path: Path, log: Log, after: bool
) -> None:
    async def work(fleet: Fleet) -> int:
        deaths = 0
        generation = 0
        for lives in range(1, 40):
            generation = (await fleet.publisher.apply(a_policy(f"p{lives}"), "", PLAN, 0, act)).info.generation
            left, died = [lives], False
            for _ in range(20):
                try:
                    if not await fleet.look(Mortal(fleet.store, left, after=after)):
                        break
                except Killed:
                    died = True
                await fleet.answer(generation)
            assert (await fleet.store.rollouts.get(generation)).state is RolloutState.DONE
            offers = await fleet.store.rollouts.offers(generation)
            assert [offer.phase for offer in offers] == [OfferPhase.CONFIRMED] * 3
            deaths += died
            if not died:
                return deaths
        raise AssertionError("it never came through alive")

    assert with_fleet(sqlite_settings, tmp_path, log, work) > 10


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_call_the_fleet_is_taken_back_once(
    sqlite_settings: StoreSettings, tmp_path: Path, log: Log, after: bool
) -> None:
    async def work(fleet: Fleet) -> int:
        good = (await fleet.publisher.apply(a_policy("good"), "", PLAN, 0, act)).info
        assert await fleet.ends(good.generation) is RolloutState.DONE
        deaths = 0
        for lives in range(1, 40):
            bad = (await fleet.publisher.apply(a_policy(f"bad{lives}"), "", PLAN, 0, act)).info.generation
            left, died = [lives], False
            for _ in range(20):
                try:
                    running = await fleet.look(Mortal(fleet.store, left, after=after))
                except Killed:
                    died = running = True
                await fleet.answer(bad, OfferPhase.REJECTED)
                await fleet.answer(bad + 1)
                if not running and (await fleet.store.rollouts.get()).state is RolloutState.DONE:
                    break
            latest = (await fleet.store.policies.get()).info
            assert (latest.generation, latest.sha256) == (bad + 1, good.sha256)
            assert (await fleet.store.rollouts.get(bad)).state is RolloutState.ROLLED_BACK
            assert len(await fleet.store.rollouts.offers(bad)) == 2  # of three agents, half: one never saw it
            deaths += died
            if not died:
                return deaths
        raise AssertionError("it never came through alive")

    assert with_fleet(sqlite_settings, tmp_path, log, work) > 10


def test_a_list_that_came_with_the_bad_generation_goes_back_with_it(
    store_settings: StoreSettings, tmp_path: Path, log: Log
) -> None:
    """Agents take no list of a lower generation: the old bytes become the newest generation of their name."""

    async def work(fleet: Fleet) -> None:
        async def put(content: int) -> ArtifactKey:
            draft = ArtifactDraft("dno", "industry", bytes([content]) * 32, 10, 1, None, f"blob{content}", "jane")
            sign = signing(draft, fleet.signer)
            return (await fleet.store.artifacts.add(draft, sign, WHEN, JANE)).key

        await put(1)
        toml = a_policy() + '\n[do_not_originate]\nlists = ["industry"]\n'
        await fleet.publisher.apply(toml, "", PLAN, 0, act)
        assert await fleet.ends(1) is RolloutState.DONE
        assert await fleet.publisher.renew_lists(act) is None  # nothing new
        await put(2)
        renewed = await fleet.publisher.renew_lists(act, plan=PLAN)
        assert renewed is not None
        assert renewed.info.artifacts == (ArtifactKey("dno", "industry", 2),)
        assert await fleet.ends(2, OfferPhase.REJECTED) is RolloutState.ROLLED_BACK
        back = await fleet.store.policies.get()
        assert (back.info.generation, back.info.rolled_back_to) == (3, 1)
        assert back.info.artifacts == (ArtifactKey("dno", "industry", 3),)
        artifact = await fleet.store.artifacts.get(back.info.artifacts[0])
        assert artifact.sha256 == bytes([1]) * 32
        assert fleet.signer.verify(artifact.key_id, artifact.manifest, artifact.signature)
        # An operator who goes back to old rules keeps the lists of today.
        rolled = await fleet.publisher.roll_back(2, "", None, act)
        assert rolled.info.artifacts == (ArtifactKey("dno", "industry", 3),)

    with_fleet(store_settings, tmp_path, log, work)


def test_the_first_policy_of_all_has_no_way_back_and_is_halted(
    sqlite_settings: StoreSettings, tmp_path: Path, log: Log
) -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.publisher.apply(a_policy(), "", PLAN, 0, act)
        assert await fleet.ends(1, OfferPhase.REJECTED) is RolloutState.HALTED
        assert (await fleet.store.policies.get()).info.generation == 1

    with_fleet(sqlite_settings, tmp_path, log, work)


def test_an_agent_that_is_revoked_is_waited_for_no_more(
    sqlite_settings: StoreSettings, tmp_path: Path, log: Log
) -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.publisher.apply(a_policy(), "", RolloutPlan((1.0,), 0.0, 0.2), 0, act)
        await fleet.look()
        offers = await fleet.store.rollouts.offers(1)
        gone: Offer = offers[0]
        await fleet.store.agents.revoke(gone.agent_id, "stolen", WHEN, JANE)
        for offer in offers[1:]:
            await fleet.store.agents.observe({offer.agent_id: HealthNote(fleet.now, 1)}, fleet.now)
            await fleet.store.rollouts.report(offer.agent_id, 1, OfferPhase.CONFIRMED, None, fleet.now)
        await fleet.look()
        assert (await fleet.store.rollouts.get(1)).state is RolloutState.DONE

    with_fleet(sqlite_settings, tmp_path, log, work)


def test_somebody_else_was_quicker_and_a_new_policy_stays(
    sqlite_settings: StoreSettings, tmp_path: Path, log: Log
) -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.publisher.apply(a_policy("good"), "", PLAN, 0, act)
        await fleet.ends(1)
        await fleet.publisher.apply(a_policy("bad"), "", PLAN, 0, act)
        await fleet.look()
        await fleet.answer(2, OfferPhase.REJECTED)
        await fleet.publisher.apply(a_policy("better"), "", PLAN, 0, act)  # before anybody looked
        assert await fleet.ends(3) is RolloutState.DONE
        assert [i.rolled_back_to for i in await fleet.store.policies.history()] == [0, 0, 0]
        with pytest.raises(Conflict):
            await fleet.publisher.take_back(1, "", act, expected=2)

    with_fleet(sqlite_settings, tmp_path, log, work)


def test_a_rollout_of_an_hour_ago_goes_on_with_the_clock_of_today(
    sqlite_settings: StoreSettings, tmp_path: Path, log: Log
) -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.publisher.apply(a_policy(), "", PLAN, 0, act)
        await fleet.look()
        fleet.now += HOUR
        await fleet.store.sessions.beat(fleet.now)
        await fleet.answer(1)
        assert await fleet.ends(1) is RolloutState.DONE

    with_fleet(sqlite_settings, tmp_path, log, work)


@pytest.mark.parametrize(
    ("steps", "soak", "rise", "field"),
    [
        ((0.5,), None, 0.0, "plan.steps[0]"),
        ((0.0, 1.0), None, 0.0, "plan.steps[0]"),
        ((0.5, 0.5, 1.0), None, 0.0, "plan.steps[1]"),
        ((float("nan"), 1.0), None, 0.0, "plan.steps[0]"),
        ((0.1,) * 21, None, 0.0, "plan.steps"),
        ((), -1.0, 0.0, "plan.soak"),
        ((), float("nan"), 0.0, "plan.soak"),
        ((), None, 1.5, "plan.refusal_rise"),
        ((), None, float("nan"), "plan.refusal_rise"),
    ],
)
def test_a_plan_that_is_none_is_refused_with_its_field(
    steps: tuple[float, ...], soak: float | None, rise: float, field: str
) -> None:
    with pytest.raises(Invalid) as raised:
        plan_of(steps, soak, rise)
    assert raised.value.field == field


def test_a_plan_that_says_nothing_is_one_then_a_tenth_then_all() -> None:
    assert plan_of((), None, 0.0) == RolloutPlan((0.0, 0.1, 1.0), 30.0, 0.2)
    assert plan_of((), 0.0, 0.5) == replace(plan_of((), None, 0.0), soak=0.0, refusal_rise=0.5)
