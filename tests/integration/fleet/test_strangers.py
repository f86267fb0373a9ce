"""Who is locked out, by the real controller and by real agents: on both databases, where the store decides."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from controller.store import StoreSettings
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from sbcedge.fleet.v1 import fleet_pb2_grpc as fleet_grpc
from sbcedge.report.v1 import report_pb2, report_pb2_grpc
from tests.controller.agents import PATIENCE, PlayedAgent, a_policy, key_and_request
from tests.controller.conftest import postgres, postgres_settings, sqlite_settings, store_settings  # noqa: F401
from tests.fakes.certificates import Authority
from tests.integration.fleet.world import a_fleet, played


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("s")


async def code_of(call: Any) -> StatusCode:
    """What a call came to that must not succeed."""
    with pytest.raises(aio.AioRpcError) as raised:
        await call
    return raised.value.code()


def renewal(channel: aio.Channel) -> Any:
    """What every agent may ask."""
    request = pb.RenewCertificateRequest(
        certificate_request=key_and_request()[1], instance_uid="00000000-0000-4000-8000-000000000001"
    )
    return pb_grpc.IdentityServiceStub(channel).RenewCertificate(request, timeout=PATIENCE)


def test_strangers_get_no_further_than_the_handshake(folder: Path) -> None:
    async def main() -> None:
        async with a_fleet(folder) as (controller, (agent,)):
            foreign = Authority().sign(uris=(f"spiffe://sbc-edge/agent/{agent.id}",))
            for key, chain in ((None, None), (foreign.key, foreign.certificate)):
                channel = controller.channel(port="agents", key=key, chain=chain)
                assert await code_of(renewal(channel)) is StatusCode.UNAVAILABLE
            own = played(agent)
            said = await code_of(renewal(own.channel()))
            assert said is StatusCode.PERMISSION_DENIED, "who belongs here is heard, and told what is wrong with it"
            nobody = controller.operator("x").fleet.ListAgents(fleet.ListAgentsRequest())
            assert await code_of(nobody) is StatusCode.UNAUTHENTICATED

    asyncio.run(main())


@pytest.mark.slow
def test_a_revoked_agent_loses_all_its_streams_at_once_and_screens_on(
    folder: Path,
    store_settings: StoreSettings,  # noqa: F811
) -> None:
    async def main() -> None:
        async with a_fleet(folder, 2, store=store_settings) as (controller, (agent, bystander)):
            await bystander.start()
            await bystander.is_managed()
            own = played(agent)
            async with own.session() as session:
                channel = own.channel()
                upload = report_pb2_grpc.ReportServiceStub(channel).UploadRecords()
                await upload.write(report_pb2.UploadRecordsRequest(hello=report_pb2.UploadHello(spool_epoch=7)))
                await upload.read()
                quota = pb_grpc.QuotaServiceStub(channel).StreamQuota()
                await quota.write(pb.StreamQuotaRequest(sequence=1))
                await quota.read()
                await controller.operator().fleet.RevokeAgent(fleet.RevokeAgentRequest(id=agent.id, reason="stolen"))
                assert await session.ends() is StatusCode.PERMISSION_DENIED
                for stream in (upload, quota):
                    assert await stream.code() is StatusCode.PERMISSION_DENIED
            await agent.start()
            await agent.says("controller", "PERMISSION_DENIED", healthy=False)
            assert await agent.calls(2) == ["allow"] * 2
            await bystander.is_managed()

    asyncio.run(main())


def test_an_agent_gets_nothing_of_another_and_a_token_is_good_once(
    folder: Path,
    store_settings: StoreSettings,  # noqa: F811
) -> None:
    async def main() -> None:
        async with a_fleet(folder, 2, store=store_settings) as (controller, agents):
            thief, victim = map(played, agents)
            channel = thief.channel()
            artifact = pb_grpc.ArtifactServiceStub(channel).FetchArtifact(
                pb.FetchArtifactRequest(sha256=bytes(32)), timeout=PATIENCE
            )
            assert await code_of(artifact.read()) is StatusCode.NOT_FOUND
            async with thief.session(welcome=False, instance_uid=victim.instance_uid) as session:
                assert await session.ends() is StatusCode.PERMISSION_DENIED
            records = fleet_grpc.RecordServiceStub(channel).QueryRecords(
                fleet.QueryRecordsRequest(agent_id=victim.id), timeout=PATIENCE
            )
            assert await code_of(records.read()) is StatusCode.PERMISSION_DENIED
            listing = fleet_grpc.FleetServiceStub(channel).ListAgents(fleet.ListAgentsRequest(), timeout=PATIENCE)
            assert await code_of(listing) is StatusCode.PERMISSION_DENIED
            token = (agents[0].folder / "token").read_text()
            assert await code_of(PlayedAgent.enrolled(controller, token)) is StatusCode.UNAUTHENTICATED
            entries = await controller.operator().fleet.ListAgents(fleet.ListAgentsRequest())
            assert {one.id for one in entries.agents} == {thief.id, victim.id}

    asyncio.run(main())


def test_a_viewer_changes_nothing(folder: Path, store_settings: StoreSettings) -> None:  # noqa: F811
    async def main() -> None:
        async with a_fleet(folder, store=store_settings) as (controller, (agent,)):
            admin = controller.operator()
            request = fleet.CreateOperatorRequest(name="eve", role=fleet.ROLE_VIEWER)
            viewer = controller.operator((await admin.access.CreateOperator(request)).login_token)
            assert len((await viewer.fleet.ListAgents(fleet.ListAgentsRequest())).agents) == 1
            for writing in (
                viewer.policy.ApplyPolicy(fleet.ApplyPolicyRequest(toml=a_policy())),
                viewer.fleet.RevokeAgent(fleet.RevokeAgentRequest(id=agent.id, reason="x")),
                viewer.access.CreateEnrollmentToken(fleet.CreateEnrollmentTokenRequest()),
                viewer.rollout.StartRollout(fleet.StartRolloutRequest(generation=1)),
            ):
                assert await code_of(writing) is StatusCode.PERMISSION_DENIED
            policies = await admin.policy.ListPolicies(fleet.ListPoliciesRequest())
            assert list(policies.policies) == []

    asyncio.run(main())
