"""`sbcctl policy`: the policy of the fleet, in generations that never change.

Knows arguments and printing. What is right is decided by the controller, as agents will decide it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.loading import MAX_POLICY_BYTES, read_text
from controller.ctl.commands import add_watch, command, several
from controller.ctl.output import BAD_INPUT, OK, at, complain, duration, into_duration, number, print_json, print_table
from controller.ctl.plan import add_plan, plan_of

if TYPE_CHECKING:
    from sbcedge.fleet.v1 import fleet_pb2

CHECK: Final = """\
sbcctl policy check policy.toml
sbcctl policy check --json policy.toml | jq '.errors[].field'"""
APPLY: Final = """\
sbcctl policy apply policy.toml --comment "stricter limits for east" --watch
sbcctl policy apply policy.toml --expected-generation 7     only if nobody was quicker
sbcctl policy apply policy.toml --steps 0.01,0.1,1 --soak 10m
sbcctl policy apply policy.toml --at-once --soak 0s         everybody, now"""
DIFF: Final = """\
sbcctl policy diff policy.toml
sbcctl policy diff policy.toml --replay LAST-HOUR           and which calls would have gone otherwise
sbcctl policy diff policy.toml --from 5"""
SHOW: Final = """\
sbcctl policy show > policy.toml             what was applied last, as it was written
sbcctl policy show 5"""
HISTORY: Final = "sbcctl policy history --limit 10"
ROLLBACK: Final = """\
sbcctl policy rollback 5 --comment "east lost calls" --watch
(the rules of generation 5 become a new generation, with the lists of today)"""

LAST: Final = {"LAST-HOUR": 3600.0, "LAST-DAY": 86_400.0}
CHANGED_SHOWN: Final = 50

COLUMNS: Final = ("generation", "name", "rollout", "author", "made", "content", "comment")


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    commands = several(parser)
    check = command(commands, "check", "say whether a policy is right, for the fleet with its lists", CHECK, _check)
    apply = command(commands, "apply", "make a policy the next generation, and begin its rollout", APPLY, _apply)
    diff = command(commands, "diff", "show what a policy would change; exit code 1 if it does", DIFF, _diff)
    for parser_of in (check, apply, diff):
        parser_of.add_argument("file", metavar="FILE", type=Path, help="policy file (TOML), - for stdin")
    apply.add_argument("--comment", default="", help="why, for the history")
    apply.add_argument(
        "--expected-generation", metavar="N", type=number, default=0, help="refuse it if another one is the latest"
    )
    add_plan(apply, "one agent, a tenth of them, all")
    add_watch(apply)
    diff.add_argument("--from", dest="base", metavar="N", type=number, default=0, help="compare with this generation")
    diff.add_argument(
        "--replay",
        metavar="T",
        type=_window,
        help="have the agents decide again what they recorded in this time: LAST-HOUR, LAST-DAY, 15m",
    )
    show = command(commands, "show", "print a generation as it was written", SHOW, _show)
    show.add_argument("generation", metavar="N", type=number, nargs="?", default=0, help="default: the latest")
    history = command(commands, "history", "list the generations, newest first", HISTORY, _history)
    history.add_argument("--limit", metavar="N", type=number, default=20, help="how many (default 20)")
    rollback = command(commands, "rollback", "make an old generation the next one", ROLLBACK, _rollback)
    rollback.add_argument("generation", metavar="N", type=number, help="whose rules shall be in force again")
    rollback.add_argument("--comment", default="", help="why, for the history")
    add_plan(rollback, "all agents at once")
    add_watch(rollback)


def _window(text: str) -> float:
    seconds = LAST.get(text.upper()) or duration(text)
    if not 0 < seconds <= LAST["LAST-DAY"]:
        raise argparse.ArgumentTypeError(f"{text!r}: LAST-HOUR, LAST-DAY, or up to 24h")
    return seconds


def _text(path: Path) -> str:
    """The policy as written. Raises ConfigError."""
    return read_text(Path("/dev/stdin") if str(path) == "-" else path, MAX_POLICY_BYTES)


def _check(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415  (`--help` is quick)
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    toml = _text(args.file)
    with connected(args) as fleet:
        response = fleet.policy.ApplyPolicy(pb.ApplyPolicyRequest(toml=toml, dry_run=True))
    if response.problems:
        return _wrong(args, response.problems)
    if args.json:
        print_json({"file": str(args.file), "ok": True, "name": response.policy.name})
    else:
        print(f"{args.file}: ok")
    return OK


def _wrong(args: argparse.Namespace, problems: "Sequence[fleet_pb2.FieldProblem]") -> int:
    """Every error with its field, as `sbc-agent policy check` says them."""
    if args.json:
        errors = [{"field": problem.field, "reason": problem.reason} for problem in problems]
        print_json({"file": str(args.file), "ok": False, "errors": errors})
        return BAD_INPUT
    for problem in problems:
        complain(
            f"{args.file}: {problem.field}: {problem.reason}" if problem.field else f"{args.file}: {problem.reason}"
        )
    complain("nothing was changed: the policy is not usable")
    return BAD_INPUT


def _apply(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.rollout import follow  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    toml = _text(args.file)
    request = pb.ApplyPolicyRequest(
        toml=toml, comment=args.comment, plan=plan_of(args), expected_generation=args.expected_generation
    )
    with connected(args) as fleet:
        response = fleet.policy.ApplyPolicy(request)
        if response.problems:
            return _wrong(args, response.problems)
        if args.watch:
            return follow(fleet, response.policy.generation, as_json=args.json)
    return _made(args, response.policy)


def _made(args: argparse.Namespace, policy: "fleet_pb2.PolicyInfo") -> int:
    from controller.ctl.plain import plain  # noqa: PLC0415

    if args.json:
        print_json(plain(policy))
    else:
        print(f"generation {policy.generation}; its rollout has begun: sbcctl rollout status --watch")
    return OK


def _diff(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    request = pb.DiffPolicyRequest(from_generation=args.base, to_toml=_text(args.file))
    if args.replay is not None:
        into_duration(args.replay, request.replay)
    with connected(args) as fleet:
        response = fleet.policy.DiffPolicy(request)
    if args.json:
        print_json(plain(response))
    else:
        print(response.diff or "no difference")
        if args.replay is not None:
            _print_replay(response)
    return BAD_INPUT if response.diff else OK


def _print_replay(response: "fleet_pb2.DiffPolicyResponse") -> None:
    changed = response.changed
    print(f"\n{response.replayed:,} recorded calls decided again: {len(changed):,} would have gone otherwise")
    if changed:
        rows = [(c.agent_id, c.call_id, c.before, c.after) for c in changed[:CHANGED_SHOWN]]
        print_table("", ("agent", "Call-ID", "before", "after"), rows)
    if len(changed) > CHANGED_SHOWN:
        print(f"and {len(changed) - CHANGED_SHOWN:,} more: see --json")
    for rule, why in sorted(response.left_out.items()):
        complain(f"not replayed: {rule}: {why}")
    for agent_id, problem in sorted(response.problems.items()):
        complain(f"{agent_id} could not replay: {problem}")


def _show(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        response = fleet.policy.GetPolicy(pb.GetPolicyRequest(generation=args.generation))
    if args.json:
        print_json(plain(response.policy) | {"toml": response.toml})
    else:
        sys.stdout.write(response.toml if response.toml.endswith("\n") else response.toml + "\n")
    return OK


def _history(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.plain import plain  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    with connected(args) as fleet:
        policies = fleet.policy.ListPolicies(pb.ListPoliciesRequest(limit=args.limit)).policies
    if args.json:
        print_json([plain(policy) for policy in policies])
    else:
        print_table("", COLUMNS, [_row(policy) for policy in policies])
    return OK


def _row(policy: "fleet_pb2.PolicyInfo") -> list[str]:
    back = f"back to {policy.rolled_back_to}" if policy.rolled_back_to else ""
    return [
        str(policy.generation),
        policy.name,
        policy.rollout_state,
        policy.author,
        at(policy.created_at),
        policy.sha256.hex()[:12],
        "; ".join(filter(None, (back, policy.comment))),
    ]


def _rollback(args: argparse.Namespace) -> int:
    from controller.ctl.asking import connected  # noqa: PLC0415
    from controller.ctl.rollout import follow  # noqa: PLC0415
    from sbcedge.fleet.v1 import fleet_pb2 as pb  # noqa: PLC0415

    request: Any = pb.RollbackPolicyRequest(generation=args.generation, comment=args.comment, plan=plan_of(args))
    with connected(args) as fleet:
        policy = fleet.policy.RollbackPolicy(request).policy
        if args.watch:
            return follow(fleet, policy.generation, as_json=args.json)
    return _made(args, policy)
