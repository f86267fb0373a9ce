"""Who may ask on the admin socket, how many at a time, and what else is there: health and reflection."""

import asyncio
import grp
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agent.model import ConfigError
from agent.ops.admin import ASKERS_MAX, SERVICE, AdminServer, AdminService
from agent.ops.log import LineWriter, Log
from agent.ops.policy_keeper import PolicyKeeper
from agent.ops.readings import Readings
from agent.ops.settings import AdminSettings
from agent.rpc.local import user_ids
from agent.screening import Screening
from agent.service import Service
from sbcedge.admin.v1 import admin_pb2 as pb
from sbcedge.admin.v1 import admin_pb2_grpc
from tests.fakes.calls import policy
from tests.fakes.waiting import until
from tests.ingress.hook.hooks import PATIENCE, Records
from tests.ingress.hook.test_peers import told
from tests.ingress.hook.test_socket_file import NOBODY, needs_root

METHOD = f"/{SERVICE}/GetStatus".encode()


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that others may pass through."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def group() -> grp.struct_group:
    return next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, NOBODY))


@asynccontextmanager
async def administered(folder: Path, **settings: Any) -> AsyncIterator[AdminServer]:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    readings = Readings(Service(Screening(policy()), Records()), Log(LineWriter(descriptor)), [], "1.2.3")
    keeper = PolicyKeeper(readings.service, folder / "policy.toml", readings.changes, readings.log)
    server = AdminServer(AdminSettings(folder / "admin.sock", **settings), AdminService(readings, keeper, lambda: None))
    try:
        await server.start()
        yield server
    finally:
        await server.stop(0.0)
        os.close(descriptor)


def a_channel(folder: Path) -> aio.Channel:
    return aio.insecure_channel(f"unix:{folder}/admin.sock", options=[("grpc.use_local_subchannel_pool", 1)])


async def asked_as(folder: Path, user: int, group: int, *more: int) -> tuple[int, bytes]:
    return await told(folder / "admin.sock", user, group, *more, method=METHOD, message=b"")


@needs_root
def test_members_of_the_group_may_ask_by_either_kind_of_membership(folder: Path, group: grp.struct_group) -> None:
    async def run() -> None:
        async with administered(folder, group=group.gr_name) as server:
            assert await asked_as(folder, NOBODY, group.gr_gid) == (0, b"")
            assert await asked_as(folder, NOBODY, NOBODY, group.gr_gid) == (0, b"")
            assert await asked_as(folder, 0, 0) == (0, b"")
            assert (server.counters()["admin_requests"], server.counters()["admin_strangers"]) == (3, 0)

    asyncio.run(run())


@needs_root
def test_who_gets_in_without_being_of_the_group_is_told_so_and_counted(folder: Path) -> None:
    async def run() -> None:
        async with administered(folder) as server:
            (folder / "admin.sock").chmod(0o666)  # behind our back
            assert await asked_as(folder, NOBODY, NOBODY) == (7, b"user %d must not ask here" % NOBODY)
            health = b"/grpc.health.v1.Health/Check"
            assert (await told(folder / "admin.sock", NOBODY, NOBODY, method=health, message=b""))[0] == 7
            assert (server.counters()["admin_requests"], server.counters()["admin_strangers"]) == (0, 2)

    asyncio.run(run())


@needs_root
def test_where_users_are_listed_the_group_alone_is_not_enough(folder: Path, group: grp.struct_group) -> None:
    async def run() -> None:
        async with administered(folder, group=group.gr_name, users=("daemon",)):
            (daemon,) = user_ids(["daemon"], "x")
            assert (await asked_as(folder, NOBODY, group.gr_gid))[0] == 7
            assert (await asked_as(folder, daemon, group.gr_gid))[0] == 0
            assert (await asked_as(folder, 0, 0))[0] == 0

    asyncio.run(run())


def test_a_user_that_there_is_not_is_named_and_no_socket_is_left(folder: Path) -> None:
    async def run() -> None:
        async with administered(folder, users=("root", "no-such-user")):
            pass

    with pytest.raises(ConfigError, match='there is no user "no-such-user"') as refused:
        asyncio.run(run())
    assert refused.value.field == "admin.users[1]"
    assert list(folder.iterdir()) == []


def test_the_socket_says_what_can_be_asked_and_that_it_is_served(folder: Path) -> None:
    async def run() -> None:
        async with administered(folder), a_channel(folder) as channel:
            plain: Any = channel
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(plain)
            questions = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
                reflection_pb2.ServerReflectionRequest(file_by_filename="no/such.proto"),
                reflection_pb2.ServerReflectionRequest(),
            ]
            listed, described, absent, nothing = [
                answer async for answer in reflection.ServerReflectionInfo(iter(questions), timeout=PATIENCE)
            ]
            assert SERVICE in [each.name for each in listed.list_services_response.service]
            files = described.file_descriptor_response.file_descriptor_proto
            assert any(b"sbcedge/admin/v1/admin.proto" in file for file in files)
            assert any(b"google/protobuf/timestamp.proto" in file[:50] for file in files), "and all that it builds on"
            assert absent.error_response.error_code == StatusCode.NOT_FOUND.value[0]
            assert nothing.error_response.error_code == StatusCode.INVALID_ARGUMENT.value[0]
            health: Any = health_pb2_grpc.HealthStub(channel)
            state = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE)
            assert state.status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(run())


def test_more_than_some_terminals_are_turned_away_until_one_is_closed(folder: Path) -> None:
    async def run() -> None:
        async with administered(folder) as server, a_channel(folder) as channel:
            stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
            watches = [stub.WatchStatus(pb.WatchStatusRequest()) for _ in range(ASKERS_MAX)]
            for watch in watches:
                assert (await watch.read()).status.version == "1.2.3"
            with pytest.raises(aio.AioRpcError) as refused:
                await stub.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE)
            assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert server.counters()["admin_turned_away"] == 1
            watches.pop().cancel()
            await until(lambda: server._askers < ASKERS_MAX, PATIENCE)
            assert (await stub.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE)).status.version == "1.2.3"

    asyncio.run(run())


def test_watchers_have_a_last_look_when_the_server_stops(folder: Path) -> None:
    async def run() -> None:
        async with administered(folder) as server, a_channel(folder) as channel:
            request = pb.WatchStatusRequest()
            request.interval.FromSeconds(3600)
            stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
            watch = stub.WatchStatus(request)
            await watch.read()
            await server.stop(PATIENCE)
            assert (await watch.read()).status.version == "1.2.3"
            assert await watch.read() is aio.EOF
            assert await watch.code() is grpc.StatusCode.OK

    asyncio.run(run())
