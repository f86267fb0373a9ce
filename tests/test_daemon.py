"""The daemon as a real process: what systemd, the SBC, Prometheus and the operator see of it."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.ops.log import LineWriter, Log
from agent.parts import build_service
from agent.records.reading import Wanted, records
from agent.records.segment import Kind
from sbcedge.admin.v1 import admin_pb2
from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc
from tests.conftest import ROOT
from tests.fakes.agent_process import CONFIG, POLICY, AgentProcess, request_of, running, start_agent
from tests.fakes.calls import invite, observe, policy

CALLS = frozenset(Kind) - {Kind.ROLLUP}
NO_LABELS: frozenset[str] = frozenset()
NEXT = POLICY.replace("generation = 7", "generation = 8").replace("trial", "next")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("d")


def samples(agent: AgentProcess) -> dict[tuple[str, frozenset[str]], float]:
    """Every sample of the metrics page, by name and label values."""
    with urllib.request.urlopen(agent.component("metrics").detail, timeout=5) as page:
        assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = list(text_string_to_metric_families(page.read().decode()))
    return {(s.name, frozenset(s.labels.values())): s.value for family in families for s in family.samples}


def recorded(folder: Path) -> int:
    """How many call attempts are on disk."""
    return sum(1 for record in records(folder / "spool", Wanted(kinds=CALLS)))


def test_it_says_ready_when_it_answers_and_stopping_when_it_ends(folder: Path) -> None:
    with start_agent(folder) as agent:
        agent.manager.hears("READY=1")
        assert "STATUS=screening by policy generation 7" in agent.manager.said
        with agent.hook() as ask:
            assert ask(invite()).decision == pb.DECISION_ALLOW
        agent.signal(signal.SIGTERM)
        agent.manager.hears("STOPPING=1")
        assert agent.ends() == 0
        assert agent.complaints() == ""
    assert sorted(p.name for p in folder.iterdir() if p.name.endswith(".sock")) == ["notify.sock"]


def test_an_abstract_notify_socket_hears_it_too_and_the_watchdog_is_fed(folder: Path) -> None:
    with start_agent(
        folder, notify=f"@sbc-edge-{folder.name}-{time.monotonic_ns()}", environment={"WATCHDOG_USEC": "200000"}
    ) as agent:
        agent.manager.hears("READY=1")
        for _ in range(3):
            agent.manager.hears("WATCHDOG=1", patience=2.0)


def test_a_watchdog_of_another_process_is_none_of_its_business(folder: Path) -> None:
    with start_agent(folder, environment={"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}) as agent:
        agent.manager.hears("READY=1")
        agent.signal(signal.SIGTERM)
        agent.manager.hears("STOPPING=1")
        assert "WATCHDOG=1" not in agent.manager.said


def test_verdicts_show_in_status_metrics_log_and_records(folder: Path) -> None:
    with running(folder) as agent:
        with agent.hook() as ask:
            decisions = [ask(invite(call_id=f"call-{n}@a.example.net")).decision for n in range(4)]
        assert decisions == [pb.DECISION_ALLOW] * 2 + [pb.DECISION_REFUSE] * 2
        status = agent.status()
        (trunk,) = [t for t in status.trunks if t.trunk == "peer"]
        assert (trunk.attempts, trunk.allowed, trunk.refused, trunk.rate_limit) == (4, 2, 2, 2 / 3600)
        (rule,) = [r for r in status.rules if r.rule == "rate-per-trunk"]
        assert (rule.mode, rule.refused, rule.shadow) == ("enforce", 2, 0)
        metrics = samples(agent)
        assert metrics["sbc_edge_attempts_total", frozenset({"peer", "refuse"})] == 2
        assert metrics["sbc_edge_verdicts_total", frozenset({"rate-per-trunk", "refuse", "enforce"})] == 2
        assert metrics["sbc_edge_verdicts_total", frozenset({"none", "allow", "enforce"})] == 2
        assert metrics["sbc_edge_policy_generation", NO_LABELS] == 7
        assert metrics["sbc_edge_hook_requests_total", NO_LABELS] == 4
        assert metrics["process_resident_memory_bytes", NO_LABELS] > 0
        line = agent.logged("call refused")
        assert (line["rule"], line["trunk"], line["answer"][:3]) == ("rate-per-trunk", "peer", "503")
        agent.signal(signal.SIGTERM)
        assert agent.ends() == 0
    explained = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", "explain", "--json", "--dir", folder / "spool", line["call_id"]],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    (record,) = json.loads(explained.stdout)
    assert (record["why"], record["rule"]) == (line["why"], line["rule"])


def test_explain_over_the_admin_socket_finds_the_record(folder: Path) -> None:
    with running(folder) as agent:
        with agent.hook() as ask:
            ask(invite(call_id="-wanted@a.example.net"))
        with agent.admin() as admin:
            request = admin_pb2.ExplainRequest(call_id="-wanted@a.example.net")
            deadline = time.monotonic() + 10
            while not (records := admin.Explain(request, timeout=10).records):  # until the group is committed
                assert time.monotonic() < deadline
            assert [json.loads(r)["call_id"] for r in records] == ["-wanted@a.example.net"]
            assert not admin.Explain(admin_pb2.ExplainRequest(call_id="no such call"), timeout=10).records


def test_sighup_takes_a_right_policy_and_refuses_a_wrong_one(folder: Path) -> None:
    with start_agent(folder) as agent:
        agent.manager.hears("READY=1")
        (folder / "policy.toml").write_text(NEXT)
        agent.signal(signal.SIGHUP)
        agent.manager.hears("RELOADING=1")
        assert any(line.startswith("MONOTONIC_USEC=") for line in agent.manager.said)
        agent.manager.hears("READY=1")
        assert (agent.status().policy_generation, agent.status().policy_name) == (8, "next")

        (folder / "policy.toml").write_text(NEXT + '[[limits]]\nname = "x"\nscope = "planet"\n')
        agent.signal(signal.SIGHUP)
        agent.manager.hears("READY=1")
        assert agent.manager.said[-1].endswith("the last policy offered was refused")
        status = agent.status()
        assert status.policy_generation == 8
        assert "limits[1].scope" in status.policy_error
        assert "limits[1].scope" in agent.logged("policy refused, the old one stays")["error"]
        with agent.hook() as ask:
            assert ask(invite()).policy_generation == 8


def test_apply_policy_names_every_wrong_field_and_keeps_counters(folder: Path) -> None:
    with running(folder) as agent, agent.hook() as ask:
        assert [ask(invite()).decision for _ in range(3)][-1] == pb.DECISION_REFUSE
        with agent.admin() as admin:
            wrong = admin.ApplyPolicy(admin_pb2.ApplyPolicyRequest(toml="generatoin = 9\n[[trunks]]\nid = 4\n"))
            assert not wrong.applied
            assert wrong.generation == 7
            assert [e.field for e in wrong.errors] == ["generatoin", "trunks[0].id"]
            right = admin.ApplyPolicy(admin_pb2.ApplyPolicyRequest(toml=NEXT))
            assert (right.applied, right.generation, list(right.errors)) == (True, 8, [])
        assert ask(invite()).decision == pb.DECISION_REFUSE  # the new policy did not refill the bucket
        with agent.admin() as admin:
            back = admin.ApplyPolicy(admin_pb2.ApplyPolicyRequest())
            assert (back.applied, back.generation) == (True, 7)


def test_drain_answers_what_is_in_flight_and_ends_cleanly(folder: Path) -> None:
    """A stream is open and talks while the agent drains: every request that was sent before the end has its answer."""
    with running(folder) as agent, grpc.insecure_channel(f"unix:{folder}/hook.sock") as channel:
        stub = screening_pb2_grpc.ScreeningServiceStub(channel)
        asked, answered = 0, 0

        def questions() -> Iterator[pb.ScreenStreamRequest]:
            nonlocal asked
            for n in range(400):
                asked += 1
                yield pb.ScreenStreamRequest(requests=[request_of(invite()) for _ in range(8)])
                if n == 100:
                    agent.signal(signal.SIGTERM)

        with contextlib.suppress(grpc.RpcError):  # UNAVAILABLE at the end, if the agent was faster
            for response in stub.ScreenStream(questions(), timeout=20):
                answered += len(response.responses)
        assert answered >= 100 * 8
        assert agent.ends() == 0
        assert agent.logged("stopped")["attempts"] == answered
    assert recorded(folder) == answered


def test_the_second_sigterm_does_not_wait_for_a_client_that_goes_on_talking(folder: Path) -> None:
    slow = CONFIG.replace("grace = 5", "grace = 120")
    with running(folder, config=slow) as agent, grpc.insecure_channel(f"unix:{folder}/hook.sock") as channel:
        stub = screening_pb2_grpc.ScreeningServiceStub(channel)

        def question() -> pb.ScreenStreamRequest:
            return pb.ScreenStreamRequest(requests=[request_of(invite())])

        answers = stub.ScreenStream(question() for _ in itertools.count())
        next(answers)
        with contextlib.suppress(grpc.RpcError):
            agent.signal(signal.SIGTERM)
            for number, _ in enumerate(answers):
                if number == 100:  # it drains, and still answers whoever is in the middle of something
                    agent.signal(signal.SIGTERM)
        began = time.monotonic()
        assert agent.ends() == 0
        assert time.monotonic() - began < 10
        attempts = agent.logged("stopped")["attempts"]
    assert recorded(folder) == attempts  # haste loses no record


def test_a_watcher_gets_a_last_look_and_does_not_hold_up_the_end(folder: Path) -> None:
    with running(folder) as agent, agent.admin() as admin:
        request = admin_pb2.WatchStatusRequest()
        request.interval.FromSeconds(3600)
        looks = admin.WatchStatus(request)
        assert not next(looks).status.draining
        admin.Drain(admin_pb2.DrainRequest())
        assert [look.status.draining for look in looks] == [True]
        assert agent.ends() == 0


def test_a_taken_metrics_port_does_not_keep_calls_from_being_screened(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{port}")
        with start_agent(folder, config=config) as agent:
            error = agent.logged("does not start, will be tried again")["error"]
            assert error.startswith("metrics.listen: ")
            assert "address already in use" in error
            agent.manager.hears("READY=1")
            assert "STATUS=screening by policy generation 7; not well: metrics" in agent.manager.said
            with agent.hook() as ask:
                assert ask(invite()).decision == pb.DECISION_ALLOW
            assert agent.component("metrics") == admin_pb2.ComponentStatus(
                component="metrics", healthy=False, detail=error
            )


@pytest.mark.slow
def test_a_taken_sip_port_leaves_the_hook_and_is_tried_again(folder: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        config = CONFIG + f'[redirect]\nudp = ["127.0.0.1:{taken.getsockname()[1]}"]\n'
        with running(folder, config=config) as agent, agent.hook() as ask:
            assert ask(invite()).decision == pb.DECISION_ALLOW
            redirect = agent.component("redirect")
            assert not redirect.healthy
            assert redirect.detail.startswith("redirect: ")
            assert "ddress already in use" in redirect.detail
            taken.close()
            assert agent.logged("started after all")["component"] == "redirect"
            assert agent.component("redirect").healthy


def test_the_redirect_server_and_the_hook_share_one_limit(folder: Path) -> None:
    config = CONFIG + '[redirect]\nudp = ["127.0.0.1:0"]\n'
    policy = POLICY.replace("192.0.2.0/24", "127.0.0.1/32").replace('scope = "trunk"', 'scope = "global"')
    with running(folder, config=config, policy=policy) as agent, agent.hook() as ask:
        port = int(re.findall(r"udp 127\.0\.0\.1 port (\d+)", agent.component("redirect").detail)[0])
        assert ask(invite()).decision == pb.DECISION_ALLOW
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.settimeout(5.0)
            caller.connect(("127.0.0.1", port))
            answers = []
            for _ in range(2):
                caller.send(invite().replace(b";branch", b";rport;branch"))
                answers.append(caller.recv(65_535).split(b"\r\n")[0])
        assert answers == [b"SIP/2.0 404 Not Found", b"SIP/2.0 503 Service Unavailable"]
        assert ask(invite()).decision == pb.DECISION_REFUSE
        assert samples(agent)["sbc_edge_redirect_requests_total", NO_LABELS] == 2


def test_without_any_way_in_it_ends_with_1_so_that_it_is_tried_again(folder: Path) -> None:
    (folder / "hook.sock").write_text("somebody's file")
    with start_agent(folder) as agent:
        assert agent.ends() == 1
        assert "hook.socket" in agent.logged("no way in for calls could start")["errors"][0]


@pytest.mark.parametrize(
    ("config", "policy", "file", "key"),
    [
        (CONFIG.replace("grace", "grase"), POLICY, "agent.toml", 'shutdown.grase: unknown key; did you mean "grace"?'),
        (CONFIG, POLICY.replace("trunk", "trunc"), "policy.toml", "truncs: unknown key"),
        (CONFIG.replace("policy.toml", "no-policy.toml"), POLICY, "no-policy.toml", "cannot be read"),
    ],
)
def test_a_wrong_configuration_ends_with_78_and_names_file_and_key(
    folder: Path, config: str, policy: str, file: str, key: str
) -> None:
    with start_agent(folder, config=config, policy=policy) as agent:
        assert agent.ends() == 78
        complaints = agent.complaints()
        assert f"sbc-agent: {folder}/{file}: " in complaints
        assert key in complaints
        assert "Traceback" not in complaints


def test_check_says_ok_or_what_is_wrong_and_starts_nothing(folder: Path) -> None:
    command = [sys.executable, "-m", "agent.cli.main", "run", "--check", "--config", str(folder / "agent.toml")]
    (folder / "agent.toml").write_text(CONFIG.format(folder=folder))
    (folder / "policy.toml").write_text(POLICY)
    right = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (right.returncode, right.stderr) == (0, "")
    assert right.stdout.splitlines() == [f"{folder}/agent.toml: ok", f"{folder}/policy.toml: ok, generation 7"]
    (folder / "policy.toml").write_text("trunks = 3")
    wrong = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (78, "")
    assert wrong.stderr.startswith(f"sbc-agent: {folder}/policy.toml: trunks: ")
    assert not (folder / "hook.sock").exists()


def test_a_killed_agent_leaves_nothing_that_keeps_the_next_from_starting(folder: Path) -> None:
    with running(folder) as agent:
        agent.process.kill()
        agent.process.wait()
        (folder / "notify.sock").unlink()
    with running(folder) as agent, agent.hook() as ask:
        assert ask(invite()).decision == pb.DECISION_ALLOW


def test_a_second_agent_does_not_take_the_sockets_of_the_first(folder: Path) -> None:
    with running(folder) as first:
        (folder / "notify.sock").unlink()
        with start_agent(folder) as second:
            assert second.ends() == 1
            assert "somebody listens" in second.logged("no way in for calls could start")["errors"][0]
        with first.hook() as ask:
            assert ask(invite()).decision == pb.DECISION_ALLOW


def test_the_admin_socket_is_the_owners_alone(folder: Path) -> None:
    with running(folder):
        assert (folder / "admin.sock").stat().st_mode & 0o7777 == 0o600


def test_a_fault_while_screening_is_counted_logged_once_and_the_call_passes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = Log(LineWriter(descriptor))
    service = build_service(policy(), log, log)
    monkeypatch.setattr("agent.screening.attempt_of", lambda *_: 1 // 0)
    assert [service.handle(observe(invite())) for _ in range(3)] == [None] * 3
    os.close(descriptor)
    assert (service.screening.failures, log.faults) == (3, 3)
    (line,) = map(json.loads, (folder / "log").read_text().splitlines())
    assert (line["event"], line["where"]) == ("fault", "screening")
    assert "ZeroDivisionError" in line["error"]


def test_the_daemon_imports_no_grpc_no_scapy_no_pandas_no_arrow_and_no_cryptographic_library() -> None:
    program = "import sys, agent.daemon, agent.cli.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "agent.daemon" in modules
    assert not modules & {"scapy", "pyarrow", "pandas", "numpy", "agent.ingress.capture_file", "agent.ingress.replay"}
    assert not modules & {"cryptography", "httpx", "grpc"}
