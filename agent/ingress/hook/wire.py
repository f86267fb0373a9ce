"""Between sbcedge.screening.v1 and our types: the only module of the hook that knows the contract.

No protobuf object leaves it: bytes come in and become observations and events, decisions become bytes. Must not know
who asks, nor sockets. Almost every answer is "let it pass", so that one is put together from ready pieces; a test
compares them with what protobuf makes of the same.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from agent import native
from agent.ingress.hook.invite import InviteFields, build_invite
from agent.model import Action, Allow, Answer, Drop, ParseError, Refuse, Verdict
from agent.screening import NEW, PASSED, Decision, Observation
from agent.service import NOTHING_ADDED, Additions
from sbcedge.screening.v1 import screening_pb2 as pb

BATCH_MAX: Final = 1024
"""Requests or events in one message, by contract: as many of 1 kB are 1 MiB, and take us some 5 ms."""

RESPONSES_MAX_BYTES: Final = 256 << 10
"""One message of responses; a client's own limit is 4 MiB unless it sets another."""

NAME_MAX: Final = 64
"""Bytes of an address or name: the longest identifier of a policy. Longer text would only fill caches."""

TRANSPORTS: Final = {"": "udp", "udp": "udp", "tcp": "tcp", "tls": "tls", "ws": "ws"}


class Request(NamedTuple):
    """One request. Without `observation` it cannot be screened, and `fault` says which field is to blame."""

    id: int
    observation: Observation | None
    is_raw: bool
    fault: str


AnyRequest = Request | tuple[int, Observation | None, bool, str]
"""The compiled twin makes plain tuples of the same four values."""


_read_plain: Callable[[bytes, float, type[Observation]], list[AnyRequest] | None] | None = getattr(
    native.hook, "read_requests", None
)
_write_allowed: Callable[[int, tuple[bytes, ...], bytes], bytes] | None = getattr(native.hook, "allowed", None)


class Told(NamedTuple):
    """One event of a call: exactly one of `answered`, `ended` (its final response or 0) and `message` is meant."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes
    answered: bool = False
    ended: int | None = None
    message: bytes = b""
    is_egress: bool = False


# -- in -------------------------------------------------------------------------------------------------------------


def read_request(data: bytes, now: float) -> Request:
    """A ScreenRequest; `now` is its time where it states none. Raises ParseError if it is no such message."""
    if _read_plain is not None and (plain := _read_plain(framed(data), now, Observation)) is not None:
        return Request(*plain[0])
    return read_request_py(data, now)


def read_request_py(data: bytes, now: float) -> Request:
    """The same by protobuf alone."""
    try:
        return _request(pb.ScreenRequest.FromString(data), now)
    except DecodeError:
        raise ParseError("message", "is no sbcedge.screening.v1.ScreenRequest") from None


def read_requests(data: bytes, now: float) -> Sequence[AnyRequest]:
    """A ScreenStreamRequest. Raises ParseError if it is none, or has more requests than agreed."""
    if _read_plain is not None and (plain := _read_plain(data, now, Observation)) is not None:
        return plain
    return read_requests_py(data, now)


def read_requests_py(data: bytes, now: float) -> list[Request]:
    """The same by protobuf alone: for messages that hold more than plain requests, and where nothing is compiled."""
    try:
        requests = pb.ScreenStreamRequest.FromString(data).requests
    except DecodeError:
        raise ParseError("message", "is no sbcedge.screening.v1.ScreenStreamRequest") from None
    if len(requests) > BATCH_MAX:
        raise ParseError("requests", f"are {len(requests)}, at most {BATCH_MAX} go into one message")
    return [_request(request, now) for request in requests]


def read_events(data: bytes) -> list[Told | None]:
    """A ReportEventsRequest; None stands for an event that says nothing. Raises ParseError as `read_requests` does."""
    try:
        events = pb.ReportEventsRequest.FromString(data).events
    except DecodeError:
        raise ParseError("message", "is no sbcedge.screening.v1.ReportEventsRequest") from None
    if len(events) > BATCH_MAX:
        raise ParseError("events", f"are {len(events)}, at most {BATCH_MAX} go into one message")
    return [_told(event) for event in events]


def _request(request: pb.ScreenRequest, now: float) -> Request:
    raw = request.sip_message
    try:
        observation = _observation(request, raw, now)
    except ParseError as error:
        return Request(request.id, None, bool(raw), f"{error.place}: {error.reason}")
    return Request(request.id, observation, bool(raw), "")


def _observation(request: pb.ScreenRequest, raw: bytes, now: float) -> Observation:
    transport = TRANSPORTS.get(request.transport)
    if transport is None:
        raise ParseError("transport", f'must be one of {", ".join(filter(None, TRANSPORTS))}, or empty for "udp"')
    source = _address(request.source_address, "source_address")
    if not raw:
        raw = _synthesised(request, transport, source)
    micros = request.received_at_unix_micros
    return Observation(
        raw,
        transport,
        source,
        _port(request.source_port, "source_port"),
        _address(request.local_address, "local_address"),
        _port(request.local_port, "local_port"),
        micros * 1e-6 if micros > 0 else now,
        request.trunk,
        request.customer,
    )


def _synthesised(request: pb.ScreenRequest, transport: str, source: str) -> bytes:
    if not request.HasField("parsed"):
        raise ParseError("sip_message", "is missing, and so is parsed")
    parsed = request.parsed
    fields = InviteFields(
        method=parsed.method,
        request_uri=parsed.request_uri,
        call_id=parsed.call_id,
        from_uri=parsed.from_uri,
        from_tag=parsed.from_tag,
        to_uri=parsed.to_uri,
        to_tag=parsed.to_tag,
        cseq=parsed.cseq,
        via_branch=parsed.via_branch,
        via_sent_by=parsed.via_sent_by,
        asserted_identities=tuple(parsed.asserted_identities),
        identity=tuple(parsed.identity),
        diversion=tuple(parsed.diversion),
        privacy=parsed.privacy,
        priority=parsed.priority,
        resource_priority=parsed.resource_priority,
    )
    try:
        return build_invite(fields, transport, source)
    except ParseError as error:
        place = f"parsed.{error.place}" if error.place else "parsed"
        raise ParseError(place, error.reason, error.offset) from None


def _address(text: str, field: str) -> str:
    if len(text) > NAME_MAX:
        raise ParseError(field, f"is longer than {NAME_MAX} characters")
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def _port(number: int, field: str) -> int:
    if number > 65_535:
        raise ParseError(field, f"{number} is no port")
    return number


def _told(event: pb.CallEvent) -> Told | None:
    names = (event.call_id.encode(), event.from_tag.encode(), event.to_tag.encode())
    match event.WhichOneof("event"):
        case "answered":
            return Told(*names, answered=True)
        case "ended":
            return Told(*names, ended=event.ended.sip_code)
        case "egress_invite":
            return Told(*names, message=event.egress_invite.sip_message, is_egress=True)
        case "sip_message":
            return Told(*names, message=event.sip_message)
        case _:
            return None


# -- out ------------------------------------------------------------------------------------------------------------

# Tags of the contract as they stand before a field: number << 3 | wire type, 0 for varint and 2 for bytes.
_ID: Final = b"\x08"
_ALLOW: Final = b"\x10\x01"
_EGRESS_HEADER: Final = b"\x22"
_IDENTITY_NAME: Final = b"\x0a\x08Identity\x12"
_RESPONSE: Final = b"\x0a"
_SMALL: Final = tuple(bytes((n,)) for n in range(128))


def varint(number: int) -> bytes:
    """An unsigned number as protobuf writes it: seven bits a byte, the lowest first."""
    if number < 128:
        return _SMALL[number]
    if number < 16_384:
        return bytes((number & 127 | 128, number >> 7))
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


class ResponseWriter:
    """Decisions as serialised ScreenResponses. Keeps what every allowed call of a policy generation ends in."""

    def __init__(self) -> None:
        self._generation = -1
        self._tail = self._repeated_tail = b""

    def decided(self, number: int, decision: Decision, reply: bytes, additions: Additions = NOTHING_ADDED) -> bytes:
        """The response to request `number`; `reply` is the SIP answer ready to send, b"" where there is none."""
        if decision.verdict is not PASSED or decision.shadow or additions is not NOTHING_ADDED:
            return _response(number, decision, reply, additions).SerializeToString()
        return allowed_py(number, decision.attempt.message.identity, self._tail_for(decision))

    def framed(self, number: int, decision: Decision, reply: bytes, additions: Additions = NOTHING_ADDED) -> bytes:
        """The same as an element of ScreenStreamResponse."""
        if (
            _write_allowed is None
            or decision.verdict is not PASSED
            or decision.shadow
            or additions is not NOTHING_ADDED
        ):
            return framed(self.decided(number, decision, reply, additions))
        return _write_allowed(number, decision.attempt.message.identity, self._tail_for(decision))

    def tail(self, generation: int) -> bytes:
        """How the response to a new attempt ends that passes without a word."""
        if generation != self._generation:
            self._prepare(generation)
        return self._tail

    def _tail_for(self, decision: Decision) -> bytes:
        tail, seen = self.tail(decision.policy.generation), decision.seen
        return tail if seen is NEW or seen.counts else self._repeated_tail

    def _prepare(self, generation: int) -> None:
        self._generation = generation
        passed = pb.ScreenResponse(category=str(PASSED.category), why=PASSED.why, policy_generation=generation)
        self._tail = passed.SerializeToString()
        passed.repeated_attempt = True
        self._repeated_tail = passed.SerializeToString()


def allowed_py(number: int, identity: tuple[bytes, ...], tail: bytes) -> bytes:
    """A ScreenResponse that allows, with these Identity rows."""
    return b"".join((_ID, varint(number), _ALLOW, *map(_identity_row, identity), tail))


def not_decided(number: int, why: str, generation: int) -> bytes:
    """The response to what is not decided, and goes on."""
    return pb.ScreenResponse(
        id=number, decision=pb.DECISION_NOT_DECIDED, why=why, policy_generation=generation
    ).SerializeToString()


def framed(response: bytes) -> bytes:
    """A response as an element of ScreenStreamResponse; such a message is any number of them, one after another."""
    return _RESPONSE + varint(len(response)) + response


def events_taken(accepted: int, ignored: int) -> bytes:
    """A ReportEventsResponse."""
    return pb.ReportEventsResponse(accepted=accepted, ignored=ignored).SerializeToString()


def _identity_row(value: bytes) -> bytes:
    """An egress header: the value byte for byte as it was received, folds and all."""
    length = varint(len(value))
    return b"".join((_EGRESS_HEADER, varint(11 + len(length) + len(value)), _IDENTITY_NAME, length, value))


def _response(number: int, decision: Decision, reply: bytes, additions: Additions) -> pb.ScreenResponse:
    verdict = decision.verdict
    response = pb.ScreenResponse(
        id=number,
        decision=_decision(verdict.action),
        rule=verdict.rule,
        category=str(verdict.category),
        why=verdict.why,
        policy_generation=decision.policy.generation,
        shadow=_shadow(decision.shadow),
        repeated_attempt=not decision.seen.counts,
        verstat=additions.verstat,
        response_headers=[pb.SipHeader(name=name, value=value) for name, value in additions.responses],
    )
    match verdict.action:
        case Refuse(answer):
            response.answer.CopyFrom(_answer(answer, reply))
        case Allow():
            identity = (*decision.attempt.message.identity, *additions.identity)
            response.egress_headers.extend(pb.SipHeader(name="Identity", value=value) for value in identity)
            response.egress_headers.extend(
                pb.SipHeader(name="P-Asserted-Identity", value=value) for value in additions.asserted
            )
        case Drop():
            pass
    return response


def _decision(action: Action) -> pb.Decision:
    match action:
        case Allow():
            return pb.DECISION_ALLOW
        case Refuse():
            return pb.DECISION_REFUSE
        case Drop():
            return pb.DECISION_DROP


def _shadow(verdicts: Sequence[Verdict]) -> list[pb.Refusal]:
    return [
        pb.Refusal(
            rule=verdict.rule,
            category=str(verdict.category),
            why=verdict.why,
            answer=_answer(verdict.action.answer, b"") if isinstance(verdict.action, Refuse) else None,
        )
        for verdict in verdicts
    ]


def _answer(answer: Answer, reply: bytes) -> pb.SipAnswer:
    headers = [pb.SipHeader(name=name, value=value.encode()) for name, value in answer.headers]
    return pb.SipAnswer(code=answer.code, phrase=answer.phrase, headers=headers, sip_message=reply)
