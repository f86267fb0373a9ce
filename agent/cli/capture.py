"""`sbc-agent capture`: a first look at the SIP of a live interface, before anything is configured.

Knows arguments and the terminal; capturing is `agent.ingress.capture`, what is shown of it `capture_view`.
"""

import argparse
import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli.output import BAD_INPUT, OK, complain, print_json
from agent.model import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from agent.cli.capture_view import Look
    from agent.ingress.capture.settings import CaptureSettings
    from agent.policy.policy import Policy

SECONDS_MIN, SECONDS_MAX = 0.1, 7 * 86_400.0
VIEW_SECONDS: Final = 1.0
STOP_SECONDS: Final = 2.0
"""That the packets which wait in the ring have at the end."""

DESCRIPTION: Final = """\
Looks at the SIP that comes and goes on an interface and shows it live: messages and calls a second, by method, trunk
and source; what a policy would refuse; and whether the SBC lets Identity headers through unaltered. It touches
nothing and enforces nothing. SIP over TLS cannot be seen.

Which way a call goes is told by the packet: what this host sends is the egress leg. On a mirror port (--promiscuous)
and on the loopback interface only a policy with local_addresses can tell."""

EPILOG: Final = """\
examples:
  sbc-agent capture --live eth0                              what is on this interface?
  sbc-agent capture --live eth0 --live eth1 --port 5080      both sides of the SBC
  sbc-agent capture --live eth0 --policy policy.toml         what would this policy refuse?
  sbc-agent capture --live eth0 --seconds 60 --json          a minute of it, for a script

It needs the capability CAP_NET_RAW, and lets go of every capability when it has begun.

exit codes: 0 captured; 1 it cannot capture, or the policy cannot be read; 2 wrong usage; 130 interrupted twice"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "--live", action="append", required=True, metavar="IFACE", dest="interfaces",
        help="capture this interface; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--port", action="append", type=int, default=[], metavar="N", dest="ports",
        help="SIP port; may be repeated (default: 5060)",
    )  # fmt: skip
    parser.add_argument("--policy", type=Path, metavar="FILE", help="show what this policy would refuse")
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="end after so many seconds (default: Ctrl-C)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead")
    parser.add_argument("--tunnels", action="store_true", help="look into GRE, VXLAN, GTP-U, MPLS and PPPoE, too")
    parser.add_argument("--promiscuous", action="store_true", help="also take what is not for this host: a mirror port")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number of seconds") from None
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"must be from {SECONDS_MIN:g} to {SECONDS_MAX:g} seconds")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Capture, show, and return the exit code."""
    try:
        settings = _settings(args)
        policy = _policy(args.policy)
    except ConfigErrors as errors:
        for error in errors.errors:
            complain(f"{args.policy}: {error}")
        return BAD_INPUT
    except ConfigError as error:
        complain(str(error))
        return BAD_INPUT
    try:
        return asyncio.run(_capture(args, settings, policy))
    except OSError as error:  # of the start: PermissionError names the capability
        complain(error.strerror or str(error))
        return BAD_INPUT


def _settings(args: argparse.Namespace) -> "CaptureSettings":
    from agent.ingress.capture.settings import CaptureSettings  # noqa: PLC0415  (`--help` is quick)

    return CaptureSettings(
        interfaces=tuple(args.interfaces),
        ports=tuple(dict.fromkeys(args.ports)) or (5060,),
        methods=(),  # a first look is at everything
        tunnels=args.tunnels,
        promiscuous=args.promiscuous,
        cpu_share=1.0,
    )


def _policy(path: Path | None) -> "Policy":
    from agent.loading import load_policy  # noqa: PLC0415
    from agent.policy.compile import compile_policy  # noqa: PLC0415
    from sbcedge.policy.v1 import policy_pb2  # noqa: PLC0415

    return load_policy(path) if path else compile_policy(policy_pb2.Policy(), {})


async def _capture(args: argparse.Namespace, settings: "CaptureSettings", policy: "Policy") -> int:
    from agent.calls.pairing import Pairing  # noqa: PLC0415
    from agent.cli.capture_view import Board  # noqa: PLC0415
    from agent.ingress.capture.observer import Observer  # noqa: PLC0415
    from agent.ingress.capture.server import CaptureServer  # noqa: PLC0415
    from agent.ingress.capture.taps import NOT_THERE  # noqa: PLC0415
    from agent.kernel import capabilities  # noqa: PLC0415

    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        if not failures:
            failures.append(error)

    board = Board(with_policy=args.policy is not None)
    pairing = Pairing(board.transit, board.answer)
    server = CaptureServer(settings, Observer(lambda: policy, board, on_failure=failed), pairing, failed)
    await server.start()
    capabilities.keep_only()  # the sockets are open, and are bound again without
    if absent := [name for name, why in server.taps.trouble().items() if why == NOT_THERE]:
        await server.stop(0.0)
        there = ", ".join(name for _, name in socket.if_nameindex())
        complain(f"there is no interface {', '.join(map(repr, absent))}; there are: {there}")
        return BAD_INPUT

    def look() -> "Look":
        return board.look(server, pairing, time.monotonic())

    health = look().health
    try:
        await _show(args, look)
        health = look().health
    finally:
        await server.stop(STOP_SECONDS)
    last = replace(look(), health=health)  # that it stopped is no news
    if args.json:
        print_json(last.as_dict())
    else:
        _print(last, sys.stdout.isatty())
    if failures:
        complain(f"{server.counts.failures:,} messages could not be judged; the first failure: {failures[0]!r}")
    return OK


async def _show(args: argparse.Namespace, look: "Callable[[], Look]") -> None:
    """Wait for the end, and keep the terminal fresh meanwhile."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        if ending.is_set():
            raise KeyboardInterrupt
        ending.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    if args.seconds is not None:
        loop.call_later(args.seconds, ending.set)
    if args.json or not sys.stdout.isatty():
        await ending.wait()
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from agent.cli.capture_view import render  # noqa: PLC0415

    before = look()
    with Live(render(before, None), console=Console(highlight=False), auto_refresh=False, screen=True) as live:
        while not ending.is_set():
            try:
                await asyncio.wait_for(ending.wait(), VIEW_SECONDS)
            except TimeoutError:
                after = look()
                live.update(render(after, before), refresh=True)
                before = after


def _print(last: "Look", on_terminal: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from agent.cli.capture_view import render  # noqa: PLC0415

    Console(width=None if on_terminal else 160, highlight=False).print(render(last, None))
