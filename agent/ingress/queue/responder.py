"""What becomes of each datagram that waits in the queue. Knows SIP and screening; no socket, and no clock of its own.

    INVITE      goes on, or is dropped and answered; a copy of a refused one is dropped and gets the same answer
    ACK         dropped if it acknowledges a refusal of ours, which its To tag proves; else it goes on
    CANCEL      dropped and answered with 200 if it is for an INVITE that was refused here lately (RFC 3261 9.2)
    all else    goes on, unread

Whatever goes on is the datagram as it came. What cannot be read, screening has no opinion on, or makes us fail, goes on
too. A refused INVITE that cannot be answered, as it lacks what an answer is made of, goes on to the SBC, which cannot
accept it either.

SBCs differ in what they take for a request: some skip empty lines before it (RFC 3261 7.5), some take its method in any
case. It is read here as the most tolerant of them would read it.
"""

from collections.abc import Callable
from typing import Final

from agent.calls.attempts import Seen
from agent.identity.model import Verification
from agent.kernel.raw_reply import Path, Reply
from agent.model import Allow, Answer, Drop, ParseError, Refuse, Scan
from agent.policy.policy import Policy
from agent.policy.trunks import UNKNOWN
from agent.screening import Decision, Observation
from agent.service import Service
from agent.sip.answers import STANDARD_PHRASES, Rendered, build_reply, render
from agent.sip.scan import scan
from agent.sip.transactions import ServerTransactions

CANCELLED: Final = render(Answer(200, STANDARD_PHRASES[200]))

RENDERED_MAX: Final = 1024
"""Answers of a policy are few; those of policies that were replaced must not pile up. Cleared when full."""

RETRANSMISSION: Final = Seen.RETRANSMISSION  # looking a member up in its enumeration is slow

Judged = tuple[bool, Reply | None]
"""Whether the datagram goes on, and what to answer."""

GOES_ON: Final[Judged] = (True, None)
DROPPED: Final[Judged] = (False, None)


class QueueResponder:
    """Judges datagrams. `on_failure` hears of faults of ours; what they happened on goes on.

    `follows_calls`: somebody else shows the service how calls go on, so that sessions end when calls do. Without that a
    session of an allowed call is given back at once, as its end is seen by the SBC alone.
    """

    def __init__(
        self,
        service: Service,
        transactions: ServerTransactions[Path],
        on_failure: Callable[[Exception], None] = lambda _error: None,
        *,
        follows_calls: bool = False,
    ) -> None:
        self.transactions = transactions
        self.invites = 0  # decided, copies included
        self.refused = 0
        self.dropped = 0  # by verdict, without an answer
        self.acks = 0  # absorbed
        self.cancels = 0  # answered
        self.undecided = 0  # went on: in-dialog, from the SBC itself, or of no interest
        self.unanswerable = 0  # should have been refused and went on
        self.failures = 0
        self._service = service
        self._on_failure = on_failure
        self._follows_calls = follows_calls
        self._rendered: dict[int, tuple[Answer, Rendered]] = {}
        self._policy: Policy | None = None
        self._counts_sessions = False

    def receive(self, raw: bytes, source: tuple[str, int], local: str, back: Path, now: float, when: float) -> Judged:
        """Judge one datagram. Never raises.

        `source` is where it came from and `local` the address that it came to, as text; `back` is the way of an answer;
        `now` monotonic, `when` wall-clock seconds.
        """
        try:
            if not raw.startswith(b"INVITE "):
                raw = as_request(raw)
            if raw.startswith(b"INVITE "):
                return self._invite(raw, source, local, back, now, when)
            if raw.startswith(b"ACK "):
                return self._ack(raw, now)
            if raw.startswith(b"CANCEL "):
                return self._cancel(raw, source, back)
        except ParseError:
            self.unanswerable += 1
            return GOES_ON
        except Exception as error:
            self.failures += 1
            self._on_failure(error)
            return GOES_ON
        self.undecided += 1
        return GOES_ON

    def _invite(self, raw: bytes, source: tuple[str, int], local: str, back: Path, now: float, when: float) -> Judged:
        host, port = source
        observation = Observation(raw, "udp", host, port, local, back.source_port, when)
        finding = None
        if self._service.has_identity:
            # A packet in the kernel's queue waits for no certificate: it is fetched for the next call.
            found = self._service.verify(observation, 0.0)
            finding = found if isinstance(found, Verification) else None
        decision = self._service.handle(observation, finding)
        if decision is None:
            self.undecided += 1
            return GOES_ON
        self.invites += 1
        action = decision.verdict.action
        if isinstance(action, Allow):
            self._release(decision, now)
            return GOES_ON
        message = decision.attempt.message
        tag = self._service.screening.to_tag(message)
        if decision.seen is RETRANSMISSION and (copy := self.transactions.invite(tag)) is not None:
            return False, copy if copy[0] else None
        if isinstance(action, Drop):
            self.dropped += 1
            return DROPPED
        payload, back = self._build(raw, self._render(action), tag, source, back)
        # Without a transaction for a source that no trunk claims: it may be forged (see the redirect's responder).
        if decision.policy.addresses.sender(host) is not UNKNOWN:
            self.transactions.answer(tag, payload, back, now)
        self.refused += 1
        return False, (payload, back)

    def _ack(self, raw: bytes, now: float) -> Judged:
        """Our To tags are a keyed hash of what an INVITE and its ACK have in common: an ACK that carries the tag which
        its own fields make can only be for a refusal of ours, remembered or not."""
        message = _read(raw)
        if message is None or not message.to_tag:
            return GOES_ON
        tag = self._service.screening.to_tag(message)
        if message.to_tag != tag.encode("ascii"):
            return GOES_ON
        self.transactions.ack(tag, now)
        self.acks += 1
        return DROPPED

    def _cancel(self, raw: bytes, source: tuple[str, int], back: Path) -> Judged:
        message = _read(raw)
        if message is None:
            return GOES_ON
        tag = self._service.screening.to_tag(message)
        if not self.transactions.cancel(tag):
            return GOES_ON
        self.cancels += 1
        return False, self._build(raw, CANCELLED, tag, source, back)

    def _build(self, raw: bytes, rendered: Rendered, tag: str, source: tuple[str, int], back: Path) -> Reply:
        """The bytes, and where they go: to the source address, at the port of RFC 3261 18.2.2 and RFC 3581."""
        payload, port = build_reply(raw, rendered, tag, source)
        return payload, back if port == back.target_port else back._replace(target_port=port)

    def _render(self, action: Refuse) -> Rendered:
        answer = action.answer
        known = self._rendered.get(id(answer))
        if known is not None and known[0] is answer:
            return known[1]
        if len(self._rendered) >= RENDERED_MAX:
            self._rendered.clear()
        rendered = render(answer)
        self._rendered[id(answer)] = answer, rendered
        return rendered

    def _release(self, decision: Decision, now: float) -> None:
        """Give back what an admitted call reserved of session limits, where its end cannot be seen."""
        if self._follows_calls:
            return
        if decision.policy is not self._policy:
            self._policy = decision.policy
            self._counts_sessions = any(limit.sessions for limit in decision.policy.limits)
        if self._counts_sessions:
            message = decision.attempt.message
            self._service.screening.sessions.note_end(message.call_id, message.from_tag, now)


def as_request(raw: bytes) -> bytes:
    """A datagram as a tolerant SBC reads it: without empty lines before it, its method in capitals."""
    raw = raw.lstrip(b"\r\n")
    method, space, rest = raw[:7].partition(b" ")
    return method.upper() + space + rest + raw[7:] if space else raw


def _read(raw: bytes) -> Scan | None:
    """None for what cannot be read, which is nothing of ours."""
    try:
        return scan(raw)
    except ParseError:
        return None
