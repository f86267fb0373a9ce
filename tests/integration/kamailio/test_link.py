"""The Kamailio client's link to the agent, against a gRPC server that answers, hangs, errs, goes and comes back."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc as rpc
from tests.integration.kamailio.module import load

hook = load()
# Far above what a busy machine adds, far below the patience of the test.
DEADLINE = 1.0
SHORT = 0.02


def allow(request: pb.ScreenRequest) -> list[pb.ScreenResponse]:
    return [pb.ScreenResponse(id=request.id, decision=pb.DECISION_ALLOW)]


@dataclass
class Agent(rpc.ScreeningServiceServicer):
    """A screening service in threads; `answer` may wait, raise, or answer more than it was asked."""

    address: str
    answer: Callable[[pb.ScreenRequest], list[pb.ScreenResponse]] = allow
    asked: int = 0
    events: list[pb.CallEvent] = field(default_factory=list)
    server: Any = None

    def ScreenStream(self, batches: Iterator[pb.ScreenStreamRequest], context: Any) -> Iterator[Any]:
        for batch in batches:
            self.asked += len(batch.requests)
            for request in batch.requests:
                yield pb.ScreenStreamResponse(responses=self.answer(request))

    def ReportEvents(self, batches: Iterator[pb.ReportEventsRequest], context: Any) -> pb.ReportEventsResponse:
        for batch in batches:
            self.events += batch.events
        return pb.ReportEventsResponse(accepted=len(self.events))

    def start(self) -> "Agent":
        self.server = grpc.server(ThreadPoolExecutor(8))
        rpc.add_ScreeningServiceServicer_to_server(self, self.server)
        assert self.server.add_insecure_port(self.address)
        self.server.start()
        return self

    def stop(self) -> None:
        self.server.stop(None).wait()


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/hook.sock"


@pytest.fixture
def agent(address: str) -> Iterator[Agent]:
    agent = Agent(address).start()
    yield agent
    agent.stop()


@pytest.fixture
def link(address: str) -> Iterator[Any]:
    words: list[str] = []
    link = hook.Link(address, DEADLINE, warn=words.append)
    link.words = words
    yield link
    link.close()


def ask(link: Any) -> Any:
    return link.ask(pb.ScreenRequest(sip_message=b"INVITE"))


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_question_gets_its_own_answer(agent: Agent, link: Any) -> None:
    agent.answer = lambda request: [pb.ScreenResponse(id=request.id, why=f"answer {request.id}")]
    assert [ask(link).why for _ in range(20)] == [f"answer {n}" for n in range(1, 21)]
    assert agent.asked == 20


def test_nobody_listens_and_the_call_passes_at_once(link: Any) -> None:
    start = time.monotonic()
    assert [ask(link) for _ in range(5)] == [None] * 5
    assert time.monotonic() - start < 3 * DEADLINE
    assert len(link.words) == 1
    assert "UNAVAILABLE" in link.words[0]


def test_an_agent_that_hangs_costs_three_deadlines_and_then_nothing(address: str) -> None:
    released = threading.Event()

    def hang(request: pb.ScreenRequest) -> list[pb.ScreenResponse]:
        released.wait(10)
        return []

    agent = Agent(address, hang).start()
    link = hook.Link(address, SHORT, warn=lambda words: None)
    try:
        # The connection itself may take the first deadline, so that a question never arrives.
        assert [ask(link) for _ in range(50)] == [None] * 50
        assert agent.asked <= 3
        assert link.breaker.state is hook.State.OPEN
    finally:
        released.set()
        link.close()
        agent.stop()


def test_an_agent_that_is_back_is_asked_again_after_a_second(address: str) -> None:
    clock, words = Clock(), list[str]()
    link = hook.Link(address, DEADLINE, clock, words.append)
    assert [ask(link) for _ in range(3)] == [None] * 3
    agent = Agent(address).start()
    try:
        assert ask(link) is None  # open: not even tried

        def back() -> bool:
            clock.now += 1.0
            return ask(link) is not None

        until(back)
        assert "back" in words[-1]
        assert ask(link) is not None
    finally:
        link.close()
        agent.stop()


def test_an_agent_that_restarted_while_the_worker_was_idle_screens_the_next_call(address: str, link: Any) -> None:
    first = Agent(address).start()
    assert ask(link) is not None
    first.stop()
    second = Agent(address).start()
    try:
        assert ask(link) is not None
        assert second.asked == 1
        assert link.words == []
    finally:
        second.stop()


def test_an_agent_that_raises_lets_calls_pass(agent: Agent, link: Any) -> None:
    def fail(request: pb.ScreenRequest) -> list[pb.ScreenResponse]:
        context_error = "constructed"
        raise grpc.RpcError(context_error)

    agent.answer = fail
    assert ask(link) is None


def test_answers_to_other_questions_are_passed_over(agent: Agent, link: Any) -> None:
    def late(request: pb.ScreenRequest) -> list[pb.ScreenResponse]:
        return [
            pb.ScreenResponse(id=request.id - 1, decision=pb.DECISION_REFUSE),
            pb.ScreenResponse(id=0, decision=pb.DECISION_REFUSE),
            pb.ScreenResponse(id=request.id, decision=pb.DECISION_ALLOW),
        ]

    agent.answer = late
    assert [ask(link).decision for _ in range(3)] == [pb.DECISION_ALLOW] * 3


def test_no_answer_but_those_of_others_is_no_answer(address: str) -> None:
    agent = Agent(address, lambda request: [pb.ScreenResponse(id=request.id + 7, decision=pb.DECISION_REFUSE)]).start()
    link = hook.Link(address, SHORT, warn=lambda words: None)
    try:
        assert ask(link) is None
    finally:
        link.close()
        agent.stop()


def test_events_arrive_in_order(agent: Agent, link: Any) -> None:
    for number in range(50):
        assert link.report(pb.CallEvent(call_id=f"{number}"))
    until(lambda: len(agent.events) == 50)
    assert [event.call_id for event in agent.events] == [f"{number}" for number in range(50)]


def test_events_of_a_time_without_agent_are_kept_within_bounds_and_delivered(address: str) -> None:
    clock = Clock()
    link = hook.Link(address, DEADLINE, clock, lambda words: None)
    for number in range(hook.MAX_EVENTS + 10):
        assert not link.report(pb.CallEvent(call_id=f"{number}"))
    assert link.events_lost == 10
    agent = Agent(address).start()
    try:

        def back() -> bool:
            clock.now += 1.0
            return ask(link) is not None

        until(back)
        assert link.report(pb.CallEvent(call_id="last"))
        until(lambda: agent.events and agent.events[-1].call_id == "last")
        assert len({event.call_id for event in agent.events}) <= hook.MAX_EVENTS
    finally:
        link.close()
        agent.stop()


def test_an_agent_that_takes_events_but_gives_no_verdict_is_away(agent: Agent, address: str) -> None:
    link = hook.Link(address, SHORT, warn=lambda words: None)
    try:
        until(lambda: ask(link) is not None)
        agent.answer = lambda request: []
        for _ in range(3):
            assert ask(link) is None
            link.report(pb.CallEvent(call_id="1"))
        assert link.breaker.state is hook.State.OPEN
        asked = agent.asked
        assert not link.report(pb.CallEvent(call_id="2"))
        assert ask(link) is None
        assert agent.asked == asked
    finally:
        link.close()


def test_closing_ends_its_threads(address: str) -> None:
    agent = Agent(address).start()
    before = {thread.name for thread in threading.enumerate()}
    link = hook.Link(address, DEADLINE, warn=lambda words: None)
    assert ask(link)
    assert link.report(pb.CallEvent(call_id="1"))
    link.close()
    until(lambda: {t.name for t in threading.enumerate() if "ThreadPool" not in t.name} <= before)
    agent.stop()
