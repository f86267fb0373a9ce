"""Calls through a real Kamailio, watched by `sbc-agent capture`: what it does to Identity is found out."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.namespaces import Namespace, join, need_namespaces
from tests.integration.peers import Peer, Sipp, answers, need, need_kamailio

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

HERE: Final = Path(__file__).resolve().parent
CALLER, CALLER_SIDE, CALLEE_SIDE, BETA, GAMMA = "10.9.1.2", "10.9.1.1", "10.9.2.1", "10.9.2.2", "10.9.2.3"
TO_BETA, TO_GAMMA = "+13035550199", "+15035550177"
CALLS: Final = 20
POLICY: Final = f"""\
generation = 1
name = "transit"
local_addresses = ["{CALLER_SIDE}", "{CALLEE_SIDE}"]
[[trunks]]
id = "alpha"
sources = ["{CALLER}"]
[[trunks]]
id = "beta"
sources = ["{BETA}"]
[[trunks]]
id = "gamma"
sources = ["{GAMMA}"]
[[limits]]
name = "few"
scope = "trunk"
rate = 1
window_seconds = 3600
burst = 30
answer = {{ code = 503, retry_after_seconds = 5 }}
"""


class SippThere(Sipp):
    """sipp in a namespace."""

    def __init__(self, where: Namespace, folder: Path, scenario: Path, **rest: Any) -> None:
        super().__init__(folder, scenario, **rest)
        self._where = where
        self._command = tuple(where.command(*self._command))

    def ready(self) -> bool:
        rows = self._where.run("cat", "/proc/net/udp").splitlines()[1:]
        return self.ends_by_itself or any(row.split()[1].endswith(f":{self.port:04X}") for row in rows)


class Sbc(Peer):
    """Kamailio between two networks, with some of what sbc.cfg can do to calls."""

    def __init__(self, where: Namespace, folder: Path, beta: Sipp, gamma: Sipp, does: Sequence[str]) -> None:
        folder.mkdir(parents=True)
        shutil.copy(HERE / "sbc.cfg", folder)
        self._where = where
        values = {
            "CALLER_SIDE": f"udp:{CALLER_SIDE}:5060",
            "CALLEE_SIDE": f"udp:{CALLEE_SIDE}:5060",
            "BETA": f'"sip:{BETA}:{beta.port}"',
            "GAMMA": f'"sip:{GAMMA}:{gamma.port}"',
            **dict.fromkeys(does, "1"),
        }
        command = ["kamailio", "-f", str(folder / "sbc.cfg"), "-DD", "-E", "-Y", str(folder), "-m", "64", "-M", "8"]
        command += [part for name, value in values.items() for part in ("-A", f"{name}={value}")]
        super().__init__("kamailio", where.command(*command), folder)

    def ready(self) -> bool:
        with self._where.inside():
            return answers((CALLER_SIDE, 5060), CALLER_SIDE)


class Capture(Peer):
    """`sbc-agent capture` on both sides of the SBC. `finish` gives what it printed."""

    def __init__(self, where: Namespace, folder: Path) -> None:
        (folder / "policy.toml").write_text(POLICY)
        self._where = where
        arguments = ["capture", "--live", "near0", "--live", "far0", "--policy", "policy.toml", "--json"]
        super().__init__("capture", where.command(sys.executable, "-m", "agent.cli.main", *arguments), folder)

    def ready(self) -> bool:
        rows = self._where.run("cat", "/proc/net/packet").splitlines()[1:]
        interfaces = [row.split()[4] for row in rows]
        return len(interfaces) == 2 and "0" not in interfaces

    def finish(self) -> dict[str, Any]:
        self.signal(signal.SIGTERM)
        assert self.wait(10.0) == 0, self.report()
        found: dict[str, Any] = json.loads(self.log)
        return found


@dataclass
class World:
    """Three networks, and the folder of this test."""

    near: Namespace
    sbc: Namespace
    far: Namespace
    folder: Path

    def watched(self, *does: str, refusing: bool = False, calls: int = CALLS) -> dict[str, Any]:
        """What the capture says of so many calls to each callee through an SBC that does that."""
        folder = self.folder
        scenario = HERE / "refuses.xml" if refusing else HERE.parent / "kamailio" / "callee.xml"
        beta, gamma = (
            SippThere(self.far, folder / name, scenario, host=host, seconds=60.0)
            for name, host in (("beta", BETA), ("gamma", GAMMA))
        )
        proxy, capture = Sbc(self.sbc, folder / "sbc", beta, gamma, does), Capture(self.sbc, folder)
        with beta, gamma, proxy, capture:
            for called in (TO_BETA, TO_GAMMA):
                with self.caller(called, calls) as caller:
                    caller.finish()
            return capture.finish()
        raise AssertionError

    def caller(self, called: str, calls: int) -> SippThere:
        """So many calls to that number."""
        return SippThere(
            self.near,
            self.folder / f"caller-{next(_number)}",
            HERE / "call.xml",
            host=CALLER,
            remote=(CALLER_SIDE, 5060),
            calls=calls,
            keys={"called": called, "calling": "+12015550123"},
        )


_number = count(1)


@contextmanager
def networks() -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    with ExitStack() as stack:
        near, sbc, far = (stack.enter_context(Namespace(word)) for word in ("near", "sbc", "far"))
        join(near, "eth0", sbc, "near0")
        join(far, "eth0", sbc, "far0")
        near.address("eth0", f"{CALLER}/24")
        far.address("eth0", f"{BETA}/24", f"{GAMMA}/24")
        sbc.address("near0", f"{CALLER_SIDE}/24")
        sbc.address("far0", f"{CALLEE_SIDE}/24")
        yield near, sbc, far


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    need_namespaces()
    need("sipp")
    need_kamailio("topoh", "textops")
    with networks() as (near, sbc, far):
        yield World(near, sbc, far, tmp_path)


def pair(found: dict[str, Any], egress: str) -> dict[str, Any]:
    """What happened between the caller's trunk and that one."""
    (entry,) = [e for e in found["identity_transit"] if (e["ingress"], e["egress"]) == ("alpha", egress)]
    return dict(entry)


@pytest.mark.parametrize("does", [(), ("NEW_CALL_ID",)], ids=["proxy", "new Call-ID"])
def test_an_sbc_that_keeps_identity_shows_100_percent(world: World, does: tuple[str, ...]) -> None:
    found = world.watched(*does)
    for egress in ("beta", "gamma"):
        counts = pair(found, egress)
        assert (counts["calls"], counts["signed"], counts["intact"]) == (CALLS, CALLS, CALLS)
        assert counts["kept"] == 1.0
    assert found["altered"] == []
    counters = found["counters"]
    assert counters["transit_calls"] == counters["transit_paired"] == 2 * CALLS
    assert counters["transit_by_identity" if does else "transit_by_call_id"] == 2 * CALLS
    assert counters["transit_own"] == counters["capture_kernel_drops"] == 0
    # Every call is an attempt once, on its way in, and the limit of the policy would have let 30 pass.
    assert found["trunks"] == {"alpha": {"attempts": 2 * CALLS, "would_refuse": 2 * CALLS - 30}}
    assert found["observed"] is True


@pytest.mark.parametrize("does", [("STRIP",), ("STRIP", "NEW_CALL_ID")], ids=["proxy", "new Call-ID"])
def test_an_sbc_that_strips_identity_is_caught_per_call_and_trunk_pair(world: World, does: tuple[str, ...]) -> None:
    found = world.watched(*does)
    assert pair(found, "beta")["kept"] == 1.0
    gamma = pair(found, "gamma")
    assert (gamma["calls"], gamma["signed"], gamma["intact"], gamma["stripped"]) == (CALLS, CALLS, 0, CALLS)
    assert len(found["altered"]) == CALLS
    assert all(
        (call["egress"], call["what"]) == ("gamma", "0 of 2 Identity rows kept, 2 stripped")
        for call in found["altered"]
    )
    assert len({call["call_id"] for call in found["altered"]}) == CALLS


@pytest.mark.parametrize(
    ("does", "what"),
    [("REFOLD", "0 of 2 Identity rows kept, 2 re-folded"), ("JOIN", "0 of 2 Identity rows kept, 2 joined or split")],
)
def test_an_sbc_that_writes_identity_anew_is_caught(world: World, does: str, what: str) -> None:
    found = world.watched(does, "NEW_CALL_ID")
    assert pair(found, "beta")["kept"] == 1.0
    gamma = pair(found, "gamma")
    assert (gamma["calls"], gamma["intact"], gamma["altered"], gamma["stripped"]) == (CALLS, 0, CALLS, 0)
    assert {call["what"] for call in found["altered"]} == {what}


def test_a_refusal_that_loses_its_words_on_the_way_back_is_caught(world: World) -> None:
    found = world.watched("DECLINE", "NEW_CALL_ID", refusing=True)
    beta, gamma = pair(found, "beta"), pair(found, "gamma")
    assert (beta["refusals"], beta["refusals_altered"]) == (CALLS, 0)
    assert (gamma["refusals"], gamma["refusals_altered"]) == (CALLS, CALLS)
    assert {call["what"] for call in found["altered"]} == {
        "603 Network Blocked (603+) became 603 Decline: lost phrase, Reason"
    }
