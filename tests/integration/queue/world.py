"""A caller's network, the host of an SBC and the network behind it, each a namespace; the SBC is the real Kamailio.

Kamailio knows nothing of us. It writes down every request that it sees, so that a test can say what it has not seen.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from agent.kernel.ebpf import programs
from agent.kernel.fast_path import program_name
from agent.kernel.nft import Nft
from agent.kernel.tables import GUARD
from tests.conftest import ROOT
from tests.fakes.namespaces import Namespace, join, need_namespaces
from tests.fakes.queue_process import QueueProcess, queue_process
from tests.integration.kamailio.world import CALLED, CALLING, DNO
from tests.integration.peers import Peer, Sipp, need, need_kamailio

HERE: Final = Path(__file__).resolve().parent
SCENARIOS: Final = HERE.parent / "kamailio"

SBC: Final = "192.0.2.1"
GOOD, LIMITED, FLOODER, BLOCKED = "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"
SBC_BEHIND, CALLEE = "198.51.100.1", "198.51.100.2"
PORT: Final = 5060
CALLEE_PORT: Final = 5080

POLICY: Final = f"""\
generation = 1
[[trunks]]
id = "good"
sources = ["{GOOD}"]
[[trunks]]
id = "limited"
sources = ["{LIMITED}"]
[[trunks]]
id = "flooder"
sources = ["{FLOODER}"]
[[trunks]]
id = "blocked"
sources = ["{BLOCKED}"]
upstream = "shady-telecom"
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
"""
CONFIG: Final = """\
[kernel]
engine = "auto"
flood_rate = 300
flood_burst = 600
[queue]
"""


def with_engine(engine: str) -> str:
    """CONFIG with this engine of the guard."""
    return CONFIG.replace('"auto"', f'"{engine}"')


class Sbc(Peer):
    """Kamailio in its namespace."""

    def __init__(self, space: Namespace, folder: Path) -> None:
        need_kamailio()
        values = {
            "FRONT": f"udp:{SBC}:{PORT}",
            "BACK": f"udp:{SBC_BEHIND}:{PORT}",
            "CALLEE": f'"sip:{CALLEE}:{CALLEE_PORT}"',
        }
        command = ["kamailio", "-f", str(HERE / "sbc.cfg"), "-DD", "-E", "-Y", str(folder)]
        command += ["-x", "fm", "-X", "fm", "-m", "64", "-M", "8"]
        command += [part for name, value in values.items() for part in ("-A", f"{name}={value}")]
        super().__init__("kamailio", space.command(*command), folder)

    def ready(self) -> bool:
        """Whether both its ports are open."""
        assert self._process
        try:
            rows = Path(f"/proc/{self._process.pid}/net/udp").read_text().splitlines()[1:]
        except OSError:
            return False
        return sum(row.split()[1].endswith(f":{PORT:04X}") for row in rows) >= 2

    def seen(self, method: str) -> list[str]:
        """The Call-IDs of the requests that it has seen, in order."""
        words = (line.partition("SEEN ")[2].split() for line in self.log.splitlines() if "SEEN " in line)
        return [word[1] for word in words if len(word) == 2 and word[0] == method]


class Phone(Sipp):
    """sipp in a namespace."""

    def __init__(
        self,
        space: Namespace,
        folder: Path,
        scenario: str,
        host: str,
        *,
        remote: tuple[str, int] | None = None,
        calls: int = 0,
        rate: float = 50.0,
        keys: dict[str, str] | None = None,
        seconds: float = 60.0,
        port: int = 0,
    ) -> None:
        path = SCENARIOS / f"{scenario}.xml"
        super().__init__(folder, path, remote=remote, host=host, calls=calls, rate=rate, keys=keys, seconds=seconds)
        if port:
            self._command = tuple(str(port) if part == str(self.port) else part for part in self._command)
            self.port = port
        self._command = tuple(space.command(*self._command))

    def ready(self) -> bool:
        """Whether its port is open, in its own network."""
        assert self._process
        try:
            rows = Path(f"/proc/{self._process.pid}/net/udp").read_text().splitlines()[1:]
        except OSError:
            return False
        return self.ends_by_itself or any(row.split()[1].endswith(f":{self.port:04X}") for row in rows)

    @property
    def call_ids(self) -> set[str]:
        """Of the calls that it has made."""
        rows = (line for message in self.messages("sent") for line in message.split(b"\r\n"))
        return {row.partition(b":")[2].strip().decode() for row in rows if row.startswith(b"Call-ID:")}


_number = count(1)


@dataclass
class World:
    """Everything between a caller and a callee, but for the agent."""

    folder: Path
    caller: Namespace
    host: Namespace
    sbc: Sbc
    callee: Phone

    @contextmanager
    def agent(self, config: str = CONFIG, policy: str = POLICY) -> Iterator[QueueProcess]:
        """It runs, and is ended afterwards if it has not been by then."""
        folder = self.folder / f"agent-{next(_number)}"
        folder.mkdir()
        build_dno(folder)
        with queue_process(self.host, folder, config, policy) as process:
            yield process

    def phone(self, scenario: str, host: str = GOOD, calls: int = 1, rate: float = 50.0, **keys: str) -> Phone:
        """A caller, not yet started."""
        keys = {"calling": CALLING, "called": CALLED, "hold": "10", **keys}
        folder = self.folder / f"caller-{next(_number)}"
        return Phone(self.caller, folder, scenario, host, remote=(SBC, PORT), calls=calls, rate=rate, keys=keys)

    def call(self, host: str = GOOD, calls: int = 1, rate: float = 50.0, **keys: str) -> Phone:
        """Calls that all must complete."""
        with self.phone("call", host, calls, rate, **keys) as phone:
            phone.finish()
        return phone

    def refused(self, status: int, host: str = GOOD, **keys: str) -> Phone:
        """One call that must be refused with this status."""
        with self.phone("refused", host, 1, 50.0, status=str(status), **keys) as phone:
            phone.finish()
        return phone

    def tables(self) -> set[str]:
        """What is in the kernel of the SBC's host."""
        with self.host.inside(), Nft() as nft:
            return {table.name for table in nft.tables()}

    def programs(self) -> int:
        """How many programs of eBPF the kernel has for this host."""
        with self.host.inside():
            found = list(programs(program_name()))
        for one in found:
            one.close()
        return len(found)

    def dropped_by_table(self) -> int:
        """Of floods, by the guard's table: what a program in front of it left."""
        with self.host.inside(), Nft() as nft:
            return nft.counters(GUARD)["flood"]

    @contextmanager
    def flood(self, rate: int, seconds: float) -> Iterator["subprocess.Popen[str]"]:
        """INVITEs from FLOODER; its output is the rate that it reached."""
        command = [sys.executable, "-m", "tests.fakes.flood", FLOODER, SBC, str(rate), str(seconds)]
        with subprocess.Popen(self.caller.command(*command), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def build_dno(folder: Path) -> None:
    """The compiled list of POLICY."""
    (folder / "dno.csv").write_text(DNO)
    build = [
        sys.executable,
        "-m",
        "agent.cli.main",
        "dno",
        "build",
        "dno.list",
        "--csv",
        "dno.csv",
        "--generation",
        "1",
    ]
    subprocess.run(build, cwd=folder, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Three namespaces, Kamailio and a callee that answers."""
    need_namespaces()
    need("sipp")
    need_kamailio()
    with ExitStack() as stack:
        caller, host, behind = (stack.enter_context(Namespace(word)) for word in ("caller", "host", "behind"))
        join(caller, "caller0", host, "front0")
        join(host, "back0", behind, "callee0")
        caller.address("caller0", *(f"{one}/24" for one in (GOOD, LIMITED, FLOODER, BLOCKED)))
        host.address("front0", f"{SBC}/24")
        host.address("back0", f"{SBC_BEHIND}/24")
        behind.address("callee0", f"{CALLEE}/24")
        caller.ip("route", "add", "198.51.100.0/24", "via", SBC)
        callee = Phone(behind, folder / "callee", "callee", CALLEE, seconds=300.0, port=CALLEE_PORT)
        sbc = Sbc(host, folder / "sbc")
        stack.enter_context(callee)
        stack.enter_context(sbc)
        yield World(folder, caller, host, sbc, callee)
