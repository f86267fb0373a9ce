"""The whole daemon in front of the real Kamailio: the queue enforces, the capture sees both legs, the guard blocks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.tables import GUARD, QUEUE
from tests.conftest import ROOT
from tests.integration.kamailio.world import NEVER_CALLS
from tests.integration.peers import Peer, wait_for
from tests.integration.queue.world import LIMITED, POLICY, SBC, SBC_BEHIND, World, build_dno, world

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SECTIONS = """\
[policy]
file = "policy.toml"
{sections}
[records]
directory = "{folder}/spool"
[admin]
socket = "{folder}/admin.sock"
[metrics]
listen = ""
[shutdown]
grace = 2
"""
BOTH = f'local_addresses = ["{SBC}", "{SBC_BEHIND}"]\n' + POLICY
BLOCKING = POLICY.replace("burst = 1\n", "burst = 1\nblock_source_seconds = 30\n")


class Daemon(Peer):
    """`sbc-agent run` on the SBC's host."""

    def __init__(self, net: World, folder: Path, sections: str, policy: str) -> None:
        command = net.host.command(sys.executable, "-m", "agent.cli.main", "run", "--config", "agent.toml")
        super().__init__("agent", command, folder)
        (folder / "policy.toml").write_text(policy)
        (folder / "agent.toml").write_text(SECTIONS.format(folder=folder, sections=sections))

    def ready(self) -> bool:
        return '"ready"' in self.log

    def status(self) -> Any:
        ask = [sys.executable, "-m", "agent.cli.main", "status", "--json", "--socket", f"{self.folder}/admin.sock"]
        return json.loads(subprocess.run(ask, cwd=ROOT, capture_output=True, check=False, text=True).stdout)

    def count(self, name: str) -> int:
        return int(self.status()["counters"][name])

    def records(self) -> list[dict[str, Any]]:
        ask = [sys.executable, "-m", "agent.cli.main", "records", "export", "--dir", f"{self.folder}/spool"]
        out = subprocess.run(ask, cwd=ROOT, capture_output=True, check=False, text=True).stdout
        return [record for line in out.splitlines() if (record := json.loads(line)).get("kind") != "rollup"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@contextmanager
def daemon(net: World, folder: Path, sections: str, policy: str = POLICY) -> Iterator[Daemon]:
    build_dno(folder)
    with Daemon(net, folder, sections, policy) as process:
        yield process


def test_the_queue_refuses_what_policy_refuses_and_the_tables_go_with_the_daemon(net: World, tmp_path: Path) -> None:
    with daemon(net, tmp_path, "[queue]\n[kernel]\n") as agent:
        net.call(calls=5)
        phone = net.refused(603, calling=NEVER_CALLS)
        wait_for(lambda: agent.count("queue_acks") == 1, "the ACK to be absorbed")
        assert not phone.call_ids & set(net.sbc.seen("INVITE"))
        assert {QUEUE, GUARD} <= net.tables()
        assert all(part["healthy"] for part in agent.status()["components"]), agent.status()["components"]
    assert not {QUEUE, GUARD} & net.tables()
    assert [record["observed"] for record in agent.records()] == [False] * 6


def test_a_capture_records_what_it_saw_and_enforces_nothing(net: World, tmp_path: Path) -> None:
    with daemon(net, tmp_path, '[capture]\ninterfaces = ["front0", "back0"]\n', BOTH) as agent:
        net.call(calls=3)
        net.call(calling=NEVER_CALLS)
        wait_for(lambda: agent.count("transit_legs") == 4, "both legs of all calls")
        assert agent.count("transit_intact") == 4
    records = agent.records()
    assert [record["observed"] for record in records] == [True] * 4
    assert sorted(record["action"] for record in records) == ["allow", "allow", "allow", "refuse"]


def test_the_source_of_a_refused_call_is_blocked_in_the_kernel_where_its_limit_says_so(
    net: World, tmp_path: Path
) -> None:
    with daemon(net, tmp_path, "[queue]\n[kernel]\n", BLOCKING) as agent:
        net.call(LIMITED)
        net.refused(503, LIMITED)
        wait_for(lambda: agent.count("kernel_blocks") == 1, "the block")
        net.call()  # others are not
