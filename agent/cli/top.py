"""`sbc-agent top`: what the running agent is deciding right now, as a table that renews itself."""

import argparse
import sys
import time
from typing import TYPE_CHECKING, Final

from agent.cli.asking import AgentError, add_socket, agent_at
from agent.cli.output import BAD_INPUT, OK, complain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from agent.cli.status_report import Rows
    from sbcedge.admin.v1 import admin_pb2

    # A status, and when it came (monotonic seconds): what rates are taken over is measured, not assumed.
    Look = tuple[admin_pb2.Status, float]

TRUNKS: Final = ("trunk", "attempts/s", "limit/s", "load", "refused/s", "attempts", "calls in progress")
RULES: Final = ("rule", "mode", "refused/s", "in shadow/s", "refused", "in shadow")

INTERVAL_MIN, INTERVAL_MAX = 0.1, 3600.0

EPILOG: Final = """\
examples:
  sbc-agent top                       Ctrl-C ends it
  sbc-agent top --once --interval 10  rates of the next ten seconds, once; also into a pipe

exit codes: 0 shown; 1 no agent answers, or it ended; 2 wrong usage; 130 interrupted"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="S", help="seconds that a rate is taken over (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="show one interval and end")
    add_socket(parser)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number of seconds") from None
    if not INTERVAL_MIN <= seconds <= INTERVAL_MAX:
        raise argparse.ArgumentTypeError(f"must be from {INTERVAL_MIN:g} to {INTERVAL_MAX:g} seconds")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Returns 0 when shown, 1 if no agent answers or it ended meanwhile."""
    from sbcedge.admin.v1 import admin_pb2  # noqa: PLC0415  (`--help` is quick)

    request = admin_pb2.WatchStatusRequest()
    request.interval.FromNanoseconds(int(args.interval * 1e9))
    try:
        with agent_at(args.socket) as agent:
            looks = ((response.status, time.monotonic()) for response in agent.WatchStatus(request))
            return _once(looks) if args.once else _live(looks)
    except AgentError as error:
        complain(str(error))
        return BAD_INPUT


def _once(looks: "Iterator[Look]") -> int:
    from rich.console import Console  # noqa: PLC0415

    (before, began), (after, ended) = next(looks), next(looks)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(view(before, after, ended - began))
    return OK


def _live(looks: "Iterator[Look]") -> int:
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    before, began = next(looks)
    console = Console(highlight=False)
    with Live(view(before, before, 1.0), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        for after, ended in looks:
            live.update(view(before, after, ended - began), refresh=True)
            before, began = after, ended
    complain("the agent is ending")
    return BAD_INPUT


def view(before: "admin_pb2.Status", after: "admin_pb2.Status", seconds: float) -> "RenderableType":
    """Two looks, `seconds` apart, as one screen."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from agent.cli.status_report import rate_rows, rates_line, refusal_rows, summary  # noqa: PLC0415

    ill = [c for c in after.components if not c.healthy]
    return Group(
        Text(f"{summary(after)[0]}, policy generation {after.policy_generation}"),
        Text(rates_line(before, after, seconds), style="bold"),
        *(Text(f"NOT WELL: {c.component}: {c.detail}", style="bold red") for c in ill),
        Text(),
        _table(TRUNKS, rate_rows(before, after, seconds)),
        Text(),
        _table(RULES, refusal_rows(before, after, seconds)),
    )


def _table(columns: tuple[str, ...], rows: "Rows") -> "RenderableType":
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(show_edge=False, pad_edge=False)
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
