"""What callers are told when something is the matter, and what bounds the gate sets: over real mTLS."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from agent.model import ConfigError, ConfigErrors
from controller.errors import (
    Busy,
    Conflict,
    ControllerError,
    Denied,
    Invalid,
    Moved,
    NoAnswer,
    NotFound,
    StaleEpoch,
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
    Unauthenticated,
    WatermarkMoved,
)
from controller.model import Peer, PeerKind, Role
from controller.services import gate
from controller.services.permissions import PASSED_ON, PERMISSIONS, Open, Permission, why_not
from controller.services.statuses import PROBLEM_KEY, RETRY_KEY, status_of, trailing_of
from controller.store import StoreSettings, changes
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PATIENCE, a_controller, a_policy
from tests.fakes.postgres import PostgresServer
from tests.fakes.waiting import until


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("limit.rate", "must be positive"), StatusCode.INVALID_ARGUMENT),
        (ConfigError("limits[0]", "is odd"), StatusCode.INVALID_ARGUMENT),
        (NotFound("agent", "x"), StatusCode.NOT_FOUND),
        (Conflict("later"), StatusCode.FAILED_PRECONDITION),
        (Denied("banned"), StatusCode.PERMISSION_DENIED),
        (Unauthenticated("who?"), StatusCode.UNAUTHENTICATED),
        (Busy("full", 2.5), StatusCode.RESOURCE_EXHAUSTED),
        (NoAnswer("late"), StatusCode.DEADLINE_EXCEEDED),
        (StaleEpoch(1, 2), StatusCode.ABORTED),
        (WatermarkMoved([Moved("a", 1, 2, 3)]), StatusCode.ABORTED),
        (StoreFull("disk"), StatusCode.RESOURCE_EXHAUSTED),
        (StoreDamaged("broken"), StatusCode.DATA_LOSS),
        (StoreUnavailable("away"), StatusCode.UNAVAILABLE),
    ],
)
def test_every_error_has_its_status_and_names_its_fields(
    error: ControllerError | ConfigError, code: StatusCode
) -> None:
    got, problem = status_of(error)
    assert (got, problem.code) == (code, code.value[0])
    trailing = dict(trailing_of(error, problem))
    assert (PROBLEM_KEY in trailing) == (code is StatusCode.INVALID_ARGUMENT)
    assert trailing.get(RETRY_KEY) == ("2500" if isinstance(error, Busy) else None)


def test_a_document_with_a_hundred_errors_fits_into_the_metadata() -> None:
    error = ConfigErrors([ConfigError(f"limits[{n}].rate", "x" * 5000) for n in range(100)])
    _, problem = status_of(error)
    (_, told), *_ = trailing_of(error, problem)
    assert isinstance(told, bytes)
    assert len(told) < 8192
    assert pb.Problem.FromString(told).fields[0].field == "limits[0].rate"


def test_an_answer_to_a_stranger_does_not_say_what_he_did_wrong(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            told = set()
            for token in ("", "nonsense", "sbcl_0123456789ab_" + "0" * 64):
                with pytest.raises(aio.AioRpcError) as raised:
                    await controller.operator(token or "x").fleet.ListAgents(fleet.ListAgentsRequest())
                told.add((raised.value.code(), raised.value.details()))
            assert {code for code, _ in told} == {StatusCode.UNAUTHENTICATED}
            assert controller.parts.gate.tally.strangers == 3

    asyncio.run(main())


def test_a_method_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*_: object) -> None:
        await asyncio.sleep(PATIENCE)

    async def main() -> None:
        monkeypatch.setattr(gate, "UNARY_SECONDS", 0.1)
        async with a_controller(tmp_path) as controller:
            monkeypatch.setattr(controller.parts.store.agents, "get", slow)
            with pytest.raises(aio.AioRpcError) as raised:
                await controller.operator().fleet.GetAgent(fleet.GetAgentRequest(id="a"))
            assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
            assert controller.parts.gate.tally.late == 1

    asyncio.run(main())


def test_a_fault_of_ours_ends_one_call_and_tells_nothing_but_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("a secret of ours")

    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            monkeypatch.setattr(controller.parts.store.agents, "get", broken)
            with pytest.raises(aio.AioRpcError) as raised:
                await controller.operator().fleet.GetAgent(fleet.GetAgentRequest(id="a"))
            assert raised.value.code() is StatusCode.INTERNAL
            assert "secret" not in str(raised.value.details())
            await controller.operator().fleet.ListAgents(fleet.ListAgentsRequest())
            assert controller.parts.log.faults == 1
            assert "KeyError" in (tmp_path / "c1.log").read_text()
            controller.parts.log.faults = 0

    asyncio.run(main())


def test_streams_of_one_caller_are_bounded_and_told_when_to_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            viewer = await controller.make_operator(Role.VIEWER)
            calls = [viewer.fleet.WatchAgents(fleet.WatchAgentsRequest()) for _ in range(gate.STREAMS_MAX)]
            for call in calls:
                await call.read()
            more = viewer.fleet.WatchAgents(fleet.WatchAgentsRequest())
            assert await more.code() is StatusCode.RESOURCE_EXHAUSTED
            assert dict(await more.trailing_metadata())[RETRY_KEY] == "5000"
            other = await controller.make_operator(Role.VIEWER, "other")
            await other.fleet.ListAgents(fleet.ListAgentsRequest())
            calls[0].cancel()
            async with asyncio.timeout(PATIENCE):
                while controller.parts.gate.streams == gate.STREAMS_MAX:
                    await asyncio.sleep(0.01)
            again = viewer.fleet.WatchAgents(fleet.WatchAgentsRequest())
            await again.read()

    asyncio.run(main())


def test_looks_for_what_is_revoked_leave_room_within_the_second_in_which_streams_are_cut() -> None:
    """That they are cut is tested where they are; how soon, a busy machine would have its say in."""
    assert changes.POLL_SECONDS + gate.CUT_SECONDS < 0.8


def test_a_message_that_is_too_long_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            with pytest.raises(aio.AioRpcError) as raised:
                await controller.operator().apply("#" * (1 << 20))
            assert raised.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert [p.reason for p in (await controller.operator().apply("#" * 950_000)).problems] == [
                "is longer than 900000 bytes"
            ]

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_while_the_database_is_away_sessions_stay_and_what_was_said_is_not_lost(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    async def main() -> None:
        settings = StoreSettings(postgresql=own_server.database())
        async with a_controller(tmp_path, settings) as controller:
            agent, operator = await controller.enrol(), controller.operator()
            async with agent.session() as session:
                taken = asyncio.Event()

                async def say_it_now(played: Any, offer: pb.ConfigOffer) -> None:
                    await asyncio.to_thread(own_server.stop)
                    await played.takes(offer)
                    taken.set()

                session.lives(say_it_now)
                await session.is_well()
                await operator.apply(a_policy(), (1.0,))
                await asyncio.wait_for(taken.wait(), 6 * PATIENCE)
                with pytest.raises(aio.AioRpcError) as raised:
                    await operator.fleet.ListAgents(fleet.ListAgentsRequest())
                assert raised.value.code() is StatusCode.UNAVAILABLE
                await until(lambda: not controller.parts.store.health()[0], 6 * PATIENCE)
                assert not session.call.done()
                await asyncio.to_thread(own_server.start)
                async with asyncio.timeout(6 * PATIENCE):
                    while True:
                        try:
                            shown = await operator.rollout.GetRollout(fleet.GetRolloutRequest())
                        except aio.AioRpcError:
                            await asyncio.sleep(0.1)
                            continue
                        if shown.rollout.state == "done":
                            break
                        await session.is_well()
                        await asyncio.sleep(0.1)
                assert not session.call.done()

    asyncio.run(main())


def test_a_certificate_is_renewed_over_the_old_one(tmp_path: Path) -> None:
    """And the servers' own is, while connections go on."""

    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent = await controller.enrol()
            async with agent.session() as session:
                before = controller.server._certificate
                await controller.server._renew()
                assert controller.server._certificate is not before
                fresh = controller.channel(port="agents", key=agent.key, chain=agent.chain)
                await asyncio.wait_for(fresh.channel_ready(), PATIENCE)
                shown = await _certificate_of(controller.server.address)
                assert before is not None
                assert shown not in before.chain_pem.decode()
                await session.is_well()
                await controller.operator().sees(lambda seen: seen[0].connected)

    asyncio.run(main())


async def _certificate_of(address: str) -> str:
    """The one that a server shows."""
    import ssl

    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return ssl.DER_cert_to_PEM_cert(der).strip().split("\n")[1]
    finally:
        writer.close()


@pytest.mark.parametrize(("method", "permission"), PERMISSIONS.items())
def test_a_controller_asks_another_one_for_nothing_but_what_it_passes_on(method: str, permission: Permission) -> None:
    peer = Peer(PeerKind.CONTROLLER, "c2", serial="1")
    allowed = why_not(peer, permission, method) == ""
    assert allowed == (method in PASSED_ON or permission in (Open.ANYONE, Open.FLEET))
