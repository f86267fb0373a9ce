"""TCP bytes come out once and in order, however the segments came; losses are skipped, floods are bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ingress import streams
from agent.ingress.layers import Tcp
from agent.ingress.streams import Streams
from tests.ingress.frames import CLIENT, SERVER

FIN, SYN, RST, ACK = 1, 2, 4, 16


class Recorder:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.log: list[bytes | str] = []
        self.refused = False
        self.pending = 0

    def feed(self, data: bytes) -> list[bytes]:
        self.log.append(data)
        return [data]

    def gap(self) -> None:
        self.log.append("gap")

    def finish(self) -> None:
        self.log.append("end")

    @property
    def bytes(self) -> bytes:
        return b"".join(entry for entry in self.log if isinstance(entry, bytes))


class Peer:
    """One direction of a connection, and the table that listens to it."""

    def __init__(self, initial: int = 1000, port: int = 40000) -> None:
        self.sinks: list[Recorder] = []
        self.table: Streams[bytes] = Streams(self.accept)
        self.initial, self.port = initial, port

    def accept(self, _segment: Tcp, _syn: bool) -> Recorder:
        self.sinks.append(Recorder())
        return self.sinks[-1]

    def send(
        self, offset: int, payload: bytes = b"", flags: int = ACK, now: float = 0.0, back: bool = False
    ) -> list[bytes]:
        """A segment whose payload begins `offset` bytes behind the SYN."""
        ends = (SERVER, CLIENT, 5060, self.port) if back else (CLIENT, SERVER, self.port, 5060)
        sequence = (self.initial + offset + (0 if flags & SYN else 1)) & 0xFFFFFFFF
        return self.table.add(Tcp(*ends, payload, 0, sequence, flags), now)


STREAM = bytes(i * 7 % 256 for i in range(3000))


INITIALS = st.sampled_from([0, 1000, 0x7FFFFFF0, 0xFFFFFF80, 0xFFFFFFFF])


@given(st.binary(min_size=1, max_size=300), INITIALS, st.data())
def test_any_segmentation_order_duplication_and_overlap_gives_the_same_bytes(
    payload: bytes, initial: int, data: st.DataObject
) -> None:
    spans = st.tuples(st.integers(0, len(payload) - 1), st.integers(1, 40))
    segments = data.draw(st.lists(spans, max_size=30))
    segments += [(at, 10) for at in range(0, len(payload), 10)]  # so that nothing is missing
    peer = Peer(initial)
    peer.send(0, flags=SYN)
    for at, length in data.draw(st.permutations(segments)):
        peer.send(at, payload[at : at + length])
    peer.send(len(payload), flags=FIN | ACK)
    assert peer.sinks[0].bytes == payload
    assert peer.sinks[0].log[-1] == "end"
    assert "gap" not in peer.sinks[0].log
    assert peer.table._held == 0


@given(st.data())
def test_first_copy_of_a_byte_counts_and_held_bytes_are_accounted(data: st.DataObject) -> None:
    """A model that writes each byte once, in arrival order."""
    size = 60
    peer, model = Peer(), dict[int, int]()
    peer.send(0, flags=SYN)
    for number in range(data.draw(st.integers(1, 25))):
        at, length = data.draw(st.integers(1, size)), data.draw(st.integers(1, 20))
        for position in range(at, at + length):
            model.setdefault(position, number)
        peer.send(at, bytes([number]) * length)
        assert peer.table._held == len(model)
    peer.send(0, b"\xff")  # byte 0 lets everything before the first gap out
    expected, position = bytearray(b"\xff"), 1
    while position in model:
        expected.append(model[position])
        position += 1
    assert peer.sinks[0].bytes == bytes(expected)
    assert peer.table._held == len(model) - (position - 1)
    peer.table.finish()
    assert peer.table._held == 0


def test_sequence_numbers_wrap() -> None:
    peer = Peer(0xFFFFFFFF - 500)
    peer.send(0, flags=SYN)
    for at in (1000, 0, 2000):
        peer.send(at, STREAM[at : at + 1000])
    assert peer.sinks[0].bytes == STREAM


def test_retransmissions_and_keep_alive_probes_are_no_new_bytes() -> None:
    peer = Peer()
    peer.send(0, flags=SYN)
    peer.send(0, flags=SYN)
    assert peer.send(0, STREAM[:100]) == [STREAM[:100]]
    assert peer.send(0, STREAM[:100]) == []
    assert peer.send(99, b"\0") == []
    assert peer.send(50, STREAM[50:150]) == [STREAM[100:150]]
    assert len(peer.sinks) == 1
    assert peer.table.counts.retransmitted == 2


def test_data_in_the_syn_is_taken() -> None:
    peer = Peer()
    assert peer.send(0, b"early", flags=SYN) == [b"early"]
    assert peer.send(5, b" more") == [b" more"]


def test_capture_that_begins_in_the_middle_begins_there() -> None:
    peer = Peer()
    assert peer.send(500) == []  # an acknowledgement alone says nothing
    assert len(peer.sinks) == 0
    assert peer.send(500, b"abc") == [b"abc"]
    assert peer.send(503, b"def") == [b"def"]


def test_lost_segment_is_skipped_after_a_while_and_the_sink_is_told() -> None:
    peer = Peer()
    peer.send(0, b"one", flags=SYN)
    assert peer.send(6, b"three", now=1.0) == []
    assert peer.send(11, b"four", now=2.0) == []
    assert peer.send(15, now=4.1) == [b"three", b"four"]
    assert peer.sinks[0].log == [b"one", "gap", b"three", b"four"]
    assert peer.send(3, b"two", now=4.2) == []  # too late
    assert peer.table.counts.gaps == 1


def test_what_waits_behind_a_gap_comes_out_by_the_clock_too() -> None:
    peer = Peer()
    peer.send(0, b"one", flags=SYN)
    peer.send(6, b"three", flags=FIN | ACK, now=1.0)
    assert peer.table.tick(3.9) == []
    assert peer.table.tick(4.1) == [b"three"]
    assert peer.sinks[0].log == [b"one", "gap", b"three", "end"]
    assert peer.table.tick(9.0) == []


def test_waiting_begins_anew_behind_each_gap() -> None:
    peer = Peer()
    peer.send(0, b"a", flags=SYN)
    peer.send(2, b"c", now=1.0)
    peer.send(4, b"e", now=3.0)
    assert peer.send(1, b"b", now=3.5) == [b"b", b"c"]
    assert peer.send(6, b"g", now=5.0) == []  # "d" is missing since 3.5
    assert peer.send(6, b"g", now=6.6) == [b"e"]


@pytest.mark.parametrize("size", [1, 1400])
def test_what_waits_behind_a_gap_is_bounded(size: int) -> None:
    peer = Peer()
    peer.send(0, b"a", flags=SYN)
    for number in range(1, 2 * max(streams.MAX_PIECES, streams.MAX_HELD // size if size > 1 else 0)):
        peer.send(number * 2 * size, bytes(size))
        direction = next(iter(peer.table._directions.values()))
        assert direction.held <= streams.MAX_HELD + size
        assert len(direction.pieces) <= streams.MAX_PIECES + 1
    assert "gap" in peer.sinks[0].log


def test_all_that_waits_is_bounded_and_the_least_recently_seen_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_HELD_TOTAL", 10_000)
    peer = Peer()
    for port in range(20):
        peer.port = port
        peer.send(0, flags=SYN)
        peer.send(1, bytes(1000))
        assert peer.table._held <= 10_000
    assert peer.table.counts.evicted == 10
    assert [sink.log for sink in peer.sinks] == [["gap", bytes(1000), "end"]] * 10 + [[]] * 10


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_DIRECTIONS", 50)
    peer = Peer()
    for port in range(200):
        peer.port = port
        peer.send(0, flags=SYN)
        peer.port = 0
        peer.send(0, flags=ACK)  # this one is in use
    assert len(peer.table) == 50
    assert peer.sinks[0].log == []
    assert peer.sinks[1].log == ["end"]


def test_idle_connection_is_forgotten_and_what_it_held_comes_out() -> None:
    peer = Peer()
    peer.send(0, b"a", flags=SYN)
    peer.send(2, b"c")
    peer.port = 1
    assert peer.send(0, flags=SYN, now=streams.IDLE_TIMEOUT + 1) == [b"c"]
    assert peer.sinks[0].log == [b"a", "gap", b"c", "end"]
    assert len(peer.table) == 1


def test_end_of_the_capture_brings_out_what_waited() -> None:
    peer = Peer()
    peer.send(0, b"a", flags=SYN)
    peer.send(2, b"c")
    peer.send(5, b"f")
    assert peer.table.finish() == [b"c", b"f"]
    assert peer.sinks[0].log == [b"a", "gap", b"c", "gap", b"f", "end"]
    assert len(peer.table) == 0


def test_fin_ends_the_direction_once_everything_before_it_came() -> None:
    peer = Peer()
    peer.send(0, b"a", flags=SYN)
    peer.send(2, b"c", flags=FIN | ACK)
    assert peer.sinks[0].log == [b"a"]
    peer.send(1, b"b")
    assert peer.sinks[0].log == [b"a", b"b", b"c", "end"]
    assert peer.send(0, b"abc") == []  # a late copy is not a new connection
    assert len(peer.sinks) == 1


def test_reset_ends_both_directions() -> None:
    peer = Peer()
    peer.send(0, b"a", flags=SYN)
    peer.send(0, b"x", flags=SYN | ACK, back=True)
    peer.send(3, b"z", back=True)
    assert peer.send(1, flags=RST) == [b"z"]
    assert [s.log for s in peer.sinks] == [[b"a", "end"], [b"x", "gap", b"z", "end"]]


def test_new_syn_on_old_ports_is_a_new_connection() -> None:
    peer = Peer()
    peer.send(0, b"old", flags=SYN)
    peer.initial = 99_000_000
    assert peer.send(0, flags=SYN) == []
    assert peer.send(0, b"new") == [b"new"]
    assert [s.log for s in peer.sinks] == [[b"old", "end"], [b"new"]]


@pytest.mark.parametrize("distance", [streams.FAR + 10, -streams.FAR - 10])
def test_far_away_sequence_number_is_taken_up_as_a_connection_whose_beginning_was_missed(distance: int) -> None:
    peer = Peer()
    peer.send(0, b"old", flags=SYN)
    peer.send(5, b"held")
    assert peer.send(distance, b"new") == [b"held", b"new"]
    assert peer.send(distance + 3, b"er") == [b"er"]
    assert peer.sinks[0].log == [b"old", "gap", b"held", "gap", b"new", b"er"]


def test_closed_ports_are_used_again_without_a_syn_after_a_while() -> None:
    peer = Peer()
    peer.send(0, b"a", flags=SYN | FIN)
    assert peer.send(9, b"b", now=streams.LINGER) == []
    assert peer.send(9, b"b", now=streams.LINGER * 3) == [b"b"]
    assert len(peer.sinks) == 2


def test_sink_that_refuses_gets_no_more_bytes_and_holds_none() -> None:
    peer = Peer()
    peer.send(0, b"a", flags=SYN)
    peer.sinks[0].refused = True
    peer.send(2, b"c")
    peer.send(1, b"b")
    assert peer.sinks[0].log == [b"a", b"b"]
    assert peer.table._held == 0
    assert peer.send(3, b"d") == []
    assert peer.table.finish() == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-60, 60), st.integers(0, 30), st.integers(0, 31), st.floats(0, 5)),
        max_size=60,
    )
)
def test_no_segments_break_the_bookkeeping(arrivals: list[tuple[int, int, int, int, float]]) -> None:
    peer, now = Peer(0), 0.0
    for port, offset, length, flags, elapsed in arrivals:
        peer.port, now = port, now + elapsed
        peer.send(offset, bytes(length), flags, now, back=bool(port & 1))
        held = sum(d.held for d in peer.table._directions.values())
        assert peer.table._held == held == sum(len(p) for d in peer.table._directions.values() for p in d.pieces)
    peer.table.finish()
    assert peer.table._held == 0
    assert all(sink.log.count("end") <= 1 for sink in peer.sinks)
