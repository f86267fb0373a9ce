"""`sbc-agent capture`: what it shows, what it prints, and what it says when it cannot."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.calls.legs import AnswerResult, Match, TransitCounts, TransitResult
from agent.calls.transit import Answer, Transit
from agent.cli import capture_view
from agent.cli.capture_view import Board, Look, Tally, headline, render
from agent.cli.main import main
from tests.fakes.calls import invite
from tests.fakes.waiting import PATIENCE
from tests.ingress.frames import ethernet, ipv4, udp
from tests.ingress.wires import Cable, cable
from tests.integration.peers import wait_for

POLICY = (
    'generation = 1\n[[trunks]]\nid = "alpha"\nsources = ["192.0.2.0/24"]\n[[provider_block.blocks]]\ntrunk = "alpha"\n'
)


def look(at: float = 10.0, **changes: Any) -> Look:
    counters = dict.fromkeys(
        ("capture_packets", "capture_sip_messages", "capture_attempts", "capture_would_refuse", "capture_kernel_drops"),
        0,
    )
    values: dict[str, Any] = {
        "at": at, "seconds": at, "health": "eth0: 5 packets", "counters": counters, "methods": {}, "responses": {},
        "trunks": {}, "sources": {}, "rules": {}, "transit": {}, "altered": (), "with_policy": True,
    }  # fmt: skip
    values.update(changes)
    values["counters"] = {**counters, **changes.get("counters", {})}
    return Look(**values)


def shown(after: Look, before: Look | None = None) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(render(after, before))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_rates_are_those_between_two_looks() -> None:
    before = look(10.0, counters={"capture_packets": 100}, methods={"INVITE": 5})
    after = look(12.0, counters={"capture_packets": 300, "capture_attempts": 1}, methods={"INVITE": 9})
    assert headline(after, before) == (
        "100.0 packets/s   0.0 messages/s   0.5 call attempts/s   0.0 would be refused/s"
    )
    assert re.search(r"INVITE[ │]+2\.0[ │]+9", shown(after, before))
    assert "refused" not in headline(look(with_policy=False), None)


def test_it_says_that_nothing_is_enforced_and_what_was_lost() -> None:
    text = shown(look(counters={"capture_kernel_drops": 12}))
    assert text.startswith("observed only, nothing is enforced")
    assert "LOST 12 packets" in text
    assert "LOST" not in shown(look())


def test_every_table_is_shown_with_its_names() -> None:
    text = shown(
        look(
            trunks={"alpha": Tally(7, 2)},
            sources={("192.0.2.10", "alpha"): Tally(7, 2)},
            rules={("provider-block", "603 Decline"): 2},
            transit={("alpha", "beta"): TransitCounts(4, 4, 4, 3, 1, 0, 0, 0, 2, 1)},
            altered=({"call_id": "c1", "ingress": "alpha", "egress": "beta", "what": "1 stripped"},),
        )
    )
    for words in ("192.0.2.10", "provider-block", "75.0 %", "1 of 2", "1 stripped"):
        assert words in text


def test_what_callers_write_cannot_move_the_cursor() -> None:
    text = shown(
        look(methods={"A\x1b[2J": 1}, altered=({"call_id": "\x1b]0;x\x07", "ingress": "", "egress": "", "what": ""},))
    )
    assert "\x1b" not in text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "\N{REPLACEMENT CHARACTER}" in text


def test_the_board_keeps_some_examples_of_altered_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_view, "EXAMPLES", 2)
    board = Board(with_policy=False)
    for transit in (Transit(1, 1, 1), Transit(1, 0, stripped=1), Transit(1, 0, stripped=1), Transit(1, 0, stripped=1)):
        board.transit(TransitResult(1.8e9, b"c\xff", b"b", "alpha", "beta", Match.NUMBERS, True, transit))
    came, went = Answer(603, b"Network Blocked", (), ()), Answer(603, b"Decline", (), ())
    assert len(board.altered) == 2
    board.altered.clear()
    board.answer(AnswerResult(1.8e9, b"c", "alpha", "beta", came, went, ()))
    board.answer(AnswerResult(1.8e9, b"c", "alpha", "beta", came, went, ("phrase",)))
    assert [entry["what"] for entry in board.altered] == ["603 Network Blocked became 603 Decline: lost phrase"]


def test_wrong_arguments_and_policies_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("generation = 1\nwhat = 2\n")
    for arguments, words in (
        (["--live", "a/b"], "'a/b' is no name of an interface"),
        (["--live", "eth0", "--port", "70000"], "70000 is not within 1..65535"),
        (["--live", "eth0", "--policy", str(tmp_path / "absent.toml")], "absent.toml: cannot be read"),
        (["--live", "eth0", "--policy", str(wrong)], "what: unknown"),
    ):
        assert main(["capture", *arguments]) == 1
        assert words in capsys.readouterr().err
    for arguments in ([], ["--live", "eth0", "--seconds", "0"], ["--live", "eth0", "--seconds", "soon"]):
        with pytest.raises(SystemExit) as ended:
            main(["capture", *arguments])
        assert ended.value.code == 2


# ---- with an interface ----


@pytest.fixture
def wires() -> Iterator[Cable]:
    with cable() as made:
        yield made


def started(wires: Cable, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = wires.sbc.command(*prefix, sys.executable, "-m", "agent.cli.main", "capture", *arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def captures(wires: Cable) -> bool:
    rows = wires.sbc.run("cat", "/proc/net/packet").splitlines()[1:]
    return bool(rows) and all(row.split()[4] != "0" for row in rows)


@pytest.mark.kernel
@pytest.mark.slow
def test_a_capture_ends_by_a_signal_with_all_it_has_seen(wires: Cable, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    process = started(wires, "--live", "sbc0", "--json", "--policy", str(tmp_path / "policy.toml"))
    wait_for(lambda: captures(wires), "the capture to begin")
    wires.frames([ethernet(ipv4(udp(invite()))) for _ in range(5)])
    process.send_signal(signal.SIGINT)
    output, complaints = process.communicate(timeout=20 * PATIENCE)
    assert (process.returncode, complaints) == (0, "")
    found = json.loads(output)
    assert found["observed"] is True
    assert found["methods"] == {"INVITE": 5}
    assert found["would_refuse"] == [{"rule": "provider-block", "answer": "603 Decline", "attempts": 5}]
    assert found["sources"] == [{"source": "192.0.2.10", "trunk": "alpha", "attempts": 5, "would_refuse": 5}]


@pytest.mark.kernel
@pytest.mark.slow
def test_a_capture_of_some_seconds_ends_by_itself_with_tables(wires: Cable) -> None:
    process = started(wires, "--live", "sbc0", "--seconds", "1.5")
    wait_for(lambda: captures(wires), "the capture to begin")
    wires.frames([ethernet(ipv4(udp(invite())))])
    output, _ = process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 0
    assert re.search(r"unknown[ │]+1\b", output)
    assert "INVITE" in output


@pytest.mark.kernel
@pytest.mark.slow
def test_on_a_terminal_it_draws_a_screen_that_renews_itself(wires: Cable) -> None:
    ours, theirs = pty.openpty()
    command = wires.sbc.command(sys.executable, "-m", "agent.cli.main", "capture", "--live", "sbc0", "--seconds", "3")
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        wait_for(lambda: captures(wires), "the capture to begin")
        wires.frames([ethernet(ipv4(udp(invite())))])
        drawn = b""
        ends = time.monotonic() + 20.0
        while process.poll() is None and time.monotonic() < ends:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    drawn += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
        assert process.wait(10) == 0
    os.close(ours)
    assert drawn.count(b"observed only") >= 3
    assert b"INVITE" in drawn


@pytest.mark.kernel
@pytest.mark.slow
def test_an_interface_that_is_not_there_and_a_missing_capability_are_named(wires: Cable) -> None:
    process = started(wires, "--live", "ethO")
    _, complaints = process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 1
    assert complaints == "sbc-agent: there is no interface 'ethO'; there are: lo, sbc0\n"
    process = started(wires, "--live", "sbc0", prefix=("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"))
    _, complaints = process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 1
    assert "needs the capability CAP_NET_RAW" in complaints
    assert complaints.count("\n") == 1
