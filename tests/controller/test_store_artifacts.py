"""Lists, deltas and fetches, on both databases."""

import asyncio
import hashlib

import pytest

from controller.errors import Conflict, NotFound
from controller.model import ArtifactKey, Delta, FetchState
from controller.store import Store, StoreSettings
from controller.store.artifacts import ArtifactDraft, Signed
from tests.controller.stores import JANE, PLAN, WHEN, draft, enrol, with_store


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def of(text: str, name: str = "industry", kind: str = "dno") -> ArtifactDraft:
    return ArtifactDraft(kind, name, sha256(text), len(text), 1, WHEN + 1, f"{text}.list", "jane", {"blocks": 3})


def sign(generation: int) -> Signed:
    return Signed(f"manifest {generation}".encode(), "key", bytes(64))


def test_generations_of_a_list_rise(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        first = await store.artifacts.add(of("a"), sign, WHEN, JANE)
        second = await store.artifacts.add(of("b"), sign, WHEN, JANE, above=41)
        third = await store.artifacts.add(of("c"), sign, WHEN, JANE, above=3)
        other = await store.artifacts.add(of("a", "own"), sign, WHEN, JANE)
        assert [one.key.generation for one in (first, second, third, other)] == [1, 42, 43, 1]
        assert second.manifest == b"manifest 42"
        assert await store.artifacts.latest("dno", "industry") == third
        assert await store.artifacts.get(ArtifactKey("dno", "industry", 42)) == second
        assert await store.artifacts.versions("dno", "industry", 2) == [third, second]
        assert await store.artifacts.all_latest() == [third, other]
        assert await store.artifacts.by_sha256(sha256("b")) == second
        for missing in (store.artifacts.latest("dno", "none"), store.artifacts.by_sha256(sha256("z"))):
            with pytest.raises(NotFound):
                await missing

    with_store(store_settings, work)


def test_lists_that_come_at_once_get_different_generations(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        made = await asyncio.gather(*(store.artifacts.add(of(f"{n}"), sign, WHEN, JANE) for n in range(10)))
        assert sorted(one.key.generation for one in made) == list(range(1, 11))

    with_store(store_settings, work)


def test_a_signature_that_fails_leaves_no_list(store_settings: StoreSettings) -> None:
    def fails(_generation: int) -> Signed:
        raise Conflict("the key is gone")

    async def work(store: Store) -> None:
        with pytest.raises(Conflict, match="gone"):
            await store.artifacts.add(of("a"), fails, WHEN, JANE)
        assert await store.artifacts.all_latest() == []
        assert (await store.audit.verify()).entries == 0

    with_store(store_settings, work)


def test_an_agent_gets_what_it_was_offered(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        agent_id, other = await enrol(store, 1), await enrol(store, 2)
        needed = await store.artifacts.add(of("a"), sign, WHEN, JANE)
        await store.artifacts.add(of("b"), sign, WHEN, JANE)
        await store.policies.add(draft("p", artifacts=(needed.key,)), WHEN, JANE, plan=PLAN)
        assert (await store.policies.get()).info.artifacts == (needed.key,)
        term = store.leadership.term()
        assert term is not None
        await store.rollouts.assign(1, [agent_id], 0, WHEN, term)
        assert await store.artifacts.offered_to(agent_id, sha256("a")) == needed
        assert await store.artifacts.offered_to(agent_id, sha256("b")) is None
        assert await store.artifacts.offered_to(other, sha256("a")) is None

    with_store(store_settings, work)


def test_what_is_forgotten_frees_its_bytes_with_its_deltas(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        made = [await store.artifacts.add(of(text), sign, WHEN, JANE) for text in ("a", "b", "c")]
        await store.policies.add(draft("p", artifacts=(made[1].key,)), WHEN, JANE)
        delta = Delta(sha256("a"), sha256("b"), sha256("ab"), 2, "ab.delta")
        await store.artifacts.add_delta(delta)
        await store.artifacts.add_delta(delta)
        assert await store.artifacts.delta(sha256("a"), sha256("b")) == delta
        assert await store.artifacts.delta(sha256("b"), sha256("a")) is None
        assert await store.artifacts.locations() == {"a.list", "b.list", "c.list", "ab.delta"}
        for stays, why in ((made[1], "policy generation 1"), (made[2], "latest")):
            with pytest.raises(Conflict, match=why):
                await store.artifacts.forget([made[0].key, stays.key], WHEN, JANE)
        assert await store.artifacts.forget([made[0].key], WHEN, JANE) == ["a.list", "ab.delta"]
        assert await store.artifacts.forget([made[0].key], WHEN, JANE) == []
        assert await store.artifacts.locations() == {"b.list", "c.list"}

    with_store(store_settings, work)


def test_bytes_that_another_generation_shares_stay(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        first = await store.artifacts.add(of("a"), sign, WHEN, JANE)
        await store.artifacts.add(of("a"), sign, WHEN, JANE)
        assert await store.artifacts.forget([first.key], WHEN, JANE) == []

    with_store(store_settings, work)


def test_the_last_fetch_of_a_source_is_remembered(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        good = FetchState("https://sti-pa.example.net/list", WHEN, WHEN, '"etag"', "")
        await store.artifacts.fetched(good)
        bad = FetchState(good.source, WHEN + 60, WHEN, '"etag"', "no answer\0")
        await store.artifacts.fetched(bad)
        state = (await store.artifacts.fetch_states())[good.source]
        assert (state.tried_at, state.fetched_at, state.problem) == (WHEN + 60, WHEN, "no answer?")

    with_store(store_settings, work)
