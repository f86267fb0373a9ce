"""What counts as one call attempt (RFC 3261 8.2.2.2, 17.1.1.2, 17.2.3)."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calls.attempts import CAPACITY, COPIES, FOLLOW_UPS, LIFETIME_SECONDS, AttemptTable, Seen
from tests.calls.messages import INVITE, Message

TIMER_A = (0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)  # when a UDP client sends its INVITE (RFC 3261 17.1.1.2, T1 = 0.5 s)


def sightings(table: AttemptTable, messages: list[Message], start: float = 0.0, step: float = 0.1) -> list[Seen]:
    return [table.observe("peer", message, start + n * step).seen for n, message in enumerate(messages)]


def test_seven_copies_over_32_seconds_are_one_attempt() -> None:
    table = AttemptTable()
    seen = [table.observe("peer", INVITE, 100.0 + at).seen for at in TIMER_A]
    assert seen == [Seen.NEW] + [Seen.RETRANSMISSION] * 6


def test_retransmitted_invite_finds_the_decision_of_the_first() -> None:
    table = AttemptTable()
    verdict = object()
    table.observe("peer", INVITE, 0.0).decision = verdict
    assert table.observe("peer", INVITE, 31.5).decision is verdict


def test_a_retry_after_a_challenge_is_the_same_attempt_and_keeps_its_decision() -> None:
    table = AttemptTable()
    verdict = object()
    table.observe("peer", INVITE, 0.0).decision = verdict
    retry = table.observe("peer", INVITE.but(cseq=2, branch=b"z9hG4bK2"), 0.2)
    assert (retry.seen, retry.decision, retry.continuations) == (Seen.CONTINUATION, verdict, 1)


def test_a_copy_of_the_retry_gets_the_answer_of_the_retry_and_not_of_the_first() -> None:
    table = AttemptTable()
    retry = INVITE.but(cseq=2, branch=b"z9hG4bK2")
    table.observe("peer", INVITE, 0.0).decision = "challenge"
    table.observe("peer", retry, 0.2).decision = "pass"
    copies = [table.observe("peer", message, 0.7) for message in (INVITE, retry)]
    assert [(c.seen, c.decision) for c in copies] == [(Seen.RETRANSMISSION, "challenge"), (Seen.RETRANSMISSION, "pass")]


def test_a_fork_is_merged() -> None:
    assert sightings(AttemptTable(), [INVITE, INVITE.but(branch=b"z9hG4bK2"), INVITE.but(branch=b"z9hG4bK3")]) == [
        Seen.NEW,
        Seen.MERGED,
        Seen.MERGED,
    ]


def test_a_fork_of_the_retry_is_merged_too() -> None:
    retry = INVITE.but(cseq=2, branch=b"z9hG4bK2")
    assert sightings(AttemptTable(), [INVITE, retry, retry.but(branch=b"z9hG4bK3")]) == [
        Seen.NEW,
        Seen.CONTINUATION,
        Seen.MERGED,
    ]


def test_a_fork_by_another_proxy_with_the_same_branch_is_merged() -> None:
    assert sightings(AttemptTable(), [INVITE, INVITE.but(sent_by=b"192.0.2.11:5060")]) == [Seen.NEW, Seen.MERGED]


@pytest.mark.parametrize(
    "changes",
    [
        {"call_id": b"call-2"},
        {"from_tag": b"caller-2"},
        {"from_tag": b""},
    ],
)
def test_other_identifiers_are_another_attempt(changes: dict[str, object]) -> None:
    assert sightings(AttemptTable(), [INVITE, INVITE.but(**changes)]) == [Seen.NEW, Seen.NEW]


def test_the_same_call_id_from_two_trunks_is_two_attempts() -> None:
    table = AttemptTable()
    assert [table.observe(trunk, INVITE, 0.0).seen for trunk in ("one", "two", "one")] == [
        Seen.NEW,
        Seen.NEW,
        Seen.RETRANSMISSION,
    ]


def test_an_empty_tag_is_not_confused_with_the_field_beside_it() -> None:
    """No identifier may slide into its neighbour: "ab" + "" is not "a" + "b"."""
    assert sightings(
        AttemptTable(), [INVITE.but(call_id=b"ab", from_tag=b""), INVITE.but(call_id=b"a", from_tag=b"b")]
    ) == [Seen.NEW, Seen.NEW]


def test_rfc_2543_peer_without_branch_and_tag_is_matched_by_request_uri_cseq_and_via() -> None:
    old = INVITE.but(branch=b"", from_tag=b"")
    assert sightings(
        AttemptTable(),
        [
            old,
            old,
            old.but(cseq=2),
            old.but(request_uri=b"sip:+13035550198@sbc.example.net"),
            old.but(from_uri=b"sip:+12015550124@a.example.com"),
        ],
    ) == [Seen.NEW, Seen.RETRANSMISSION, Seen.CONTINUATION, Seen.MERGED, Seen.NEW]


def test_an_attempt_is_remembered_for_its_lifetime_after_the_last_copy_and_then_forgotten() -> None:
    table = AttemptTable()
    seen = [table.observe("peer", INVITE, at).seen for at in (1000.0, 1039.9, 1079.8, 1119.7)]
    assert seen == [Seen.NEW] + [Seen.RETRANSMISSION] * 3
    assert table.observe("peer", INVITE, 1119.7 + LIFETIME_SECONDS * 10 / 8).seen is Seen.NEW


def test_expired_attempts_are_removed_while_new_ones_come() -> None:
    table = AttemptTable()
    for n in range(20_000):  # 50 a second for 400 seconds
        table.observe("peer", INVITE.but(call_id=b"%d" % n), n / 50)
    assert len(table) <= 50 * LIFETIME_SECONDS * 10 / 8
    assert table.overflows == 0


def test_a_long_silence_expires_everything() -> None:
    table = AttemptTable()
    for n in range(100):
        table.observe("peer", INVITE.but(call_id=b"%d" % n), 1.0)
    assert all(table.observe("peer", INVITE.but(call_id=b"%d" % n), 1e9).seen is Seen.NEW for n in range(100))
    assert len(table) == 100


def test_capacity_is_a_hard_bound_and_the_oldest_goes_first() -> None:
    table = AttemptTable(capacity=10)
    for n in range(25):
        table.observe("peer", INVITE.but(call_id=b"%d" % n), n * 0.01)
        assert len(table) <= 10
    assert table.overflows == 15
    assert table.observe("peer", INVITE.but(call_id=b"24"), 0.3).seen is Seen.RETRANSMISSION
    assert table.observe("peer", INVITE.but(call_id=b"15"), 0.3).seen is Seen.RETRANSMISSION
    assert table.observe("peer", INVITE.but(call_id=b"14"), 0.3).seen is Seen.NEW


def test_forgetting_the_expired_is_not_an_overflow() -> None:
    table = AttemptTable(capacity=10)
    for n in range(10):
        table.observe("peer", INVITE.but(call_id=b"%d" % n), 0.0)
    table.observe("peer", INVITE.but(call_id=b"new"), 1000.0)
    assert table.overflows == 0


def test_ten_thousand_uses_of_one_call_id_are_excess_and_count() -> None:
    table = AttemptTable()
    seen = [table.observe("peer", INVITE.but(cseq=n, branch=b"z9hG4bK%d" % n), n * 0.001).seen for n in range(10_000)]
    assert seen[: FOLLOW_UPS + 1] == [Seen.NEW] + [Seen.CONTINUATION] * FOLLOW_UPS
    assert set(seen[FOLLOW_UPS + 1 :]) == {Seen.EXCESS}
    assert sum(s.counts for s in seen) == 10_000 - FOLLOW_UPS


def test_capacity_bounds_excess_too() -> None:
    table = AttemptTable(capacity=100)
    for n in range(1000):
        table.observe("peer", INVITE.but(cseq=n, branch=b"z9hG4bK%d" % n), n * 0.001)
        assert len(table) <= 100
    assert table.overflows > 0


def test_an_excess_invite_is_screened_afresh_and_its_copies_are_copies() -> None:
    table = AttemptTable()
    table.observe("peer", INVITE, 0.0).decision = "pass"
    for n in range(FOLLOW_UPS):
        table.observe("peer", INVITE.but(cseq=n + 2, branch=b"z9hG4bKf%d" % n), 0.0)
    excess = INVITE.but(cseq=99, branch=b"z9hG4bKexcess")
    entry = table.observe("peer", excess, 0.1)
    assert (entry.seen, entry.decision) == (Seen.EXCESS, None)
    entry.decision = "refuse"
    copy = table.observe("peer", excess, 0.6)
    assert (copy.seen, copy.decision) == (Seen.RETRANSMISSION, "refuse")


def test_a_finished_transaction_cannot_carry_calls_for_ever() -> None:
    table = AttemptTable()
    seen = []
    for n in range(100):  # one call every six seconds, all with the same bytes
        entry = table.observe("peer", INVITE, n * 6.0)
        seen.append(entry.seen)
        if entry.seen is Seen.EXCESS:
            assert entry.decision is None
        entry.decision = "pass"
    assert seen.count(Seen.RETRANSMISSION) == COPIES - 1
    assert seen.count(Seen.EXCESS) == 100 - COPIES


@pytest.mark.parametrize(
    "clock",
    [
        [100.0, 50.0, 0.0, -1e9],
        [100.0, float("nan"), 100.1],
        [0.0, 1e-9, 0.0],
    ],
)
def test_a_clock_that_goes_wrong_forgets_nothing(clock: list[float]) -> None:
    table = AttemptTable()
    assert [table.observe("peer", INVITE, now).seen for now in clock] == [Seen.NEW] + [Seen.RETRANSMISSION] * (
        len(clock) - 1
    )


def test_a_clock_that_jumped_ahead_and_back_goes_on_expiring() -> None:
    table = AttemptTable()
    table.observe("peer", INVITE, 0.0)
    table.observe("peer", INVITE.but(call_id=b"future"), 4e9)
    assert table.observe("peer", INVITE, 10.0).seen is Seen.NEW
    assert table.observe("peer", INVITE, 49.0).seen is Seen.RETRANSMISSION
    assert table.observe("peer", INVITE, 120.0).seen is Seen.NEW


@pytest.mark.parametrize(("capacity", "lifetime"), [(0, 40.0), (1, 0.0), (1, float("nan")), (1, float("inf"))])
def test_bounds_must_be_positive(capacity: int, lifetime: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        AttemptTable(capacity, lifetime)


def test_an_attempt_costs_at_most_300_bytes() -> None:
    messages = [INVITE.but(call_id=b"%d" % n, branch=b"z9hG4bK%d" % n) for n in range(20_000)]
    tracemalloc.start()
    table = AttemptTable()
    for n, message in enumerate(messages):
        table.observe("peer", message, n / 10_000)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used / len(table) < 300
    assert CAPACITY * 300 < 80e6


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.3, 6.0, 21.0, -5.0]),
            st.sampled_from(["one", "two"]),
            st.integers(0, 3),  # Call-ID
            st.integers(1, 4),  # CSeq
            st.integers(0, 3),  # branch
        ),
        max_size=150,
    ),
    capacity=st.sampled_from([3, 1000]),
)
def test_every_call_is_counted_and_the_bookkeeping_holds(
    steps: list[tuple[float, str, int, int, int]], capacity: int
) -> None:
    """Against a model without clocks' granularity: whatever is forgotten too late or too early is in its bounds."""
    table = AttemptTable(capacity)
    now = elapsed = 0.0
    last: dict[tuple[str, int], float] = {}  # attempt -> when its latest INVITE came
    transactions: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for step, trunk, call, cseq, branch in steps:
        now += step
        elapsed += max(0.0, step)
        entry = table.observe(trunk, INVITE.but(call_id=b"%d" % call, cseq=cseq, branch=b"z9hG4bK%d" % branch), now)
        attempt, transaction = (trunk, call), (cseq, branch)
        age = elapsed - last.get(attempt, float("-inf"))
        known = transactions.setdefault(attempt, set())
        if age > LIFETIME_SECONDS * 10 / 8:
            assert entry.seen is Seen.NEW
        elif age <= LIFETIME_SECONDS and capacity == 1000:
            if transaction in known:
                assert entry.seen in (Seen.RETRANSMISSION, Seen.EXCESS)
            elif len(known) > FOLLOW_UPS:
                assert entry.seen is Seen.EXCESS
            else:
                forked = any(cseq == known_cseq for known_cseq, _ in known)
                assert entry.seen is (Seen.MERGED if forked else Seen.CONTINUATION)
        if entry.seen is Seen.NEW:
            known.clear()
        known.add(transaction)
        last[attempt] = elapsed
        assert len(table) <= capacity
        assert table.queued() == len(table)
