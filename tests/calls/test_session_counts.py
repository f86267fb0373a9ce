"""The session counters under any order, loss and repetition of messages, against a brute-force model.

The model keeps every message of a call and reads the whole history anew for every question: no table, no queue,
no counters. It knows the rules only as sentences about that history.
"""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.calls.call import State
from agent.calls.sessions import SETTLE_SECONDS, TICK_SECONDS, SessionTable
from tests.calls.messages import INVITE, Message, from_called_side, request, response

SETUP = 60.0
LONGEST = 100.0
CALL_IDS = st.sampled_from([b"call-1"] * 4 + [b"call-2"])  # what goes wrong goes wrong within one call
BRANCHES = st.sampled_from([b"z9hG4bK1", b"z9hG4bK1", b"z9hG4bK2"])
TAGS = st.sampled_from([b"red", b"red", b"green"])
KEYS = st.sampled_from([(), ("trunk",), ("trunk", "customer"), ("trunk", "trunk", "called")])
STATUSES = st.sampled_from([100, 180, 183, 200, 200, 401, 401, 407, 408, 481, 486])


@dataclass
class History:
    """One call: when it was opened with which keys, and what was seen of it since, in order."""

    opened: float
    keys: list[str]
    reservations: int = 1
    waiting: list[bytes] = field(default_factory=list)
    settled: set[bytes] = field(default_factory=set)
    talking: set[bytes] = field(default_factory=set)
    hung_up: set[bytes] = field(default_factory=set)
    was_answered: bool = False
    challenged_at: float | None = None
    cancelled_at: float | None = None
    answered_at: float | None = None
    refreshed_at: float = 0.0

    @property
    def over(self) -> bool:
        return not self.waiting and not self.talking and self.challenged_at is None

    @property
    def deadline(self) -> float:
        if self.talking:
            assert self.answered_at is not None
            return self.answered_at + LONGEST
        if self.challenged_at is not None:
            return self.challenged_at + SETTLE_SECONDS
        if self.cancelled_at is not None:
            return self.cancelled_at + SETTLE_SECONDS
        return self.refreshed_at + SETUP


class Model:
    """What the docstrings say, call by call."""

    def __init__(self) -> None:
        self.calls: dict[tuple[bytes, bytes], History] = {}
        self.answered = 0
        self.now = 0.0

    def open(self, call_id: bytes, tag: bytes, keys: tuple[str, ...], branch: bytes) -> None:
        call = self.calls.get((call_id, tag))
        if call is None:
            self.calls[call_id, tag] = History(self.now, list(keys), waiting=[branch], refreshed_at=self.now)
            return
        call.keys.extend(keys)
        call.reservations += 1
        self.waits(call, branch)

    def waits(self, call: History, branch: bytes) -> None:
        """A further INVITE: it restarts the clock of a call in setup, and ends the wait after challenge or CANCEL."""
        if branch in call.waiting or branch in call.settled:
            return
        call.waiting.append(branch)
        if call.challenged_at is not None or call.cancelled_at is not None:
            call.challenged_at = call.cancelled_at = None
            call.refreshed_at = self.now
        self.refresh(call)

    def refresh(self, call: History) -> None:
        setup = not call.talking and call.cancelled_at is None
        # Whole ticks, so that "longer than the longest" is the same question here and there.
        if setup and self.now - call.opened < LONGEST + TICK_SECONDS:
            call.refreshed_at = self.now

    def settle(self, call: History, branch: bytes) -> None:
        call.waiting = [b for b in call.waiting if b != branch]
        call.settled.add(branch)

    def observe(self, message: Message) -> None:
        forward = self.calls.get((message.call_id, message.from_tag))
        backward = self.calls.get((message.call_id, message.to_tag))
        if forward is not None:
            self.read(forward, message, message.to_tag, from_caller=True)
        elif backward is not None:
            self.read(backward, message, message.from_tag, from_caller=False)
        for name in [name for name, call in self.calls.items() if call.over]:
            del self.calls[name]

    def read(self, call: History, message: Message, tag: bytes, *, from_caller: bool) -> None:
        if message.method:
            self.read_request(call, message, tag, from_caller=from_caller)
        elif message.cseq_method == "INVITE":
            self.read_invite_response(call, message, tag, from_caller=from_caller)
        elif message.status in (408, 481) and message.cseq_method != "CANCEL":
            self.hang_up(call, tag)

    def read_request(self, call: History, message: Message, tag: bytes, *, from_caller: bool) -> None:
        if message.method == "INVITE" and not message.to_tag and from_caller:
            self.waits(call, message.branch)
        elif message.method == "CANCEL" and from_caller and call.waiting == [message.branch]:
            if not call.talking and call.cancelled_at is None:
                call.cancelled_at = self.now
        elif message.method == "BYE" and tag:
            self.hang_up(call, tag)
            call.hung_up.add(tag)

    def hang_up(self, call: History, tag: bytes) -> None:
        if tag in call.talking:
            call.talking.remove(tag)
            call.hung_up.add(tag)
            if not call.talking:
                call.refreshed_at = self.now
                call.cancelled_at = None

    def read_invite_response(self, call: History, message: Message, tag: bytes, *, from_caller: bool) -> None:
        status, branch = message.status, message.branch
        awaited = from_caller and branch in call.waiting
        if status <= 100:
            return
        if status < 200:
            if awaited and tag not in call.talking:
                self.refresh(call)
            elif from_caller and tag not in call.talking:
                self.waits(call, branch)
        elif status < 300:
            self.answer(call, branch, tag, awaited=awaited)
        elif awaited or self.answers_an_unseen_retry(call, branch, tag, from_caller=from_caller):
            self.settle(call, branch)
            if not call.waiting and not call.talking:
                challenged = status in (401, 407)
                if challenged and call.challenged_at is None:
                    call.challenged_at = self.now
                    call.cancelled_at = None
                elif not challenged:
                    call.challenged_at = None
        elif status in (408, 481):
            self.hang_up(call, tag)

    def answer(self, call: History, branch: bytes, tag: bytes, *, awaited: bool) -> None:
        if awaited:
            self.settle(call, branch)
        if tag not in call.talking and tag not in call.hung_up:
            if not call.talking:
                call.answered_at = self.now
            call.talking.add(tag)
            call.challenged_at = call.cancelled_at = None
            self.answered += not call.was_answered
            call.was_answered = True

    def answers_an_unseen_retry(self, call: History, branch: bytes, tag: bytes, *, from_caller: bool) -> bool:
        known = branch in call.settled or tag in call.talking or tag in call.hung_up
        return from_caller and call.challenged_at is not None and not known

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        # A deadline takes effect one tick after it: the tick in which it was set was not whole.
        for name in [n for n, call in self.calls.items() if call.deadline + TICK_SECONDS <= self.now]:
            del self.calls[name]

    def counts(self) -> dict[str, int]:
        keys = [key for call in self.calls.values() for key in call.keys]
        return {key: keys.count(key) for key in set(keys)}


class AnyTraffic(RuleBasedStateMachine):
    """Messages of three calls in any order, any of them missing or repeated, and time in whole ticks."""

    @initialize()
    def begin(self) -> None:
        self.table = SessionTable(setup_seconds=SETUP, max_seconds=LONGEST)
        self.model = Model()
        self.table.sweep(0.0)
        self.admit(b"call-1", ("trunk",), b"z9hG4bK1")

    def see(self, message: Message) -> None:
        self.table.observe(message, self.model.now)
        self.model.observe(message)

    @rule(call_id=CALL_IDS, keys=KEYS, branch=BRANCHES)
    def admit(self, call_id: bytes, keys: tuple[str, ...], branch: bytes) -> None:
        self.table.open(call_id, b"caller", keys, self.model.now, branch)
        self.model.open(call_id, b"caller", keys, branch)

    @rule(call_id=CALL_IDS, branch=BRANCHES)
    def invite(self, call_id: bytes, branch: bytes) -> None:
        self.see(INVITE.but(call_id=call_id, branch=branch))

    @rule(call_id=CALL_IDS, branch=BRANCHES, status=STATUSES, tag=TAGS, again=st.booleans())
    def invite_response(self, call_id: bytes, branch: bytes, status: int, tag: bytes, again: bool) -> None:
        for _ in range(1 + again):
            self.see(response(status, tag, call_id=call_id, branch=branch))

    @rule(call_id=CALL_IDS, status=STATUSES, tag=TAGS)
    def response_to_the_called_side(self, call_id: bytes, status: int, tag: bytes) -> None:
        self.see(from_called_side(response(status, tag, call_id=call_id, branch=b"z9hG4bKcalled")))

    @rule(call_id=CALL_IDS, branch=BRANCHES)
    def cancel(self, call_id: bytes, branch: bytes) -> None:
        self.see(Message(method="CANCEL", cseq_method="CANCEL", call_id=call_id, branch=branch))

    @rule(call_id=CALL_IDS, tag=TAGS, method=st.sampled_from(["BYE", "BYE", "ACK", "INFO"]), back=st.booleans())
    def in_dialog(self, call_id: bytes, tag: bytes, method: str, back: bool) -> None:
        message = request(method, tag, call_id=call_id)
        self.see(from_called_side(message) if back else message)

    @rule(
        call_id=CALL_IDS,
        tag=TAGS,
        method=st.sampled_from(["BYE", "UPDATE", "CANCEL"]),
        status=st.sampled_from([200, 408, 481, 500]),
    )
    def other_response(self, call_id: bytes, tag: bytes, method: str, status: int) -> None:
        self.see(response(status, tag, call_id=call_id, cseq_method=method, branch=b"z9hG4bKother"))

    @rule(ticks=st.sampled_from([1, 3, 39 * 4, 41 * 4, 61 * 4, 101 * 4]))
    def wait(self, ticks: int) -> None:
        self.model.pass_time(ticks * TICK_SECONDS)
        self.table.sweep(self.model.now)

    @precondition(lambda self: self.model.calls)
    @rule()
    def wait_until_just_before_and_then_past_a_deadline(self) -> None:
        first = min(call.deadline for call in self.model.calls.values())
        self.model.pass_time(first - self.model.now)
        self.table.sweep(self.model.now)
        self.the_table_equals_the_model()
        self.model.pass_time(TICK_SECONDS)
        self.table.sweep(self.model.now)

    @invariant()
    def the_table_equals_the_model(self) -> None:
        assert self.table.counts() == self.model.counts()
        assert self.table.in_progress == sum(call.reservations for call in self.model.calls.values())
        assert self.table.answered == self.model.answered

    @invariant()
    def the_bookkeeping_holds(self) -> None:
        table = self.table
        assert all(count > 0 for count in table.counts().values())
        assert sorted(table._heap) == sorted(table._wheel)
        for key, call in table._calls.items():
            assert call.key == key
            assert key in table._wheel[call.due]
            assert call.due <= call.deadline
            assert (call.state is State.ANSWERED) == (call.talking > 0)
            assert call.talking == sum(call.dialogs.values())
            assert call.pending or call.state in (State.CHALLENGED, State.ANSWERED)

    def teardown(self) -> None:
        self.table.sweep(self.model.now + LONGEST + SETUP + 1)
        self.table.sweep(self.model.now + 2 * (LONGEST + SETUP + 1))
        assert self.table.counts() == {}
        assert self.table.in_progress == 0


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(max_examples=400, stateful_step_count=50)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["open", "open", "ok", "bye", "no", "wait"]), st.integers(0, 30)), max_size=200
    ),
    capacity=st.integers(1, 6),
)
def test_counts_equal_open_calls_times_keys_also_when_the_table_overflows(
    steps: list[tuple[str, int]], capacity: int
) -> None:
    table = SessionTable(capacity, SETUP, LONGEST)
    keys = ("trunk", "customer", "called")
    now = 0.0
    for step, n in steps:
        call_id = b"call-%d" % n
        if step == "open":
            table.open(call_id, b"caller", keys, now, INVITE.branch)
        elif step == "wait":
            now += n
        else:
            message = {"ok": response(200), "no": response(486), "bye": request("BYE")}[step]
            table.observe(message.but(call_id=call_id), now)
        assert table.in_progress <= capacity
        assert sum(table.counts().values()) == table.in_progress * len(keys)
    table.sweep(now + LONGEST + SETUP + 1)
    table.sweep(now + 2 * (LONGEST + SETUP + 1))
    assert table.counts() == {}
