"""Who is locked out, and how soon: over real mTLS, on both databases where the store decides."""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.model import Role
from controller.services.permissions import PERMISSIONS, Open
from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from sbcedge.fleet.v1 import fleet_pb2_grpc as fleet_grpc
from sbcedge.report.v1 import report_pb2
from tests.controller.agents import (
    PATIENCE,
    Controller,
    PlayedAgent,
    a_controller,
    a_policy,
    key_and_request,
    pem_of,
)
from tests.fakes.certificates import Authority

HOUR = 3600.0


async def fails(call: Any) -> aio.AioRpcError:
    """What a call came to that must not succeed."""
    with pytest.raises(aio.AioRpcError) as raised:
        await call
    return raised.value


def renewal(channel: aio.Channel) -> Any:
    """A call that every agent may make."""
    request = pb.RenewCertificateRequest(certificate_request=key_and_request()[1], instance_uid=str(uuid.uuid4()))
    return pb_grpc.IdentityServiceStub(channel).RenewCertificate(request, timeout=PATIENCE)


def test_without_a_certificate_nobody_gets_past_the_handshake(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            error = await fails(renewal(controller.channel(port="agents")))
            assert error.code() is StatusCode.UNAVAILABLE
            assert controller.parts.gate.tally.calls == 0

    asyncio.run(main())


def test_a_certificate_of_another_authority_does_not_get_past_the_handshake(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            agent = await controller.enrol()
            forged = Authority().sign(uris=(f"spiffe://sbc-edge/agent/{agent.id}",))
            channel = controller.channel(port="agents", key=forged.key, chain=forged.certificate)
            calls = controller.parts.gate.tally.calls
            assert (await fails(renewal(channel))).code() is StatusCode.UNAVAILABLE
            assert controller.parts.gate.tally.calls == calls

    asyncio.run(main())


def test_a_certificate_that_has_ended_is_no_certificate(tmp_path: Path) -> None:
    async def main() -> None:
        # Given out two days ago, good for one.
        async with a_controller(tmp_path, clock=lambda: time.time() - 48 * HOUR) as controller:
            agent = await controller.enrol()
        async with a_controller(tmp_path) as controller:
            agent.controller = controller
            assert (await fails(renewal(agent.channel()))).code() is StatusCode.UNAVAILABLE
            assert controller.parts.gate.tally.calls == 0

    asyncio.run(main())


def test_streams_end_when_their_certificate_does(tmp_path: Path) -> None:
    async def main() -> None:
        ahead = 0.0
        async with a_controller(tmp_path, clock=lambda: time.time() + ahead) as controller:
            agent = await controller.enrol()
            async with agent.session() as session:
                ahead = 25 * HOUR
                assert await session.ends() is StatusCode.UNAUTHENTICATED

    asyncio.run(main())


def test_a_revoked_agent_is_cut_at_once_and_stays_out(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller:
            agent, other = await controller.enrol(), await controller.enrol()
            async with agent.session() as session, other.session() as bystander:
                operator = await controller.make_operator(Role.OPERATOR)
                await operator.fleet.RevokeAgent(fleet.RevokeAgentRequest(id=agent.id, reason="stolen"))
                assert await session.ends() is StatusCode.PERMISSION_DENIED
                assert (await fails(renewal(agent.channel()))).code() is StatusCode.PERMISSION_DENIED
                async with agent.session(welcome=False) as again:
                    assert await again.ends() is StatusCode.PERMISSION_DENIED
                assert not bystander.call.done()
                await operator.sees(lambda seen: not any(a.connected for a in seen if a.id == agent.id))
                assert (await operator.fleet.GetAgent(fleet.GetAgentRequest(id=agent.id))).agent.revoked

    asyncio.run(main())


def test_an_agent_has_what_it_was_offered_and_nothing_of_others(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller:
            agent = await controller.enrol()
            stub = pb_grpc.ArtifactServiceStub(agent.channel())
            call = stub.FetchArtifact(pb.FetchArtifactRequest(sha256=bytes(32)), timeout=PATIENCE)
            error = await fails(call.read())
            assert error.code() is StatusCode.NOT_FOUND
            # The name in the certificate is all that counts: another installation's uid opens no door.
            victim = await controller.enrol()
            async with agent.session(welcome=False, instance_uid=victim.instance_uid) as session:
                assert await session.ends() is StatusCode.PERMISSION_DENIED
            listing = fleet_grpc.FleetServiceStub(agent.channel()).ListAgents(fleet.ListAgentsRequest())
            assert (await fails(listing)).code() is StatusCode.PERMISSION_DENIED

    asyncio.run(main())


def test_an_enrolment_token_is_good_once_and_a_lost_answer_costs_no_new_one(
    tmp_path: Path, store_settings: StoreSettings
) -> None:
    async def main() -> None:
        async with a_controller(tmp_path, store_settings) as controller:
            token, uid = await controller.token(), str(uuid.uuid4())
            _, request = key_and_request()
            enrol = pb_grpc.EnrollmentServiceStub(controller.channel()).Enroll
            first = pb.EnrollRequest(
                token=token, certificate_request=request, instance_uid=uid, idempotency_key="k", hostname="h"
            )
            answer = await enrol(first)
            assert await enrol(first) == answer
            stolen = pb.EnrollRequest(
                token=token,
                certificate_request=key_and_request()[1],
                instance_uid=str(uuid.uuid4()),
                idempotency_key="k",
            )
            assert (await fails(enrol(stolen))).code() is StatusCode.UNAUTHENTICATED
            assert (await fails(enrol(pb.EnrollRequest(token="x")))).code() is StatusCode.UNAUTHENTICATED

    asyncio.run(main())


def test_a_token_that_has_ended_or_was_revoked_enrols_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        ahead = 0.0
        async with a_controller(tmp_path, clock=lambda: time.time() + ahead) as controller:
            admin = controller.operator()
            made = await admin.access.CreateEnrollmentToken(fleet.CreateEnrollmentTokenRequest(note="for sbc1"))
            await admin.access.RevokeEnrollmentToken(fleet.RevokeEnrollmentTokenRequest(id=made.id))
            assert (await fails(PlayedAgent.enrolled(controller, made.token))).code() is StatusCode.UNAUTHENTICATED
            late = await controller.token()
            ahead = HOUR + 1
            assert (await fails(PlayedAgent.enrolled(controller, late))).code() is StatusCode.UNAUTHENTICATED

    asyncio.run(main())


REQUESTS = {
    "/sbcedge.fleet.v1.RolloutService/StartRollout": fleet.StartRolloutRequest(generation=1),
    "/sbcedge.fleet.v1.PolicyService/ApplyPolicy": fleet.ApplyPolicyRequest(toml=a_policy()),
}


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.OPERATOR, Role.ADMIN])
def test_every_method_demands_what_its_line_says(tmp_path: Path, role: Role | None) -> None:
    """Of whoever may not, every method of every contract is refused before it does anything."""

    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            operator = await controller.make_operator(role) if role else None
            metadata = operator.fleet._metadata if operator else ()
            channel = controller.channel()
            entries = await controller.parts.store.audit.entries()
            for method, permission in PERMISSIONS.items():
                if permission is Open.ANYONE or (isinstance(permission, Role) and role and permission <= role):
                    continue
                request = REQUESTS[method].SerializeToString() if method in REQUESTS else b""
                ask: Any = channel.unary_stream(method)
                call = ask(request, metadata=metadata, timeout=PATIENCE)
                code = StatusCode.PERMISSION_DENIED if role else StatusCode.UNAUTHENTICATED
                if method.split("/")[1] not in served(controller):  # the open port has nothing for agents
                    code = StatusCode.UNIMPLEMENTED
                assert await call.code() is code, method
            assert await controller.parts.store.audit.entries() == entries

    asyncio.run(main())


def served(controller: Controller) -> set[str]:
    """Services of the open port."""
    names = {type(s.servicer).__mro__[1].__name__ for s in controller.server._services if not s.to_agents}
    return {m.split("/")[1] for m in PERMISSIONS if f"{m.split('/')[1].rpartition('.')[2]}Servicer" in names}


def test_every_method_of_the_contracts_has_its_line() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in (pb.DESCRIPTOR, fleet.DESCRIPTOR, report_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert methods == {m for m in PERMISSIONS if not m.startswith("/grpc.")}


def test_a_revoked_operator_and_a_made_up_token_ask_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            admin, jane = controller.operator(), await controller.make_operator(Role.ADMIN, "jane")
            old = jane.fleet._metadata[0][1].split()[1]
            watch = jane.fleet.WatchAgents(fleet.WatchAgentsRequest())
            await watch.read()
            await admin.access.RevokeOperator(fleet.RevokeOperatorRequest(name="jane"))
            assert await watch.code() is StatusCode.PERMISSION_DENIED
            for token in (old, "sbcl_a_b", " ", "x" * 5000):
                error = await fails(controller.operator(token).fleet.ListAgents(fleet.ListAgentsRequest()))
                assert error.code() is StatusCode.UNAUTHENTICATED

    asyncio.run(main())


def test_an_operator_asks_with_a_certificate_in_place_of_the_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            viewer = await controller.make_operator(Role.VIEWER, "jane")
            key, request = key_and_request()
            issued = await viewer.access.IssueOperatorCertificate(
                fleet.IssueOperatorCertificateRequest(certificate_request=request)
            )
            channel = controller.channel(port="agents", key=key, chain=pem_of(issued.certificate_chain))
            stub = fleet_grpc.FleetServiceStub(channel)
            await stub.ListAgents(fleet.ListAgentsRequest(), timeout=PATIENCE)
            revoke = stub.RevokeAgent(fleet.RevokeAgentRequest(id="agent-1"), timeout=PATIENCE)
            assert (await fails(revoke)).code() is StatusCode.PERMISSION_DENIED
            assert (await fails(renewal(channel))).code() is StatusCode.PERMISSION_DENIED
            await controller.operator().access.RevokeOperator(fleet.RevokeOperatorRequest(name="jane"))
            async with asyncio.timeout(1.0):
                code = StatusCode.OK
                while code is StatusCode.OK:
                    listing = stub.ListAgents(fleet.ListAgentsRequest(), timeout=PATIENCE)
                    code = await listing.code()
            assert code is StatusCode.PERMISSION_DENIED

    asyncio.run(main())


def test_whoever_checks_health_needs_no_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            stub: Any = health_pb2_grpc.HealthStub(controller.channel())
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(main())


def test_a_client_without_tls_gets_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_controller(tmp_path) as controller:
            for address in (controller.server.address, controller.server.open_address):
                async with grpc.aio.insecure_channel(address) as channel:
                    stub: Any = health_pb2_grpc.HealthStub(channel)
                    error = await fails(stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE))
                    assert error.code() is StatusCode.UNAVAILABLE

    asyncio.run(main())
