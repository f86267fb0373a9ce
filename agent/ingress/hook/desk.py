"""What the hook does with one request or event, wherever it comes from: screen it, or tell the sessions.

Knows the service and the bytes of `wire`; must not know gRPC. Never raises: what goes wrong here lets the call pass.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from agent.calls.attempts import AttemptEntry
from agent.gate import GateKeeper
from agent.identity.model import Verification
from agent.ingress.hook import wire
from agent.model import ALLOW, ParseError, Refuse, Reply, Verdict
from agent.policy.trunks import Trunk
from agent.screening import Decision, Sender
from agent.service import NOTHING_ADDED, Additions, Coming, Finding, Service
from agent.sip.scan import scan

if TYPE_CHECKING:
    from agent.native._gate import Gate

NOT_OURS = "not a request that is decided"
FAILED = "screening failed"


Write = Callable[[int, Decision, bytes, Additions], bytes]
Frame = Callable[[bytes], bytes]


class Desk:
    """Answers requests and takes events in, and counts both. `clock` is the one that `service` reads."""

    def __init__(
        self,
        service: Service,
        on_failure: Callable[[Exception], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests = 0
        self.unusable_requests = 0  # a field of it cannot be used
        self.unreadable_messages = 0  # of many requests or events, or of one
        self.failures = 0  # faults of ours, each of them passed
        self.events_accepted = 0
        self.events_ignored = 0
        self._service = service
        self._on_failure = on_failure
        self._clock = clock
        self._writer = wire.ResponseWriter()
        self._gates = GateKeeper(service, self._sender)
        self._wall = 0.0  # of the message that the gate works on
        self._plain = b""  # the message that was found plain last: it is asked about twice before it is answered

    def answer(self, request: wire.AnyRequest, patience: float = inf) -> bytes | Awaitable[bytes]:
        """The ScreenResponse to a request: DECISION_NOT_DECIDED for all that is not, cannot or failed to be decided.

        What must be waited for takes at most `patience` seconds, and is only what certificates must be fetched for.
        """
        finding = self._verify(request, patience)
        if isinstance(finding, Verification | None):
            return self._answer(request, self._writer.decided, _alone, finding)
        return self._answer_later(request, finding, self._writer.decided, _alone)

    def answer_all(
        self,
        requests: Sequence[wire.AnyRequest],
        patience: float = inf,
        later: Callable[[Awaitable[bytes]], None] | None = None,
    ) -> list[bytes]:
        """The same for several, each framed as a part of a ScreenStreamResponse; `later` gets those that must wait."""
        answer, write, frame = self._answer, self._writer.framed, wire.framed
        if later is None or not self._service.has_identity:
            return [answer(request, write, frame) for request in requests]
        answered = []
        for request in requests:
            finding = self._verify(request, patience)
            if isinstance(finding, Verification | None):
                answered.append(answer(request, write, frame, finding))
            else:
                later(self._answer_later(request, finding, write, frame))
        return answered

    def gate_for(self, data: bytes) -> "Gate | None":
        """The compiled hot path, where there is one now and it can take this ScreenStreamRequest."""
        gate = self._gates.gate
        if gate is None:
            return None
        if data is not self._plain:
            if gate.plain(data) < 0:
                return None
            self._plain = data
        return gate

    def answer_by(self, gate: "Gate", data: bytes, now: float) -> tuple[bytes, int]:
        """The responses to the first requests of a message, as many as may be answered at once, and where the next one
        begins. `now` is the time of requests that state none."""
        began, self._wall, self._plain = self._clock(), now, b""
        responses, end, count = b"", len(data), 0
        try:
            tail = self._writer.tail(self._service.policy.generation)
            responses, end, count = gate.answer(data, now, tail, self._general, self._ask, self._not_taken)
        except Exception as error:  # a fault of the gate itself: all of these calls pass
            self._failed(error)
            responses = b"".join([self._not_taken(request[0]) for request in wire.read_requests(data, now)])
        passed, trunks = gate.take()  # whatever happened: what was decided is counted and recorded
        if passed:
            self.requests += len(passed)
            self._service.let_pass(passed, trunks, (self._clock() - began) / max(count, len(passed)))
        return responses, end

    def _general(self, data: bytes) -> bytes:
        """The response to a request that is not for the gate."""
        return self._answer(wire.read_request(data, self._wall), self._writer.framed, wire.framed)

    def _ask(
        self,
        number: int,
        entry: AttemptEntry,
        raw: bytes,
        sender: Sender,
        when: float,
        signs: int,
        listed: Verdict | None,
    ) -> bytes:
        """The response to a request that the gate cannot decide; `signs` is what the limits said, -1 if not asked,
        `listed` how a list has the call refused."""
        self.requests += 1
        try:
            decision = self._service.complete(entry, (raw, sender, when), None if signs < 0 else signs, listed)
            if decision is None:
                why = NOT_OURS
            else:
                return self._writer.framed(number, decision, self._reply(decision))
        except Exception as error:
            self._failed(error)
            why = FAILED
        return wire.framed(wire.not_decided(number, why, self._service.policy.generation))

    def _not_taken(self, number: int) -> bytes:
        """The response to a request that the gate has failed on."""
        self.requests += 1
        self.failures += 1
        return wire.framed(wire.not_decided(number, FAILED, self._service.policy.generation))

    def _sender(self, key: bytes) -> tuple[str, Trunk | None]:
        """Whom a request names by its source address, its trunk and its customer."""
        source, trunk, customer, _ = key.decode("ascii").split("\0")
        addresses = self._service.policy.addresses
        if trunk or customer:
            return source, addresses.named(source, trunk, customer)
        return source, addresses.sender(source)

    async def _answer_later(self, request: wire.AnyRequest, finding: Coming, write: "Write", frame: "Frame") -> bytes:
        return self._answer(request, write, frame, await finding)

    def _verify(self, request: wire.AnyRequest, patience: float) -> Finding | Coming:
        observation = request[1]
        return None if observation is None else self._service.verify(observation, patience)

    def _answer(
        self,
        request: wire.AnyRequest,
        write: "Write",
        frame: "Frame",
        finding: Finding = None,
    ) -> bytes:
        self.requests += 1
        number, observation, is_raw, fault = request
        try:
            if observation is None:
                self.unusable_requests += 1
                why = fault
            elif (decision := self._service.handle(observation, finding)) is None:
                why = NOT_OURS
            elif is_raw and decision.verdict.action is not ALLOW:
                return write(number, decision, self._reply(decision), NOTHING_ADDED)
            else:
                return write(number, decision, b"", self._service.additions(decision))
        except Exception as error:  # the one place where a fault of ours must end: here the call passes
            self._failed(error)
            why = FAILED
        return frame(wire.not_decided(number, why, self._service.policy.generation))

    def take(self, told: wire.Told | None) -> bool:
        """Tell the sessions what became of a call; False for what is unreadable or of no call in progress."""
        try:
            taken = told is not None and self._take(told)
        except ParseError:
            taken = False
        except Exception as error:
            self._failed(error)
            taken = False
        self.events_accepted += taken
        self.events_ignored += not taken
        return taken

    def _reply(self, decision: Decision) -> bytes:
        if not isinstance(decision.verdict.action, Refuse):
            return b""
        return next((e.payload for e in self._service.effects(decision) if isinstance(e, Reply)), b"")

    def _take(self, told: wire.Told) -> bool:
        sessions = self._service.screening.sessions
        now = self._clock()
        if told.answered:
            return sessions.note_answer(told.call_id, told.from_tag, told.to_tag, now)
        if told.ended is not None:
            return sessions.note_end(told.call_id, told.from_tag, now, told.ended)
        message = scan(told.message)
        if told.is_egress:  # another leg, with identifiers of its own: it changes no count
            return message.method == "INVITE" and sessions.knows(told.call_id, told.from_tag)
        # The caller's tag is in From of what he sends and of its responses, else in To (RFC 3261 12.2).
        known = any(sessions.knows(message.call_id, tag) for tag in (message.from_tag, message.to_tag))
        sessions.observe(message, now)
        return known

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._on_failure(error)


def _alone(response: bytes) -> bytes:
    return response
