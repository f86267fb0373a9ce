"""Calls in progress: what starts, keeps and ends them (RFC 3261 9, 12, 13, 15)."""

import tracemalloc

import pytest

from agent.calls.call import DIALOGS, TRANSACTIONS, TRANSITIONS, Event, State
from agent.calls.sessions import CAPACITY, MAX_SECONDS, SETTLE_SECONDS, SETUP_SECONDS, TICK_SECONDS, SessionTable
from tests.calls.messages import INVITE, Message, from_called_side, request, response

KEYS = (("trunk", "peer"), ("called", "13035550199"))
OK, RINGING, BUSY, CHALLENGE = response(200), response(180), response(486), response(401)
BYE = request("BYE")
RETRY = INVITE.but(cseq=2, branch=b"z9hG4bK2")


def opened(*messages: Message, table: SessionTable | None = None, now: float = 0.0) -> SessionTable:
    """A table in which the call was admitted, and these messages followed a second apart."""
    table = table or SessionTable()
    table.open(INVITE.call_id, INVITE.from_tag, KEYS, now, INVITE.branch)
    for n, message in enumerate(messages, 1):
        table.observe(message, now + n)
    return table


def in_progress(table: SessionTable) -> bool:
    """Whether the one call is counted; under every key or under none."""
    assert {table.count(key) for key in KEYS} == {table.in_progress}
    return bool(table.in_progress)


def test_an_admitted_invite_is_in_progress_under_every_key() -> None:
    table = opened()
    assert [table.count(key) for key in KEYS] == [1, 1]
    assert (table.count("other"), table.in_progress, table.answered) == (0, 1, 0)


def test_a_call_runs_from_invite_to_bye() -> None:
    table = opened(response(100), RINGING, OK, request("ACK"))
    assert (in_progress(table), table.answered) == (True, 1)
    table.observe(BYE, 60.0)
    assert not in_progress(table)
    assert table.counts() == {}


def test_the_called_side_hangs_up() -> None:
    assert not in_progress(opened(OK, from_called_side(BYE)))


def test_a_repeated_200_is_counted_once_and_does_not_revive_a_call() -> None:
    table = opened(OK, OK, OK)
    assert table.answered == 1
    table.observe(BYE, 10.0)
    table.observe(OK, 11.0)
    assert not in_progress(table)
    assert table.answered == 1


def test_a_forked_call_is_one_call_until_its_last_dialog_ended() -> None:
    table = opened(OK, response(200, b"second"), BYE, OK)
    assert (in_progress(table), table.in_progress, table.answered) == (True, 1, 1)
    table.observe(request("BYE", b"second"), 20.0)
    assert not in_progress(table)


@pytest.mark.parametrize("status", [302, 404, 486, 487, 503, 603])
def test_a_refused_invite_is_over(status: int) -> None:
    assert not in_progress(opened(RINGING, response(status)))


def test_a_challenged_call_waits_for_its_retry() -> None:
    table = opened(CHALLENGE, RETRY, CHALLENGE, response(180, branch=b"z9hG4bK2"))  # and a repeated challenge
    table.sweep(SETUP_SECONDS - 10)
    assert in_progress(table)
    table.observe(response(200, branch=b"z9hG4bK2"), SETUP_SECONDS - 9)
    assert table.answered == 1


def test_a_late_copy_of_the_challenged_invite_is_no_retry() -> None:
    table = opened(CHALLENGE, INVITE, CHALLENGE)
    table.sweep(SETTLE_SECONDS + 3)
    assert not in_progress(table)


@pytest.mark.parametrize("status", [401, 407])
def test_a_challenge_without_retry_is_over_after_a_while(status: int) -> None:
    table = opened(response(status))
    table.sweep(1 + SETTLE_SECONDS - TICK_SECONDS)
    assert in_progress(table)
    table.sweep(1 + SETTLE_SECONDS + 2 * TICK_SECONDS)
    assert not in_progress(table)


def test_a_refused_retry_is_over_even_if_the_retry_itself_was_lost() -> None:
    assert not in_progress(opened(CHALLENGE, response(403, branch=b"z9hG4bK2")))


def test_cancel_ends_nothing_by_itself() -> None:
    cancel = Message(method="CANCEL", cseq_method="CANCEL")
    table = opened(RINGING, cancel, response(200, b"", cseq_method="CANCEL"))
    assert in_progress(table)
    table.observe(response(487), 5.0)
    assert not in_progress(table)


def test_a_200_that_crosses_the_cancel_wins() -> None:
    table = opened(Message(method="CANCEL", cseq_method="CANCEL"), OK)
    table.sweep(1000.0)
    assert (in_progress(table), table.answered) == (True, 1)
    table.observe(BYE, 1001.0)
    assert not in_progress(table)


def test_a_cancelled_call_without_final_response_is_over_after_a_while() -> None:
    table = opened(Message(method="CANCEL", cseq_method="CANCEL"), RINGING)
    table.sweep(SETTLE_SECONDS + 2)
    assert not in_progress(table)


def test_a_cancel_of_another_branch_is_not_believed() -> None:
    table = opened(Message(method="CANCEL", cseq_method="CANCEL", branch=b"z9hG4bKmade-up"))
    table.sweep(SETUP_SECONDS - 1)
    assert in_progress(table)


def test_a_bye_of_another_dialog_is_not_believed() -> None:
    made_up = [request("BYE", b"made-up-%d" % n) for n in range(3 * DIALOGS)]
    table = opened(*made_up, OK, *made_up)
    assert (in_progress(table), table.answered) == (True, 1)


def test_a_bye_that_overtook_its_200_ends_the_call_when_the_200_comes() -> None:
    assert not in_progress(opened(BYE, OK))


@pytest.mark.parametrize("status", [408, 481])
@pytest.mark.parametrize("method", ["BYE", "INFO", "UPDATE"])
def test_a_dialog_that_the_other_side_does_not_know_is_over(status: int, method: str) -> None:
    gone = response(status, cseq_method=method, cseq=2, branch=b"z9hG4bKother")
    assert not in_progress(opened(OK, gone))
    assert not in_progress(opened(OK, from_called_side(gone)))


def test_481_to_cancel_or_to_an_early_dialog_ends_nothing() -> None:
    assert in_progress(opened(response(481, cseq_method="CANCEL"), response(481, cseq_method="PRACK"), OK))


@pytest.mark.parametrize("status", [401, 488, 491, 500])
def test_a_refused_re_invite_leaves_the_call_as_it_was(status: int) -> None:
    reinvite = response(status, cseq=2, branch=b"z9hG4bKre")
    table = opened(OK, request("INVITE", branch=b"z9hG4bKre"), reinvite, from_called_side(reinvite))
    assert in_progress(table)
    table.observe(BYE, 10.0)
    assert not in_progress(table)


@pytest.mark.parametrize("status", [408, 481])
def test_a_re_invite_to_a_dialog_that_is_gone_ends_it(status: int) -> None:
    reinvite = response(status, cseq=2, branch=b"z9hG4bKre")
    assert not in_progress(opened(OK, reinvite))
    assert not in_progress(opened(OK, from_called_side(reinvite)))


def test_the_482_of_a_fork_does_not_end_the_call() -> None:
    fork = INVITE.but(branch=b"z9hG4bKfork")
    merged = response(482, branch=b"z9hG4bKfork")
    assert in_progress(opened(fork, merged))
    assert in_progress(opened(merged))  # the fork itself was not seen
    assert not in_progress(opened(fork, merged, BUSY))


def test_a_fork_that_is_refused_by_the_side_that_answered_no_longer_waits() -> None:
    fork = INVITE.but(branch=b"z9hG4bKfork")
    assert not in_progress(opened(fork, OK, response(482, branch=b"z9hG4bKfork"), BYE))


def test_without_a_branch_the_first_final_response_decides() -> None:
    table = SessionTable()
    table.open(INVITE.call_id, INVITE.from_tag, KEYS, 0.0)
    table.observe(INVITE, 0.5)
    table.observe(BUSY, 1.0)
    assert not in_progress(table)


def test_rfc_2543_peers_have_neither_branch_nor_tags() -> None:
    table = SessionTable()
    table.open(b"old", b"", KEYS, 0.0)
    for message in (response(200, b"", branch=b""), INVITE.but(branch=b"")):
        table.observe(message.but(call_id=b"old", from_tag=b""), 1.0)
    assert (in_progress(table), table.answered) == (True, 1)
    table.observe(request("BYE", b"").but(call_id=b"old", from_tag=b""), 2.0)
    assert not in_progress(table)


def test_ringing_restarts_the_clock_but_not_for_ever() -> None:
    table = SessionTable(max_seconds=1000.0)
    opened(table=table)
    for minute in range(1, 16):
        table.observe(RINGING, minute * 60.0)
        assert in_progress(table)
    for minute in range(16, 22):
        table.observe(RINGING, minute * 60.0)
    assert not in_progress(table)
    assert table.expired == 1


def test_an_unanswered_call_expires() -> None:
    table = opened()
    assert table.sweep(SETUP_SECONDS) == 0
    assert table.sweep(SETUP_SECONDS + 2 * TICK_SECONDS) == 1
    assert not in_progress(table)


def test_a_call_whose_bye_was_lost_expires() -> None:
    table = opened(OK)
    assert table.sweep(MAX_SECONDS) == 0
    assert table.sweep(1 + MAX_SECONDS + 2 * TICK_SECONDS) == 1
    assert not in_progress(table)


def test_traffic_sweeps_too() -> None:
    table = opened()
    table.open(b"call-2", b"caller", (), 1000.0)
    assert table.count(KEYS[0]) == 0
    assert len(table._wheel) == len(table._heap) == 1


def test_reused_identifiers_are_counted_each_until_all_is_over() -> None:
    table = opened()
    for n in range(5):
        table.open(INVITE.call_id, INVITE.from_tag, KEYS, 1.0, b"z9hG4bKagain%d" % n)
    assert table.in_progress == table.count(KEYS[0]) == 6
    for n in range(5):
        table.observe(response(486, branch=b"z9hG4bKagain%d" % n), 2.0)
    assert table.count(KEYS[0]) == 6
    table.observe(BUSY, 3.0)
    assert table.counts() == {}


def test_hanging_up_while_another_invite_waits_leaves_the_call_in_setup() -> None:
    table = opened(INVITE.but(branch=b"z9hG4bKfork"), OK, BYE)
    assert in_progress(table)
    table.observe(response(487, branch=b"z9hG4bKfork"), 10.0)
    assert not in_progress(table)


def test_one_call_is_bounded_whatever_it_sends() -> None:
    table = opened(*(INVITE.but(branch=b"z9hG4bKfork%d" % n) for n in range(1000)))
    for n in range(1000):
        table.observe(response(200, b"tag-%d" % n), 1001.0)
    (call,) = table._calls.values()
    assert len(call.pending) <= TRANSACTIONS
    assert len(call.dialogs) == call.talking == DIALOGS
    assert table.beyond_bounds == (1001 - TRANSACTIONS) + (1000 - DIALOGS)


def test_capacity_is_a_hard_bound_and_answered_calls_go_last() -> None:
    table = SessionTable(capacity=10)
    for n in range(30):
        table.open(b"call-%d" % n, b"caller", KEYS, n * 0.01)
        if n < 3:
            table.observe(OK.but(call_id=b"call-%d" % n), n * 0.01)
    assert table.in_progress == table.count(KEYS[0]) == 10
    assert table.overflows == 20
    for n in range(3):
        table.observe(BYE.but(call_id=b"call-%d" % n), 1.0)
    assert table.in_progress == 7


def test_calls_that_were_opened_after_an_overflow_expire_like_others() -> None:
    table = SessionTable(capacity=1)
    for n in range(5):
        table.open(b"call-%d" % n, b"caller", KEYS, 0.0)
    assert (table.in_progress, table.overflows) == (1, 4)
    assert table.sweep(SETUP_SECONDS + 1) == 1
    assert table.counts() == {}


def test_the_oldest_call_is_forgotten_first_also_within_one_moment() -> None:
    table = SessionTable(capacity=2)
    for n in range(4):
        table.open(b"call-%d" % n, b"caller", (n,), 0.0)
    assert table.counts() == {2: 1, 3: 1}


def test_forgetting_the_last_call_of_a_moment_loses_none_that_comes_after_it() -> None:
    table = opened(OK, table=SessionTable(capacity=1))
    table.open(INVITE.call_id, INVITE.from_tag, (), 300.0, b"z9hG4bKagain")
    assert (table.in_progress, table.overflows) == (0, 1)
    table.open(b"call-2", b"caller", (), 300.0)
    assert table.sweep(300.0 + SETUP_SECONDS + 1) == 1


@pytest.mark.parametrize("clock", [(100.0, 50.0, 0.0), (5.0, float("nan"), 6.0), (5.0, float("inf"), 6.0)])
def test_a_clock_that_goes_wrong_ends_nothing(clock: tuple[float, ...]) -> None:
    table = opened(OK, now=clock[0])
    for now in clock:
        table.sweep(now)
        assert in_progress(table)


def test_a_clock_that_jumped_ahead_and_back_goes_on_expiring() -> None:
    table = opened()
    table.sweep(4e9)
    assert not in_progress(table)
    opened(table=table, now=10.0)
    assert table.sweep(10.0 + SETUP_SECONDS - 1) == 0
    assert table.sweep(10.0 + SETUP_SECONDS + 1) == 1


def test_a_key_that_is_given_twice_is_counted_and_given_back_twice() -> None:
    table = SessionTable()
    table.open(INVITE.call_id, INVITE.from_tag, ("k", "k"), 0.0)
    assert table.count("k") == 2
    table.observe(BUSY, 1.0)
    assert table.counts() == {}


class Noting(dict[tuple[State, Event], State]):
    """The table, and which of its entries were used."""

    def __init__(self) -> None:
        super().__init__(TRANSITIONS)
        self.used: set[tuple[State, Event]] = set()

    def __getitem__(self, key: tuple[State, Event]) -> State:
        self.used.add(key)
        return super().__getitem__(key)


def test_the_table_lists_nothing_that_cannot_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Noting()
    monkeypatch.setattr("agent.calls.sessions.TRANSITIONS", table)
    fork = INVITE.but(branch=b"z9hG4bKfork")
    fork_rings = response(180, b"early", branch=b"z9hG4bKfork")
    cancel = Message(method="CANCEL", cseq_method="CANCEL")
    cancel_fork = cancel.but(branch=b"z9hG4bKfork")
    many = [INVITE.but(branch=b"z9hG4bK-%d" % n) for n in range(TRANSACTIONS)]
    answers = [response(200, b"tag-%d" % n) for n in range(DIALOGS + 1)]
    for story in (
        [RINGING, OK, OK, BYE],
        [fork, OK, fork_rings, cancel_fork, BYE, response(487, branch=b"z9hG4bKfork")],
        [OK, fork, BYE],
        [CHALLENGE, response(401, branch=b"z9hG4bK2"), RETRY.but(branch=b"z9hG4bK3"), BUSY],
        [CHALLENGE, response(200, branch=b"z9hG4bK2")],
        [CHALLENGE, response(403, branch=b"z9hG4bK2")],
        [cancel, cancel, RINGING, CHALLENGE],
        [cancel, OK],
        [cancel, BUSY],
        [cancel, fork],
        many,
        answers,
    ):
        opened(*story)
    assert table.used == set(TRANSITIONS)


def test_every_transition_leads_somewhere_and_nothing_follows_the_end() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.ENDED}
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert set(TRANSITIONS.values()) == set(State)


@pytest.mark.parametrize(
    ("capacity", "setup", "longest"),
    [(0, 1.0, 1.0), (1, 0.0, 1.0), (1, 1.0, -1.0), (1, float("nan"), 1.0), (1, 1.0, float("inf"))],
)
def test_bounds_must_be_positive(capacity: int, setup: float, longest: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        SessionTable(capacity, setup, longest)


def test_a_call_costs_at_most_400_bytes() -> None:
    identifiers = [(b"%d" % n, b"z9hG4bK%d" % n) for n in range(20_000)]
    tracemalloc.start()
    table = SessionTable()
    for n, (call_id, branch) in enumerate(identifiers):
        table.open(call_id, b"caller", KEYS, n / 1000, branch)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used / table.in_progress < 400
    assert CAPACITY * 400 < 60e6
