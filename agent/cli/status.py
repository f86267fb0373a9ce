"""`sbc-agent status`: one look at the running agent, as tables or JSON."""

import argparse
from typing import Final

from agent.cli.asking import PATIENCE_SECONDS, AgentError, add_socket, agent_at
from agent.cli.output import BAD_INPUT, OK, complain, print_json, print_table

EPILOG: Final = """\
examples:
  sbc-agent status                    is it well, by which policy does it decide, what has it decided
  sbc-agent status --json | jq .counters

exit codes: 0 the agent answers and all its parts are well; 1 a part is not well, or no agent answers; 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    parser.add_argument("--json", action="store_true", help="print one JSON object (sbcedge.admin.v1.Status)")
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if the agent answers and all is well, else 1."""
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415  (`--help` is quick)

    from agent.cli.status_report import component_rows, list_rows, rule_rows, summary, trunk_rows  # noqa: PLC0415
    from sbcedge.admin.v1 import admin_pb2  # noqa: PLC0415

    try:
        with agent_at(args.socket) as agent:
            status = agent.GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS).status
    except AgentError as error:
        complain(str(error))
        return BAD_INPUT
    if args.json:
        print_json(MessageToDict(status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
    else:
        for line in summary(status):
            print(line)
        print_table("\nParts", ("part", "state", "detail"), component_rows(status))
        print_table("\nTrunks", ("trunk", "attempts", "allowed", "refused", "dropped"), trunk_rows(status))
        print_table("\nRules", ("rule", "mode", "refused", "dropped", "shadow"), rule_rows(status))
        if status.lists:
            print_table("\nLists", ("list", "version", "made", "numbers"), list_rows(status))
    return OK if all(component.healthy for component in status.components) else BAD_INPUT
