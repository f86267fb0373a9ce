"""What the identity stage finds out, waits for and adds; then the same through real sockets of redirect and hook."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from agent.identity.model import Failure, Verification
from agent.model import CallAttempt, Refuse
from agent.policy.policy import Policy
from agent.screening import Decision, Observation, Screening
from agent.service import NOTHING_ADDED, Service
from agent.sip.message import parse
from agent.stir import stage as stage_module
from agent.stir.stage import Stage
from sbcedge.policy.v1 import policy_pb2 as pb
from sbcedge.screening.v1 import screening_pb2 as screening_pb
from tests.fakes.calls import invite, observe, policy
from tests.fakes.identity import ORIGID, URL, Certificates, identity
from tests.fakes.waiting import until
from tests.ingress.hook.hooks import a_client, a_hook, a_policy, batch, request
from tests.ingress.redirect.callers import LOOPBACK, Caller, Records, serving, trunk
from tests.ingress.redirect.callers import request as sip_request

WHEN = 1_800_000_000.0
CODES = {pb.FAILURE_CLASS_INVALID: 438, pb.FAILURE_CLASS_UNREACHABLE: 436}


def fail(error: Exception) -> None:
    raise AssertionError from error


def staged(certificates: Certificates | None, message: pb.Policy | None = None, **rule: Any) -> Service:
    """A service whose policy verifies; `rule` is what its identity rule says."""
    message = message or pb.Policy(trunks=[pb.Trunk(id="peer", sources=["192.0.2.10"], trust_asserted_identity=True)])
    message.identity.CopyFrom(pb.IdentityRule(**rule))
    screening = Screening(policy(message))
    return Service(screening, Records(), identity=Stage(screening, certificates, None, fail))


def signed(*values: str, headers: tuple[str, ...] = (), **fields: Any) -> Observation:
    return observe(invite(headers=(*(f"Identity: {value}" for value in values), *headers), **fields), when=WHEN)


def decided(service: Service, observation: Observation) -> Decision:
    """Verified and decided, without waiting."""
    finding = service.verify(observation)
    assert finding is None or isinstance(finding, Verification)
    decision = service.handle(observation, finding)
    assert decision is not None
    return decision


def test_a_call_whose_certificate_is_known_is_verified_at_once() -> None:
    service = staged(Certificates([URL]))
    found = decided(service, signed(identity(WHEN))).attempt.identity
    assert found is not None
    assert (found.failure, found.attestation, found.spc, found.origid) == (None, "A", "818H", ORIGID)


@pytest.mark.parametrize(
    ("values", "failure"),
    [
        ((), Failure.MISSING),
        ((identity(WHEN - 61),), Failure.STALE),
        ((identity(WHEN, orig="12015550199"),), Failure.MISMATCH),
        ((identity(WHEN)[:-60] + "AAAA" + identity(WHEN)[-56:],), Failure.INVALID),
        ((identity(WHEN, url="http://certs.example.net/a.pem"),), Failure.INFO),
    ],
)
def test_what_is_wrong_is_told_and_the_call_passes(values: Sequence[str], failure: Failure) -> None:
    service = staged(Certificates([URL]))
    decision = decided(service, signed(*values))
    assert decision.attempt.identity is not None
    assert decision.attempt.identity.failure is failure
    assert decision.verdict.action.word == "allow"


def test_a_policy_can_refuse_by_class() -> None:
    refuse = [pb.IdentityFailure(failure=pb.FAILURE_CLASS_STALE, action=pb.FAILURE_ACTION_REFUSE)]
    action = decided(staged(Certificates([URL]), failures=refuse), signed(identity(WHEN - 61))).verdict.action
    assert isinstance(action, Refuse)
    assert str(action.answer) == "403 Stale Date"


def test_an_emergency_call_is_neither_verified_nor_waits() -> None:
    service = staged(Certificates(coming=[URL]))
    observation = signed(identity(WHEN), called="sip:911@sbc.example.net")
    assert service.verify(observation) is None
    assert decided(service, observation).verdict.rule == "emergency"


def test_without_anybody_to_trust_nothing_is_proved_of_a_call() -> None:
    service = staged(Certificates([URL], trusting=False))
    assert decided(service, signed(identity(WHEN))).attempt.identity is None
    assert isinstance(service.identity, Stage)
    assert service.identity.counters()["identity_not_verified"] == 1


def test_a_policy_that_asks_for_what_is_not_configured_is_told() -> None:
    service = staged(None, pb.Policy(signing=pb.SigningRule()))
    assert isinstance(service.identity, Stage)
    well, why = service.identity.health()
    assert not well
    assert "no [identity]" in why
    assert "no [signing]" in why


def test_nothing_is_verified_that_no_policy_asks_for() -> None:
    screening = Screening(policy())
    service = Service(screening, Records(), identity=Stage(screening, Certificates([URL]), None, fail))
    assert not service.has_identity
    assert service.verify(signed(identity(WHEN))) is None


class OneKey:
    """Signs every call with the same row."""

    def __init__(self, row: bytes) -> None:
        self._row = row

    def rows(self, attempt: CallAttempt, policy: Policy) -> tuple[bytes, ...]:
        return (self._row,)


@pytest.mark.parametrize(
    ("row", "note"),
    [(identity(WHEN).encode(), "signed with attestation A"), (b"e30.e30.AA;ppt=div", "signed a diversion")],
)
def test_the_record_of_a_call_says_what_was_signed(row: bytes, note: str) -> None:
    screening = Screening(policy(pb.Policy(signing=pb.SigningRule())))
    service = Service(screening, Records(), identity=Stage(screening, None, OneKey(row), fail))
    decision = decided(service, signed())
    assert service.additions(decision).identity == (row,)
    assert decision.record().notes == (note,)


def test_a_copy_of_a_call_is_no_replay_and_another_call_is() -> None:
    service, value = staged(Certificates([URL])), identity(WHEN)
    found = [decided(service, signed(value, call_id=call)).attempt.identity for call in ("one", "one", "other")]
    assert [one and one.failure for one in found] == [None, None, Failure.REPLAYED]


def test_a_call_waits_for_its_certificate_as_long_as_policy_and_client_agree() -> None:
    async def run() -> None:
        certificates = Certificates(coming=[URL])
        service = staged(certificates, wait_seconds=0.05)
        for patience, waits in ((20.0, 0.05), (0.01, 0.01)):
            coming = service.verify(signed(identity(WHEN)), patience)
            assert not isinstance(coming, Verification | None)
            found = await coming
            assert found is not None
            assert (found.failure, found.why) == (Failure.UNREACHABLE, f"no answer within {waits:g} s")
        assert certificates.asked == [0.05, 0.01]

    asyncio.run(run())


def test_a_client_without_patience_gets_its_answer_at_once() -> None:
    certificates = Certificates(coming=[URL])
    found = staged(certificates).verify(signed(identity(WHEN)), 0.0)
    assert isinstance(found, Verification)
    assert found.failure is Failure.UNREACHABLE
    assert certificates.begun == [URL]  # for the next call


def test_one_call_too_many_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        certificates = Certificates(coming=[URL])
        service = staged(certificates)
        first = service.verify(signed(identity(WHEN)))
        assert not isinstance(first, Verification | None)
        waiting = asyncio.create_task(first)
        await until(lambda: bool(certificates.asked))
        one_too_many = service.verify(signed(identity(WHEN)))
        assert isinstance(one_too_many, Verification)
        assert one_too_many.why == "too many calls wait for certificates"
        certificates.arrive()
        assert (await waiting) is not None
        assert isinstance(service.identity, Stage)
        assert service.identity.counters()["identity_overflows"] == 1
        assert service.identity.counters()["identity_in_flight"] == 0

    monkeypatch.setattr(stage_module, "WAITING_MAX", 1)
    asyncio.run(run())


def test_a_fault_of_ours_lets_the_call_go_on() -> None:
    class Broken(Certificates):
        def peek(self, urls: object) -> None:
            raise RuntimeError("broken")

    faults: list[Exception] = []
    service = staged(None, required_trunks=["peer"])
    stage = service.identity = Stage(service.screening, Broken(), None, faults.append)
    decision = decided(service, signed(identity(WHEN)))
    assert decision.verdict.action.word == "allow"
    assert [str(fault) for fault in faults] == ["broken"]
    assert stage.failures == 1


# -- what is added ----------------------------------------------------------------------------------------------------


def test_the_status_goes_to_the_asserted_identity_of_a_trusted_peer() -> None:
    service = staged(Certificates([URL]), reason=True)
    asserted = "P-Asserted-Identity: <sip:+12015550123;verstat=TN-Validation-Passed@a.example.net>"
    good = service.additions(decided(service, signed(identity(WHEN), headers=(asserted,))))
    assert (good.verstat, good.responses) == ("TN-Validation-Passed", ())
    bad = service.additions(decided(service, signed(identity(WHEN - 99), headers=(asserted,))))
    assert bad.verstat == "TN-Validation-Failed"
    assert bad.asserted == (b"<sip:+12015550123;verstat=TN-Validation-Failed@a.example.net>",)
    assert bad.responses == (("Reason", b'STIR ;cause=403 ;text="Stale Date"'),)


def test_the_asserted_identity_of_anybody_else_is_not_handed_on() -> None:
    message = pb.Policy(trunks=[pb.Trunk(id="peer", sources=["192.0.2.10"])])
    service = staged(Certificates([URL]), message)
    decision = decided(service, signed(headers=("P-Asserted-Identity: <sip:+12015550123@a.example.net>",)))
    assert service.additions(decision).asserted == ()


def test_in_shadow_nothing_is_added() -> None:
    service = staged(Certificates([URL]), mode=pb.MODE_SHADOW, reason=True)
    assert service.additions(decided(service, signed(identity(WHEN)))) is NOTHING_ADDED


# -- through real sockets ---------------------------------------------------------------------------------------------


def live(**fields: Any) -> bytes:
    """A signed INVITE of now."""
    raw = sip_request(**fields)
    start = raw.index(b"Identity: ") + 10
    return raw[:start] + identity(time.time()).encode() + raw[raw.index(b"\r\n", start) :]


def redirecting(certificates: Certificates) -> Service:
    return staged(certificates, pb.Policy(trunks=[trunk(next_hop="core.example.net")]), wait_seconds=5.0)


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_a_redirected_call_waits_for_its_certificate_and_nobody_else_does(transport: str) -> None:
    async def run() -> None:
        certificates = Certificates(coming=[URL])
        service = redirecting(certificates)
        async with serving(service, udp=(LOOPBACK,), tcp=(LOOPBACK,)) as server:
            with Caller(server) as caller:
                send, receive, hang_up = await talk(server, caller, transport)
                await send(live(port=caller.port, transport=transport))
                await until(lambda: bool(certificates.asked))
                await send(live(port=caller.port, transport=transport))  # a copy is absorbed meanwhile
                await send(sip_request("OPTIONS", caller.port, call_id="alive", branch="z9hG4bKo", transport=transport))
                assert (await receive()).status == 200
                trying = await receive()
                assert trying.status == 100
                certificates.arrive()
                answer = await receive()
                assert answer.status == 302
                await hang_up()
        assert isinstance(service.identity, Stage)
        assert service.identity.verified == 1

    asyncio.run(run())


async def talk(server: Any, caller: Any, transport: str) -> Any:
    """Send, receive and hang up, over either transport."""
    if transport == "UDP":

        async def send_udp(raw: bytes) -> None:
            caller.send(raw)

        async def receive_udp() -> Any:
            return parse(await caller.receive())

        async def hang_up_udp() -> None:
            pass

        return send_udp, receive_udp, hang_up_udp
    reader, writer = await asyncio.open_connection(*dict(server.addresses)["tcp"])

    async def send(raw: bytes) -> None:
        writer.write(raw)
        await writer.drain()

    async def receive() -> Any:
        async with asyncio.timeout(5):
            return parse(await reader.readuntil(b"\r\n\r\n"))

    async def hang_up() -> None:
        writer.close()
        await writer.wait_closed()

    return send, receive, hang_up


def test_calls_of_one_stream_do_not_wait_for_each_others_certificates(tmp_path: Path) -> None:
    async def run() -> None:
        certificates = Certificates(coming=[URL])
        async with a_hook(tmp_path, a_policy(identity=pb.IdentityRule(wait_seconds=5.0))) as hook, \
                a_client(hook) as client:  # fmt: skip
            hook.service.identity = Stage(hook.service.screening, certificates, None, fail)
            stream = client.ScreenStream()
            raw = invite(headers=(f"Identity: {identity(WHEN)}",))
            await stream.write(batch([request(raw, 1), request(invite(), 2)]))
            assert [one.id for one in (await stream.read()).responses] == [2]
            await stream.done_writing()  # who has said all still gets all his answers
            certificates.arrive()
            (response,) = (await stream.read()).responses
            assert (response.id, response.verstat) == (1, "TN-Validation-Passed")
            assert [header.name for header in response.egress_headers] == ["Identity"]
            assert await stream.read() == aio.EOF

    asyncio.run(run())


@pytest.mark.parametrize(("stated", "waits"), [("30", 0.03), ("soon", 5.0), ("nan", 5.0), ("-1", None), ("0", None)])
def test_a_stream_says_how_long_its_calls_may_wait(tmp_path: Path, stated: str, waits: float | None) -> None:
    async def run() -> None:
        certificates = Certificates(coming=[URL])
        async with a_hook(tmp_path, a_policy(identity=pb.IdentityRule(wait_seconds=5.0))) as hook, \
                a_client(hook) as client:  # fmt: skip
            hook.service.identity = Stage(hook.service.screening, certificates, None, fail)
            stream = client.ScreenStream(metadata=(("sbc-edge-patience-ms", stated),))
            await stream.write(batch([request(invite(headers=(f"Identity: {identity(WHEN)}",)))]))
            if waits is not None:
                await until(lambda: bool(certificates.asked))
                assert certificates.asked == [waits]
            certificates.arrive()
            assert (await stream.read()).responses[0].decision == screening_pb.DECISION_ALLOW

    asyncio.run(run())


def test_a_unary_call_is_answered_before_its_deadline(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_hook(tmp_path, a_policy(identity=pb.IdentityRule(wait_seconds=5.0))) as hook, \
                a_client(hook) as client:  # fmt: skip
            hook.service.identity = Stage(hook.service.screening, Certificates(coming=[URL]), None, fail)
            raw = invite(headers=(f"Identity: {identity(WHEN)}",))
            response = await client.Screen(request(raw), timeout=0.5)
            assert (response.decision, response.verstat) == (screening_pb.DECISION_ALLOW, "No-TN-Validation")

    asyncio.run(run())
