"""Fragments in any order give the datagram; overlaps, losses and floods give nothing and cost nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ingress import fragments
from agent.ingress.fragments import Fragments
from agent.ingress.layers import Fragment
from tests.ingress.frames import CLIENT, CLIENT6, SERVER, SERVER6


def piece(
    offset: int, payload: bytes, more: bool, identification: int = 1, protocol: int = 17, six: bool = False
) -> Fragment:
    source, destination = (CLIENT6, SERVER6) if six else (CLIENT, SERVER)
    return Fragment(source, destination, identification, protocol, offset, more, payload, 0, 1)


def cut(payload: bytes, units: list[int], six: bool = False) -> list[Fragment]:
    """`payload` as fragments of these sizes in 8-byte units; the last takes the rest."""
    pieces, at = [], 0
    for unit in units:
        if at + unit * 8 >= len(payload):
            break
        pieces.append(piece(at, payload[at : at + unit * 8], True, six=six))
        at += unit * 8
    return [*pieces, piece(at, payload[at:], False, six=six)]


PAYLOAD = bytes(range(256)) * 6


@given(st.binary(min_size=1, max_size=400), st.lists(st.integers(1, 6), max_size=20), st.booleans(), st.data())
def test_fragments_in_any_order_with_duplicates_give_the_same_datagram(
    payload: bytes, units: list[int], six: bool, data: st.DataObject
) -> None:
    pieces = cut(payload, units, six=six)
    repeated = pieces[:-1] * 2  # whichever piece is drawn last completes; its own duplicates come before that
    last = data.draw(st.sampled_from(pieces))
    order = data.draw(st.permutations([p for p in pieces + repeated if p is not last]))
    table = Fragments()
    assert [table.add(p, 0.0) for p in order] == [None] * len(order)
    assert table.add(last, 0.0) == (17, payload)
    assert len(table) == 0
    assert table.counts.reassembled == 1


ARRIVAL = st.tuples(st.integers(0, 12), st.integers(1, 4), st.booleans(), st.integers(0, 1))


@given(st.lists(ARRIVAL, max_size=30))
def test_whatever_comes_only_whole_datagrams_without_overlap_come_out(
    arrivals: list[tuple[int, int, bool, int]],
) -> None:
    """A model that keeps bytes by position: a datagram that comes out is what the first fragments said."""
    table, first = Fragments(), dict[int, list[Fragment]]()
    for number, (unit, units, more, identification) in enumerate(arrivals):
        fragment = piece(unit * 8, bytes([number]) * units * 8, more, identification)
        held = first.setdefault(identification, [])
        held.append(fragment)
        done = table.add(fragment, 0.0)
        if done is not None:
            whole = b"".join(p.payload for p in sorted(held, key=lambda p: p.offset))
            assert done[1] == whole
            assert sum(not p.more for p in held) == 1
            first[identification] = []
        assert table._bytes == sum(d.size for d in table._pending.values())


def test_datagrams_of_different_hosts_protocols_and_identifications_do_not_mix() -> None:
    table = Fragments()
    variants = [
        piece(0, b"a" * 8, True),
        piece(0, b"b" * 8, True, 2),
        piece(0, b"c" * 8, True, protocol=6),
        piece(0, b"d" * 8, True, six=True),
    ]
    assert [table.add(v, 0.0) for v in variants] == [None] * 4
    ends = [v._replace(offset=8, payload=b"end", more=False) for v in variants]
    assert [table.add(e, 0.0) for e in ends] == [
        (p, c * 8 + b"end") for p, c in zip((17, 17, 6, 17), (b"a", b"b", b"c", b"d"), strict=True)
    ]


def test_ipv6_takes_the_protocol_of_the_first_fragment() -> None:
    table = Fragments()
    table.add(piece(8, b"end", False, protocol=60, six=True), 0.0)
    assert table.add(piece(0, b"a" * 8, True, protocol=17, six=True), 0.0) == (17, b"a" * 8 + b"end")


@pytest.mark.parametrize(
    "bad",
    [
        piece(8, b"x" * 16, True),  # overlaps the next one
        piece(0, b"y" * 16, True),  # the same place with other bytes
        piece(0, b"y" * 24, True),  # longer
        piece(24, b"", True),
        piece(24, b"x" * 7, True),  # empty; not a multiple of 8
        piece(65_528, b"x" * 16, True),  # beyond 64 KiB
    ],
)
def test_overlapping_or_impossible_fragment_drops_the_datagram_and_all_that_comes_of_it_later(bad: Fragment) -> None:
    table = Fragments()
    pieces = cut(PAYLOAD[:48], [2, 2])
    table.add(pieces[0], 0.0)
    table.add(pieces[1], 0.0)
    assert table.add(bad, 0.0) is None
    assert [table.add(p, 1.0) for p in (*pieces, pieces[2])] == [None] * 4
    assert table.counts.refused == 1
    assert table.counts.reassembled == 0
    assert table._bytes == 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_different_ends_drop_the_datagram(order: tuple[int, int]) -> None:
    ends = [piece(16, b"end", False), piece(24, b"end", False)]
    table = Fragments()
    assert [table.add(ends[i], 0.0) for i in order] == [None, None]
    assert table.counts.refused == 1


def test_datagram_waits_thirty_seconds_for_its_last_fragment() -> None:
    pieces = cut(PAYLOAD, [100])
    in_time, late = Fragments(), Fragments()
    in_time.add(pieces[0], 100.0)
    assert in_time.add(pieces[1], 130.0) == (17, PAYLOAD)
    late.add(pieces[0], 100.0)
    assert late.add(pieces[1], 130.1) is None
    assert late.counts.expired == 1


def test_refused_datagram_is_forgotten_in_time_so_that_its_identification_can_be_used_again() -> None:
    table = Fragments()
    table.add(piece(0, b"a" * 16, True), 0.0)
    table.add(piece(8, b"b" * 16, True), 0.0)
    pieces = cut(PAYLOAD, [100])
    assert [table.add(p, 31.0) for p in pieces] == [None, (17, PAYLOAD)]


def test_flood_of_unfinished_datagrams_stays_within_its_bounds_and_pushes_out_the_oldest() -> None:
    table = Fragments()
    for number in range(fragments.MAX_DATAGRAMS + 100):
        table.add(piece(0, b"x" * 8, True, number), 0.0)
    assert len(table) == fragments.MAX_DATAGRAMS
    assert table.counts.evicted == 100
    assert table.add(piece(8, b"end", False, 99), 0.0) is None
    assert table.add(piece(8, b"end", False, fragments.MAX_DATAGRAMS), 0.0) == (17, b"x" * 8 + b"end")


def test_bytes_of_unfinished_datagrams_are_bounded() -> None:
    table = Fragments()
    for number in range(600):
        table.add(piece(0, bytes(60_000), True, number), 0.0)
        assert table._bytes <= fragments.MAX_BYTES
    assert table.counts.evicted > 300


def test_pieces_of_one_datagram_are_bounded() -> None:
    table = Fragments()
    for number in range(fragments.MAX_PIECES + 1):
        assert table.add(piece(number * 16, b"x" * 8, True), 0.0) is None
    assert table.counts.refused == 1
    assert table._bytes == 0
