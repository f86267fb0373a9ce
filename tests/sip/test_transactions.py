"""INVITE transactions: what is sent, when, until when, and that the table stays within its bound."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.sip.transactions import (
    INTERVALS,
    PATIENCE,
    T1,
    T2,
    T4,
    TRANSITIONS,
    Event,
    ServerTransactions,
    State,
)

ANSWER = b"SIP/2.0 603 Decline\r\n\r\n"


def sent(table: ServerTransactions[str], until: float, step: float = 0.05, start: float = 0.0) -> list[float]:
    """When the table sends something, looked at every `step` seconds."""
    times = []
    for tick in range(round((until - start) / step) + 1):
        now = start + tick * step
        times += [round(now, 2)] * len(table.due(now))
    return times


def test_answer_is_sent_again_at_the_times_of_timer_g_until_timer_h() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    assert sent(table, 60.0) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert (len(table), table.waiting, table.unacknowledged, table.retransmissions) == (0, 0, 1, 10)


def test_intervals_double_from_t1_to_t2_and_last_64_t1() -> None:
    assert INTERVALS[:4] == (T1, 2 * T1, 4 * T1, T2)
    assert set(INTERVALS[3:-1]) == {T2}
    assert sum(INTERVALS) == PATIENCE == 32.0


def test_copies_go_to_where_the_answer_went() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    assert table.due(T1) == [(ANSWER, "peer")]
    assert table.invite("a") == (ANSWER, "peer")


def test_acknowledged_answer_is_never_sent_again() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    assert sent(table, 1.0) == [0.5]
    assert table.ack("a", 1.0)
    assert sent(table, 60.0, start=1.0) == []
    assert (table.acknowledged, table.unacknowledged, len(table)) == (1, 0, 0)


def test_an_acknowledged_answer_holds_up_no_other_one() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    table.answer("b", ANSWER, "other", 0.0)
    table.ack("a", 0.1)
    assert table.next_deadline() == T1
    assert table.due(T1) == [(ANSWER, "other")]


def test_copies_of_the_ack_are_absorbed_for_the_time_of_timer_i() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    assert table.ack("a", 0.1)
    table.due(0.1 + T4 - 0.01)
    assert table.ack("a", 5.0)
    assert table.acknowledged == 1
    table.due(0.1 + T4)
    assert not table.ack("a", 5.2)


def test_late_copy_of_an_acknowledged_invite_is_not_answered() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    table.ack("a", 0.1)
    copy = table.invite("a")
    assert copy is not None
    assert copy[0] == b""


def test_unknown_keys() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    assert table.invite("a") is None
    assert not table.ack("a", 0.0)
    assert not table.cancel("a")


def test_cancel_knows_answered_and_acknowledged_invites_and_changes_nothing() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    assert table.cancel("a")
    assert table.due(T1) == [(ANSWER, "peer")]
    table.ack("a", 0.6)
    assert table.cancel("a")


def test_over_a_reliable_transport_nothing_is_sent_twice() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0, reliable=True)
    table.answer("b", ANSWER, "peer", 0.0, reliable=True)
    assert table.ack("b", 0.1)
    assert (len(table), table.waiting) == (1, 1)  # Timer I is 0
    assert sent(table, 40.0) == []
    assert (len(table), table.unacknowledged) == (0, 1)


def test_next_deadline_is_when_something_happens() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    assert table.next_deadline() is None
    table.answer("a", ANSWER, "peer", 10.0)
    table.answer("b", ANSWER, "peer", 10.2)
    assert table.next_deadline() == 10.0 + T1
    assert [destination for _, destination in table.due(10.6)] == ["peer"]
    assert table.next_deadline() == 10.2 + T1


def test_late_timer_does_not_make_up_for_what_it_missed() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    assert len(table.due(20.0)) == 1
    assert table.due(20.5) == []
    assert len(table.due(21.0)) == 1


def test_full_table_forgets_what_was_acknowledged_first() -> None:
    table: ServerTransactions[str] = ServerTransactions(3)
    for number, key in enumerate("abc"):
        table.answer(key, ANSWER, "peer", number / 10)
    table.ack("b", 0.3)
    table.ack("a", 0.4)
    table.answer("d", ANSWER, "peer", 0.5)
    assert not table.cancel("b")
    assert all(map(table.cancel, "acd"))
    assert (table.shortened, table.overflows) == (1, 0)


def test_full_table_of_unacknowledged_answers_counts_what_it_cannot_remember() -> None:
    table: ServerTransactions[str] = ServerTransactions(2)
    for key in "abc":
        table.answer(key, ANSWER, "peer", 0.0)
    assert (len(table), table.overflows, table.invite("c")) == (2, 1, None)
    assert len(table.due(T1)) == 2


def test_key_that_is_used_again_has_the_newer_answer() -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    table.answer("a", b"newer", "peer", 0.2)
    assert (len(table), table.waiting) == (1, 1)
    assert table.due(T1) == []
    assert table.due(0.2 + T1) == [(b"newer", "peer")]


@pytest.mark.parametrize("capacity", [0, -1])
def test_capacity_must_be_positive(capacity: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        ServerTransactions(capacity)


def test_events_that_cannot_happen_are_not_in_the_table() -> None:
    unlisted = set(product(State, Event)) - TRANSITIONS.keys()
    assert unlisted == {
        *((State.TERMINATED, event) for event in Event),
        (State.COMPLETED, Event.TIMER_I),
        (State.CONFIRMED, Event.TIMER_G),
        (State.CONFIRMED, Event.TIMER_H),
    }


def test_answers_that_are_acknowledged_at_once_leave_nothing_behind_even_behind_one_that_never_is() -> None:
    table: ServerTransactions[str] = ServerTransactions(10)
    table.answer("never", ANSWER, "peer", 0.0, reliable=True)
    for number in range(10_000):
        table.answer(str(number), ANSWER, "peer", 0.0, reliable=True)
        table.ack(str(number), 0.0)
    held = sum(len(queue) for queue in (*table._queues, table._confirmed))
    assert held <= 21
    assert len(table) == 1


class AnyOrder(RuleBasedStateMachine):
    """In whatever order things happen, the table keeps its bounds and counts, and sends no acknowledged answer."""

    def __init__(self) -> None:
        super().__init__()
        self.table: ServerTransactions[str] = ServerTransactions(4)
        self.now = 0.0
        self.open: set[str] = set()

    keys = st.sampled_from("abcdefgh")

    @rule(key=keys, reliable=st.booleans())
    def answer(self, key: str, reliable: bool) -> None:
        overflows = self.table.overflows
        self.table.answer(key, key.encode(), key, self.now, reliable=reliable)
        self.open.discard(key)
        if self.table.overflows == overflows:
            self.open.add(key)

    @rule(key=keys)
    def ack(self, key: str) -> None:
        self.table.ack(key, self.now)
        self.open.discard(key)

    @rule(key=keys)
    def copy(self, key: str) -> None:
        copy = self.table.invite(key)
        assert (copy is not None and copy[0] == key.encode()) == (key in self.open)

    @rule(seconds=st.sampled_from((0.0, 0.3, 0.5, 1.0, 4.0, 33.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        unacknowledged = self.table.unacknowledged
        for payload, destination in self.table.due(self.now):
            assert payload.decode() == destination
            assert destination in self.open
        if self.table.unacknowledged > unacknowledged:
            self.open = {key for key in self.open if self.table.invite(key) is not None}

    @invariant()
    def keeps_its_bounds(self) -> None:
        assert len(self.table) <= 4
        assert self.table.waiting == len(self.open)
        assert all(len(queue) <= 8 for queue in (*self.table._queues, self.table._confirmed))
        deadline = self.table.next_deadline()
        assert deadline is not None or not self.table.waiting


TestAnyOrder = AnyOrder.TestCase


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=200))
def test_however_often_it_is_looked_at_the_answer_is_sent_at_most_ten_times(waits: list[float]) -> None:
    table: ServerTransactions[str] = ServerTransactions()
    table.answer("a", ANSWER, "peer", 0.0)
    now, copies = 0.0, 0
    for wait in waits:
        now += wait
        copies += len(table.due(now))
    assert copies <= 10
