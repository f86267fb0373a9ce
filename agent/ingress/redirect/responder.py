"""What the redirect server answers to each message. Knows SIP and screening; no socket, and no clock of its own.

    INVITE      the refusal, or how its trunk lets calls pass; in a dialog that we never had: 481
    ACK         absorbed
    CANCEL      200 if it names an INVITE that was answered here lately, else 481 (RFC 3261 9.2)
    OPTIONS     200 with Allow; 503 while the agent drains, so that SBCs that ask go elsewhere in time
    others      481 with a To tag, else 405 with Allow
    a response  nothing
    not SIP     400 (505 for another version) if it holds what an answer is made of, else nothing

An INVITE from a trunk is a transaction: its answer is sent again until it is acknowledged. One from an address that
no trunk claims is answered without one (RFC 3261 8.2.7), so that a forged source cannot make us send ten answers to
somebody who asked nothing. Screening that fails, or has no opinion, passes the call.
"""

import asyncio
import secrets
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from agent.calls.attempts import AttemptEntry, Seen
from agent.gate import Passing
from agent.identity.model import Verification
from agent.model import Allow, Answer, Drop, ParseError, Refuse, Scan, Verdict
from agent.policy.policy import Policy
from agent.policy.trunks import UNKNOWN, Trunk
from agent.screening import Decision, Observation, Sender
from agent.service import NOTHING_ADDED, Additions, Coming, Finding, Service
from agent.sip.answers import STANDARD_PHRASES, Rendered, build_reply, render
from agent.sip.redirection import redirected
from agent.sip.scan import scan
from agent.sip.transactions import ServerTransactions

ALLOWED: Final = (("Allow", "INVITE, ACK, CANCEL, OPTIONS"),)
BAD_REQUEST: Final = render(Answer(400, STANDARD_PHRASES[400]))
NO_SUCH_CALL: Final = render(Answer(481, STANDARD_PHRASES[481]))
NOT_ALLOWED: Final = render(Answer(405, STANDARD_PHRASES[405], ALLOWED))
OTHER_VERSION: Final = render(Answer(505, STANDARD_PHRASES[505]))
ALIVE: Final = render(Answer(200, STANDARD_PHRASES[200], ALLOWED))
DRAINING: Final = render(Answer(503, STANDARD_PHRASES[503]))
PASS: Final = {code: render(Answer(code, STANDARD_PHRASES[code])) for code in (404, 503)}
MOVED: Final = b"SIP/2.0 302 Moved Temporarily\r\n"
TRYING: Final = render(Answer(100, "Trying"))

TRYING_SECONDS: Final = 0.2
"""An INVITE that has no answer by then gets a 100, so that it is not sent again (RFC 3261 17.2.1)."""

# Answers of a policy are few; those of policies that were replaced must not pile up. Cleared when full.
RENDERED_MAX: Final = 1024

RETRANSMISSION: Final = Seen.RETRANSMISSION  # looking a member up in its enumeration is slow

Destination = TypeVar("Destination")


class Responder(Generic[Destination]):
    """Answers what one socket, or one kind of connection, receives.

    `transport` is "udp", "tcp" or "tls", `local` our address and port. `at_port(destination, port)` gives the same
    destination with another port. `send_later` sends what had to wait for a certificate. `on_failure` hears of faults
    of ours; the call passes.
    """

    def __init__(
        self,
        service: Service,
        transactions: ServerTransactions[Destination],
        transport: str,
        local: tuple[str, int],
        at_port: Callable[[Destination, int], Destination],
        send_later: Callable[[bytes, Destination], None],
        on_failure: Callable[[Exception], None] = lambda _error: None,
    ) -> None:
        self.transactions = transactions
        self.requests = 0
        self.answers = 0
        self.acks = 0
        self.responses = 0  # received, and ignored
        self.dropped = 0  # by verdict
        self.bad_requests = 0  # no SIP, but answered
        self.ignored = 0  # nothing that could be answered
        self.undecided = 0  # INVITEs that screening had no opinion on, or failed on; they passed
        self.failures = 0
        self._service = service
        self._transport = transport
        self._reliable = transport != "udp"
        self._host, self._port = local
        self._at_port = at_port
        self._send_later = send_later
        self._on_failure = on_failure
        self._waiting: dict[str, asyncio.Task[None]] = {}  # by To tag; the identity stage bounds how many
        self._secret = secrets.token_bytes(16)
        self._rendered: dict[int, tuple[Answer, Rendered]] = {}
        self._policy: Policy | None = None
        self._counts_sessions = False

    def receive(
        self, raw: bytes, source: tuple[str, int], back: Destination, now: float, when: float
    ) -> tuple[bytes, Destination] | None:
        """Take one message in. What to send and where to, None for silence. Never raises.

        `back` is where it came from; `now` monotonic, `when` wall-clock seconds.
        """
        try:
            if raw.startswith(b"INVITE "):
                return self._invite(raw, source, back, now, when)
            return self._other(raw, source, back, now, when)
        except ParseError:  # it lacks what an answer is made of (RFC 3261 8.2.6.2)
            self.ignored += 1
        except Exception as error:
            self.failures += 1
            self._on_failure(error)
            return self._pass_anyway(raw, source, back)
        return None

    def _invite(
        self, raw: bytes, source: tuple[str, int], back: Destination, now: float, when: float
    ) -> tuple[bytes, Destination] | None:
        observation = Observation(raw, self._transport, *source, self._host, self._port, when)
        if not self._service.has_identity:
            return self._decide(observation, None, back, now)
        finding = self._service.verify(observation)
        if isinstance(finding, Verification | None):
            return self._decide(observation, finding, back, now)
        self._decide_later(observation, finding, back, now)
        return None

    def _decide(
        self, observation: Observation, finding: Finding, back: Destination, now: float
    ) -> tuple[bytes, Destination] | None:
        raw, host, port = observation.raw, observation.source, observation.source_port
        source = host, port
        decision = self._service.handle(observation, finding)
        if decision is None:
            return self._undecided(raw, source, back, now)
        self.requests += 1
        tag = self._service.screening.to_tag(decision.attempt.message)
        if decision.seen is RETRANSMISSION and (copy := self.transactions.invite(tag)) is not None:
            return self._send(*copy) if copy[0] else None
        trunk = decision.policy.addresses.sender(host)
        action = decision.verdict.action
        if isinstance(action, Drop):
            self.dropped += 1
            return None
        if isinstance(action, Refuse):
            rendered = self._render(action.answer)
        else:
            additions = self._service.additions(decision)
            rendered = _passing(trunk or UNKNOWN, decision.attempt.message, additions)
        # Once per call: `_build` and `_send` written out, where calling them would double what they cost.
        payload, reply_port = build_reply(raw, rendered, tag, source)
        if reply_port != port:
            back = self._at_port(back, reply_port)
        if decision.policy is not self._policy:
            self._take_up(decision.policy)
        if self._counts_sessions:
            self._release(decision, payload, now)
        if trunk is not UNKNOWN:
            self.transactions.answer(tag, payload, back, now, reliable=self._reliable)
        self.answers += 1
        return payload, back

    def passing(self, trunk: Trunk) -> Passing | None:
        """How the compiled hot path answers calls of this trunk that pass; None where that is not for it."""
        if not trunk.next_hop:
            return Passing(*PASS[trunk.pass_code])
        return None if trunk.returns_identity else Passing(MOVED, b"", trunk.next_hop.encode("ascii"))

    def ask(
        self, entry: AttemptEntry, raw: bytes, sender: Sender, when: float, signs: int, listed: Verdict | None
    ) -> bool | Rendered | None:
        """Decide what the compiled hot path cannot: an answer; True to let pass, None after a fault; False for silence.

        `signs` is what the limits said, -1 where they were not asked; `listed` how a list has the call refused.
        """
        try:
            if listed is not None and not signs and isinstance(listed.action, Refuse):
                self._service.refuse(entry, (raw, sender, when, listed))
                return self._render(listed.action.answer)
            decision = self._service.complete(entry, (raw, sender, when), None if signs < 0 else signs, listed)
            if decision is None:
                return None
            action = decision.verdict.action
            return self._render(action.answer) if isinstance(action, Refuse) else isinstance(action, Allow)
        except Exception as error:
            self.failures += 1
            self._on_failure(error)
            return None

    def add_counts(self, requests: int, answers: int, acks: int, dropped: int, undecided: int, failures: int) -> None:
        """What the compiled hot path did in the name of this responder."""
        self.requests += requests
        self.answers += answers
        self.acks += acks
        self.dropped += dropped
        self.undecided += undecided
        self.failures += failures

    def _decide_later(self, observation: Observation, finding: Coming, back: Destination, now: float) -> None:
        """Answer when the finding is there; copies of the request that come meanwhile are absorbed."""
        raw, source = observation.raw, (observation.source, observation.source_port)
        tag = self._service.screening.to_tag(scan(raw))

        async def decide() -> None:
            coming = asyncio.create_task(finding)
            try:
                if not (await asyncio.wait((coming,), timeout=TRYING_SECONDS))[0]:
                    self._send_later(*self._build(raw, TRYING, tag, source, back))
                reply = self._decide(observation, await coming, back, now)
            except ParseError:
                self.ignored += 1
                reply = None
            except Exception as error:
                self.failures += 1
                self._on_failure(error)
                reply = self._pass_anyway(raw, source, back)
            finally:
                self._waiting.pop(tag, None)
            if reply is not None:
                self._send_later(*reply)

        if tag in self._waiting:
            finding.close()
        else:
            self._waiting[tag] = asyncio.get_running_loop().create_task(decide())

    @property
    def waiting(self) -> int:
        """INVITEs that have no answer yet."""
        return len(self._waiting)

    def _undecided(
        self, raw: bytes, source: tuple[str, int], back: Destination, now: float
    ) -> tuple[bytes, Destination] | None:
        """An INVITE that is not for screening: unreadable, within a dialog, from the SBC's own address, or a fault."""
        try:
            message = scan(raw)
        except ParseError as error:
            return self._unreadable(raw, error, source, back)
        self.requests += 1
        tag = self._service.screening.to_tag(message)
        if (copy := self.transactions.invite(tag)) is not None:
            return self._send(*copy) if copy[0] else None
        trunk = self._service.policy.addresses.sender(source[0])
        if message.to_tag:
            rendered = NO_SUCH_CALL
        else:
            self.undecided += 1
            rendered = _passing(trunk or UNKNOWN, message)
        payload, back = self._build(raw, rendered, tag, source, back)
        if trunk is not UNKNOWN:
            self.transactions.answer(tag, payload, back, now, reliable=self._reliable)
        return self._send(payload, back)

    def _other(
        self, raw: bytes, source: tuple[str, int], back: Destination, now: float, when: float
    ) -> tuple[bytes, Destination] | None:
        """Whatever does not begin with INVITE."""
        try:
            message = scan(raw)
        except ParseError as error:
            return self._unreadable(raw, error, source, back)
        if message.status:
            self.responses += 1
            return None
        if message.method == "INVITE":
            return self._invite(raw, source, back, now, when)
        if message.method == "ACK":
            self.acks += 1
            self._acknowledge(message, now)
            return None
        tag = self._service.screening.to_tag(message)
        self.requests += 1
        return self._send(*self._build(raw, self._stateless(message, tag), tag, source, back))

    def _acknowledge(self, message: Scan, now: float) -> None:
        """Our To tag names the transaction; without it, as after an INVITE that had one, what the tag is made of."""
        if not self.transactions.ack(message.to_tag.decode("latin-1"), now):
            self.transactions.ack(self._service.screening.to_tag(message), now)

    def _stateless(self, message: Scan, tag: str) -> Rendered:
        """The answer to a request other than INVITE and ACK."""
        if message.method == "CANCEL":
            return ALIVE if self.transactions.cancel(tag) or tag in self._waiting else NO_SUCH_CALL
        if message.to_tag:
            return NO_SUCH_CALL
        if message.method == "OPTIONS":
            return DRAINING if self._service.draining else ALIVE
        return NOT_ALLOWED

    def _unreadable(
        self, raw: bytes, error: ParseError, source: tuple[str, int], back: Destination
    ) -> tuple[bytes, Destination]:
        """Answer what has no usable start line, if it has the rest. Raises ParseError if it has not."""
        if not raw.strip(b"\r\n\0"):
            raise error  # a keep-alive
        rendered = OTHER_VERSION if error.reason == "version is not SIP/2.0" else BAD_REQUEST
        tag = blake2b(raw, digest_size=8, key=self._secret).hexdigest()
        try:
            reply = self._build(raw, rendered, tag, source, back)
        except ValueError:  # no request, by its first word
            raise error from None
        self.bad_requests += 1
        return self._send(*reply)

    def _build(
        self, raw: bytes, rendered: Rendered, tag: str, source: tuple[str, int], back: Destination
    ) -> tuple[bytes, Destination]:
        """The bytes, and where they go: back to the source address, at the port of RFC 3261 18.2.2 and RFC 3581."""
        payload, port = build_reply(raw, rendered, tag, source)
        return payload, back if port == source[1] else self._at_port(back, port)

    def _send(self, payload: bytes, back: Destination) -> tuple[bytes, Destination]:
        self.answers += 1
        return payload, back

    def _render(self, answer: Answer) -> Rendered:
        known = self._rendered.get(id(answer))
        if known is not None and known[0] is answer:
            return known[1]
        if len(self._rendered) >= RENDERED_MAX:
            self._rendered.clear()
        rendered = render(answer)
        self._rendered[id(answer)] = answer, rendered
        return rendered

    def _take_up(self, policy: Policy) -> None:
        self._policy, self._counts_sessions = policy, any(limit.sessions for limit in policy.limits)

    def _release(self, decision: Decision, payload: bytes, now: float) -> None:
        """Give back what an admitted call reserved of session limits.

        How it goes on is seen by the SBC alone. Left open, each call would count for minutes after it has ended,
        and calls would be refused for sessions that are none.
        """
        if isinstance(decision.verdict.action, Allow):
            self._service.screening.sessions.observe(scan(payload), now)

    def _pass_anyway(self, raw: bytes, source: tuple[str, int], back: Destination) -> tuple[bytes, Destination] | None:
        """The plainest answer that passes a call, after a fault of ours; silence for all else, which is repeated."""
        try:
            message = scan(raw)
            if message.method != "INVITE" or message.to_tag:
                return None
            tag = blake2b(raw, digest_size=8, key=self._secret).hexdigest()
            trunk = self._service.policy.addresses.sender(source[0]) or UNKNOWN
            return self._send(*self._build(raw, _passing(trunk, message), tag, source, back))
        except Exception:  # whatever broke the first answer may break this one
            self.ignored += 1
            return None


def _passing(trunk: Trunk, message: Scan, additions: Additions = NOTHING_ADDED) -> Rendered:
    """How this trunk lets a call pass."""
    if not trunk.next_hop:
        return PASS[trunk.pass_code]
    contact = redirected(message.request_uri, trunk.next_hop.encode("ascii"))
    rows = b"Contact: <" + contact + b">\r\n"
    if trunk.returns_identity or additions is not NOTHING_ADDED:
        rows += _identity_rows(trunk, message, additions)
    return Rendered(MOVED, rows)


def _identity_rows(trunk: Trunk, message: Scan, additions: Additions) -> bytes:
    """What the SBC takes over into the INVITE that it sends on: the rows that came, byte for byte, and ours."""
    came = message.identity if trunk.returns_identity else ()
    rows = [b"Identity: " + value + b"\r\n" for value in (*came, *additions.identity)]
    rows += [b"P-Asserted-Identity: " + value + b"\r\n" for value in additions.asserted]
    rows += [name.encode("ascii") + b": " + value + b"\r\n" for name, value in additions.responses]
    return b"".join(rows)
