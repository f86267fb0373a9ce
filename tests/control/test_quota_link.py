"""The agent's stream for its shares, against a server that does what a controller may do."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from agent.control import quota, quota_link
from agent.control.errors import ControllerError, Trouble
from agent.control.quota_link import FILE, QuotaLink
from agent.ops.log import LineWriter, Log
from agent.policy.leases import FleetRate, LeaseBook, Partition, Safe
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.control.v1 import control_pb2_grpc as pb_grpc
from sbcedge.policy.v1 import policy_pb2
from tests.fakes.waiting import until

KEY = ("all", "*")
OF = FleetRate(1000.0, 300.0, Partition.SAFE)


class Leader(pb_grpc.QuotaServiceServicer):
    """Gives every key what `grant` says; keeps the questions."""

    def __init__(self) -> None:
        self.streams = 0
        self.questions: list[pb.StreamQuotaRequest] = []
        self.epoch = 1
        self.grants = True
        self.safe_rate = 5.0
        self.answers = asyncio.Event()
        self.answers.set()
        self.refuse: grpc.StatusCode | None = None

    async def StreamQuota(self, request_iterator: Any, context: Any) -> Any:
        self.streams += 1
        if self.refuse is not None:
            await context.abort(self.refuse, "no")
        async for request in request_iterator:
            self.questions.append(request)
            await self.answers.wait()
            response = pb.StreamQuotaResponse(sequence=request.sequence, limit_epoch=self.epoch)
            for demand in request.demands if self.grants else ():
                lease = response.leases.add(limit=demand.limit, key=demand.key, rate=100, burst=10)
                lease.life.FromSeconds(3)
                lease.safe_rate, lease.safe_burst = self.safe_rate, 1
                lease.partition = policy_pb2.PARTITION_SAFE
            yield response


class Channels:
    """To the leader, without TLS; it can have no certificate."""

    def __init__(self, port: int) -> None:
        self.edition = 1
        self.enrolled = True
        self._port = port

    def open(self, name: str) -> aio.Channel:
        if not self.enrolled:
            raise ControllerError(Trouble.STRANGER, "not enrolled")
        return aio.insecure_channel(f"127.0.0.1:{self._port}", options=[("grpc.use_local_subchannel_pool", 1)])


class World:
    """A link and what is around it. `asleep` are seconds that the host has slept."""

    def __init__(self, folder: Path, leader: Leader, channels: Channels, log: Log) -> None:
        self.folder, self.leader, self.channels = folder, leader, channels
        self.asleep = 0.0
        self.book = LeaseBook()
        self.link = QuotaLink(self.book, channels, folder, log, awake=lambda: time.monotonic() + self.asleep)

    def follow(self) -> None:
        self.book.follow({"all": OF}, [KEY])

    @property
    def leased(self) -> bool:
        return self.book.leased(time.monotonic()) == 1

    @property
    def words(self) -> str:
        return self.link.health()[1]


@asynccontextmanager
async def a_world(folder: Path) -> AsyncIterator[World]:
    leader, server = Leader(), aio.server()
    pb_grpc.add_QuotaServiceServicer_to_server(leader, server)
    channels = Channels(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    with (folder / "log").open("ab") as lines:
        log = Log(LineWriter(lines.fileno()))
        world = World(folder / "control", leader, channels, log)
        try:
            yield world
        finally:
            await world.link.stop(0.0)
            leader.answers.set()
            await server.stop(None)
        assert log.faults == 0, (folder / "log").read_text()


def run(folder: Path, work: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with a_world(folder) as world:
            await work(world)

    asyncio.run(main())


def test_nobody_is_asked_while_the_policy_has_no_limit_of_the_fleet(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.link.start()
        await asyncio.sleep(0.05)
        assert (world.leader.streams, world.link.health()) == (0, (True, "the policy has no limit of the fleet"))
        world.follow()
        await until(lambda: world.leased)
        world.book.follow({}, [])
        await until(lambda: len(world.leader.questions[-1].demands) == 0)  # it gives back what it has

    run(tmp_path, work)


def test_what_the_limits_fall_to_is_on_disk_before_the_controller_is_told(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.follow()
        await world.link.start()
        await until(lambda: len(world.leader.questions) >= 2)
        assert world.leader.questions[-1].applied_sequence == world.leader.questions[-2].sequence
        again = QuotaLink(book := LeaseBook(), world.channels, world.folder, Log(LineWriter(os.dup(2))))
        await again.start()
        book.follow({"all": OF}, [])
        assert book.hit(*KEY, 0.0) is not None
        assert book.safe() == {KEY: Safe(5.0, 1.0)}
        await again.stop(0.0)

    run(tmp_path, work)


def test_a_disk_that_takes_nothing_is_told_and_the_controller_goes_on_counting_with_what_was_there(
    tmp_path: Path,
) -> None:
    async def work(world: World) -> None:
        world.folder.write_text("this is no directory")
        world.follow()
        await world.link.start()
        await until(lambda: len(world.leader.questions) >= 3)
        assert world.leased  # calls have their share all the same
        assert world.leader.questions[-1].applied_sequence == 0
        healthy, words = world.link.health()
        assert not healthy
        assert FILE in words

    run(tmp_path, work)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"safe": [["all", "*", -1, 2, "safe"]]}', b"[" * 99999])
def test_a_damaged_file_is_nothing(tmp_path: Path, content: bytes) -> None:
    async def work(world: World) -> None:
        world.folder.mkdir()
        (world.folder / FILE).write_bytes(content)
        world.follow()
        await world.link.start()
        await until(lambda: world.leased)

    run(tmp_path, work)


def test_a_host_that_slept_has_no_lease_until_it_is_answered(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.follow()
        await world.link.start()
        await until(lambda: world.leased)
        world.leader.answers.clear()
        world.asleep += 60.0
        await until(lambda: not world.leased, 20.0)
        assert world.link.counters()["quota_sleeps"] == 1
        world.leader.answers.set()
        await until(lambda: world.leased)

    run(tmp_path, work)


def test_a_controller_that_hangs_is_left_and_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_link, "REPLY_SECONDS", 0.1)
    monkeypatch.setattr(quota_link, "AWAY_MAX", 0.1)

    async def work(world: World) -> None:
        world.follow()
        await world.link.start()
        await until(lambda: world.leased)
        world.leader.answers.clear()
        await until(lambda: world.leader.streams >= 2)
        assert world.link.counters()["quota_failures"] >= 1
        await until(lambda: not world.leased)
        assert world.words.startswith("nothing leased of 1 keys: no answer within")
        world.leader.answers.set()
        await until(lambda: world.leased, 15.0)

    run(tmp_path, work)


def test_a_leader_that_is_new_and_hands_out_nothing_yet_is_no_fault_unless_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(world: World) -> None:
        world.leader.grants = False
        world.follow()
        await world.link.start()
        await until(lambda: len(world.leader.questions) >= 2)
        assert world.link.health() == (True, "nothing leased of 1 keys: nothing is handed out yet")
        monkeypatch.setattr(quota_link, "FIRST_SECONDS", 0.0)
        assert world.link.health() == (False, "nothing leased of 1 keys: nothing is handed out yet")

    run(tmp_path, work)


def test_an_agent_without_a_certificate_asks_as_soon_as_it_has_one(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.channels.enrolled = False
        world.follow()
        await world.link.start()
        await until(lambda: "not enrolled" in world.words)
        world.channels.enrolled = True
        world.channels.edition += 1
        await until(lambda: world.leased)
        streams = world.leader.streams
        world.channels.edition += 1  # renewed: the stream moves
        await until(lambda: world.leader.streams > streams)

    run(tmp_path, work)


def test_an_agent_that_is_banned_does_not_ask_again(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.leader.refuse = grpc.StatusCode.PERMISSION_DENIED
        world.follow()
        await world.link.start()
        await until(lambda: "PERMISSION_DENIED" in world.words)
        await asyncio.sleep(0.3)
        assert world.leader.streams == 1

    run(tmp_path, work)


def test_a_surge_is_told_before_it_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "REFRESH", 3600.0)

    async def work(world: World) -> None:
        world.follow()
        await world.link.start()
        await until(lambda: world.leased, 20.0)
        asked = len(world.leader.questions)
        for _ in range(100):
            world.book.hit(*KEY, time.monotonic())
        await until(lambda: len(world.leader.questions) > asked, 20.0)
        assert world.leader.questions[-1].demands[0].demand > 50

    run(tmp_path, work)
