"""`sbc-agent run`: the daemon in the foreground, as systemd starts it; or only a look at its configuration.

Knows arguments, and how errors of the configuration are printed. What runs is put together in agent.daemon.
"""

import argparse
import faulthandler
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli.output import OK, complain, complain_of_config
from agent.model import ConfigError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.control.steps import Standing

CONFIG_FILE: Final = Path("/etc/sbc-edge-agent/agent.toml")
EX_CONFIG: Final = 78

EPILOG: Final = """\
Runs in the foreground until SIGTERM; says what it does in JSON lines on stdout, one object each.

signals:
  SIGHUP             read the policy file again; if it is wrong, the old policy stays and the log says why
  SIGTERM, SIGINT    drain: take no new calls, finish those in flight, write what is recorded, end; twice: at once

examples:
  sbc-agent run --check                    is the configuration right? (also the policy and its lists)
  sbc-agent run                            with /etc/sbc-edge-agent/agent.toml
  sbc-agent run --config agent.toml        with another file; agent.toml of the package explains every key

exit codes: 0 ended cleanly; 1 no way in for calls could start (a port is taken, ...); 2 wrong usage;
78 the configuration or the policy is wrong: every error is on stderr, with its file and key"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--config", type=Path, default=CONFIG_FILE, metavar="FILE", help=f"configuration (default: {CONFIG_FILE})"
    )
    parser.add_argument("--check", action="store_true", help="say whether configuration and policy are right, and end")


def run(args: argparse.Namespace) -> int:
    """Returns 0 after a clean end, 1 if no way in could start, 78 if configuration or policy is wrong."""
    from agent.config import load_config  # noqa: PLC0415  (`--help` is quick)

    file = args.config
    try:
        config = load_config(file)
        file = config.policy.file
        standing = _standing(config)
    except ConfigError as error:
        complain_of_config(file, error, "sbc-agent setup" if file == args.config else f"sbc-agent policy init {file}")
        return EX_CONFIG
    if not args.check:
        return _serve(config, standing)
    print(f"{args.config}: ok")
    for problem in standing.problems:
        complain(problem)
    source = file if standing.offer is None else "the controller's policy"
    if standing.problems and standing.offer is None:
        return EX_CONFIG
    print(f"{source}: ok, generation {standing.policy.generation}")
    return OK


def _standing(config: "Config") -> "Standing":
    """What it decides by at first. Raises ConfigError only where no controller manages this agent."""
    from agent.control.steps import Journal, Standing  # noqa: PLC0415
    from agent.loading import load_policy  # noqa: PLC0415

    if config.controller is not None:
        from agent.control.standing import find_standing  # noqa: PLC0415

        return find_standing(config.controller, config.policy.file)
    return Standing(load_policy(config.policy.file), None, Journal({}, {}), ())


def _serve(config: "Config", standing: "Standing") -> int:
    from agent.daemon import run_daemon  # noqa: PLC0415
    from agent.ops.log import LineWriter, Log  # noqa: PLC0415

    faulthandler.enable()  # the watchdog ends a hung process by SIGABRT: then stderr says where it hung
    log = Log(LineWriter(sys.stdout.fileno()), config.log.level, config.log.refusals_per_second)
    log.take_standard_logging()
    for problem in standing.problems:
        log.error("at the start", error=problem)
    return run_daemon(config, standing, log, os.environ)
