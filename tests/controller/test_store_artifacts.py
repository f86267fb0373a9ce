"""Lists, deltas and fetches, on both databases."""

import asyncio
import hashlib
from dataclasses import replace

import pytest

from controller.errors import Conflict, NotFound
from controller.model import Artifact, ArtifactKey, Delta, FetchState, HealthNote, RolloutState
from controller.store import Store, StoreSettings, horizon
from controller.store.artifacts import ArtifactDraft, Signed
from controller.store.horizon import Swept
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


async def made(store: Store, *texts: str, name: str = "industry") -> list[Artifact]:
    """Generations of a list."""
    return [await store.artifacts.add(of(text, name), sign, WHEN, JANE) for text in texts]


async def rolled_out(store: Store, name: str, artifact: Artifact) -> int:
    """A policy that needs it, rolled out to the end."""
    policy = await store.policies.add(draft(name, artifacts=(artifact.key,)), WHEN, JANE, plan=PLAN)
    generation = policy.info.generation
    rollout = await store.rollouts.get(generation)
    term = store.leadership.term()
    assert term is not None
    await store.rollouts.save(replace(rollout, state=RolloutState.DONE), term)
    return generation


def test_what_is_beyond_the_horizon_goes_with_its_deltas_and_what_is_in_use_stays(
    store_settings: StoreSettings,
) -> None:
    async def work(store: Store) -> None:
        lists = await made(store, *"abcdefgh")
        for text, artifact in zip("abcdefgh", lists, strict=True):
            await rolled_out(store, text, artifact)
        for base, target in ("ab", "fg", "gh", "ah"):
            name = f"{base}{target}"
            await store.artifacts.add_delta(Delta(sha256(base), sha256(target), sha256(name), 2, f"{name}.delta"))
        swept = await store.artifacts.sweep(2, WHEN, JANE)
        # In force is the policy of h; the two before it can be gone back to; the newest two of the list are the same.
        assert [key.generation for key in swept.keys] == [1, 2, 3, 4, 5]
        assert swept.deltas == 3  # ab and ah have no base, fg a target that nobody will be offered
        assert swept.locations == {f"{text}.list" for text in "abcde"} | {"ab.delta", "ah.delta", "fg.delta"}
        assert await store.artifacts.locations() == {"f.list", "g.list", "h.list", "gh.delta"}
        assert not swept.more
        assert await store.artifacts.sweep(2, WHEN, JANE) == Swept()
        (entry,) = [e for e in await store.audit.entries(0, 1000) if "deltas" in e.detail]
        assert '"dno/industry":"generations 1 to 5, 5 of them"' in entry.detail
        assert (await store.policies.get(1)).info.artifacts == ()
        assert (await store.policies.get(8)).info.artifacts == (lists[7].key,)
        assert (await store.artifacts.add(of("i"), sign, WHEN, JANE)).key.generation == 9

    with_store(store_settings, work)


def test_a_list_stays_for_as_long_as_any_agent_was_offered_it_last_or_decides_by_it(
    store_settings: StoreSettings,
) -> None:
    async def work(store: Store) -> None:
        lists = await made(store, *"abcdefgh")
        slow, gone, banned = await enrol(store, 1), await enrol(store, 2), await enrol(store, 3)
        term = store.leadership.term()
        assert term is not None
        for number, artifact in enumerate(lists, 1):
            generation = await rolled_out(store, artifact.location, artifact)
            agents = {1: [banned], 3: [slow]}.get(number, [])
            if agents:
                await store.rollouts.assign(generation, agents, 0, WHEN, term)
        note = HealthNote(WHEN, 5, bytes(32))
        await store.agents.observe({gone: note}, WHEN)
        await store.agents.revoke(banned, "", WHEN, JANE)
        swept = await store.artifacts.sweep(1, WHEN, JANE)
        # 3 and 5 are in use and 8 is the latest; of each the one before it stays, too.
        assert [key.generation for key in swept.keys] == [1, 6]

    with_store(store_settings, work)


def test_bytes_that_another_generation_shares_stay(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await made(store, "a", "a", "b")
        swept = await store.artifacts.sweep(2, WHEN, JANE)
        assert ([key.generation for key in swept.keys], swept.locations) == ([1], frozenset())

    with_store(store_settings, work)


def test_what_goes_at_once_is_bounded_and_the_rest_follows(
    store_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horizon, "SWEEP_MAX", 3)

    async def work(store: Store) -> None:
        await made(store, *"abcdef")
        rounds = [await store.artifacts.sweep(1, WHEN, JANE) for _ in range(3)]
        assert [(len(swept.keys), swept.more) for swept in rounds] == [(3, True), (2, False), (0, False)]
        assert [a.key.generation for a in await store.artifacts.versions("dno", "industry")] == [6]

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
