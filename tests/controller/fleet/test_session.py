"""Sessions as transcripts: what comes, when, and what follows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import Busy, Invalid
from controller.fleet.messages import (
    POLICY,
    CommandAnswer,
    FromAgent,
    Goodbye,
    HealthReport,
    Hello,
    Offering,
    OfferReport,
    Order,
    Welcome,
)
from controller.fleet.session import (
    HELLO_SECONDS,
    MESSAGES_AT_ONCE,
    ORDERS_MAX,
    AgentSession,
    Drifted,
    Effect,
    Enter,
    Hand,
    Note,
    Over,
    Pace,
    Send,
    State,
    Tell,
)
from controller.model import OfferPhase, Problem

WHEN = 1_800_000_000.0
HELLO = Hello("uid", "boot", capabilities=frozenset({POLICY}))
EIGHT = Offering(8, b"8" * 32, b"policy", (), 30.0)
NINE = Offering(9, b"9" * 32, b"policy", (), 30.0)


def a_session(hello: Hello = HELLO, refused: frozenset[int] = frozenset()) -> AgentSession:
    """One that is open, since second 0."""
    session = AgentSession(Pace(health=10.0, age=3600.0), 0.0)
    assert session.receive(hello, 0.0, WHEN) == [Enter(hello)]
    assert session.welcome(refused) == [Send(Welcome(10.0))]
    return session


def report(phase: OfferPhase, offering: Offering = EIGHT, problem: Problem | None = None) -> OfferReport:
    return OfferReport(offering.generation, offering.sha256, phase, problem)


def health(at: float = WHEN, sha256: bytes = b"", **changes: Any) -> HealthReport:
    return HealthReport(at=at, active_sha256=sha256, **changes)


def the_note(effects: list[Effect]) -> Any:
    (note,) = [e.health for e in effects if isinstance(e, Note)]
    return note


def the_error(effects: list[Effect]) -> Any:
    goodbye, over = effects
    assert isinstance(goodbye, Send)
    assert isinstance(goodbye.message, Goodbye)
    assert isinstance(over, Over)
    return over.error


def test_hello_then_welcome_then_an_offer_and_what_becomes_of_it() -> None:
    session = a_session()
    assert session.want(EIGHT, OfferPhase.OFFERED) == [Send(EIGHT)]
    for phase in (OfferPhase.RECEIVED, OfferPhase.VALIDATED, OfferPhase.APPLIED, OfferPhase.CONFIRMED):
        assert session.receive(report(phase), 1.0, WHEN) == [Tell(report(phase))]
    assert session.want(EIGHT, OfferPhase.CONFIRMED) == []


@pytest.mark.parametrize("message", [report(OfferPhase.RECEIVED), health(), CommandAnswer("x")])
def test_anything_before_hello_ends_the_session(message: FromAgent) -> None:
    session = AgentSession(Pace(10.0, 3600.0), 0.0)
    error = the_error(session.receive(message, 0.0, WHEN))
    assert isinstance(error, Invalid)
    assert session.state is State.ENDED
    assert session.receive(HELLO, 0.1, WHEN) == []


def test_a_second_hello_ends_the_session() -> None:
    assert isinstance(the_error(a_session().receive(HELLO, 1.0, WHEN)), Invalid)


@pytest.mark.parametrize(
    ("hello", "field"),
    [
        (Hello("", "boot"), "hello.instance_uid"),
        (Hello("uid", ""), "hello.boot_id"),
        (Hello("u" * 65, "boot"), "hello.instance_uid"),
    ],
)
def test_a_hello_without_its_names_is_refused_with_the_field(hello: Hello, field: str) -> None:
    session = AgentSession(Pace(10.0, 3600.0), 0.0)
    assert the_error(session.receive(hello, 0.0, WHEN)).field == field


def test_a_stream_on_which_nothing_comes_ends() -> None:
    session = AgentSession(Pace(10.0, 3600.0), 0.0)
    assert session.tick(HELLO_SECONDS) == []
    assert the_error(session.tick(HELLO_SECONDS + 0.1)).field == "hello"


def test_an_agent_that_says_nothing_for_a_minute_is_sent_away_without_blame() -> None:
    session = a_session()
    session.receive(health(), 100.0, WHEN)
    assert session.tick(160.0) == []
    assert the_error(session.tick(161.0)) is None


def test_an_old_session_ends_without_blame() -> None:
    session = a_session()
    session.receive(health(), 3600.0, WHEN)
    assert session.tick(3600.0) == []
    assert the_error(session.tick(3601.0)) is None


def test_an_agent_that_cannot_take_offers_gets_none() -> None:
    session = a_session(Hello("uid", "boot"))
    assert session.want(EIGHT, OfferPhase.OFFERED) == []


def test_an_offer_is_sent_once_in_a_session_and_again_in_the_next_until_it_is_confirmed() -> None:
    session = a_session()
    assert session.want(EIGHT, OfferPhase.OFFERED) == [Send(EIGHT)]
    assert session.want(EIGHT, OfferPhase.RECEIVED) == []
    assert a_session().want(EIGHT, OfferPhase.APPLIED) == [Send(EIGHT)]


def test_what_an_agent_has_confirmed_and_says_it_has_is_not_offered_again() -> None:
    hello = Hello("uid", "boot", capabilities=frozenset({POLICY}), active_generation=8, active_sha256=EIGHT.sha256)
    assert a_session(hello).want(EIGHT, OfferPhase.CONFIRMED) == []
    assert a_session().want(EIGHT, OfferPhase.CONFIRMED) == [Send(EIGHT)]  # it has lost it


@pytest.mark.parametrize("known_by", ["hello", "store"])
def test_a_generation_that_was_refused_is_never_sent_again(known_by: str) -> None:
    refused = frozenset({8})
    hello = Hello(
        "uid", "boot", capabilities=HELLO.capabilities, rejected=refused if known_by == "hello" else frozenset()
    )
    session = a_session(hello, refused if known_by == "store" else frozenset())
    (told,) = session.want(EIGHT, OfferPhase.OFFERED)
    assert isinstance(told, Tell)
    assert told.report.phase is OfferPhase.REJECTED
    assert session.want(NINE, OfferPhase.OFFERED) == [Send(NINE)]


def test_a_rejection_is_told_once_with_its_problem() -> None:
    session = a_session()
    session.want(EIGHT, OfferPhase.OFFERED)
    rejection = report(OfferPhase.REJECTED, problem=Problem(3, "limits[0].rate: must be positive"))
    assert session.receive(rejection, 1.0, WHEN) == [Tell(rejection)]
    assert session.receive(rejection, 2.0, WHEN) == []


def test_a_rejection_without_a_reason_says_that() -> None:
    session = a_session()
    session.want(EIGHT, OfferPhase.OFFERED)
    (told,) = session.receive(report(OfferPhase.REJECTED), 1.0, WHEN)
    assert isinstance(told, Tell)
    assert told.report.problem is not None
    assert told.report.problem.message == "the agent does not say why"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (OfferReport(0, b"", OfferPhase.RECEIVED), "offer_state.generation"),
        (OfferReport(8, EIGHT.sha256, OfferPhase.OFFERED), "offer_state.phase"),
        (OfferReport(8, b"x" * 32, OfferPhase.RECEIVED), "offer_state.sha256"),
    ],
)
def test_a_report_that_cannot_be_right_ends_the_session_with_the_field(wrong: OfferReport, field: str) -> None:
    session = a_session()
    session.want(EIGHT, OfferPhase.OFFERED)
    assert the_error(session.receive(wrong, 1.0, WHEN)).field == field


def test_health_becomes_rates_and_the_offset_of_the_clock() -> None:
    session = a_session()
    session.receive(health(attempts=10**6, refusals=10**6), 5.0, WHEN)  # about whatever was before
    note = the_note(session.receive(health(WHEN + 3600, attempts=200, refusals=50), 15.0, WHEN + 10))
    assert (note.attempts_per_second, note.refused_share, note.clock_offset) == (20.0, 0.25, 3590.0)


def test_two_reports_in_a_moment_are_rated_as_one() -> None:
    session = a_session()
    session.receive(health(), 0.0, WHEN)
    session.receive(health(attempts=100), 10.0, WHEN)
    note = the_note(session.receive(health(attempts=5, refusals=5), 10.1, WHEN))
    assert (note.attempts_per_second, note.refused_share) == (10.0, 0.0)
    note = the_note(session.receive(health(attempts=195, refusals=45), 20.0, WHEN))
    assert (note.attempts_per_second, note.refused_share) == (20.0, 0.25)


def test_refusals_are_summed_under_one_policy_and_the_report_of_the_change_counts_for_none() -> None:
    session = a_session()
    for _ in range(2):
        session.receive(health(sha256=b"old", attempts=10, refusals=1), 1.0, WHEN)
    note = the_note(session.receive(health(sha256=b"old", attempts=10, refusals=1), 1.0, WHEN))
    assert (note.attempts, note.refusals) == (20, 2)
    note = the_note(session.receive(health(active_generation=9, attempts=10, refusals=5), 2.0, WHEN))
    assert (note.attempts, note.refusals) == (0, 0)
    note = the_note(session.receive(health(active_generation=9, attempts=10, refusals=10), 3.0, WHEN))
    assert (note.attempts, note.refusals) == (10, 10)


def test_an_agent_that_decides_by_something_else_is_offered_the_right_one_again_but_not_all_the_time() -> None:
    session = a_session()
    session.want(EIGHT, OfferPhase.OFFERED)
    session.receive(report(OfferPhase.CONFIRMED), 1.0, WHEN)
    assert len(session.receive(health(sha256=EIGHT.sha256, active_generation=8), 2.0, WHEN)) == 1
    assert len(session.receive(health(sha256=b"x"), 3.0, WHEN)) == 1
    note, drifted, offer = session.receive(health(sha256=b"x"), 4.0, WHEN)
    assert drifted == Drifted(8, 0)
    assert offer == Send(EIGHT)
    assert "generation" in the_note([note]).trouble
    assert len(session.receive(health(sha256=b"x"), 5.0, WHEN)) == 1
    assert session.receive(health(sha256=b"x"), 305.0, WHEN)[-1] == Send(EIGHT)
    note = the_note(session.receive(health(sha256=EIGHT.sha256, active_generation=8), 306.0, WHEN))
    assert note.trouble == {}


def test_an_order_goes_out_once_and_its_answers_come_back_until_the_last() -> None:
    session = a_session()
    order = Order("o1", "status", WHEN + 10)
    assert session.order(order, WHEN) == [Send(order)]
    assert session.order(order, WHEN) == []
    piece, last = CommandAnswer("o1", ("{}",)), CommandAnswer("o1", last=True)
    assert session.receive(piece, 1.0, WHEN) == [Hand(piece)]
    assert session.receive(last, 1.0, WHEN) == [Hand(last)]
    assert session.receive(piece, 1.0, WHEN) == []


def test_orders_are_bounded_and_those_that_expired_make_room() -> None:
    session = a_session()
    for n in range(ORDERS_MAX):
        session.order(Order(f"o{n}", "status", WHEN + 10), WHEN)
    with pytest.raises(Busy):
        session.order(Order("more", "status", WHEN + 10), WHEN)
    assert session.order(Order("more", "status", WHEN + 30), WHEN + 11)


def test_an_agent_that_floods_us_is_sent_away() -> None:
    session = a_session()
    for _ in range(int(MESSAGES_AT_ONCE)):
        assert session.receive(health(), 1.0, WHEN)
    assert isinstance(the_error(session.receive(health(), 1.0, WHEN)), Busy)


def test_goodbye_is_said_once() -> None:
    session = a_session()
    assert the_error(session.end(None, 5.0, "shutdown")) is None
    assert session.end(None, 5.0, "shutdown") == []
    assert session.receive(health(), 1.0, WHEN) == []
    assert session.tick(10**6) == []


_messages = st.one_of(
    st.builds(Hello, st.text(max_size=70), st.text(max_size=70), capabilities=st.just(HELLO.capabilities)),
    st.builds(OfferReport, st.integers(0, 2**64 - 1), st.binary(max_size=32), st.sampled_from(OfferPhase)),
    st.builds(HealthReport, attempts=st.integers(0, 2**64 - 1), refusals=st.integers(0, 2**64 - 1)),
    st.builds(CommandAnswer, st.text(max_size=5)),
)


@given(st.lists(_messages, max_size=20))
def test_whatever_comes_in_whatever_order_the_session_goes_on_or_ends_once(messages: list[FromAgent]) -> None:
    session = AgentSession(Pace(10.0, 3600.0), 0.0)
    overs = 0
    for n, message in enumerate(messages):
        effects = session.receive(message, float(n), WHEN + n)
        if any(isinstance(e, Enter) for e in effects):
            session.welcome(frozenset())
            session.want(EIGHT, OfferPhase.OFFERED)
        overs += sum(isinstance(e, Over) for e in effects)
    assert overs == (session.state is State.ENDED)
