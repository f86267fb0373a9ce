"""The compiled tables of attempts and transactions beside their Python twins: the same steps, the same answers."""

from math import isnan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import native
from agent.calls.attempts import AttemptTablePy, Seen
from agent.sip.transactions import ServerTransactions
from tests.calls.messages import INVITE

pytestmark = pytest.mark.skipif(native.gate is None, reason="the compiled tables are not built")

STEPS = st.sampled_from((0.0, 0.0, 0.1, 0.5, 1.0, 4.0, 6.0, 45.0, 1e6, -3.0, float("nan")))
ATTEMPT = st.tuples(
    STEPS, st.integers(0, 30), st.integers(0, 12), st.integers(1, 3), st.sampled_from((b"", b"a", b"b"))
)
COUNTS = ("waiting", "overflows", "shortened", "retransmissions", "acknowledged", "unacknowledged")


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12), st.floats(0.5, 50.0), st.lists(ATTEMPT, max_size=150))
def test_attempts_are_seen_alike(
    capacity: int, lifetime: float, steps: list[tuple[float, int, int, int, bytes]]
) -> None:
    assert native.gate is not None
    ours, reference = native.gate.AttemptTable(tuple(Seen), capacity, lifetime), AttemptTablePy(capacity, lifetime)
    now = 100.0
    for later, call, branch, cseq, tag in steps:
        now += 0.0 if isnan(later) else later
        message = INVITE.but(call_id=b"%d" % call, branch=b"z9hG4bK%d" % branch, cseq=cseq, from_tag=tag)
        moment = later if isnan(later) else now
        entries = [table.observe("peer", message, moment) for table in (ours, reference)]
        for name in ("seen", "decision", "numbers", "continuations"):
            assert getattr(entries[0], name) == getattr(entries[1], name)
        for entry in entries:
            entry.decision, entry.numbers = (call, branch), call
        assert (len(ours), ours.overflows, ours.queued()) == (len(reference), reference.overflows, reference.queued())


KEY = st.integers(0, 8).map(lambda n: f"{n * 0x1111111111111111:016x}")
STEP = st.tuples(st.sampled_from(("answer", "answer", "invite", "ack", "ack", "cancel", "due")), KEY, STEPS)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 8), st.lists(STEP, max_size=150))
def test_transactions_go_alike(capacity: int, steps: list[tuple[str, str, float]]) -> None:
    assert native.gate is not None
    ours, reference = native.gate.Transactions(capacity), ServerTransactions[bytes](capacity)
    now = 100.0
    for n, (what, key, later) in enumerate(steps):
        now += later if 0.0 <= later < 100.0 else 0.0
        got = []
        for table in (ours, reference):
            match what:
                case "answer":
                    got.append(table.answer(key, b"answer %d" % n, b"address %d" % n, now))
                case "ack":
                    got.append(table.ack(key, now))
                case "due":
                    got.append(table.due(now))
                case _:
                    got.append(getattr(table, what)(key))
        assert got[0] == got[1]
        assert [getattr(ours, name) for name in COUNTS] == [getattr(reference, name) for name in COUNTS]
        assert len(ours) == len(reference)


@pytest.mark.parametrize("key", ["", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdefg", "é123456789abcdef"])
def test_what_is_no_tag_of_ours_names_no_transaction(key: str) -> None:
    assert native.gate is not None
    table = native.gate.Transactions(4)
    assert table.invite(key) is None
    assert not table.ack(key, 1.0)
    assert not table.cancel(key)
    with pytest.raises(ValueError, match="no tag"):
        table.answer(key, b"x", b"y", 1.0)
