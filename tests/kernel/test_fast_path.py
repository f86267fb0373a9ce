"""The program in front of the table with real packets and interfaces: when it works, is silent, and goes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.kernel.ebpf import Attach, Map, MapKind, MapSpec, Program, VerifierError, programs
from agent.kernel.ebpf_code import R0, R3, Code
from agent.kernel.ebpf_guard import CONTROL, SECOND, TIME
from agent.kernel.entrances import entrances
from agent.kernel.fast_path import ALIVE_SECONDS, FastPath, program_name
from agent.kernel.settings import KernelSettings
from tests.conftest import ROOT
from tests.fakes.calls import invite
from tests.fakes.kernels import KERNEL
from tests.fakes.namespaces import Namespace, join, need_namespaces
from tests.fakes.nobody import as_nobody
from tests.ingress.queue.wire import CALLER, PORT, SBC, SBC6, Wire, bound, wire
from tests.kernel.test_guard import flood, passed

pytestmark = pytest.mark.kernel

LIMITED = KernelSettings(flood_rate=1, flood_burst=10)
HELD = {ip_network(CALLER): 60.0}
HAS_TCX = KERNEL >= (6, 6)
NEEDS_TCX = pytest.mark.skipif(not HAS_TCX, reason="tcx came with Linux 6.6")
TCX = pytest.param(Attach.TCX, marks=NEEDS_TCX)
WAYS = pytest.mark.parametrize("way", [TCX, Attach.XDP], ids=["tcx", "xdp"])


@pytest.fixture(scope="module")
def net() -> Iterator[Wire]:
    with wire() as made:
        yield made


@contextmanager
def fast_path(net: Wire, way: Attach, settings: KernelSettings = LIMITED) -> Iterator[FastPath]:
    """It, alive and alone: no table is behind it."""
    path = FastPath((way,))
    with net.sbc.inside():
        path.open(settings, {})
        path.beat()
        try:
            yield path
        finally:
            path.close()


def loaded(name: str) -> int:
    """How many programs of this name the kernel has."""
    found = list(programs(name))
    for one in found:
        one.close()
    return len(found)


def soon(what: Callable[[], bool], seconds: float) -> float:
    """How long it took until that was so. AssertionError if it was not in time."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds
    return time.monotonic() - began


@WAYS
def test_it_drops_what_is_beyond_the_limit_where_packets_enter(net: Wire, way: Attach) -> None:
    with fast_path(net, way) as path:
        assert path.interfaces == ["sbc0"]
        assert 10 <= len(passed(net, flood())) <= 12
        assert 10 <= len(passed(net, flood(), net.phone6, SBC6)) <= 12
        counts = path.counts()
        assert 36 <= counts["flood"] <= 40
        assert counts["flood"] == counts["invites"]
        path.close()
        path.open(LIMITED, {})
        assert path.counts() == counts
    assert passed(net, flood()) != []


@WAYS
def test_blocks_come_and_go_and_the_widest_of_several_prefixes_counts_if_it_lasts_longest(
    net: Wire, way: Attach
) -> None:
    with fast_path(net, way, KernelSettings()) as path:
        path.block(ip_network(CALLER), 60.0)
        assert passed(net, flood(3)) == []
        path.fill({ip_network("192.0.0.0/8"): 60.0, ip_network("192.0.2.0/24"): 0.001})
        assert passed(net, flood(3)) == []
        path.fill({ip_network("2001:db8::/32"): 60.0})
        assert len(passed(net, flood(3))) == 3
        assert passed(net, flood(3), net.phone6, SBC6) == []
        path.fill({})
        assert len(passed(net, flood(3), net.phone6, SBC6)) == 3


@NEEDS_TCX
def test_an_emergency_call_that_is_not_in_one_piece_is_left_to_the_table(net: Wire, tmp_path: Path) -> None:
    """Drivers that split a packet behind its headers hand it over like what a file is sent as."""
    calls = [invite("sip:911@x"), invite()]
    with fast_path(net, Attach.TCX, KernelSettings()) as path, bound(net.caller, CALLER, 5061) as phone:
        path.block(ip_network(CALLER), 60.0)
        phone.connect((SBC, PORT))
        assert passed(net, calls) == calls[:1]
        for number, raw in enumerate(calls):
            file = tmp_path / str(number)
            file.write_bytes(raw)
            with file.open("rb") as opened:
                os.sendfile(phone.fileno(), opened.fileno(), 0, len(raw))
        assert passed(net, []) == calls


@WAYS
def test_silent_until_the_first_sign_of_life(net: Wire, way: Attach) -> None:
    path = FastPath((way,))
    with net.sbc.inside():
        path.open(LIMITED, HELD)
    assert len(passed(net, flood(3))) == 3
    path.beat()
    assert passed(net, flood(3)) == []
    path.close()


HOLD = """
import sys, time
from ipaddress import ip_network
from pathlib import Path
from agent.kernel.ebpf import Attach
from agent.kernel.fast_path import FastPath
from agent.kernel.settings import KernelSettings
path = FastPath((Attach[sys.argv[1]],))
path.open(KernelSettings(), {ip_network(sys.argv[2]): 60.0})
path.beat()
print("ready", flush=True)
while True:
    path.beat()
    time.sleep(0.1)
"""


@WAYS
def test_a_process_that_hangs_lets_all_pass_after_two_seconds_and_one_that_is_killed_leaves_nothing(
    net: Wire, way: Attach
) -> None:
    command = net.sbc.command(sys.executable, "-c", HOLD, way.name, CALLER)
    with net.sbc.inside():
        name = program_name()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert passed(net, flood(3)) == []
        process.send_signal(signal.SIGSTOP)
        took = soon(lambda: bool(passed(net, flood(1))), ALIVE_SECONDS + 0.5)
        assert took > ALIVE_SECONDS / 2
        process.send_signal(signal.SIGCONT)
        soon(lambda: not passed(net, flood(1)), 2.0)
        assert loaded(name)
        process.kill()
        process.wait()
        soon(lambda: len(passed(net, flood(3))) == 3, 1.0)
        soon(lambda: not loaded(name), 1.0)


@WAYS
def test_it_follows_interfaces_that_come_change_and_go(net: Wire, way: Attach) -> None:
    with Namespace("other") as other, fast_path(net, way) as path:
        join(net.sbc, "late0", other, "late1")
        path.follow()
        assert path.interfaces == ["sbc0"]
        net.sbc.ip("link", "set", "late0", "up")
        path.follow()
        assert path.interfaces == ["late0", "sbc0"]
        net.sbc.ip("link", "set", "late0", "address", "02:00:00:00:00:77")
        path.follow()
        assert path.interfaces == ["late0", "sbc0"]
        net.sbc.ip("link", "del", "late0")
        path.follow()
        assert path.interfaces == ["sbc0"]
        assert not path.refused


def test_what_is_stacked_on_an_interface_is_no_entrance() -> None:
    need_namespaces()
    with Namespace("stacked") as space, Namespace("far") as far:
        join(space, "port0", far, "port1")
        space.ip("link", "set", "port0", "up")
        try:
            space.ip("link", "add", "bridge0", "type", "bridge")
        except AssertionError as error:
            pytest.skip(f"no bridges here: {error}")
        space.ip("link", "set", "port0", "master", "bridge0")
        space.ip("link", "set", "bridge0", "up")
        with space.inside():
            assert [one.name for one in entrances()] == ["port0"]


def test_an_interface_where_somebody_else_has_an_xdp_program_is_named_and_left_alone(net: Wire) -> None:
    with fast_path(net, Attach.XDP) as first:
        second = FastPath((Attach.XDP,))
        with net.sbc.inside(), pytest.raises(OSError, match=r"no interface takes it; sbc0: .*XDP: "):
            second.open(LIMITED, {})
        assert not second.is_open
        assert first.interfaces == ["sbc0"]
        assert len(passed(net, flood())) <= 12


def test_where_tcx_is_not_known_xdp_is_taken(net: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attach.TCX, "_value_", ("tcx", 3, 999, False, "6.6"))  # as any kernel before 6.6 sees it
    path = FastPath()
    with net.sbc.inside():
        path.open(LIMITED, HELD)
    assert path.way is Attach.XDP
    assert path.how == "generic XDP: this kernel has no tcx, which came with Linux 6.6"
    path.beat()
    assert passed(net, flood(2)) == []
    path.close()


def test_what_the_verifier_says_is_in_the_error() -> None:
    need_namespaces()
    code = Code()
    code.move(R0, R3)
    code.exit()
    with pytest.raises(
        VerifierError, match=r"denied \(R3 !read_ok\); the verifier's last words:\n[^$]*R3 !read_ok"
    ) as refused:
        Program.load(code, {}, Attach.TCX, "bad")
    assert "R3 !read_ok" in refused.value.log


def test_a_full_map_says_so_and_is_read_and_emptied() -> None:
    need_namespaces()
    made = Map.create(MapSpec("full", MapKind.HASH, 4, 8, 2))
    for number in (1, 2):
        made.set(bytes([number] * 4), TIME.pack(number))
    with pytest.raises(OSError, match="write map full: Argument list too long"):
        made.set(bytes(4), bytes(8))
    assert dict(made.items(10)) == {bytes([n] * 4): TIME.pack(n) for n in (1, 2)}
    assert len(list(made.items(1))) == 1
    made.delete(bytes([1] * 4))
    made.delete(bytes([1] * 4))
    assert made.get(bytes([1] * 4)) is None
    made.close()
    made.close()


@WAYS
def test_a_sign_of_life_lasts_two_seconds(net: Wire, way: Attach) -> None:
    with fast_path(net, way) as path:
        path.beat()
        (until,) = TIME.unpack(path._maps[CONTROL].get(bytes(4)) or b"")
        assert abs(until - time.monotonic_ns() - ALIVE_SECONDS * SECOND) < SECOND // 2


TRY = """
import sys
from agent.kernel.ebpf import Attach
from agent.kernel.fast_path import FastPath
from agent.kernel.settings import KernelSettings
for way in map(Attach.__getitem__, sys.argv[1:]):
    path = FastPath((way,))
    try:
        path.open(KernelSettings(flood_rate=10, exempt=("192.0.2.0/24",)), {})
        print(path.way.name, "works at", *path.interfaces)
        path.close()
    except OSError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        ((), "needs the capability CAP_BPF"),
        (("net_admin",), "needs the capability CAP_BPF"),
        (("bpf",), "needs the capability CAP_NET_ADMIN"),
        (("net_admin", "bpf"), "works at sbc0" if KERNEL >= (6, 1) else "only with CAP_PERFMON"),
        (("net_admin", "bpf", "perfmon"), "works at sbc0"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_an_unprivileged_user_needs_two_capabilities_or_three_and_is_told_which_is_missing(
    net: Wire, capabilities: tuple[str, ...], words: str
) -> None:
    ways = ["TCX", "XDP"] if HAS_TCX else ["XDP"]
    said = net.sbc.run(*as_nobody(*capabilities), "-c", TRY, *ways).splitlines()
    assert len(said) == len(ways)
    assert all(words in line for line in said), said


@WAYS
def test_programs_of_other_networks_are_not_taken_for_ours(net: Wire, way: Attach) -> None:
    other = program_name()
    with fast_path(net, way):
        ours = program_name()
        assert ours != other
        assert not loaded(other)
        (found,) = programs(ours)
        assert set(found.maps) == {"control", "blocked", "blocked_nets", "sources", "counts"}
        found.close()


def test_in_a_time_namespace_it_does_not_start(net: Wire) -> None:
    script = "from agent.kernel.fast_path import *; FastPath().open(KernelSettings(), {})"
    command = ["unshare", "--time", "--monotonic", "1000", "--fork", sys.executable, "-c", script]
    done = subprocess.run(net.sbc.command(*command), cwd=ROOT, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip("no time namespaces here")
    assert "in a time namespace the clock is not the one that programs read" in done.stderr


def test_settings_that_no_program_can_say_leave_the_table(net: Wire) -> None:
    numbers = tuple(f"{n:012}" for n in range(500))
    with net.sbc.inside(), pytest.raises(OSError, match="no program of eBPF can say this"):
        FastPath().open(replace(LIMITED, emergency_numbers=numbers), {})
