"""Call records all the way, by real processes only: `sbc-agent run`, `sbc-controller run`, `sbcctl records query`."""

import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from agent.records.reading import records
from tests.conftest import ROOT
from tests.control.fake_controller import wait
from tests.fakes.agent_process import CONFIG, POLICY, AgentProcess, start_agent
from tests.fakes.calls import invite
from tests.fakes.controller_process import ControllerProcess

FAST = "[ingest]\ncommit_seconds = 0.05\nretry_seconds = 1.0\n[archive]\nmin_free_ratio = 0.0\n"
LEAST = 100
"""Records that reach the controller between two things that happen to it."""

MOST = 100_000
"""Of one question; far more than there are."""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("r")


def run(folder: Path, module: str, *arguments: object) -> str:
    """A command that ends well; its output."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder / "config")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def log_in(folder: Path, controller: ControllerProcess) -> None:
    token, authority = controller.folder / "admin.token", controller.folder / "authority" / "ca.crt"
    place = ("login", controller.open_address)
    run(folder, "controller.ctl.main", *place, "--token-file", token, "--authority", authority)


def enrol(folder: Path, controller: ControllerProcess) -> None:
    (folder / "token").write_text(run(folder, "controller.ctl.main", "tokens", "create", "--quiet"))
    known = sha256(ssl.PEM_cert_to_DER_cert(controller.roots.decode())).hexdigest()
    place = ("--controller", controller.open_address, "--dir", folder / "control")
    run(folder, "agent.cli.main", "enroll", *place, "--token-file", folder / "token", "--authority-sha256", known)


@contextmanager
def traffic(agent: AgentProcess) -> Iterator[None]:
    """Calls one after the other, until the block ends."""
    ended = threading.Event()

    def call() -> None:
        with agent.hook() as ask:
            for n in itertools.takewhile(lambda _: not ended.is_set(), itertools.count()):
                ask(invite(call_id=f"call-{n}@a.example.net"))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def uploaded(agent: AgentProcess) -> tuple[int, int]:
    """Up to which record, and how many are to come."""
    match = re.search(r"uploaded up to (\d+), (\d+) to come", agent.component("upload").detail)
    assert match is not None
    return int(match[1]), int(match[2])


def goes_on(agent: AgentProcess) -> None:
    """Until the controller has acknowledged some more."""
    before, _ = uploaded(agent)
    wait(lambda: uploaded(agent)[0] >= before + LEAST, "more records at the controller")


def by_sequence(found: list[dict[str, Any]], leave_out: Callable[[str], bool]) -> dict[int, dict[str, Any]]:
    made = {one["sequence"]: {name: value for name, value in one.items() if not leave_out(name)} for one in found}
    assert len(made) == len(found), "a sequence number is there twice"
    return made


@pytest.mark.slow
def test_records_that_an_operator_finds_are_those_of_the_spool_though_the_controller_was_killed_twice(
    folder: Path,
) -> None:
    (folder / "c").mkdir()
    with ControllerProcess(folder / "c", more=FAST) as controller:
        log_in(folder, controller)
        enrol(folder, controller)
        config = CONFIG + f'[controller]\naddress = "{controller.address}"\ndirectory = "{{folder}}/control"\n'
        policy = POLICY.replace("rate = 2\n", "rate = 300\n").replace("burst = 2\n", "burst = 300\n")
        with start_agent(folder, config=config, policy=policy) as agent:
            agent.logged("ready")
            with traffic(agent):
                for _ in range(2):
                    goes_on(agent)
                    controller.kill()
                    wait(lambda: uploaded(agent)[1] >= LEAST, "records that wait for the controller")
                    controller.start()
                goes_on(agent)
            wait(lambda: uploaded(agent)[1] == 0, "all records at the controller")
            held = by_sequence(list(records(folder / "spool")), lambda _: False)
        output = run(folder, "controller.ctl.main", "records", "query", "--json", "--limit", MOST)
    found = by_sequence([json.loads(line) for line in output.splitlines()], lambda name: name == "agent")
    assert found.keys() == held.keys()
    assert found == held
    assert len(held) > 3 * LEAST
    assert {one["action"] for one in held.values()} == {"allow", "refuse"}
    assert len({one["call_id"] for one in held.values()}) == len(held)
