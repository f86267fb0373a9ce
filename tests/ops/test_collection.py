"""Full collections of garbage wait for a quiet moment."""

import gc
from collections.abc import Iterator

import pytest

from agent.ops.collection import AT_LAST_SECONDS, EVERY_SECONDS, QUIET_ATTEMPTS, Collection


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """The collector of this process is put back as it was."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


class Cycle:
    """Is only freed by a collection."""

    def __init__(self) -> None:
        self.itself = self


def test_the_oldest_generation_is_not_collected_by_itself_and_the_young_ones_are() -> None:
    seen: list[int] = []
    Collection(0.0).begin()
    gc.callbacks.append(lambda phase, info: seen.append(info["generation"]) if phase == "stop" else None)
    try:
        kept = [[n] for n in range(200_000)]
    finally:
        gc.callbacks.pop()
    assert len(kept) == 200_000
    assert {0, 1} <= set(seen)
    assert 2 not in seen


def test_it_collects_in_a_quiet_moment_and_not_too_often() -> None:
    collection = Collection(0.0)
    assert not collection.second(0, EVERY_SECONDS - 1)
    assert collection.second(0, EVERY_SECONDS)
    assert not collection.second(0, EVERY_SECONDS + 1)
    assert collection.second(QUIET_ATTEMPTS - 1, 2 * EVERY_SECONDS)


def test_while_calls_come_it_waits_for_a_day() -> None:
    collection = Collection(0.0)
    assert not collection.second(1000, EVERY_SECONDS)
    assert not collection.second(2000, AT_LAST_SECONDS - 1)
    assert collection.second(3000, AT_LAST_SECONDS)
    assert not collection.second(4000, AT_LAST_SECONDS + EVERY_SECONDS)


def test_what_it_collects_are_cycles() -> None:
    gc.disable()
    try:
        Cycle()
        assert any(isinstance(thing, Cycle) for thing in gc.get_objects())
        Collection(0.0).second(0, EVERY_SECONDS)
        assert not any(isinstance(thing, Cycle) for thing in gc.get_objects())
    finally:
        gc.enable()
