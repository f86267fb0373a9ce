"""`sbc-agent policy`: is a policy file right, what does it amount to, and a commented one to start from.

Knows arguments and printing. What is right is decided by loading the policy as the daemon does.
"""

import argparse
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from agent.cli.asking import add_socket
from agent.cli.output import BAD_INPUT, OK, complain, print_json, print_table
from agent.model import ConfigError, ConfigErrors

CHECK: Final = "say whether a policy file is right; if not, name every error and its field"
SHOW: Final = "show what a policy amounts to, with every default filled in"
APPLY: Final = "let the running agent decide by another policy, without a restart"
INIT: Final = "write a commented policy to start from"

APPLY_SECONDS: Final = 120.0
"""The agent opens and checks lists before it answers; those of millions of numbers take a second."""

OWN: Final = Path("the agent's own policy")

RULES: Final = "Rules, in their order"

EPILOG: Final = """\
examples:
  sbc-agent policy init policy.toml        a policy that teaches every rule; edit it
  sbc-agent policy check policy.toml       every error at once, each with its field
  sbc-agent policy show policy.toml        what it decides by, defaults included
  sbc-agent policy apply                   the running agent reads its policy file again, like SIGHUP
  sbc-agent policy apply trial.toml        it decides by this one, until it is restarted or reads its file again;
                                           lists are looked for beside its own policy file

exit codes: 0 done; 1 the policy is wrong or a file cannot be read or written; 2 wrong usage; 130 interrupted"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    check = actions.add_parser("check", help=CHECK, description=f"{CHECK.capitalize()}.")
    check.add_argument("file", type=Path, metavar="FILE", help="policy file (TOML)")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    show = actions.add_parser("show", help=SHOW, description=f"{SHOW.capitalize()}.")
    show.add_argument("file", type=Path, metavar="FILE", help="policy file (TOML)")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON (sbcedge.policy.v1.Policy)")
    form.add_argument("--toml", action="store_true", help="as a policy file")
    apply = actions.add_parser("apply", help=APPLY, description=f"{APPLY.capitalize()}.")
    apply.add_argument("file", type=Path, nargs="?", metavar="FILE", help="policy file (default: the agent's own)")
    apply.add_argument("--json", action="store_true", help="print one JSON object")
    add_socket(apply)
    init = actions.add_parser("init", help=INIT, description=f"{INIT.capitalize()}.")
    init.add_argument(
        "file",
        nargs="?",
        default="policy.toml",
        metavar="FILE",
        help="where to write it, - for stdout (default: policy.toml)",
    )
    init.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if all is well, 1 if the policy is wrong or a file cannot be read or written."""
    if args.action == "init":
        return _init(args.file, force=args.force)
    try:
        return {"check": _check, "show": _show, "apply": _apply}[args.action](args)
    except ConfigError as error:
        errors = error.errors if isinstance(error, ConfigErrors) else (error,)
        file = args.file or OWN
        if args.json:
            print_json(
                {
                    "file": str(file),
                    "ok": False,
                    "errors": [{"field": e.field, "reason": e.reason} for e in errors],
                }
            )
        else:
            _complain_of(file, errors)
        return BAD_INPUT


def _complain_of(file: Path, errors: tuple[ConfigError, ...]) -> None:
    for error in errors:
        # An error about the file itself has its name as field; do not say it twice.
        complain(str(error) if error.field == str(file) else f"{file}: {error}")
    if len(errors) > 1:
        complain(f"{len(errors)} errors; the policy is not usable")


def _check(args: argparse.Namespace) -> int:
    from agent.cli.policy_report import COLUMNS, rule_rows, summary, title  # noqa: PLC0415  (`--help` is quick)
    from agent.loading import load_policy, read_policy  # noqa: PLC0415

    message, policy = read_policy(args.file), load_policy(args.file)
    rows = rule_rows(message, policy)
    facts = summary(message)
    if args.json:
        rules = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        print_json({"file": str(args.file), "ok": True, **facts, "rules": rules})
    else:
        print(f"{args.file}: ok. {title(message)}\n")
        print_table(RULES, COLUMNS, rows)
    return OK


def _show(args: argparse.Namespace) -> int:
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415

    from agent.cli.policy_report import COLUMNS, TRUNK_COLUMNS, rule_rows, title, trunk_rows  # noqa: PLC0415
    from agent.loading import load_policy, read_policy  # noqa: PLC0415
    from agent.policy.document import to_toml  # noqa: PLC0415
    from agent.policy.effective import with_defaults  # noqa: PLC0415

    message, policy = read_policy(args.file), load_policy(args.file)
    full = with_defaults(message, policy)
    if args.json:
        shown: dict[str, Any] = MessageToDict(
            full, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        print_json(shown)
    elif args.toml:
        sys.stdout.write(to_toml(full))
    else:
        print(f"{title(full)}\n")
        print_table("Trunks", TRUNK_COLUMNS, trunk_rows(full))
        print()
        print_table(RULES, COLUMNS, rule_rows(full, policy))
    return OK


def _apply(args: argparse.Namespace) -> int:
    from agent.cli.asking import AgentError, agent_at  # noqa: PLC0415
    from agent.loading import MAX_POLICY_BYTES, read_text  # noqa: PLC0415
    from sbcedge.admin.v1 import admin_pb2  # noqa: PLC0415

    text = "" if args.file is None else read_text(args.file, MAX_POLICY_BYTES) or "\n"  # empty means the agent's own
    request = admin_pb2.ApplyPolicyRequest(toml=text)
    try:
        with agent_at(args.socket) as agent:
            response = agent.ApplyPolicy(request, timeout=APPLY_SECONDS)
    except AgentError as error:
        complain(str(error))
        return BAD_INPUT
    if not response.applied:
        raise ConfigErrors([ConfigError(e.field, e.reason) for e in response.errors])
    if args.json:
        print_json({"file": str(args.file or OWN), "ok": True, "generation": response.generation})
    else:
        print(f"policy generation {response.generation} is in force")
    return OK


def _init(name: str, *, force: bool) -> int:
    example = files("agent.policy").joinpath("example.toml").read_bytes()
    if name == "-":
        sys.stdout.write(example.decode())
        return OK
    path = Path(name)
    try:
        _write(path, example, force=force)
    except FileExistsError:
        complain(f"{path} is there already; --force replaces it")
        return BAD_INPUT
    except OSError as error:
        complain(f"cannot write {path}: {error.strerror or error}")
        return BAD_INPUT
    print(f"{path} is written. Edit it, then: sbc-agent policy check {path}")
    return OK


def _write(path: Path, data: bytes, *, force: bool) -> None:
    """Write as a whole or not at all. Raises OSError; FileExistsError if the path is taken and `force` is not set."""
    from agent.files import replace_file  # noqa: PLC0415

    if not force:
        path.touch(exist_ok=False)  # whoever comes first has the name
        try:
            replace_file(path, [data])
        except OSError:
            path.unlink()
            raise
        return
    replace_file(path, [data])
