"""`sbc-agent replay` as a user runs it: output, exit codes, complaints; and the demo, in which every rule decides."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from tests.conftest import ROOT
from tests.ingress.frames import ethernet, ipv4, pcap, udp

POLICY = """
generation = 3
[[trunks]]
id = "east"
sources = ["192.0.2.10"]
[[limits]]
name = "rate"
scope = "trunk"
rate = 1
burst = 1
"""


def invite(number: int, user: str = "+12015550123") -> bytes:
    return (
        f"INVITE sip:+13035550199@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{number}\r\n"
        f"From: <sip:{user}@example.com>;tag={number}\r\nTo: <sip:+13035550199@example.com>\r\n"
        f"Call-ID: {number}@example.com\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    ).encode()


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Ten calls in a hundredth of a second."""
    path = tmp_path / "calls.pcap"
    path.write_bytes(pcap([ethernet(ipv4(udp(invite(n)))) for n in range(10)], start=1_793_631_600))
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """One call a second."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["replay", *map(str, arguments)])
    return code, *capfd.readouterr()


def as_json(capfd: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, err = run(capfd, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_refused_calls_are_shown_with_rule_reason_and_answer(
    capfd: pytest.CaptureFixture[str], capture: Path, policy: Path
) -> None:
    code, out, err = run(capfd, capture, "--policy", policy)
    assert (code, err) == (0, "")
    first = next(line for line in out.splitlines() if line.startswith("2026-11-02 15:00:00.001"))
    assert [cell.strip() for cell in first.split("│")] == [
        "2026-11-02 15:00:00.001",
        "12015550123",
        "13035550199",
        "east",
        "rate",
        "2 attempts in 1 s, limit 1, burst 1",
        "503 Service Unavailable",
    ]
    assert "and 6 more like these" in out
    assert "10 call attempts: 1 allowed, 9 refused\n" in out


def test_limit_bounds_the_rows_and_says_so(capfd: pytest.CaptureFixture[str], capture: Path, policy: Path) -> None:
    _, out, _ = run(capfd, capture, "--policy", policy, "--limit", 2)
    assert "… and 7 more that are not shown (--limit 2)" in out


def test_without_a_policy_every_call_passes_and_the_capture_is_counted(
    capfd: pytest.CaptureFixture[str], capture: Path
) -> None:
    code, out, _ = run(capfd, capture)
    assert code == 0
    assert "Refused" not in out
    assert "10 packets, 2026-11-02 15:00:00.000 to 15:00:00.009 UTC; 10 SIP messages, 10 INVITEs, 10 attempts" in out
    assert "10 call attempts: 10 allowed, 0 refused (no --policy: every call passes)" in out


def test_json_is_one_object_with_every_attempt(capfd: pytest.CaptureFixture[str], capture: Path, policy: Path) -> None:
    told = as_json(capfd, capture, "--policy", policy, "--limit", 1)
    assert set(told) == {"verdicts", "files", "summary"}
    assert [v["action"] for v in told["verdicts"]] == ["allow"] + ["refuse"] * 9
    assert told["verdicts"][1]["time"] == "2026-11-02T15:00:00.001000Z"
    assert {"call_id", "calling", "called", "trunk", "rule", "category", "why", "answer", "shadow"} <= set(
        told["verdicts"][1]
    )
    counts = told["files"][0]
    assert (counts["path"], counts["packets"], counts["sip_messages"], counts["invites"], counts["attempts"]) == (
        str(capture),
        10,
        10,
        10,
        10,
    )
    assert (counts["methods"], counts["responses"], counts["transports"]) == ({"INVITE": 10}, {}, {"udp": 10})
    assert told["summary"]["refused"] == 9


def test_json_without_one_verdict_is_json_too(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap([]))
    code, out, err = run(capfd, path, "--json")
    assert code == 0
    assert json.loads(out)["verdicts"] == []
    assert "no SIP message in 0 packets" in err


def test_compare_shows_the_calls_whose_verdict_changes(
    capfd: pytest.CaptureFixture[str], capture: Path, policy: Path, tmp_path: Path
) -> None:
    wider = tmp_path / "wider.toml"
    wider.write_text(POLICY.replace("burst = 1", "burst = 4"))
    _, out, _ = run(capfd, capture, "--policy", policy, "--compare", wider)
    changed = out[out.index("Calls whose verdict changes") :].split("\n\n")[0].splitlines()[3:]
    changed = [line for line in changed if line.startswith("2026")]
    assert len(changed) == 3
    assert all("503 Service Unavailable (rate) │ allowed" in line for line in changed)
    assert f"; 3 verdicts change with {wider}" in out
    told = as_json(capfd, capture, "--policy", policy, "--compare", wider)
    assert [v["changed"] for v in told["verdicts"]] == [False] + [True] * 3 + [False] * 6
    assert told["verdicts"][1]["compare"]["action"] == "allow"
    assert told["summary"]["changed"] == 3


def test_truncated_capture_is_shown_as_far_as_it_goes_and_exits_1(
    capfd: pytest.CaptureFixture[str], capture: Path
) -> None:
    content = capture.read_bytes()
    capture.write_bytes(content[:-5])
    code, out, err = run(capfd, capture)
    assert code == 1
    assert "9 call attempts" in out
    assert "the capture is cut off" in err
    assert f"at byte {24 + 9 * ((len(content) - 24) // 10)}; 9 packets before it were read" in err
    assert json.loads(run(capfd, capture, "--json")[1])["files"][0]["damage"]["offset"] == 24 + 9 * (
        (len(content) - 24) // 10
    )


def test_file_that_cannot_be_read_is_named_and_the_others_are_replayed(
    capfd: pytest.CaptureFixture[str], capture: Path, tmp_path: Path
) -> None:
    code, out, err = run(capfd, tmp_path / "absent", tmp_path, capture)
    assert code == 1
    assert err.splitlines() == [
        f"sbc-agent: {tmp_path / 'absent'}: no such file or directory",
        f"sbc-agent: {tmp_path}: is a directory, not a capture file",
    ]
    assert "10 call attempts" in out


def test_capture_without_sip_says_what_may_be_the_reason(capfd: pytest.CaptureFixture[str], capture: Path) -> None:
    code, _, err = run(capfd, capture, "--port", 5070)
    assert code == 0
    assert "no SIP message in 10 packets on port 5070; leave out --port" in err
    capture.write_bytes(pcap([ethernet(ipv4(udp(b"\x80" * 20)))]))
    code, _, err = run(capfd, capture)
    assert code == 0
    assert "SIP over TLS" in err


def test_policy_that_cannot_be_used_is_refused_before_anything_is_read(
    capfd: pytest.CaptureFixture[str], capture: Path, policy: Path, tmp_path: Path
) -> None:
    policy.write_text(POLICY.replace('"trunk"', '"moon"').replace("rate = 1", "rate = -1"))
    code, out, err = run(capfd, capture, "--policy", policy)
    assert (code, out) == (1, "")
    assert str(policy) in err
    assert "limits[0]" in err
    code, out, err = run(capfd, capture, "--compare", tmp_path / "absent.toml")
    assert (code, out) == (1, "")
    assert err.count("absent.toml") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "--limit", "-1"],
        ["a", "--limit", "x"],
        ["a", "--port", "0"],
        ["a", "--port", "65536"],
        ["a", "--what"],
    ],
)
def test_wrong_usage_exits_2(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["replay", *arguments])
    assert stopped.value.code == 2
    assert "usage:" in capfd.readouterr().err


def test_help_tells_exit_codes_and_shows_examples(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    out = capfd.readouterr().out
    assert "exit codes: 0" in out
    assert "--compare new.toml" in out


def test_missing_scapy_names_what_to_install(
    capfd: pytest.CaptureFixture[str], capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scapy.utils", None)
    code, _, err = run(capfd, capture)
    assert code == 1
    assert "pip install 'sbc-edge-agent[replay]'" in err


def test_caller_cannot_write_to_the_terminal(capfd: pytest.CaptureFixture[str], capture: Path, policy: Path) -> None:
    capture.write_bytes(pcap([ethernet(ipv4(udp(invite(n, "\x1b]0;owned\x07\x9b2J")))) for n in range(3)]))
    for extra in ([], ["--json"]):
        _, out, _ = run(capfd, capture, "--policy", policy, *extra)
        assert "owned" in out or extra
        assert not any(c in out for c in "\x1b\x07\x9b")


def test_fault_of_ours_lets_calls_pass_and_is_told(
    capfd: pytest.CaptureFixture[str], capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise RuntimeError("broken rule")

    monkeypatch.setattr("agent.screening.Screening.decide", fail)
    code, _, err = run(capfd, capture)
    assert code == 1
    assert "screening failed on 10 messages, which therefore pass; first failure: RuntimeError('broken rule')" in err


def test_progress_is_shown_when_wanted(
    capfd: pytest.CaptureFixture[str], capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float | None, bool | None]] = []

    @contextmanager
    def progress(_label: str, total: float | None, *, enabled: bool | None = None) -> Iterator[Any]:
        asked.append((total, enabled))
        yield lambda position: asked.append((position, enabled))

    monkeypatch.setattr("agent.cli.replay.progress", progress)
    size = capture.stat().st_size
    for option, enabled in ((["--progress"], True), (["--no-progress"], False), ([], None)):
        asked.clear()
        assert run(capfd, capture, *option)[0] == 0
        begun, *moved = asked
        assert begun == moved[-1] == (size, enabled)


def test_reader_that_has_seen_enough_ends_it_quietly(capture: Path) -> None:
    """`sbc-agent replay ... --json | head -1`, with far more output than a pipe holds."""
    capture.write_bytes(pcap([ethernet(ipv4(udp(invite(n)))) for n in range(5000)]))
    command = [sys.executable, "-W", "error", "-m", "agent.cli.main", "replay", "--json", str(capture)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` makes, in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "examples").mkdir()
    for name in ("demo-policy.toml", "demo-policy-strict.toml", "dno.csv"):
        (folder / "examples" / name).write_bytes((ROOT / "examples" / name).read_bytes())
    (folder / "build" / "demo").mkdir(parents=True)
    command = [sys.executable, str(ROOT / "tools" / "demo_traffic.py"), "build/demo/traffic.pcap"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    assert main(["dno", "build", "--csv", str(folder / "examples/dno.csv"), str(folder / "build/demo/dno.list")]) == 0
    return folder


def test_every_rule_of_the_demo_decides_at_least_once(capfd: pytest.CaptureFixture[str], demo: Path) -> None:
    told = as_json(
        capfd,
        demo / "build/demo/traffic.pcap",
        "--policy",
        demo / "examples/demo-policy.toml",
        "--compare",
        demo / "examples/demo-policy-strict.toml",
    )
    rules = told["summary"]["rules"]
    assert rules.keys() == {
        "emergency",
        "provider-block",
        "do-not-originate",
        "caller-id-authorisation",
        "subscriber-list",
        "trunk-rate",
        "called-rate",
        "premium",
        "acme-sessions",
        "calling-rate",
    }
    assert rules["emergency"]["allowed"] == 3
    assert rules["do-not-originate"]["refused"] == 3
    assert rules["calling-rate"]["shadow"] > 0
    assert rules["trunk-rate"]["dropped"] > 0
    assert all(tally["refused"] for name, tally in rules.items() if name not in {"emergency", "calling-rate"})
    assert told["summary"]["changed"] > 0
    assert told["files"][0]["transports"] == {"udp": told["files"][0]["sip_messages"] - 6, "tcp": 6}
    assert told["files"][0]["reassembled"] == 1
    assert told["files"][0]["vlan"] == 7
    # 6 repeats of an unanswered INVITE and one answer to a challenge
    assert told["files"][0]["invites"] - told["files"][0]["attempts"] == 7


def test_table_of_the_demo_stays_readable(capfd: pytest.CaptureFixture[str], demo: Path) -> None:
    code, out, err = run(capfd, demo / "build/demo/traffic.pcap", "--policy", demo / "examples/demo-policy.toml")
    assert (code, err) == (0, "")
    table = out[out.index("Refused calls") :].split("\n\n")[0].splitlines()
    assert 20 < len(table) < 40


def test_demo_traffic_is_always_the_same(demo: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pcap"
    subprocess.run([sys.executable, ROOT / "tools" / "demo_traffic.py", again], check=True, capture_output=True)
    assert again.read_bytes() == (demo / "build/demo/traffic.pcap").read_bytes()
