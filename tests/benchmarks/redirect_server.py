"""The redirect server in a process of its own, to be measured: prints its port, then serves until its input ends.

The same checks as the Kamailio beside it: is the caller on a list of 100,000 numbers, is the trunk above its rate.
Records go nowhere, as Kamailio keeps none; the spool has a bench of its own.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.ingress.redirect.server import RedirectServer
from agent.ingress.redirect.settings import Listen, RedirectSettings
from agent.loading import open_list
from agent.ops.collection import Collection
from agent.policy.compile import compile_policy
from agent.screening import Decision, Passed, RefusedCall, Screening
from agent.service import Service
from sbcedge.policy.v1 import policy_pb2 as pb


class NoRecords:
    def put(self, decision: Decision) -> None:
        pass

    def put_passed(self, calls: Sequence[Passed]) -> None:
        pass

    def put_refused(self, one: RefusedCall) -> None:
        pass


def policy_message() -> pb.Policy:
    """One trunk with one limit that is never reached, and one list."""
    redirect = pb.RedirectAnswer(code=302, next_hop="core.example.net:5060")
    return pb.Policy(
        trunks=[pb.Trunk(id="peer", sources=["127.0.0.1"], redirect=redirect)],
        do_not_originate=pb.DoNotOriginateRule(lists=["bench"]),
        limits=[pb.Limit(name="trunk-rate", scope=pb.SCOPE_TRUNK, rate=1e6, burst=1e6)],
    )


async def serve(dno_list: Path) -> None:
    policy = compile_policy(policy_message(), {"bench": open_list(dno_list)})
    failures: list[Exception] = []
    server = RedirectServer(
        Service(Screening(policy), NoRecords()), RedirectSettings(udp=(Listen("127.0.0.1", 0),)), failures.append
    )
    await server.start()
    Collection(0.0).begin()  # as the daemon does
    print(server.addresses[0][1].port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0.0)
    print(dict(server.counters()), failures[:3], file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
