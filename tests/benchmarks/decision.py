"""What one call attempt costs, in microseconds, with the twins that this process has. Prints one JSON object.

decision   scan, numbers, emergency, a do-not-originate list of 2.3 million numbers and 10^7 blocks, four limits
resident   megabytes of the process with the list mapped and checked, before the first call
handle     the same through Screening.handle: also what kind of INVITE it is, and the table of attempts
"""

import gc
import json
import resource
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from agent.loading import open_list
from agent.model import ALLOW
from agent.policy.compile import compile_policy
from agent.screening import Decision, Observation, Screening, attempt_of
from agent.sip.scan import scan
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.benchmarks.messages import invite

CALLS = 20_000
ROUNDS = 7
STEP = 1e-4  # seconds between two calls: 10,000 calls per second


def build(dno_list: Path) -> Screening:
    """Four limits and a list that hardly a call of the bench is on: that calls pass is the common case."""
    limits = [
        pb.Limit(name=f"limit-{scope}", scope=scope, rate=1e6, burst=1e6)
        for scope in (pb.SCOPE_GLOBAL, pb.SCOPE_TRUNK, pb.SCOPE_CALLING, pb.SCOPE_CALLED)
    ]
    message = pb.Policy(
        trunks=[pb.Trunk(id="peer", sources=["192.0.2.10"], trust_asserted_identity=True)],
        do_not_originate=pb.DoNotOriginateRule(lists=["bench"]),
        limits=limits,
    )
    return Screening(compile_policy(message, {"bench": open_list(dno_list)}))


def observations(number: int) -> list[Observation]:
    """Calls of different numbers, Call-IDs and branches."""
    return [
        Observation(
            invite(
                f"12015{i % 600_000:06d}",
                f"13035{i * 7 % 600_000:06d}",
                call_id=f"{number}-{i}@192.0.2.10",
                branch=f"z9hG4bK{number}-{i}",
            ),
            "udp",
            "192.0.2.10",
            5060,
            "198.51.100.1",
            5060,
            1.8e9,
        )
        for i in range(CALLS)
    ]


def main() -> None:
    screening = build(Path(sys.argv[1]))
    idle = _resident_mb()
    trunk = screening.policy.addresses.sender("192.0.2.10")
    assert trunk is not None
    costs: dict[str, list[float]] = {"decision": [], "handle": []}
    now = 0.0
    for number in range(ROUNDS):
        calls = observations(number)
        gc.collect()
        gc.disable()
        started = perf_counter()
        for call in calls:
            now += STEP
            screening.decide(attempt_of(call, scan(call.raw), trunk), now)
        costs["decision"].append(perf_counter() - started)
        decisions: list[Decision | None] = []
        started = perf_counter()
        for call in calls:
            now += STEP
            decisions.append(screening.handle(call, now))
        costs["handle"].append(perf_counter() - started)
        gc.enable()
        assert sum(d is not None and d.verdict.action is ALLOW for d in decisions) > 0.99 * CALLS
    assert screening.failures == screening.unreadable == 0
    result = {name: median(rows) / CALLS * 1e6 for name, rows in costs.items()}
    result["resident"] = idle
    print(json.dumps(result))


def _resident_mb() -> float:
    """Resident memory now; the peak where the kernel does not tell."""
    try:
        with Path("/proc/self/status").open() as status:
            kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kb / 1024


if __name__ == "__main__":
    main()
