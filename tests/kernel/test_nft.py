"""Our tables in the real kernel, in a namespace of their own. nft(8), if it is installed, says what it sees there."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.kernel.netlink import KernelError, Message, NetlinkSocket
from agent.kernel.nft import Nft
from agent.kernel.ruleset import Chain, Drop, Element, Field, Hook, In, Kind, NamedSet, Rule, Table, ToQueue
from agent.kernel.ruleset_text import table_text
from agent.kernel.ruleset_wire import SUBSYSTEM, add_messages
from agent.kernel.settings import KernelSettings
from agent.kernel.tables import GUARD, QUEUE, guard_table, queue_table
from tests.conftest import ROOT
from tests.fakes.kernels import KERNEL
from tests.fakes.namespaces import Namespace, need_namespaces
from tests.fakes.nobody import as_nobody

pytestmark = pytest.mark.kernel

SETTINGS = KernelSettings(
    ports=(5060, 5070), flood_rate=200, flood_burst=400, exempt=("192.0.2.0/24", "192.0.2.7", "2001:db8::/32")
)
BLOCKS = {
    ip_network("198.51.100.7"): 60.0,
    ip_network("203.0.113.0/24"): 60.0,
    ip_network("203.0.113.128/25"): 600.0,
    ip_network("2001:db8:9::/48"): 60.0,
    ip_network("255.255.255.0/24"): 60.0,
}
PORTS = NamedSet("ports", Kind.PORT, (Element((5060).to_bytes(2, "big")),))


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    need_namespaces()
    with Namespace("nft") as made:
        yield made


@pytest.fixture
def nft(space: Namespace) -> Iterator[Nft]:
    with space.inside():
        client = Nft()
        client.open()
    with client:
        yield client


def listed(space: Namespace, name: str) -> str:
    """The table as nft(8) lists it, without what differs between a table of ours and one of nft's."""
    text = space.run("nft", "list", "table", "inet", name)
    text = re.sub(r"(?m)^table inet (\w+) \{.*$", r"table inet \1 {", text).replace("\tflags owner\n\n", "")
    return re.sub(r" expires \w+", "", text)


def need_nft() -> None:
    if not shutil.which("nft"):
        pytest.skip("nft is not installed (apt-get install nftables)")


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
def test_what_nft_lists_of_the_guard_is_what_it_makes_of_our_plan(
    space: Namespace, nft: Nft, tmp_path: Path, mode: str
) -> None:
    need_nft()
    settings = KernelSettings(
        ports=SETTINGS.ports, exempt=SETTINGS.exempt, flood_rate=200, mode="shadow" if mode == "shadow" else "enforce"
    )
    table = guard_table(settings, BLOCKS, reassembles=nft.reassembles())
    nft.install(table)
    ours = listed(space, GUARD)
    nft.remove(GUARD)
    plan = tmp_path / "plan.nft"
    plan.write_text(table_text(table))
    space.run("nft", "-f", str(plan))
    theirs = listed(space, GUARD)
    space.run("nft", "delete", "table", "inet", GUARD)
    assert ours == theirs
    assert ours.count('drop comment "flood"') == (mode == "enforce")


def test_what_nft_lists_of_the_queue_is_what_it_makes_of_our_plan(space: Namespace, nft: Nft, tmp_path: Path) -> None:
    need_nft()
    if not nft.offers(ToQueue(1)):  # then the text is compared without these statements, which nft cannot install
        table = _without_queue(queue_table(7, 0x1234, reassembles=nft.reassembles()))
    else:
        table = queue_table(7, 0x1234, reassembles=nft.reassembles())
    nft.install(table)
    ours = listed(space, QUEUE)
    nft.remove(QUEUE)
    plan = tmp_path / "plan.nft"
    plan.write_text(table_text(table))
    space.run("nft", "-f", str(plan))
    theirs = listed(space, QUEUE)
    space.run("nft", "delete", "table", "inet", QUEUE)
    assert ours == theirs


def _without_queue(table: Table) -> Table:
    chains = [
        Chain(
            chain.name,
            tuple(Rule(tuple(s for s in r.statements if not isinstance(s, ToQueue)), r.comment) for r in chain.rules),
            chain.hook,
            chain.priority,
        )
        for chain in table.chains
    ]
    return Table(table.name, table.owned, table.sets, tuple(chains))


def test_a_table_takes_the_place_of_another_in_one_transaction(nft: Nft) -> None:
    nft.install(guard_table(SETTINGS, BLOCKS, reassembles=False))
    handle = nft.elements(GUARD, "blocked4")
    nft.install(guard_table(SETTINGS, {}, reassembles=False))
    assert [element.key for element in handle] == [ip_network("198.51.100.7").network_address.packed]
    assert nft.elements(GUARD, "blocked4") == []


def test_a_batch_with_one_bad_message_changes_nothing_and_the_error_names_it(nft: Nft) -> None:
    nft.install(Table("t", True, (PORTS,)))
    missing = NamedSet("missing", Kind.PORT)
    five, six = (Element((port).to_bytes(2, "big")) for port in (5, 6))
    with pytest.raises(KernelError) as failed:
        nft.send([*add_messages("t", PORTS, [five]), *add_messages("t", missing, [six])])
    assert failed.value.errno == errno.ENOENT
    assert failed.value.number == 2
    assert "elements of set missing" in str(failed.value)
    assert [element.key for element in nft.elements("t", "ports")] == [PORTS.elements[0].key]


def test_a_bad_rule_is_named_with_its_place(nft: Nft) -> None:
    bad = Rule((In(Field.SOURCE4, "nowhere"), Drop()), "the bad one")
    with pytest.raises(KernelError, match=r"rule 1 of chain c \(the bad one\): No such file or directory"):
        nft.install(Table("t", True, (), (Chain("c", (bad,), Hook.INPUT),)))
    assert nft.find("t") is None


@pytest.mark.skipif(KERNEL < (6, 10), reason="kernels before 6.10 tell no words of what is in a batch")
def test_an_error_carries_the_words_of_the_kernel() -> None:
    need_namespaces()
    with (
        Namespace("words") as space,
        space.inside(),
        NetlinkSocket() as netlink,
        pytest.raises(KernelError) as failed,
    ):
        netlink.batch([Message("odd", _broken_table())], SUBSYSTEM)
    assert failed.value.number == 1
    assert failed.value.words


def _broken_table() -> bytes:
    """NFT_MSG_NEWTABLE whose flags have one byte instead of four."""
    name, flags = b"\x06\x00\x01\x00t\x00\x00\x00", b"\x05\x00\x02\x00\x01\x00\x00\x00"
    body = b"\x01\x00\x00\x00" + name + flags
    return (16 + len(body)).to_bytes(4, "little") + b"\x00\x0a\x01\x04" + bytes(8) + body


def test_a_table_of_another_process_is_left_alone_and_the_error_says_so(space: Namespace, nft: Nft) -> None:
    nft.install(Table("t", True))
    with space.inside(), Nft() as other:
        for attempt in (lambda: other.remove("t"), lambda: other.install(Table("t", True))):
            with pytest.raises(KernelError, match="another process holds table t"):
                attempt()
        assert other.find("t") is not None


def test_an_owned_table_survives_a_flush_by_others(space: Namespace, nft: Nft) -> None:
    need_nft()
    nft.install(Table("t", True))
    space.run("nft", "flush", "ruleset")
    assert nft.find("t") is not None


@pytest.mark.parametrize("owned", [True, False])
def test_kill_9_takes_an_owned_table_with_it_and_leaves_one_that_is_to_be_held(space: Namespace, owned: bool) -> None:
    script = (
        "import sys, time; from agent.kernel.nft import Nft; from agent.kernel.ruleset import Table\n"
        f"nft = Nft(); nft.open(); nft.install(Table('k', {owned})); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        space.command(sys.executable, "-c", script), stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with space.inside(), Nft() as other:
            assert other.find("k") is not None
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            deadline = time.monotonic() + 1.0
            while owned and other.find("k") is not None:
                assert time.monotonic() < deadline
            assert (other.find("k") is None) == owned
            if not owned:
                assert other.remove("k")
            assert not other.remove("k")


def test_ten_thousand_blocks_are_one_transaction(nft: Nft) -> None:
    blocks = {ip_network((0x0A000000 + 2 * n, 32)): 600.0 for n in range(10_000)}
    nft.install(guard_table(KernelSettings(), blocks, reassembles=False))
    assert len(nft.elements(GUARD, "blocked4")) == 10_000


def test_elements_go_when_their_time_is_up(nft: Nft) -> None:
    armed = NamedSet("armed", Kind.PORT, timeout=0)
    nft.install(Table("t", True, (armed,)))
    nft.fill("t", [(armed, [Element(b"\x13\xc4", seconds=0.2)])])
    assert len(nft.elements("t", "armed")) == 1
    deadline = time.monotonic() + 2.0
    while nft.elements("t", "armed"):
        assert time.monotonic() < deadline


def test_filling_renews_what_is_there(nft: Nft) -> None:
    armed = NamedSet("armed", Kind.PORT, timeout=0)
    nft.install(Table("t", True, (armed,)))
    for seconds in (5.0, 50.0, 5.0):
        nft.fill("t", [(armed, [Element(b"\x13\xc4", seconds=seconds)])])
        (found,) = nft.elements("t", "armed")
        assert found.seconds is not None
        assert seconds - 1 < found.seconds <= seconds


def test_probing_leaves_nothing(nft: Nft) -> None:
    assert nft.way_to_queue() in {"nft", "xt"}
    assert nft.reassembles() in {True, False}
    assert not [table for table in nft.tables() if "probe" in table.name]


TRY = """
import sys
from agent.kernel.nft import Nft
from agent.kernel.ruleset import Table
from agent.kernel.nfqueue import Queue
from agent.kernel.raw_reply import RawReplies
def attempt(name, work):
    try:
        work()
        print(name, 'works')
    except OSError as error:
        print(name, error)
nft = Nft(); nft.open()
attempt('nft', lambda: nft.install(Table('u', True)))
attempt('queue', Queue(9, 16).open)
attempt('replies', RawReplies(7).probe)
"""


def _as_nobody(space: Namespace, *capabilities: str) -> str:
    return space.run(*as_nobody(*capabilities), "-c", TRY)


def test_without_capabilities_every_part_says_at_once_which_one_is_missing(space: Namespace) -> None:
    lines = _as_nobody(space).splitlines()
    assert [line.split()[0] for line in lines] == ["nft", "queue", "replies"]
    assert "CAP_NET_ADMIN" in lines[0]
    assert "CAP_NET_ADMIN" in lines[1]
    assert "CAP_NET_RAW" in lines[2]


def test_an_unprivileged_user_with_the_two_capabilities_can_do_everything(space: Namespace) -> None:
    said = _as_nobody(space, "net_admin", "net_raw")
    assert said.splitlines() == ["nft works", "queue works", "replies works"]
