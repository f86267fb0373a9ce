"""A restart between any two messages: who is screened after it is screened as if there had been none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.calls.attempts import Seen
from agent.model import ALLOW, Refuse
from agent.restart.state import CALLS_SECONDS, UNHEARD_SECONDS
from agent.screening import Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import invite, observe, policy, response, screen
from tests.restart.carrying import BOOT, SECRET, WALL, head_of, restored, snapshot

ACME = pb.Customer(id="acme")
TRUNK = pb.Trunk(id="peer", sources=["192.0.2.0/24"], customer="acme")


def limited(*limits: pb.Limit) -> pb.Policy:
    return pb.Policy(customers=[ACME], trunks=[TRUNK], limits=limits)


def screening_of(message: pb.Policy) -> Screening:
    return Screening(policy(message), SECRET)


LIMITED = limited(
    pb.Limit(name="rate-per-trunk", scope=pb.SCOPE_TRUNK, rate=4, burst=3, warn_at=0.5),
    pb.Limit(name="per-caller", scope=pb.SCOPE_CALLING, rate=3, window_seconds=8, burst=2),
    pb.Limit(name="at-once", scope=pb.SCOPE_TRUNK, sessions=3),
)
CALLERS = [f"sip:+1201555010{n}@a.example.net;user=phone" for n in range(3)]

# Multiples of 1/64 s: exact for every clock, so that no rounding decides.
GAPS = st.integers(0, 400).map(lambda n: n / 64)
STEPS = st.lists(
    st.tuples(
        GAPS,
        st.sampled_from(("new", "new", "new", "copy", "retry", "answer", "bye", "refuse", "restart")),
        st.integers(0, 7),
    ),
    max_size=60,
)


class Peer:
    """Makes messages; the same ones for everybody."""

    def __init__(self) -> None:
        self.invites: list[bytes] = []

    def message(self, what: str, which: int) -> bytes:
        if what == "new" or not self.invites:
            number = len(self.invites)
            raw = invite(calling=CALLERS[which % 3], call_id=f"{number}@x", branch=f"z9hG4bK{number}", from_tag="f")
            self.invites.append(raw)
            return raw
        raw = self.invites[-1 - which % len(self.invites)]
        match what:
            case "copy":
                return raw
            case "retry":
                return raw.replace(b"CSeq: 1 ", b"CSeq: 2 ").replace(b"branch=z9hG4bK", b"branch=z9hG4bKr")
            case "bye":
                text = raw.replace(b"INVITE", b"BYE").replace(b"CSeq: 1", b"CSeq: 3")
                return text.replace(b"\r\nCall-ID", b";tag=b1\r\nCall-ID", 1)
            case _:
                return response(raw, 200 if what == "answer" else 486)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(-2000, 2000), st.floats(0, 30).map(lambda s: round(s * 64) / 64))
def test_nobody_can_tell_that_there_was_a_restart(
    steps: list[tuple[float, str, int]], shift: int, pause: float
) -> None:
    through, restarted = screening_of(LIMITED), screening_of(LIMITED)
    peer, now, clock = Peer(), 5000.0, 0.0  # `clock`: how far the clock of the restarted one is off
    for gap, what, which in steps:
        now += gap
        if what == "restart":
            data = snapshot(restarted, now + clock)
            now += pause
            clock += shift
            restarted = screening_of(LIMITED)
            # Another boot with another clock would drop the calls: the clock's step is told as if it were known.
            head_shift = now + clock - shift
            restored_at(restarted, data, head_shift, now + clock)
            continue
        raw = peer.message(what, which)
        decisions = [one.handle(observe(raw), now + off) for one, off in ((through, 0.0), (restarted, clock))]
        if decisions[0] is None or decisions[1] is None:
            assert decisions == [None, None]
        else:
            one, other = decisions
            assert one is not None
            assert other is not None
            assert (one.seen, one.verdict, one.shadow) == (other.seen, other.verdict, other.shadow)
            assert one.attempt.notes == other.attempt.notes
            assert through.effects(one) == restarted.effects(other)
        assert through.sessions.counts() == restarted.sessions.counts()


def restored_at(screening: Screening, data: bytes, same_clock: float, now: float) -> None:
    """Restore by a clock that was set anew in the meantime, as if that were known."""
    from agent.restart.snapshot import Clocks, read
    from agent.restart.state import restore

    head, sections = read(data)
    moved = [one._replace(taken=one.taken + now - same_clock) for one in sections]
    restore(screening, head, moved, Clocks(BOOT, now, WALL))


def test_a_retransmission_after_the_restart_gets_the_same_bytes_and_is_not_counted() -> None:
    message = limited(pb.Limit(name="rate-per-trunk", scope=pb.SCOPE_TRUNK, rate=1, window_seconds=60, burst=1))
    before, after = screening_of(message), screening_of(message)
    passed, refused = invite(), invite()
    screen(before, passed, 10.0)
    first = screen(before, refused, 10.0)
    assert isinstance(first.verdict.action, Refuse)
    restored(after, snapshot(before, 10.5), 12.0)
    again = screen(after, refused, 12.0)
    assert again.seen is Seen.RETRANSMISSION
    assert again.verdict == first.verdict
    assert after.effects(again) == before.effects(first)
    still = screen(after, passed, 12.0)
    assert (still.seen, still.verdict.action) == (Seen.RETRANSMISSION, ALLOW)


def test_a_limit_that_is_full_is_full_after_the_restart_and_fills_with_time() -> None:
    message = limited(pb.Limit(name="rate-per-trunk", scope=pb.SCOPE_TRUNK, rate=2, window_seconds=60, burst=2))
    before = screening_of(message)
    for _ in range(2):
        assert screen(before, invite(), 100.0).verdict.action is ALLOW
    data = snapshot(before, 100.0)
    after = screening_of(message)
    restored(after, data, 110.0)
    assert screen(after, invite(), 110.0).verdict.action is not ALLOW
    later = screening_of(message)
    restored(later, data, 131.0)
    assert [screen(later, invite(), 131.0).verdict.action is ALLOW for _ in range(2)] == [True, False]


def test_after_a_boot_rates_go_by_the_wall_clock_and_calls_are_not_believed() -> None:
    message = limited(
        pb.Limit(name="rate-per-trunk", scope=pb.SCOPE_TRUNK, rate=1, window_seconds=3600, burst=1),
        pb.Limit(name="at-once", scope=pb.SCOPE_CUSTOMER, sessions=5),
    )
    before, after, later, back = (screening_of(message) for _ in range(4))
    screen(before, invite(), 90_000.0)
    data = snapshot(before, 90_000.0)
    found = restored(after, data, 30.0, wall=WALL + 60, boot="b")
    assert (found.cells, found.calls, found.left) == (1, 0, 1)
    assert screen(after, invite(), 30.0).verdict.action is not ALLOW
    restored(later, data, 30.0, wall=WALL + 3601, boot="b")
    assert screen(later, invite(), 30.0).verdict.action is ALLOW
    assert restored(back, data, 30.0, wall=WALL - 1, boot="b").cells == 0  # how long ago nobody knows


def test_calls_of_long_ago_are_not_counted() -> None:
    message = limited(pb.Limit(name="at-once", scope=pb.SCOPE_TRUNK, sessions=1))
    before, soon, late = (screening_of(message) for _ in range(3))
    screen(before, invite(), 0.0)
    data = snapshot(before, 0.0)
    assert restored(soon, data, CALLS_SECONDS - 1).calls == 1
    assert screen(soon, invite(), CALLS_SECONDS - 1).verdict.rule == "at-once"
    assert restored(late, data, CALLS_SECONDS + 1).calls == 0


@pytest.mark.parametrize(("clean", "counts"), [(True, 1), (False, 0)])
def test_after_a_kill_an_answered_call_is_counted_for_an_hour_more(clean: bool, counts: int) -> None:
    message = limited(pb.Limit(name="at-once", scope=pb.SCOPE_TRUNK, sessions=1))
    before, after = screening_of(message), screening_of(message)
    raw = invite()
    screen(before, raw, 0.0)
    before.handle(observe(response(raw, 200)), 1.0)
    restored(after, snapshot(before, 2.0, clean=clean), 3.0)
    after.sessions.sweep(UNHEARD_SECONDS)
    assert after.sessions.in_progress == 1
    after.sessions.sweep(UNHEARD_SECONDS + 5)
    assert after.sessions.in_progress == counts


def test_what_a_limit_of_that_name_counted_by_something_else_is_left() -> None:
    before = screening_of(limited(pb.Limit(name="some", scope=pb.SCOPE_TRUNK, rate=1, burst=1)))
    after = screening_of(limited(pb.Limit(name="some", scope=pb.SCOPE_GLOBAL, rate=1, burst=1)))
    screen(before, invite(), 1.0)
    found = restored(after, snapshot(before, 1.0), 1.0)
    assert (found.cells, found.left) == (0, 1)


def test_a_suspended_customer_stays_suspended() -> None:
    message = limited()
    message.customers[0].numbers.append("13035550100")
    message.caller_id_authorisation.warn_first = 1
    message.caller_id_authorisation.suspend_seconds = 600
    before, after = screening_of(message), screening_of(message)
    for _ in range(2):
        screen(before, invite(), 10.0)
    restored(after, snapshot(before, 10.0), 20.0)
    decision = screen(after, invite(calling="sip:+13035550100@a.example.net;user=phone"), 20.0)
    assert decision.verdict.why == "customer acme is suspended for another 590 s"


def test_a_start_that_has_no_time_left_leaves_the_rest() -> None:
    from agent.restart.snapshot import Clocks, read
    from agent.restart.state import restore

    before, after = screening_of(LIMITED), screening_of(LIMITED)
    screen(before, invite(), 1.0)
    head, sections = read(snapshot(before, 1.0))
    found = restore(after, head, sections, Clocks(BOOT, 1.0, WALL), lambda: False)
    assert found.left == len(sections) > 3
    assert not after.sessions.in_progress


def test_a_head_knows_how_old_it_is() -> None:
    head = head_of(screening_of(LIMITED), 50.0)
    from agent.restart.snapshot import Clocks

    assert head.elapsed(50.0, Clocks(BOOT, 53.0, WALL - 900)) == 3.0  # the wall clock was set: it does not matter
    assert head.elapsed(40.0, Clocks("b", 1.0, WALL + 7)) == 17.0
    assert head.elapsed(40.0, Clocks("b", 1.0, WALL - 7)) < 0
