"""An agent that a controller manages, as real processes: enrolment by command, the daemon, its folder."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.policy.document import from_toml
from sbcedge.policy.v1 import policy_pb2
from tests.conftest import ROOT
from tests.control.fake_controller import TOKEN, FakeController
from tests.fakes.agent_process import CONFIG, AgentProcess, start_agent

FILE_POLICY = 'name = "of the file"\n'
TRUNK = '[[trunks]]\nid = "peer"\nsources = ["192.0.2.0/24"]\n'


def a_policy(name: str, more: str = "") -> policy_pb2.Policy:
    return from_toml(f'name = "{name}"\n{more}{TRUNK}')


def enroll(
    folder: Path, controller: FakeController, token: str = TOKEN, pin: str = ""
) -> "subprocess.CompletedProcess[str]":
    """`sbc-agent enroll`."""
    (folder / "token").write_text(token + "\n")
    return subprocess.run(
        [
            *(sys.executable, "-m", "agent.cli.main", "enroll", "--controller", controller.open_address),
            *("--token-file", str(folder / "token"), "--dir", str(folder / "control")),
            *("--authority-sha256", pin or controller.authority.sha256),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def config_of(controller: FakeController) -> str:
    return CONFIG + f'[controller]\naddress = "{controller.address}"\ndirectory = "{{folder}}/control"\n'


def start(folder: Path, controller: FakeController, policy: str = FILE_POLICY) -> AgentProcess:
    (folder / "notify.sock").unlink(missing_ok=True)
    return start_agent(folder, config=config_of(controller), policy=policy)


@contextmanager
def managed(folder: Path, controller: FakeController, policy: str = FILE_POLICY) -> Iterator[AgentProcess]:
    """A ready agent; enrolled, if it was not. It is gone afterwards."""
    if not (folder / "control").exists():
        done = enroll(folder, controller)
        assert done.returncode == 0, done.stderr
    with start(folder, controller, policy) as agent:
        agent.logged("ready")
        yield agent
