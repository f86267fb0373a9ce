"""Another version of the agent on its way to a fleet, over real connections: hosts that take it, refuse it, go back."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from grpc.aio import AioRpcError

from controller.store import StoreSettings
from sbcedge.fleet.v1 import fleet_pb2 as fleet
from tests.controller.agents import PATIENCE, a_controller
from tests.controller.hosts import NEW, OLD, Hosts
from tests.fakes.waiting import until


def with_hosts(folder: Path, store: StoreSettings | None, work: Any, *more: dict[str, Any], size: int = 3) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts = Hosts(await stack.enter_async_context(a_controller(folder, store)))
            await stack.enter_async_context(hosts.live(*more, size=size))
            await work(hosts)

    asyncio.run(main())


def test_a_version_gets_to_every_host_canary_first(tmp_path: Path, store_settings: StoreSettings) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start()
        ended = await hosts.ends()
        assert (ended.rollout.state, dict(ended.rollout.phases)) == ("done", {"confirmed": 4})
        assert hosts.versions() == [NEW] * 4
        assert [host.asked for host in hosts.all] == [[NEW]] * 4  # once
        assert not ended.passed_by
        assert ended.version == NEW
        assert ended.author.startswith("admin-")

    with_hosts(tmp_path, store_settings, work, size=4)


def test_a_host_that_goes_back_stops_it_and_the_others_go_back_too(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start(steps=(0.5, 1.0))
        ended = await hosts.ends()
        assert ended.rollout.state == "rolled-back"
        assert "no room" in ended.rollout.why
        back = await hosts.ends(2)
        assert (back.rollout.state, back.takes_back) == ("done", 1)
        assert hosts.versions() == [OLD] * 4

    third = {"does": {NEW: ["CONFIRMED", "CONFIRMED", "ROLLED_BACK"]}}
    with_hosts(tmp_path, None, work, third, third, third, third, size=4)


def test_hosts_that_are_not_well_under_it_are_taken_back(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start()
        ended = await hosts.ends()
        assert ended.rollout.state == "rolled-back"
        assert "hook: port taken" in ended.rollout.why
        await hosts.ends(2)
        assert hosts.versions() == [OLD] * 3
        assert sum(len(host.asked) for host in hosts.all) == 2  # the canary, there and back

    ill = {"trouble": {NEW: "port taken"}}
    with_hosts(tmp_path, None, work, ill, ill, ill)


def test_a_host_that_only_refuses_halts_it_and_nobody_goes_back(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start(steps=(1.0,))
        ended = await hosts.ends()
        assert ended.rollout.state == "halted"
        assert [(p.problem) for p in ended.rollout.problems] == ["no room"]
        await until(lambda: hosts.versions().count(NEW) == 2, PATIENCE)
        assert (await hosts.shown()).rollout.generation == 1

    last = {"does": {NEW: ["CONFIRMED", "CONFIRMED", "REJECTED"]}}
    with_hosts(tmp_path, None, work, last, last, last)


def test_agents_that_take_no_upgrades_are_named_and_not_waited_for(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start()
        ended = await hosts.ends()
        assert ended.rollout.state == "done"
        assert [(p.agent_id, OLD in p.problem) for p in ended.passed_by] == [(hosts.all[0].agent.id, True)]
        assert hosts.versions() == [OLD, NEW, NEW]
        assert not hosts.all[0].asked

    with_hosts(tmp_path, None, work, {"able": False})


def test_without_anybody_who_takes_it_an_upgrade_does_not_begin(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        with pytest.raises(AioRpcError, match="no agent takes upgrades"):
            await hosts.start()

    with_hosts(tmp_path, None, work, {"able": False}, size=1)


@pytest.mark.parametrize("version", ["", "-x", "1 2", "../x", "1:2", "9" * 100])
def test_what_is_no_version_is_refused(tmp_path: Path, version: str) -> None:
    async def work(hosts: Hosts) -> None:
        with pytest.raises(AioRpcError, match="is none of a package"):
            await hosts.start(version)

    with_hosts(tmp_path, None, work, size=1)


def test_an_operator_takes_it_back(tmp_path: Path) -> None:
    async def work(hosts: Hosts) -> None:
        await hosts.start()
        with pytest.raises(AioRpcError, match="is running"):
            await hosts.start("0.3.0")
        halt = fleet.HaltUpgradeRequest(reason="the night shift asks for it", roll_back=True)
        await until(lambda: NEW in hosts.versions(), PATIENCE)
        halted = (await hosts.operator.upgrade.HaltUpgrade(halt)).upgrade
        assert (halted.rollout.state, halted.rollout.why) == ("rolled-back", "the night shift asks for it")
        await until(lambda: hosts.versions() == [OLD] * 2, PATIENCE)
        entries = await hosts.controller.parts.store.audit.entries()
        assert {"upgrade.start", "upgrade.halt"} <= {entry.action for entry in entries}

    slow = {"does": {NEW: ["CONFIRMED", "APPLIED"]}}
    with_hosts(tmp_path, None, work, slow, slow, size=2)
