"""Hashes of identifiers: the compiled one is the interpreter's SipHash under a key that can be kept."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import native
from agent.hashing import KEY_BYTES, get_key, get_key_py, identify, identify_py, set_key, set_key_py

TEXTS = st.lists(st.one_of(st.binary(max_size=20), st.text(st.characters(codec="utf-8"), max_size=20)), max_size=4)
WORD = (1 << 64) - 1


@pytest.mark.skipif(native.hashing is None, reason="no compiled twin here")
@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this interpreter hashes in another way")
def test_it_is_the_interpreters_hash_where_the_key_is_the_same() -> None:
    texts = [bytes(range(1, length + 1)) for length in range(1, 40)]
    code = f"import json; print(json.dumps([hash(text) for text in {texts!r}]))"
    said = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, check=True
    )
    before = get_key()
    try:
        set_key(bytes(KEY_BYTES))  # what the interpreter makes of that seed
        found = [identify(text) for text in texts]
    finally:
        set_key(before)
    assert found == [joined(1, one & WORD) for one in json.loads(said.stdout)]


def joined(seed: int, following: int) -> int:
    """hash_join of hashing.h."""
    mixed = (((seed << 31 | seed >> 33) & WORD) ^ following) * 0x9E3779B97F4A7C15 & WORD
    return mixed ^ mixed >> 29


@pytest.mark.parametrize("twin", [identify, identify_py])
@given(TEXTS, TEXTS)
def test_different_texts_have_different_hashes(
    twin: object, some: list[bytes | str], others: list[bytes | str]
) -> None:
    assert callable(twin)
    as_bytes = [[one if isinstance(one, bytes) else one.encode() for one in texts] for texts in (some, others)]
    assert (twin(*some) == twin(*others)) == (as_bytes[0] == as_bytes[1])
    assert 0 <= twin(*some) <= WORD


@pytest.mark.parametrize(
    ("take", "give", "hashes"), [(get_key, set_key, identify), (get_key_py, set_key_py, identify_py)]
)
def test_the_same_key_gives_the_same_hashes(take: object, give: object, hashes: object) -> None:
    assert callable(take)
    assert callable(give)
    assert callable(hashes)
    before, first = take(), hashes("a", b"b")
    try:
        give(b"\x01" * KEY_BYTES)
        assert hashes("a", b"b") != first
    finally:
        give(before)
    assert hashes("a", b"b") == first
    with pytest.raises(ValueError, match="16 bytes"):
        give(b"short")
