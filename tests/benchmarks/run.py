"""`make bench`: measures what we promise, as ratios within one run, and writes build/bench.json.

Each figure is the median of several rounds; a peer is measured in turn with what it is compared to, so that a machine
that slows down slows both. Absolute figures stand beside the ratios and mean this machine only.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 9


@dataclass(frozen=True)
class Figure:
    """One line of build/bench.json. `ratio` is value to peer_value, turned so that more is better for us."""

    name: str
    unit: str
    value: float
    peer: str
    peer_value: float
    ratio: float
    target: str


def cost(work: Callable[[], object], calls: int) -> float:
    """Microseconds per call of what `work` does `calls` times."""
    started = perf_counter()
    work()
    return (perf_counter() - started) / calls * 1e6


def in_turn(*works: tuple[Callable[[], object], int], rounds: int = ROUNDS) -> list[float]:
    """The median cost of each, measured one after the other in every round, garbage collection off."""
    costs: list[list[float]] = [[] for _ in works]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for row, (work, calls) in zip(costs, works, strict=True):
                row.append(cost(work, calls))
    finally:
        gc.enable()
    return [median(row) for row in costs]


def scans() -> Iterator[Figure]:
    """The scan of a 1.6 kB INVITE with Identity: compiled, Python, and scapy's dissection of its packet."""
    from scapy.layers.inet import IP, UDP
    from scapy.packet import Raw

    from agent.native import sip
    from agent.sip.scan import scan_py
    from tests.benchmarks.messages import invite

    messages = [invite(call_id=f"{i}@192.0.2.10") for i in range(500)]
    packets = [bytes(IP(src="192.0.2.10", dst="192.0.2.1") / UDP(sport=5060, dport=5060) / Raw(m)) for m in messages]

    def loop(function: Callable[[bytes], object], items: list[bytes]) -> tuple[Callable[[], object], int]:
        return lambda: [function(item) for item in items], len(items)

    if sip is None:
        return
    native, pure, scapy = in_turn(loop(sip.scan, messages), loop(scan_py, messages), loop(IP, packets[:50]))
    yield Figure("scan_native_vs_python", "us per message", native, "python scan", pure, pure / native, ">= 8")
    yield Figure("scan_native_vs_scapy", "us per message", native, "scapy dissection", scapy, scapy / native, "")
    yield Figure("scan_python_vs_scapy", "us per message", pure, "scapy dissection", scapy, scapy / pure, "")


def number_sets() -> Iterator[Figure]:
    """Look-ups in, and memory of, 5 million exact numbers and 10^7 thousands-blocks; beside a Python set."""
    from tests.benchmarks.lists import exact_numbers, number_set

    numbers = exact_numbers(5_000_000)
    ours = number_set(numbers)
    # Half of them inside; new integers, since those of the list lie scattered in memory, which is not what we measure.
    picked = Random(1).sample(numbers, 100_000)
    probes = [n + 0 if i % 2 else (n * 7919 + 1) % 10**10 for i, n in enumerate(picked)]
    peer = set(numbers[:2_500_000])
    contains = ours.contains
    look_up, in_set = in_turn(
        (lambda: deque(map(contains, probes), maxlen=0), len(probes)),
        (lambda: deque(map(peer.__contains__, probes), maxlen=0), len(probes)),
    )
    size = sum(section.nbytes for section in ours.sections)
    yield Figure("number_set_bytes", "bytes", size, "64 MB", 64e6, 64e6 / size, "<= 64 MB")
    yield Figure("number_set_lookup_us", "us", look_up, "python set of half", in_set, in_set / look_up, "native <= 0.2")


def dno_list() -> Path:
    """The compiled list of 2.3 million numbers and 10^7 blocks; made once."""
    from tests.benchmarks.lists import exact_numbers, write_dno_list

    path = ROOT / "build" / "bench-dno.list"
    if not path.exists():
        write_dno_list(path, exact_numbers(2_300_000))
    return path


def decisions() -> Iterator[Figure]:
    """One attempt through scan, emergency, do-not-originate and four limits: both twins, each in its own process."""
    path = dno_list()
    costs = {}
    for twin, pure in (("native", "0"), ("python", "1")):
        output = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.decision", str(path)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "SBC_EDGE_PURE": pure},
        ).stdout
        costs[twin] = json.loads(output)
    native, python = costs["native"], costs["python"]
    yield Figure(
        "decision_us",
        "us",
        native["decision"],
        "python twins",
        python["decision"],
        python["decision"] / native["decision"],
        "native <= 3, python <= 30",
    )
    yield Figure(
        "decision_python_us", "us", python["decision"], "target of 30 us", 30, 30 / python["decision"], "<= 30"
    )
    yield Figure(
        "handle_us",
        "us",
        native["handle"],
        "python twins",
        python["handle"],
        python["handle"] / native["handle"],
        "with call attempts and sessions",
    )
    yield Figure(
        "resident_mb", "MB", native["resident"], "150 MB", 150, 150 / native["resident"], "with the list mapped"
    )


def replays() -> Iterator[Figure]:
    """A capture through the whole of replay, beside scapy reading and dissecting it."""
    from scapy.utils import PcapReader

    from tests.benchmarks.capture import our_replay, write_capture

    path = ROOT / "build" / "bench.pcap"
    packets = write_capture(path, calls=5_000)

    def scapy_reads(limit: int = 1_000) -> None:
        with PcapReader(str(path)) as reader:
            for _, _packet in zip(range(limit), reader, strict=False):
                pass

    ours, theirs = in_turn((lambda: our_replay(path), packets), (scapy_reads, 1_000), rounds=3)
    yield Figure("replay_packets_per_s", "packets/s", 1e6 / ours, "scapy PcapReader", 1e6 / theirs, theirs / ours, "")


def records() -> Iterator[Figure]:
    """Records on disk: what a call waits, what the thread does, what the disk takes, what the event loop notices."""
    build = ROOT / "build"
    output = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.records", str(build)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    got = json.loads(output)
    yield Figure("record_put_us", "us", got["put"], "target of 1 us", 1, 1 / got["put"], "<= 1")
    yield Figure("record_encode_us", "us", got["row"], "target of 10 us", 10, 10 / got["row"], "<= 10, in a thread")
    yield Figure(
        "records_committed_per_s",
        "records/s",
        got["committed"],
        "decided calls/s",
        10_000,
        got["committed"] / 10_000,
        ">= 10,000",
    )
    yield Figure("record_bytes", "bytes", got["bytes"], "100 bytes", 100, 100 / got["bytes"], "<= 100 on disk")
    yield Figure(
        "record_groups_per_s",
        "groups/s",
        got["groups"],
        "bare fdatasync",
        got["bare"],
        got["groups"] / got["bare"],
        "one record each",
    )
    yield Figure("record_find_per_s", "records/s", got["find"], "", 1e6, got["find"] / 1e6, "look-up of a Call-ID")
    yield Figure(
        "record_loop_late_p99_ms",
        "ms",
        got["loop_p99"],
        "without records",
        got["loop_idle"],
        got["loop_idle"] / got["loop_p99"],
        "at 5,000 records/s",
    )


def redirects() -> Iterator[Figure]:
    """Signed calls through the redirect server, beside Kamailio with the same checks: INVITE and answer; with ACK."""
    from tests.benchmarks.redirect import compare

    for acknowledged, (mine, theirs) in compare().items():
        name = "redirect_acknowledged" if acknowledged else "redirect"
        if theirs is None:
            print(f"{name}_vs_kamailio: skipped, kamailio is not installed; {mine.cpu_us:.1f} us of ours per call")
            continue
        ratio = theirs.cpu_us / mine.cpu_us
        yield Figure(f"{name}_cpu_us", "us CPU per call", mine.cpu_us, "kamailio, its worker", theirs.cpu_us, ratio, "")
        yield Figure(
            f"{name}_vs_kamailio",
            "calls/s per core",
            1e6 / mine.cpu_us,
            "kamailio -x fm -X fm",
            1e6 / theirs.cpu_us,
            ratio,
            "" if acknowledged else ">= 2.0",
        )


def hooks() -> Iterator[Figure]:
    """Decisions through the hook, beside a service written the ordinary way that decides nothing."""
    from tests.benchmarks.hook import run

    rates = run()
    for kind, target in (("unary", ">= 0.85"), ("stream", ""), ("batch", ">= 0.7, >= 150k/s")):
        ours, empty, ratio = (rates[f"{kind}_{name}"] for name in ("hook", "empty", "ratio"))
        yield Figure(f"hook_{kind}_vs_empty", "decisions/s", ours, "empty handler", empty, ratio, target)
    for share in ("p50", "p99"):
        target = "< 1 ms" if share == "p99" else ""
        yield Figure(f"hook_stream_{share}", "ms at half load", rates[share], "1 ms", 1.0, 1.0 / rates[share], target)


def identities() -> Iterator[Figure]:
    """Verifying and signing, beside the bare ES256 in them and beside Kamailio's secsipid on the same calls."""
    from tests.benchmarks.secsipid import compare

    command = [sys.executable, "-m", "tests.benchmarks.identity"]
    got = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    for kind in ("verify", "sign"):
        bare, ratio = got[f"bare_{kind}"], got[f"{kind}_ratio"]
        target = ">= 0.85" if kind == "verify" else ""
        yield Figure(f"{kind}_vs_bare_es256", "us per call", got[kind], "ES256 of cryptography", bare, ratio, target)
    yield Figure(
        "verify_again_us",
        "us per call",
        got["again"],
        "for the first time",
        got["verify"],
        got["verify"] / got["again"],
        "",
    )
    for kind in ("verify", "sign"):
        compared = compare(kind)
        mine = compared.cpu_us["ours"]
        if "kamailio" not in compared.cpu_us:
            print(f"{kind}_vs_secsipid: skipped, Kamailio's secsipid is not installed; {mine:.1f} us of ours per call")
        for name, peer, target in (("kamailio", "kamailio secsipid", ">= 2.0"), ("file", "without its cache", "")):
            if name in compared.cpu_us:
                suffix = "" if target else "_file"
                theirs, ratio = compared.cpu_us[name], compared.ratios[name]
                yield Figure(f"{kind}_vs_secsipid{suffix}", "us CPU per call", mine, peer, theirs, ratio, target)


def captures() -> Iterator[Figure]:
    """Packets from a live interface: into Python objects beside tcpdump and scapy, and through the whole capture."""
    from tests.benchmarks.live_capture import compare

    if os.geteuid() or not shutil.which("tcpdump"):
        print("capture_vs_tcpdump: skipped, it needs root and tcpdump (apt-get install tcpdump)")
        return
    got = compare()
    ours, tcpdump, scapy, whole = (got[name] for name in ("packets", "tcpdump", "scapy", "server"))
    for name, peer, target in (("tcpdump", tcpdump, ">= 0.5"), ("scapy", scapy, ">= 20")):
        yield Figure(
            f"capture_vs_{name}", "packets/s per core", 1e6 / ours.cpu_us, name, 1e6 / peer.cpu_us,
            peer.cpu_us / ours.cpu_us, target,
        )  # fmt: skip
        yield Figure(
            f"capture_lossless_vs_{name}", "packets/s, no loss", ours.rate, name, peer.rate,
            ours.rate / max(peer.rate, 1.0), "varies with what else this machine does",
        )  # fmt: skip
    yield Figure("capture_screened_us", "us CPU per INVITE", whole.cpu_us, "scapy, dissected only", scapy.cpu_us,
                 scapy.cpu_us / whole.cpu_us, "messages, screening, pairing")  # fmt: skip


def queues() -> Iterator[Figure]:
    """What the kernel's queue adds to an allowed call, and what a flood costs that the kernel cuts off."""
    from tests.benchmarks.queue import measure

    if os.geteuid() != 0:
        print("queue: skipped, network namespaces need root")
        return
    got = measure()
    yield Figure("queue_allowed_p50_ms", "ms added", got.added_p50_ms, "1 ms", 1.0, 1 / got.added_p50_ms, "")
    yield Figure("queue_allowed_p99_ms", "ms added", got.added_p99_ms, "1 ms", 1.0, 1 / got.added_p99_ms, "< 1")
    per_core = 1e6 / got.decision_us
    yield Figure("queue_rate", "calls/s per core", per_core, "target of 40k", 40_000, per_core / 40_000, ">= 40k/s")
    yield Figure(
        "queue_rate_wall", "calls/s", got.decisions_per_s, "target of 40k", 40_000, got.decisions_per_s / 40_000, ""
    )
    answering, dropping = "kamailio that answers 503", "kamailio that drops"
    for name, shed, peer, us, target in (
        ("flood_shed_vs_kamailio", got.shed_us, answering, got.kamailio_answering_us, ">= 10"),
        ("flood_shed_vs_kamailio_dropping", got.shed_us, dropping, got.kamailio_us, ""),
        ("flood_shed_by_nftables_vs_kamailio", got.shed_nftables_us, answering, got.kamailio_answering_us, ""),
    ):
        if us is not None:
            yield Figure(name, "INVITEs/s per core", 1e6 / shed, peer, 1e6 / us, us / shed, target)


def fleets() -> Iterator[Figure]:
    """A fleet that comes back at once, a policy on its way to 100 agents, memory of those that are idle."""
    from tests.benchmarks.fleet import run

    found = run()
    ratio = found["sessions"] / found["handshakes"]
    yield Figure(
        "fleet_reconnect", "sessions/s", found["sessions"], "bare mTLS handshakes", found["handshakes"], ratio, ""
    )
    ratio = found["bare_apply"] / found["apply"]
    yield Figure(
        "fleet_apply_100", "s to confirmed", found["apply"], "100 calls in turn", found["bare_apply"], ratio, ""
    )
    yield Figure("fleet_idle_agent", "kB resident", found["idle"], "90 kB, measured", 90.0, 90.0 / found["idle"], "")
    ratio = found["agents"] / 10_000
    yield Figure("fleet_idle_agents", "agents per core", found["agents"], "10,000 agents", 10_000, ratio, "")


def ingest() -> Iterator[Figure]:
    """Records that a controller takes in over mTLS, per processor of it, with either database."""
    for database, target in (("", ">= 200k"), ("postgresql", ">= 100k")):
        output = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.ingest", str(ROOT / "build"), database],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        got = json.loads(output)
        if not got:
            print("ingest_records_postgresql: skipped, PostgreSQL is not installed")
            continue
        name = "ingest_records_postgresql" if database else "ingest_records"
        bare = got["bare"]
        yield Figure(name, "records/s per core", got["per_core"], "pyarrow alone", bare, got["per_core"] / bare, target)
        yield Figure(f"{name}_wall", "records/s", got["records"], "", 0.0, 0.0, "4 agents, one machine")
        if not database:
            yield Figure("ingest_record_bytes", "bytes", got["bytes"], "100 bytes", 100, 100 / got["bytes"], "on disk")


def daemons() -> Iterator[Figure]:
    """The whole daemon with a carrier's list, within its unit's limits: start, memory and CPU under load."""
    command = [sys.executable, "-m", "tests.benchmarks.daemon", str(dno_list())]
    got = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    if not got["limited"]:
        print("daemon: not within its unit's limits, no control group could be made (it needs root)")
    first = got["first_verdict_s"]
    yield Figure("daemon_first_verdict_s", "s from exec", first, "target of 1.5 s", 1.5, 1.5 / first, "<= 1.5")
    for name, load in (("resident_mb", "idle"), ("resident_at_1000", "1,000/s"), ("resident_at_10000", "10,000/s")):
        label = "daemon_" + name
        yield Figure(label, f"MB, {load}", got[name], "target of 150 MB", 150, 150 / got[name], "<= 150")
    for rate in (1_000, 10_000):
        core = got[f"core_at_{rate}"]
        yield Figure(f"daemon_core_at_{rate}", "of a core", core, "CPUQuota", 1.5, 1.5 / core, "redirect and hook")


GROUPS = {
    "scan": scans,
    "numbers": number_sets,
    "decision": decisions,
    "replay": replays,
    "records": records,
    "ingest": ingest,
    "redirect": redirects,
    "hook": hooks,
    "daemon": daemons,
    "identity": identities,
    "capture": captures,
    "queue": queues,
    "fleet": fleets,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="what to measure; default: everything")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench.json")
    args = parser.parse_args()
    args.out.parent.mkdir(exist_ok=True)
    figures = []
    print(f"{'name':32} {'value':>12} {'unit':16} {'peer':>12} {'ratio':>8}  compared with (target)")
    for group in args.groups or GROUPS:
        for figure in GROUPS[group]():
            figures.append(figure)
            target = f" ({figure.target})" if figure.target else ""
            print(
                f"{figure.name:32} {figure.value:12.3f} {figure.unit:16} {figure.peer_value:12.3f} "
                f"{figure.ratio:8.2f}  {figure.peer}{target}",
                flush=True,
            )
    args.out.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
