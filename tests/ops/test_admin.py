"""The admin service by its socket: who may open it, what it answers, and what it does not tell."""

import asyncio
import grp
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from grpc import aio

from agent.model import ConfigError
from agent.ops.admin import AdminServer, AdminService, finds_nothing
from agent.ops.log import LineWriter, Log
from agent.ops.policy_keeper import PolicyKeeper
from agent.ops.readings import Readings
from agent.ops.settings import AdminSettings
from agent.policy.compile import compile_policy
from agent.screening import Screening
from agent.service import RecordSink, Service
from sbcedge.admin.v1 import admin_pb2 as pb
from sbcedge.admin.v1 import admin_pb2_grpc
from sbcedge.policy.v1 import policy_pb2
from tests.fakes.calls import policy
from tests.fakes.lists import small_list

Stub = admin_pb2_grpc.AdminServiceStub


class NoRecords(RecordSink):
    def put(self, decision: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a")


@pytest.fixture
def readings() -> Iterator[Readings]:
    sink = os.open(os.devnull, os.O_WRONLY)
    yield Readings(Service(Screening(policy()), NoRecords()), Log(LineWriter(sink)), [], "1.2.3")
    os.close(sink)


def served(
    folder: Path,
    readings: Readings,
    use: Callable[[Stub], Awaitable[None]],
    find: Callable[[str], Awaitable[Sequence[str]]] = finds_nothing,
) -> None:
    """Run `use` with a stub of a server that listens."""

    async def main() -> None:
        keeper = PolicyKeeper(readings.service, folder / "policy.toml", readings.changes, readings.log)
        service = AdminService(readings, keeper, lambda: None, find)
        server = AdminServer(AdminSettings(folder / "admin.sock"), service)
        await server.start()
        try:
            async with aio.insecure_channel(f"unix:{folder}/admin.sock") as channel:
                await use(admin_pb2_grpc.AdminServiceStub(channel))
        finally:
            await server.stop(0.0)
        assert not (folder / "admin.sock").exists()

    asyncio.run(main())


def test_status_shows_lists_trunks_and_what_is_wrong(folder: Path, readings: Readings) -> None:
    listed = policy_pb2.Policy(
        generation=4,
        name="spring",
        trunks=[policy_pb2.Trunk(id="peer", sources=["192.0.2.0/24"])],
        do_not_originate=policy_pb2.DoNotOriginateRule(lists=["small.list"]),
        limits=[policy_pb2.Limit(name="contract", scope=policy_pb2.SCOPE_TRUNK, rate=30, window_seconds=2, sessions=9)],
    )
    readings.service.screening.swap(compile_policy(listed, {"small.list": small_list(1_800_000_000.0)}))
    readings.changes.last_error = "limits[0].rate: must be positive"

    async def use(stub: Stub) -> None:
        status = (await stub.GetStatus(pb.GetStatusRequest())).status
        assert (status.version, status.policy_generation, status.policy_name) == ("1.2.3", 4, "spring")
        assert status.policy_error == "limits[0].rate: must be positive"
        (shown,) = status.lists
        assert (shown.name, shown.version[:2], shown.numbers) == ("small.list", "5-", 2)
        assert shown.created_at.seconds == 1_800_000_000
        assert [t.trunk for t in status.trunks] == ["peer"]
        assert (status.trunks[0].rate_limit, status.trunks[0].session_limit) == (15.0, 9)
        assert [(r.rule, r.mode) for r in status.rules] == [
            ("emergency", "enforce"),
            ("do-not-originate", "enforce"),
            ("contract", "enforce"),
        ]

    served(folder, readings, use)


def test_a_watch_repeats_the_status_and_keeps_its_bounds(folder: Path, readings: Readings) -> None:
    async def use(stub: Stub) -> None:
        request = pb.WatchStatusRequest()
        request.interval.FromMilliseconds(100)
        looks = [look async for look in _first(stub.WatchStatus(request), 3)]
        assert [look.status.version for look in looks] == ["1.2.3"] * 3
        for milliseconds in (-1, 0, 99, 3_600_001):
            request.interval.FromMilliseconds(milliseconds)
            with pytest.raises(aio.AioRpcError) as caught:
                await anext(aiter(stub.WatchStatus(request)))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    served(folder, readings, use)


@pytest.mark.parametrize(
    ("call_id", "code"), [("", grpc.StatusCode.INVALID_ARGUMENT), ("a@b", grpc.StatusCode.FAILED_PRECONDITION)]
)
def test_explain_says_why_it_does_not_look(
    call_id: str, code: grpc.StatusCode, folder: Path, readings: Readings
) -> None:
    async def use(stub: Stub) -> None:
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.Explain(pb.ExplainRequest(call_id=call_id))
        assert caught.value.code() is code
        assert caught.value.details() in {
            "call_id: is missing",
            "this agent keeps no records: agent.toml has no section [records]",
        }

    served(folder, readings, use)


def test_a_policy_that_cannot_be_read_is_an_error_with_the_files_name(folder: Path, readings: Readings) -> None:
    async def use(stub: Stub) -> None:
        response = await stub.ApplyPolicy(pb.ApplyPolicyRequest())
        assert not response.applied
        assert [(e.field, e.reason) for e in response.errors] == [
            (f"{folder}/policy.toml", "cannot be read: No such file or directory")
        ]
        assert readings.changes.rejected == 1

    served(folder, readings, use)


def test_changes_come_into_force_in_the_order_in_which_they_were_asked_for(folder: Path, readings: Readings) -> None:
    async def use(stub: Stub) -> None:
        texts = [f"generation = {n}\n" for n in range(1, 21)]
        await asyncio.gather(*(stub.ApplyPolicy(pb.ApplyPolicyRequest(toml=text)) for text in texts[:-1]))
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(toml=texts[-1]))
        assert readings.service.policy.generation == 20
        assert (readings.changes.applied, readings.changes.rejected) == (20, 0)

    served(folder, readings, use)


def test_a_policy_as_large_as_a_file_may_be_is_taken(folder: Path, readings: Readings) -> None:
    async def use(stub: Stub) -> None:
        text = "generation = 2\n" + "#" * (15 << 20)
        assert (await stub.ApplyPolicy(pb.ApplyPolicyRequest(toml=text))).applied

    served(folder, readings, use)


def test_the_owner_alone_may_open_the_socket_unless_a_group_is_named(folder: Path, readings: Readings) -> None:
    async def main(group: str) -> int:
        keeper = PolicyKeeper(readings.service, folder / "policy.toml", readings.changes, readings.log)
        service = AdminService(readings, keeper, lambda: None)
        server = AdminServer(AdminSettings(folder / "admin.sock", group), service)
        await server.start()
        try:
            return (folder / "admin.sock").stat().st_mode & 0o7777
        finally:
            await server.stop(0.0)

    own = grp.getgrgid(os.getgid()).gr_name
    assert asyncio.run(main("")) == 0o600
    assert asyncio.run(main(own)) == 0o660
    with pytest.raises(ConfigError, match=r'admin\.group: there is no group "nobody at all"'):
        asyncio.run(main("nobody at all"))


async def _first(looks: AsyncIterable[pb.WatchStatusResponse], count: int) -> AsyncIterator[pb.WatchStatusResponse]:
    async for look in looks:
        yield look
        count -= 1
        if not count:
            return
