"""Requests become observations, decisions become bytes that protobuf reads as what it would have written itself."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import native
from agent.ingress.hook import wire
from agent.model import ParseError
from agent.screening import PASSED, Decision, Observation, Screening
from agent.sip.answers import build_answer
from sbcedge.policy.v1 import policy_pb2 as policy_pb
from sbcedge.screening.v1 import screening_pb2 as pb
from tests.fakes.calls import PEER, SBC, invite, policy, screen
from tests.ingress.hook.hooks import REFUSED_CALLED, WHEN, a_policy, request


def observed(message: pb.ScreenRequest, now: float = 5.0) -> wire.Request:
    return wire.read_request(message.SerializeToString(), now)


def written(decision: Decision, number: int = 1, reply: bytes = b"") -> pb.ScreenResponse:
    return pb.ScreenResponse.FromString(wire.ResponseWriter().decided(number, decision, reply))


def test_a_raw_request_becomes_the_observation_of_its_very_bytes() -> None:
    raw = invite()
    read = observed(request(raw, 9, transport="tls", trunk="peer", customer="customer-1"))
    observation = read.observation
    assert observation is not None
    assert (read.id, read.is_raw, read.fault, observation.raw) == (9, True, "", raw)
    assert (observation.transport, observation.source, observation.source_port) == ("tls", PEER, 5060)
    assert (observation.destination, observation.destination_port) == (SBC, 5060)
    assert (observation.trunk, observation.customer) == ("peer", "customer-1")
    assert observation.when == pytest.approx(WHEN)


def test_without_a_time_it_is_now_and_without_a_transport_udp() -> None:
    observation = observed(pb.ScreenRequest(sip_message=b"x"), now=5.0).observation
    assert observation is not None
    assert (observation.when, observation.transport) == (5.0, "udp")


def test_an_address_in_brackets_is_the_address() -> None:
    observation = observed(pb.ScreenRequest(sip_message=b"x", source_address="[2001:db8::1]")).observation
    assert observation is not None
    assert observation.source == "2001:db8::1"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"transport": "smoke"}, "transport"),
        ({"source_port": 65_536}, "source_port"),
        ({"local_port": 70_000}, "local_port"),
        ({"source_address": "a" * 65}, "source_address"),
        ({"local_address": "a" * 65}, "local_address"),
        ({"sip_message": b""}, "sip_message"),
        ({"sip_message": b"", "parsed": pb.ParsedRequest()}, "parsed.request_uri"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(fields: dict[str, object], place: str) -> None:
    message = pb.ScreenRequest(id=4, sip_message=b"x")
    message.MergeFrom(pb.ScreenRequest(**{k: v for k, v in fields.items() if v}))  # type: ignore[arg-type]
    if fields.get("sip_message") == b"":
        message.sip_message = b""
    read = observed(message)
    assert (read.id, read.observation) == (4, None)
    assert read.fault.startswith(f"{place}: ")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (
        lambda: wire.read_request(data, 0.0),
        lambda: wire.read_requests(data, 0.0),
        lambda: wire.read_events(data),
    ):
        with suppress(ParseError):
            read()


def test_a_batch_beyond_the_contract_is_refused_by_the_name_of_its_field() -> None:
    most = pb.ScreenStreamRequest(requests=[pb.ScreenRequest()] * wire.BATCH_MAX).SerializeToString()
    assert len(wire.read_requests(most, 0.0)) == wire.BATCH_MAX
    with pytest.raises(ParseError, match="1025") as refused:
        wire.read_requests(most + b"\x0a\x00", 0.0)
    assert refused.value.place == "requests"
    with pytest.raises(ParseError) as refused:
        wire.read_events(b"\x0a\x00" * 1025)
    assert refused.value.place == "events"


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_what_protobuf_writes(number: int) -> None:
    assert wire.varint(number) == pb.ScreenResponse(id=number or 1).SerializeToString()[1:] or number == 0
    assert pb.ScreenResponse.FromString(b"\x08" + wire.varint(number)).id == number


IDENTITIES = st.lists(
    st.binary(max_size=300).map(lambda b: bytes(c for c in b if c not in b"\r\n\0").strip(b" \t")).filter(bool),
    max_size=4,
)


@given(st.integers(0, 2**64 - 1), IDENTITIES, st.integers(0, 2**63), st.booleans())
def test_an_allowed_call_put_together_from_pieces_is_what_protobuf_makes_of_it(
    number: int, identities: list[bytes], generation: int, repeat: bool
) -> None:
    screening = Screening(policy(policy_pb.Policy(generation=generation)))
    raw = invite().replace(b"Max-Forwards", b"".join(b"Identity: %b\r\n" % i for i in identities) + b"Max-Forwards", 1)
    decision = screen(screening, raw)
    if repeat:
        decision = screen(screening, raw)
    assert decision.verdict is PASSED
    expected = pb.ScreenResponse(
        id=number,
        decision=pb.DECISION_ALLOW,
        egress_headers=[pb.SipHeader(name="Identity", value=value) for value in identities],
        category="none",
        why=PASSED.why,
        policy_generation=generation,
        repeated_attempt=repeat,
    )
    response = wire.ResponseWriter().decided(number, decision, b"")
    assert pb.ScreenResponse.FromString(response) == expected
    framed = pb.ScreenStreamResponse.FromString(wire.framed(response) + wire.framed(response))
    assert list(framed.responses) == [expected, expected]


def test_a_new_generation_of_the_policy_is_in_the_next_answer() -> None:
    writer = wire.ResponseWriter()
    for generation in (3, 4, 3):
        decision = screen(Screening(policy(policy_pb.Policy(generation=generation))), invite())
        assert pb.ScreenResponse.FromString(writer.decided(1, decision, b"")).policy_generation == generation


def test_identity_rows_come_back_byte_for_byte_in_their_order() -> None:
    first = b"eyJhbGciOiJFUzI1NiJ9.\r\n\t e30.\r\n c2ln;info=<https://example.net/a.pem>;alg=ES256"
    second = b"other \x80\xff\t value"
    rows = b"iDeNtItY \t:   " + first + b" \t\r\ny:" + second + b"\r\n"
    raw = invite().replace(b"Max-Forwards", rows + b"Max-Forwards", 1)
    response = written(screen(Screening(policy()), raw))
    assert [(h.name, h.value) for h in response.egress_headers] == [("Identity", first), ("Identity", second)]


def test_a_refusal_carries_the_answer_in_parts_and_as_bytes() -> None:
    decision = screen(Screening(policy(a_policy())), invite(REFUSED_CALLED))
    response = written(decision, 3, b"SIP/2.0 607 ...")
    assert (response.id, response.decision) == (3, pb.DECISION_REFUSE)
    assert (response.rule, response.category) == ("subscriber-list", "subscriber-list")
    assert response.why == decision.verdict.why != ""
    assert (response.answer.code, response.answer.phrase) == (607, "Unwanted")
    assert response.answer.sip_message == b"SIP/2.0 607 ..."
    assert response.policy_generation == 7
    assert not response.egress_headers, "a call that ends here has no other leg"


def test_headers_of_an_answer_are_those_that_its_bytes_hold() -> None:
    limit = policy_pb.Limit(
        name="one", scope=policy_pb.SCOPE_GLOBAL, rate=1, burst=1,
        answer=policy_pb.AnswerSpec(code=503, retry_after_seconds=30),
    )  # fmt: skip
    screening = Screening(policy(policy_pb.Policy(limits=[limit])))
    screen(screening, invite())
    raw = invite()
    decision = screen(screening, raw)
    response = written(decision)
    assert [(h.name, h.value) for h in response.answer.headers] == [("Retry-After", b"30")]
    answer = decision.verdict.action.answer  # type: ignore[union-attr]
    assert b"Retry-After: 30\r\n" in build_answer(raw, answer, to_tag="x")


def test_what_a_shadow_rule_would_have_refused_is_told_beside_the_pass() -> None:
    response = written(screen(Screening(policy(a_policy(policy_pb.MODE_SHADOW))), invite(REFUSED_CALLED)))
    assert response.decision == pb.DECISION_ALLOW
    (shadow,) = response.shadow
    assert (shadow.rule, shadow.category, shadow.answer.code) == ("subscriber-list", "subscriber-list", 607)


def test_a_drop_says_drop_and_has_no_answer() -> None:
    limit = policy_pb.Limit(name="flood", scope=policy_pb.SCOPE_GLOBAL, rate=1, burst=1, drop_above=2)
    screening = Screening(policy(policy_pb.Policy(limits=[limit])))
    response = [written(screen(screening, invite())) for _ in range(5)][-1]
    assert response.decision == pb.DECISION_DROP
    assert not response.HasField("answer")


needs_twin = pytest.mark.skipif(native.hook is None, reason="nothing is compiled here")

PLAIN = st.builds(
    pb.ScreenRequest,
    id=st.integers(0, 2**64 - 1),
    sip_message=st.binary(min_size=1, max_size=300),
    source_address=st.sampled_from(["", "192.0.2.10", "2001:db8::1", "x" * 64]),
    source_port=st.integers(0, 65_535),
    local_address=st.sampled_from(["", SBC]),
    local_port=st.integers(0, 65_535),
    transport=st.sampled_from(["", "udp", "tcp", "tls", "ws"]),
    trunk=st.sampled_from(["", "peer"]),
    customer=st.sampled_from(["", "customer-1"]),
    received_at_unix_micros=st.sampled_from([0, 1, int(WHEN * 1e6), 2**63 - 1, -1, -(2**63)]),
)
ODD = st.builds(
    pb.ScreenRequest,
    sip_message=st.sampled_from([b"", b"x"]),
    source_address=st.sampled_from(["", "[2001:db8::1]", "[", "\x7f", "é", "x" * 65]),
    source_port=st.sampled_from([0, 65_536]),
    transport=st.sampled_from(["", "UDP", "smoke"]),
    trunk=st.sampled_from(["", "é", "x" * 200]),
    parsed=st.none() | st.just(pb.ParsedRequest(request_uri="sip:a@b", call_id="c", from_uri="sip:d@e")),
)


@needs_twin
@given(st.lists(PLAIN, max_size=5))
def test_the_twin_reads_every_plain_request_as_protobuf_does(requests: list[pb.ScreenRequest]) -> None:
    data = pb.ScreenStreamRequest(requests=requests).SerializeToString()
    assert native.hook is not None
    assert native.hook.read_requests(data, 5.0, Observation) == wire.read_requests_py(data, 5.0)


@given(PLAIN | ODD, st.data())
def test_a_request_alone_reads_as_protobuf_reads_it(request: pb.ScreenRequest, data: st.DataObject) -> None:
    raw = request.SerializeToString()
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        expected = wire.read_request_py(raw, 5.0)
    except ParseError:
        with pytest.raises(ParseError):
            wire.read_request(raw, 5.0)
    else:
        assert wire.read_request(raw, 5.0) == expected


@needs_twin
@given(st.lists(PLAIN | ODD, max_size=4), st.data())
def test_whatever_comes_the_twin_reads_it_as_protobuf_does_or_leaves_it_alone(
    requests: list[pb.ScreenRequest], data: st.DataObject
) -> None:
    raw = bytearray(pb.ScreenStreamRequest(requests=requests).SerializeToString())
    for _ in range(data.draw(st.integers(0, 3)) if raw else 0):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 3))]
            case _:
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=3))
        if not raw:
            break
    message = bytes(raw)
    assert native.hook is not None
    read = native.hook.read_requests(message, 5.0, Observation)
    if read is not None:
        assert read == wire.read_requests_py(message, 5.0)


@needs_twin
def test_the_twin_leaves_what_is_not_plain_to_protobuf() -> None:
    assert native.hook is not None
    plain = pb.ScreenRequest(sip_message=b"x").SerializeToString()
    twice, unknown, wrong_type, group = plain + plain, plain + b"\x78\x01", b"\x10\x05", plain + b"\x7b\x7c"
    long_tag = plain + b"\x8a\x00\x00"
    for odd in (twice, unknown, wrong_type, group, long_tag, b"", b"\x08", b"\x12\x7f", b"\x08" + b"\xff" * 11):
        framed = wire.framed(odd)
        assert native.hook.read_requests(framed, 5.0, Observation) is None
    assert native.hook.read_requests(b"", 5.0, Observation) == []
    assert native.hook.read_requests(wire.framed(plain) * 1025, 5.0, Observation) is None
    for data in (b"\x0a", b"\x0a\x05a", b"\x12\x00", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"):
        assert native.hook.read_requests(data, 5.0, Observation) is None


@needs_twin
@pytest.mark.parametrize("arguments", [(), (b"", 1, Observation), ("", 1.0, Observation), (b"", 1.0, 5)])
def test_the_twin_refuses_what_is_no_message(arguments: tuple[object, ...]) -> None:
    assert native.hook is not None
    with pytest.raises(TypeError):
        native.hook.read_requests(*arguments)


@needs_twin
@given(st.integers(0, 2**64 - 1), st.lists(st.binary(max_size=20_000), max_size=3), st.binary(max_size=200))
def test_the_twin_writes_what_python_writes(number: int, identity: list[bytes], tail: bytes) -> None:
    assert native.hook is not None
    expected = wire.framed(wire.allowed_py(number, tuple(identity), tail))
    assert native.hook.allowed(number, tuple(identity), tail) == expected


@needs_twin
@pytest.mark.parametrize("arguments", [(-1, (), b""), (2**64, (), b""), ("1", (), b""), (1, [], b""), (1, ("a",), b"")])
def test_the_twin_writes_nothing_that_is_no_answer(arguments: tuple[object, ...]) -> None:
    assert native.hook is not None
    with pytest.raises((TypeError, OverflowError)):
        native.hook.allowed(*arguments)
