"""The whole daemon with verification and signing: what its status says, and what SIGHUP does to the key."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.agent_process import CONFIG, POLICY, AgentProcess, running
from tests.fakes.calls import invite
from tests.integration.peers import wait_for

pytestmark = pytest.mark.slow

SECTIONS = """\
[identity]
trust_lists = ["{lab}/root.pem"]
directory = "{lab}/state"
[signing]
key = "{lab}/signer.key"
certificate = "{lab}/signer.pem"
x5u = "https://certs.example.net/1234.pem"
"""
SIGNS = POLICY + '\n[identity]\n[signing]\ngateway_trunks = ["peer"]\n'


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    make = [sys.executable, "-m", "agent.cli.main", "identity", "make-test-pki", str(folder), "--spc", "1234"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return folder


def identity_of(agent: AgentProcess) -> list[bytes]:
    with agent.hook() as ask:
        return [row.value for row in ask(invite()).egress_headers if row.name == "Identity"]


def test_a_call_of_a_gateway_is_signed_and_a_bad_key_changes_nothing(tmp_path: Path, lab: Path) -> None:
    with running(tmp_path, config=CONFIG + SECTIONS.replace("{lab}", str(lab)), policy=SIGNS) as agent:
        assert all(agent.component(name).healthy for name in ("certificates", "trust", "signing", "identity"))
        (row,) = identity_of(agent)
        assert row.endswith(b";info=<https://certs.example.net/1234.pem>;alg=ES256;ppt=shaken")
        (lab / "signer.key").chmod(0o644)
        agent.signal(signal.SIGHUP)
        assert "0644" in agent.logged("what signs calls is as it was")["error"]
        assert len(identity_of(agent)) == 1
        assert not agent.component("signing").healthy
        (lab / "signer.key").chmod(0o600)
        agent.signal(signal.SIGHUP)
        wait_for(lambda: agent.component("signing").healthy, "the key to be read again")


def test_a_policy_that_verifies_without_the_section_is_told_of(tmp_path: Path) -> None:
    with running(tmp_path, policy=SIGNS) as agent:
        assert identity_of(agent) == []
        component = agent.component("identity")
        assert not component.healthy
        assert "agent.toml has neither [identity] nor [signing]" in component.detail


def test_without_a_trust_list_the_status_says_that_nobody_is_trusted(tmp_path: Path, lab: Path) -> None:
    config = CONFIG + f'[identity]\ndirectory = "{lab}/state"\n'
    with running(tmp_path, config=config, policy=SIGNS) as agent:
        component = agent.component("trust")
        assert not component.healthy
        assert "nobody is trusted" in component.detail
