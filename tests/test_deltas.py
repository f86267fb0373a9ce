"""Deltas between versions of a list: small where little changed, right always, and harmless when they are not."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deltas import MAGIC, DeltaError, apply_delta, make_delta
from agent.numbers.dno import Assertion, DnoCategory
from agent.numbers.dno_build import DnoBuilder
from agent.numbers.listfile import encode
from agent.numbers.ranges import parse_piece

MOST = 1 << 26
ASSERTION = Assertion(DnoCategory.UNUSED, "registry", "example", None, None)


def applied(base: bytes, delta: bytes, most: int = MOST) -> bytes:
    return b"".join(apply_delta(base, delta, most))


def list_of(numbers: list[int], generation: int) -> bytes:
    builder = DnoBuilder()
    assertion = builder.assertion_id(ASSERTION)
    for number in numbers:
        builder.add(parse_piece(str(number)), assertion)
    return b"".join(encode(builder.finish(), generation, 1_800_000_000.0, "test"))


@given(st.binary(max_size=3000), st.randoms(use_true_random=False))
def test_what_a_delta_makes_is_the_new_version(base: bytes, chance: random.Random) -> None:
    target = bytearray(base * 4 + bytes(500))
    for _ in range(chance.randrange(8)):
        at = chance.randrange(len(target) + 1)
        target[at : at + chance.randrange(20)] = chance.randbytes(chance.randrange(20))
    delta = make_delta(base, bytes(target))
    if delta is not None:
        assert applied(base, delta) == target


def test_a_few_numbers_more_are_a_small_delta() -> None:
    chance = random.Random(7)
    numbers = sorted({2_015_000_000 + chance.randrange(8_000_000) for _ in range(30_000)})
    old = list_of(numbers, 1)
    new = list_of([*numbers[:10_000], 2_025_550_123, 2_025_550_199, *numbers[10_003:]], 2)
    started = time.perf_counter()
    delta = make_delta(old, new)
    assert delta is not None
    assert applied(old, delta) == new
    assert time.perf_counter() - started < 20
    assert len(delta) < len(new) / 20


def test_versions_with_nothing_in_common_have_no_delta() -> None:
    chance = random.Random(1)
    assert make_delta(chance.randbytes(100_000), chance.randbytes(100_000)) is None
    assert make_delta(b"", chance.randbytes(1000)) is None


def test_a_delta_is_to_its_own_old_version_and_makes_no_more_than_it_may() -> None:
    base = bytes(range(256)) * 64
    delta = make_delta(base, base[:5000] + b"new" + base[5000:])
    assert delta is not None
    with pytest.raises(DeltaError, match="is to a version of 16384 bytes, not of 16383"):
        applied(base[1:], delta)
    with pytest.raises(DeltaError, match="makes 16387 bytes, and may make 16386"):
        applied(base, delta, 16_386)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_as_a_delta(data: bytes) -> None:
    base = bytes(100)
    for delta in (data, MAGIC + (100).to_bytes(8, "little") + (50).to_bytes(8, "little") + data):
        with pytest.raises(DeltaError):
            applied(base, delta)


def test_a_damaged_delta_is_refused_or_makes_something_else_and_never_too_much() -> None:
    base = random.Random(3).randbytes(20_000)
    target = base[:3000] + b"x" * 100 + base[3500:]
    delta = make_delta(base, target)
    assert delta is not None
    for position in range(len(delta)):
        broken = bytearray(delta)
        broken[position] ^= 1 << position % 8
        try:
            made = applied(base, bytes(broken), len(target))
        except DeltaError:
            continue
        assert len(made) <= len(target)
    for length in range(len(delta)):
        with pytest.raises(DeltaError):
            applied(base, delta[:length])
