"""Between the contract and our words: everything comes through, and nothing that comes breaks anything."""

import contextlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.control.artifacts import ArtifactFiles, faults_of
from agent.control.errors import ControllerError
from agent.control.messages import (
    Command,
    CommandAnswer,
    FieldViolation,
    Goodbye,
    HealthReport,
    Hello,
    InForce,
    Offer,
    OfferReport,
    Phase,
    Problem,
    Welcome,
)
from agent.control.preparing import compile_offer
from agent.control.wire import enrolled_of, from_wire, offer_from, policy_of, to_wire
from agent.model import ConfigError
from sbcedge.control.v1 import control_pb2 as pb

PROBLEM = Problem(3, "limits[0].rate: is odd", (FieldViolation("limits[0].rate", "is odd"),))


def test_what_the_agent_says_is_what_the_contract_has() -> None:
    hello = to_wire(Hello("uid", "boot", "1", ("a", "b"), InForce(8, b"h" * 32), 1_800_000_000.5, (3, 4))).hello
    assert (hello.instance_uid, hello.boot_id, list(hello.capabilities)) == ("uid", "boot", ["a", "b"])
    assert (hello.active_generation, hello.active_sha256, list(hello.rejected_generations)) == (8, b"h" * 32, [3, 4])
    assert hello.agent_time.ToJsonString() == "2027-01-15T08:00:00.500Z"
    states = [to_wire(OfferReport(8, b"h" * 32, phase, PROBLEM, InForce(7, b"o" * 32))).offer_state for phase in Phase]
    assert [pb.OfferPhase.Name(state.phase)[12:] for state in states] == [phase.name for phase in Phase]
    state = states[0]
    assert (state.problem.code, state.problem.fields[0].field, state.active_generation) == (3, "limits[0].rate", 7)
    assert not to_wire(OfferReport(8, b"", Phase.RECEIVED, None, InForce())).offer_state.HasField("problem")
    report = HealthReport(1.5, {"hook": (True, "well")}, {"attempts": 9}, InForce(8, b"h"), 5, 2)
    health = to_wire(report).health
    assert (health.components[0].component, health.components[0].healthy, dict(health.counters)) == (
        "hook",
        True,
        {"attempts": 9},
    )
    result = to_wire(CommandAnswer("c", ("{}",), PROBLEM, last=True)).command_result
    assert (result.id, list(result.json), result.last, result.problem.code) == ("c", ["{}"], True, 3)


def test_a_clock_that_no_calendar_has_is_left_out() -> None:
    for when in (1e15, -1e15):
        hello = to_wire(Hello("uid", "boot", "1", (), InForce(), when, ())).hello
        assert hello.agent_time.seconds == 0


def test_what_the_controller_says_is_understood_with_its_defaults_and_within_bounds() -> None:
    assert from_wire(pb.OpenSessionResponse(welcome=pb.Welcome())) == Welcome("", None, frozenset(), 10.0)
    long, short = pb.Welcome(), pb.Welcome()
    long.health_interval.FromSeconds(10**9)
    short.health_interval.FromNanoseconds(1)
    for welcome, interval in ((long, 300.0), (short, 0.2)):
        understood = from_wire(pb.OpenSessionResponse(welcome=welcome))
        assert isinstance(understood, Welcome)
        assert understood.health_interval == interval
    offer = from_wire(pb.OpenSessionResponse(offer=pb.ConfigOffer(generation=8)))
    assert isinstance(offer, Offer)
    assert offer.soak == 30.0
    goodbye = pb.Goodbye(problem=pb.Problem(code=7, message="revoked"))
    goodbye.retry_after.FromSeconds(10**9)
    assert from_wire(pb.OpenSessionResponse(goodbye=goodbye)) == Goodbye(Problem(7, "revoked"), 3600.0)
    assert from_wire(pb.OpenSessionResponse(goodbye=pb.Goodbye())) == Goodbye(None, 0.0)
    assert from_wire(pb.OpenSessionResponse()) is None
    unknown = from_wire(pb.OpenSessionResponse(command=pb.Command(id="x")))
    assert unknown == Command("x", "", None)


@given(st.binary(max_size=400))
def test_whatever_comes_is_understood_or_not_and_breaks_nothing(data: bytes) -> None:
    try:
        message = pb.OpenSessionResponse.FromString(data)
    except Exception:  # protobuf's own word, before us
        message = pb.OpenSessionResponse(offer=pb.ConfigOffer(generation=1, policy=data))
    understood = from_wire(message)
    if isinstance(understood, Offer):
        faults_of(understood.manifests, {}, {})
        with contextlib.suppress(ValueError):
            policy_of(understood)
        with contextlib.suppress(ConfigError):
            compile_offer(understood, ArtifactFiles(Path("/nonexistent")))
    with contextlib.suppress(ValueError):
        offer_from(data)


@given(st.binary(max_size=200))
def test_an_answer_to_enrolment_is_taken_or_refused(data: bytes) -> None:
    try:
        response = pb.EnrollResponse.FromString(data)
    except Exception:
        return
    with contextlib.suppress(ControllerError):
        enrolled_of(response)
