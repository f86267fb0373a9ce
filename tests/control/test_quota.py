"""Questions and answers about shares at the agent: when a lease begins, who is believed, what is on disk."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.quota import FENCE_SECONDS, LIFE_MAX, Granted, QuotaExchange, QuotaReply, safe_from, safe_to
from agent.control.quota_wire import ask_to, reply_from
from agent.policy.leases import FleetRate, LeaseBook, Partition, Safe
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.policy.v1 import policy_pb2

KEY = ("all", "*")
SAFE = Safe(2.0, 1.0)


def an_exchange() -> tuple[LeaseBook, QuotaExchange]:
    book = LeaseBook()
    book.attached = True
    book.follow({"all": FleetRate(100.0, 30.0, Partition.SAFE)}, [KEY])
    return book, QuotaExchange(book)


def granted(rate: float = 10.0, life: float = 3.0, **changes: object) -> Granted:
    fields = {"limit": "all", "key": "*", "rate": rate, "burst": 5.0, "life": life, "safe": SAFE} | changes
    return Granted(**fields)  # type: ignore[arg-type]


def test_a_lease_begins_when_its_question_was_sent() -> None:
    book, exchange = an_exchange()
    ask = exchange.ask(100.0)
    assert exchange.take(QuotaReply(ask.sequence, 1, (granted(),)), 102.9)
    assert book.leased(102.99) == 1
    assert book.leased(103.0) == 0


def test_a_lease_that_claims_a_long_life_is_cut() -> None:
    book, exchange = an_exchange()
    exchange.take(QuotaReply(exchange.ask(0.0).sequence, 1, (granted(life=1e6),)), 0.1)
    assert book.leased(LIFE_MAX - 0.1) == 1
    assert book.leased(LIFE_MAX) == 0


def test_an_answer_to_a_question_that_was_given_up_is_not_taken() -> None:
    book, exchange = an_exchange()
    first = exchange.ask(0.0)
    exchange.ask(1.0)
    assert not exchange.take(QuotaReply(first.sequence, 1, (granted(),)), 1.1)
    assert (book.leased(1.1), exchange.late) == (0, 1)


def test_no_answer_is_taken_twice() -> None:
    _, exchange = an_exchange()
    reply = QuotaReply(exchange.ask(0.0).sequence, 1, (granted(),))
    assert exchange.take(reply, 0.1)
    assert not exchange.take(reply, 0.2)


def test_a_controller_that_leads_no_more_is_not_believed_for_a_minute() -> None:
    book, exchange = an_exchange()
    exchange.take(QuotaReply(exchange.ask(0.0).sequence, 5, ()), 0.1)
    assert not exchange.take(QuotaReply(exchange.ask(1.0).sequence, 4, (granted(),)), 1.1)
    assert (exchange.fenced, book.leased(1.1)) == (1, 0)
    later = FENCE_SECONDS + 1
    assert exchange.take(QuotaReply(exchange.ask(later).sequence, 4, (granted(),)), later)


def test_an_answer_of_nobody_changes_nothing() -> None:
    book, exchange = an_exchange()
    exchange.take(QuotaReply(exchange.ask(0.0).sequence, 1, (granted(),)), 0.1)
    assert not exchange.take(QuotaReply(exchange.ask(1.0).sequence, 0, ()), 1.1)
    assert (exchange.epoch, book.leased(1.1)) == (1, 1)


@pytest.mark.parametrize(
    "bad",
    [
        granted(rate=nan),
        granted(rate=-1.0),
        granted(rate=inf),
        granted(life=-1.0),
        granted(burst=nan),
        granted(safe=Safe(nan, 1.0)),
        granted(key="nobody asked"),
    ],
)
def test_leases_that_make_no_sense_are_counted_and_the_others_taken(bad: Granted) -> None:
    book, exchange = an_exchange()
    assert exchange.take(QuotaReply(exchange.ask(0.0).sequence, 1, (bad, granted())), 0.1)
    assert (exchange.unusable, book.leased(0.1)) == (1, 1)


def test_the_controller_is_told_what_is_followed_when_it_is_on_disk() -> None:
    _, exchange = an_exchange()
    exchange.take(QuotaReply(exchange.ask(0.0).sequence, 1, (granted(),)), 0.1)
    assert exchange.ask(1.0).applied == 0
    exchange.saved(1)
    assert exchange.ask(2.0).applied == 1


def test_questions_come_each_second_and_urgent_ones_sooner() -> None:
    _, exchange = an_exchange()
    exchange.ask(10.0)
    assert 10.9 < exchange.next_at(0.0, urgent=False) < exchange.next_at(0.99, urgent=False) < 11.1
    assert 10.1 < exchange.next_at(0.5, urgent=True) < 10.3


def test_the_wire_carries_all_of_it() -> None:
    _, exchange = an_exchange()
    message = ask_to(exchange.ask(0.0))
    (demand,) = message.demands
    assert (message.sequence, demand.limit, demand.key, demand.rate, demand.burst) == (1, "all", "*", 100.0, 30.0)
    assert demand.partition == policy_pb2.PARTITION_SAFE
    lease = pb.QuotaLease(
        limit="all", key="*", rate=10, burst=5, safe_rate=2, safe_burst=1, partition=policy_pb2.PARTITION_HOLD
    )
    lease.life.FromMilliseconds(2500)
    reply = reply_from(pb.StreamQuotaResponse(sequence=1, limit_epoch=7, leases=[lease]))
    assert reply == QuotaReply(1, 7, (granted(life=2.5, safe=Safe(2.0, 1.0, Partition.HOLD)),))


def test_a_partition_of_a_later_version_is_taken_as_the_strictest() -> None:
    reply = reply_from(pb.StreamQuotaResponse(leases=[pb.QuotaLease(partition=77)]))  # type: ignore[arg-type]
    assert reply.grants[0].safe.partition is Partition.SAFE


@given(st.binary(max_size=200))
def test_whatever_comes_is_taken_or_counted(data: bytes) -> None:
    try:
        message = pb.StreamQuotaResponse.FromString(data)
    except Exception:  # the library's own word for bytes that are no message
        return
    _, exchange = an_exchange()
    exchange.ask(0.0)
    message.sequence = 1
    exchange.take(reply_from(message), 0.1)


def test_what_is_on_disk_is_read_back() -> None:
    safe = {("all", "*"): SAFE, ("x", "trunk"): Safe(0.0, 0.0, Partition.OPEN)}
    assert safe_from(safe_to(safe)) == safe


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JSON)
def test_a_damaged_file_is_refused_with_a_reason(rows: object) -> None:
    if isinstance(rows, list) and not rows:
        assert safe_from(rows) == {}
        return
    with pytest.raises(ValueError, match=r"must be|holds|is not a valid"):
        safe_from(rows)
