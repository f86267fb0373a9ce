"""Calls whose course somebody tells who follows them himself, instead of showing the messages."""

from hypothesis import given
from hypothesis import strategies as st

from agent.calls.sessions import SETUP_SECONDS, SessionTable
from tests.calls.messages import INVITE, request, response

KEYS = (("trunk", "peer"), ("called", "13035550199"))
CALL = (INVITE.call_id, INVITE.from_tag)


def opened(branch: bytes = b"") -> SessionTable:
    table = SessionTable()
    table.open(*CALL, KEYS, 0.0, branch)
    return table


def test_a_call_runs_from_invite_to_its_end() -> None:
    table = opened()
    assert table.knows(*CALL)
    assert table.note_answer(*CALL, b"b1", 5.0)
    assert (table.in_progress, table.answered) == (1, 1)
    assert table.note_end(*CALL, 60.0)
    assert table.counts() == {}
    assert not table.knows(*CALL)


def test_an_answered_call_outlives_the_time_of_setup() -> None:
    table = opened()
    table.note_answer(*CALL, b"b1", 5.0)
    table.sweep(2 * SETUP_SECONDS)
    assert table.in_progress == 1


def test_a_call_that_is_not_in_progress_is_not_taken() -> None:
    table = opened()
    assert not table.note_answer(b"other", INVITE.from_tag, b"b1", 5.0)
    assert not table.note_end(INVITE.call_id, b"other", 5.0)
    assert table.in_progress == 1
    assert table.note_end(*CALL, 6.0)
    assert not table.note_end(*CALL, 7.0)


def test_a_challenge_is_not_the_end_and_the_retry_is_the_same_call() -> None:
    table = opened()
    table.note_end(*CALL, 1.0, 407)
    assert table.in_progress == 1
    table.observe(INVITE.but(cseq=2, branch=b"z9hG4bK2"), 1.1)
    table.note_answer(*CALL, b"b1", 5.0)
    table.sweep(2 * SETUP_SECONDS)
    assert (table.in_progress, table.answered) == (1, 1)
    table.note_end(*CALL, 2 * SETUP_SECONDS)
    assert table.in_progress == 0


def test_an_answer_settles_every_invite_so_that_the_bye_ends_the_call() -> None:
    table = opened(b"z9hG4bK1")
    table.observe(INVITE.but(branch=b"z9hG4bK2"), 0.5)
    table.note_answer(*CALL, b"b1", 5.0)
    table.observe(request("BYE", b"b1"), 9.0)
    assert table.in_progress == 0


def test_an_answer_that_its_bye_overtook_opens_nothing() -> None:
    table = opened()
    table.observe(request("BYE", b"b1"), 1.0)
    assert table.note_answer(*CALL, b"b1", 2.0)
    assert table.in_progress == 0


def test_two_forks_that_answer_are_one_call() -> None:
    table = opened()
    table.note_answer(*CALL, b"b1", 1.0)
    table.note_answer(*CALL, b"b2", 2.0)
    assert (table.in_progress, table.answered) == (1, 1)
    table.note_end(*CALL, 3.0)
    assert table.in_progress == 0


STEPS = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from([b"", *(b"t%d" % n for n in range(20))])),
    st.tuples(st.just("end"), st.sampled_from([0, 200, 401, 407, 486, 999])),
    st.tuples(st.just("message"), st.sampled_from([request("BYE", b"t1"), request("CANCEL"), response(401),
                                                   response(200, b"t2"), response(486), INVITE.but(branch=b"x")])),
    st.tuples(st.just("open"), st.none()),
)  # fmt: skip


@given(st.lists(STEPS, max_size=60))
def test_no_order_of_tales_and_messages_raises_or_leaves_a_count_behind(steps: list[tuple[str, object]]) -> None:
    table = SessionTable()
    now = 0.0
    for step, value in steps:
        now += 0.1
        if step == "open":
            table.open(*CALL, KEYS, now)
        elif step == "message":
            table.observe(value, now)  # type: ignore[arg-type]
        elif step == "answer":
            table.note_answer(*CALL, value, now)  # type: ignore[arg-type]
        else:
            table.note_end(*CALL, now, value)  # type: ignore[arg-type]
        assert table.count(KEYS[0]) == table.in_progress >= 0
    table.note_end(*CALL, now)
    assert table.counts() == {}
    assert table.in_progress == 0
