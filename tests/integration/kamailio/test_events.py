"""The real Kamailio tells the real agent how calls went on: a trunk with one session gets it back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kamailio.world import HERE, SINGLE, Agent, World, kamailio, need_peers
from tests.integration.peers import Sipp, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(params=["callee", "busy"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    need_peers()
    agent = Agent(tmp_path / "agent")
    callee = Sipp(tmp_path / "callee", HERE / f"{request.param}.xml", seconds=60.0)
    proxy = kamailio("hook", tmp_path / "kamailio", callee.port, agent.hook, 0)
    with agent, callee, proxy:
        yield World("hook", tmp_path, agent, callee, proxy)


@pytest.mark.parametrize("world", ["callee"], indirect=True)
def test_a_session_lasts_from_the_invite_to_the_bye(world: World) -> None:
    world.call(host=SINGLE)
    with world.caller("call", host=SINGLE, hold="800") as held:
        wait_for(
            lambda: any(m.startswith(b"SIP/2.0 200 ") for m in held.messages("received")), "the call to be answered"
        )
        world.refused(480, host=SINGLE)
        held.finish()
    for _ in range(3):
        world.call(host=SINGLE)


@pytest.mark.parametrize("world", ["busy"], indirect=True)
def test_a_call_that_the_callee_refuses_takes_no_session(world: World) -> None:
    for _ in range(3):
        assert world.refused(486, host=SINGLE).startswith(b"SIP/2.0 486 Busy Here\r\n")
