"""What our tables are made of, without a kernel."""

from ipaddress import IPv4Network, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.guard import networks_of
from agent.kernel.ruleset import Begins, Drop
from agent.kernel.ruleset_text import table_text
from agent.kernel.ruleset_wire import ElementFound
from agent.kernel.settings import KernelSettings, Network
from agent.kernel.tables import armed, disjoint, guard_table, queue_table
from agent.model import ConfigError

PREFIXES = st.builds(
    lambda bits, length: IPv4Network((bits << 16 & (0xFFFFFFFF << 32 - length) & 0xFFFFFFFF, length)),
    st.integers(0, 0xFFFF),
    st.integers(0, 31),
)
BLOCKS = st.dictionaries(PREFIXES, st.sampled_from([1.0, 2.0, 3.0]), max_size=12)


@given(BLOCKS, st.integers(0, 0xFFFFFFFF))
def test_overlapping_prefixes_become_ranges_that_do_not_overlap_with_the_longest_time(
    blocks: dict[Network, float], address: int
) -> None:
    ranges = [(int.from_bytes(one.key, "big"), int.from_bytes(one.end or b"", "big")) for one in disjoint(blocks)]
    assert ranges == sorted(ranges)
    assert all(first[1] < second[0] for first, second in pairwise(ranges))
    probes = {address, *(edge for pair in ranges for edge in pair)}
    for probe in probes:
        expected = max((s for one, s in blocks.items() if probe >> 32 - one.prefixlen << 32 - one.prefixlen
                        == int(one.network_address) if one.prefixlen) , default=None)  # fmt: skip
        whole = [s for one, s in blocks.items() if not one.prefixlen]
        if whole:
            expected = max([*whole, *([expected] if expected is not None else [])])
        got = [one.seconds for one, (low, high) in zip(disjoint(blocks), ranges, strict=True) if low <= probe <= high]
        assert got == ([] if expected is None else [expected])


@given(BLOCKS)
def test_blocks_that_were_held_are_read_back(blocks: dict[Network, float]) -> None:
    """The kernel tells a range as two elements, the second of them the first address beyond it."""
    found = []
    for one in disjoint(blocks):
        found.append(ElementFound(one.key, one.seconds, 0))
        beyond = int.from_bytes(one.end or b"", "big") + 1
        if beyond < 1 << 32:
            found.append(ElementFound(beyond.to_bytes(4, "big"), None, 0, is_end=True))
    again = dict(networks_of(found, ranges=True))
    assert disjoint({ip_network(one): seconds for one, seconds in again.items()}) == disjoint(blocks)


def test_in_shadow_mode_nothing_is_dropped_and_all_else_is_the_same() -> None:
    enforced = guard_table(KernelSettings(flood_rate=5), {}, reassembles=True)
    shadow = guard_table(KernelSettings(flood_rate=5, mode="shadow"), {}, reassembles=True)
    statements = [s for chain in shadow.chains for rule in chain.rules for s in rule.statements]
    assert Drop() not in statements
    assert table_text(shadow) == table_text(enforced).replace(" drop ", " ")


def test_a_guard_that_is_held_has_no_owner_and_the_queue_always_has_one() -> None:
    assert guard_table(KernelSettings(), {}, reassembles=True).owned
    assert not guard_table(KernelSettings(on_death="hold"), {}, reassembles=True).owned
    assert queue_table(1, 2, reassembles=True).owned


def test_ports_are_armed_for_a_second_and_when_the_agent_ends_only_for_what_follows() -> None:
    taking = {one.name: [element.seconds for element in found] for one, found in armed((5060,), invites=True)}
    ending = {one.name: [element.seconds for element in found] for one, found in armed((5060,), invites=False)}
    assert taking == {"armed": [1.0], "armed_following": [1.0]}
    assert ending == {"armed": [], "armed_following": [1.0]}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("ports", {"ports": ()}),
        ("ports", {"ports": tuple(range(1, 70))}),
        ("exempt[1]", {"exempt": ("192.0.2.0/24", "192.0.2.1/24")}),
        ("exempt[0]", {"exempt": ("example.net",)}),
        ("emergency_numbers[0]", {"emergency_numbers": ("9-1-1",)}),
        ("emergency_numbers[0]", {"emergency_numbers": ("9" * 13,)}),
        ("flood_burst", {"flood_burst": 5}),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_field(field: str, values: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        KernelSettings(**values)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_only_what_fits_a_register_can_be_compared() -> None:
    with pytest.raises(ValueError, match="1 to 16 bytes"):
        Begins(b"x" * 17)
