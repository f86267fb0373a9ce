"""A caller, Kamailio, the agent and a callee on loopback: what the tests with the real Kamailio have in common."""

import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.kamailio.module import CLIENT, INTEGRATION
from tests.integration.peers import LOOPBACK, Kamailio, Peer, Sipp, free_port, need, need_kamailio

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[2]

GOOD: Final = LOOPBACK  # where callers of each trunk send from
BLOCKED: Final = "127.0.0.2"
LIMITED: Final = "127.0.0.3"
SINGLE: Final = "127.0.0.4"
# Where Kamailio asks from by SIP, for callers of the last two: the agent knows a trunk by the address that asks.
ASKS_FOR_BLOCKED: Final = "127.0.1.2"
ASKS_FOR_LIMITED: Final = "127.0.1.3"

CALLING: Final = "+12015550123"
NEVER_CALLS: Final = "+12015550155"
CALLED: Final = "+13035550199"

# The default of 20 ms lets a call pass when the machine that runs the tests is busy elsewhere for so long.
PATIENT_MS: Final = 100

DNO: Final = """\
number,category,source,asserted_by,verified_at,expires_at
2015550155,subscriber-request,Test,Example Telephone Company,2026-01-15,
"""
POLICY: Final = f"""\
generation = 1
name = "tests with Kamailio"

[[trunks]]
id = "good"
sources = ["{GOOD}"]

[[trunks]]
id = "blocked"
sources = ["{BLOCKED}", "{ASKS_FOR_BLOCKED}"]
upstream = "shady-telecom"

[[trunks]]
id = "limited"
sources = ["{LIMITED}", "{ASKS_FOR_LIMITED}"]

[[trunks]]
id = "single"
sources = ["{SINGLE}"]

[[provider_block.blocks]]
upstream = "shady-telecom"
starts_at = "2020-01-01T00:00:00Z"
reference = "constructed"

[do_not_originate]
lists = ["dno.list"]

[[limits]]
name = "trunk-rate"
scope = "trunk"
trunks = ["limited"]
rate = 1
window_seconds = 3600
burst = 1
answer = {{ code = 503, retry_after_seconds = 5 }}

[[limits]]
name = "one-line"
scope = "trunk"
trunks = ["single"]
sessions = 1
answer = {{ code = 480 }}
"""
CONFIG: Final = """\
[policy]
file = "policy.toml"

[hook]
socket = "{folder}/hook.sock"

[redirect]
udp = ["127.0.0.1:{port}"]

[records]
directory = "{folder}/spool"

[admin]
socket = "{folder}/admin.sock"

[metrics]
listen = ""
"""


class Agent(Peer):
    """`sbc-agent run`, with both ways in. After `kill` or `stop` it can be started again."""

    def __init__(self, folder: Path) -> None:
        super().__init__("agent", [sys.executable, "-m", "agent.cli.main", "run", "--config", "agent.toml"], folder)
        self.hook = f"unix:{folder}/hook.sock"
        self.port = free_port()
        self._seen = 0

    def start(self) -> "Agent":
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "policy.toml").write_text(POLICY)
        (self.folder / "agent.toml").write_text(CONFIG.format(folder=self.folder, port=self.port))
        (self.folder / "dno.csv").write_text(DNO)
        build = [sys.executable, "-m", "agent.cli.main", "dno", "build", "dno.list", "--csv", "dno.csv"]
        with Peer("dno-build", [*build, "--generation", "1"], self.folder) as builder:
            assert builder.wait(30.0) == 0
        self._seen = self.log.count('"ready"')
        super().start()
        return self

    def ready(self) -> bool:
        return self.log.count('"ready"') > self._seen


@dataclass
class World:
    """Everything between a caller and a callee. `way` is "hook" or "redirect"."""

    way: str
    folder: Path
    agent: Any
    callee: Any
    kamailio: Kamailio

    def caller(
        self, scenario: str, calls: int = 1, rate: float = 50.0, host: str = GOOD, transport: str = "udp", **keys: str
    ) -> Sipp:
        """A caller with a scenario of this folder, not yet started."""
        keys = {"calling": CALLING, "called": CALLED, "hold": "10", **keys}
        folder = self.folder / f"caller-{next(_number)}"
        return Sipp(
            folder,
            HERE / f"{scenario}.xml",
            remote=self.kamailio.address,
            host=host,
            transport=transport,
            calls=calls,
            rate=rate,
            keys=keys,
        )

    def call(
        self, calls: int = 1, rate: float = 50.0, host: str = GOOD, calling: str = CALLING, called: str = CALLED
    ) -> Sipp:
        """Calls that all must complete."""
        with self.caller("call", calls, rate, host, calling=calling, called=called) as sipp:
            sipp.finish()
        return sipp

    def refused(self, status: int, host: str = GOOD, calling: str = CALLING) -> bytes:
        """One call that must be refused with this status; the response."""
        with self.caller("refused", host=host, calling=calling, status=str(status)) as sipp:
            sipp.finish()
        return sipp.messages("received")[-1]


_number = count(1)


def kamailio(way: str, folder: Path, callee: int, hook: str, redirect: int, deadline_ms: int = PATIENT_MS) -> Kamailio:
    """Kamailio in front of the callee's port, asking at the hook's address or the redirect's port; not yet started.

    way: "hook", "redirect", or "none" for Kamailio alone.
    """
    need_kamailio("app_python3")
    defines = {"CALLEE": f'"sip:{LOOPBACK}:{callee}"'}
    if way != "redirect":
        defines["SBC_EDGE_HOOK"] = f'"{CLIENT}"'
    else:
        defines["SBC_EDGE_AGENT"] = f'"sip:{LOOPBACK}:{redirect}"'
        for name, host in (("BLOCKED", ASKS_FOR_BLOCKED), ("LIMITED", ASKS_FOR_LIMITED)):
            socket = f"udp:{host}:{free_port()}"
            defines |= {f"SBC_LISTEN_{name}": socket, f"SBC_FROM_{name}": f'"{socket}"'}
    if way == "none":
        way, defines["UNSCREENED"] = "hook", "1"
    env = {
        "SBC_EDGE_HOOK_ADDRESS": hook,
        "SBC_EDGE_HOOK_DEADLINE_MS": f"{deadline_ms}",
        "SBC_EDGE_PYTHON_PATH": python_path(),
    }
    return Kamailio(folder, HERE / f"{way}.cfg", defines, [INTEGRATION], env)


def python_path() -> str:
    """Where Kamailio's interpreter, Debian's, finds what this one has: the same minor version is needed."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return ":".join([str(ROOT), *packages])


def need_peers() -> None:
    """Skip the test unless everything is installed that these tests start."""
    need("sipp")
    need_kamailio("app_python3")
    if sys.version_info[:2] != debian_python():
        pytest.skip(f"Kamailio embeds another Python than this {sys.version_info[0]}.{sys.version_info[1]}")


def debian_python() -> tuple[int, int]:
    """The version of the interpreter in /usr/bin, which is the one that Debian's Kamailio embeds."""
    name = Path("/usr/bin/python3").resolve().name.removeprefix("python")
    major, _, minor = name.partition(".")
    return int(major or 0), int(minor or 0)
