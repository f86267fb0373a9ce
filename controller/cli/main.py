"""`sbc-controller`: runs the controller, prepares its state, or looks at its configuration.

Knows arguments and how errors are printed. What runs is put together in controller.daemon.
"""

import argparse
import asyncio
import faulthandler
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.model import ConfigError, ConfigErrors
from controller.cli.keeping import complain, configure, hand_over

if TYPE_CHECKING:
    from controller.config import Config

CONFIG_FILE: Final = Path("/etc/sbc-edge-controller/controller.toml")
OK: Final = 0
FAILED: Final = 1
USAGE_ERROR: Final = 2
EX_CONFIG: Final = 78
STDERR: Final = 2

SUMMARY: Final = (
    "The controller of a fleet of SBC edge agents: hands out policy and lists, takes reports, leases limits."
)

EPILOG: Final = """\
Nothing needs to be set up: without a configuration file, and on its first start, the controller makes what it needs
(database, certificate authority, signing key, an administrator) in /var/lib/sbc-edge-controller.

examples:
  sbc-controller init                       make all that, and print the administrator's login token, once
  sbc-controller run                        serve; a login token that nobody has seen yet is in admin.token
  sbc-controller run --directory ./trial    the same in a folder of your own, for a trial
  sbc-controller check                      is the configuration right?
  sbc-controller backup /backup/sbc         a copy of the state, while it runs; `restore` puts it back
  sbc-controller authority                  which roots are trusted, and who does not know the next one yet

files:
  /etc/sbc-edge-controller/controller.toml  configuration; the one of the package explains every key
  /var/lib/sbc-edge-controller/             state.db, authority/ (keys: keep a copy offline), artifacts/, archive/

exit codes: 0 done, or ended cleanly; 1 it could not start (database away, port taken, ...): try again; 2 wrong usage;
78 only you can mend it: the configuration is wrong or the state is damaged; every error is on stderr
see also: sbcctl(1) for operators, sbc-agent(1) on the SBCs"""

RUN: Final = "serve in the foreground until SIGTERM, as the service does"
RUN_EPILOG: Final = """\
Says what it does in JSON lines on stdout, one object each. Two ports: one for whoever has a certificate (agents), one
with server TLS only, for enrolment and for operators with a login token ([listen] agents and open).

signals:
  SIGTERM, SIGINT    drain: send the agents away with a time to come back, answer what is in flight, end; twice: at once

environment:
  NOTIFY_SOCKET, WATCHDOG_USEC   systemd is told when it is ready, and that it lives
  CREDENTIALS_DIRECTORY          keys as systemd credentials: sbc-edge-ca.key, sbc-edge-artifact.key"""

INIT: Final = "make database, authority, keys and an administrator, print the login token, and end"
INIT_EPILOG: Final = """\
What is there already stays. With --admin another administrator is made, when the token of the first one is lost or has
ended. The controller must not be running meanwhile, unless its state is in PostgreSQL."""

CHECK: Final = "say whether the configuration is right, and end; changes nothing"


def build_parser() -> argparse.ArgumentParser:
    """The whole parser."""
    parser = argparse.ArgumentParser(
        prog="sbc-controller",
        description=SUMMARY,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sbc-controller {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    run = _command(commands, "run", RUN, RUN_EPILOG)
    run.set_defaults(act=_run)
    init = _command(commands, "init", INIT, INIT_EPILOG)
    init.add_argument("--admin", metavar="NAME", help="make an administrator of this name, too")
    init.set_defaults(act=_init)
    check = _command(commands, "check", CHECK, "")
    check.set_defaults(act=_check)
    configure(commands, _command)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, epilog: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration (default: {CONFIG_FILE}, if it is there)"
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where state is kept, in place of [controller] directory"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    file = args.config or CONFIG_FILE
    try:
        config = _load(args)
    except ConfigError as error:
        for one in error.errors if isinstance(error, ConfigErrors) else (error,):
            # An error about the file itself has its name as field; do not say it twice.
            complain(str(one) if one.field == str(file) else f"{file}: {one}")
        if _is_there(file) and not os.access(file, os.R_OK):
            complain("run it as root, or as the service's user")
        return EX_CONFIG
    act: Callable[[argparse.Namespace, Config], int] = args.act
    try:
        return act(args, config)
    except ConfigError as error:
        complain(str(error))
        return EX_CONFIG
    except KeyboardInterrupt:
        return 130


def _load(args: argparse.Namespace) -> "Config":
    """Raises ConfigError. The default file may be missing; one that was asked for may not."""
    from controller.config import load_config, read_config  # noqa: PLC0415  (`--help` is quick)

    directory = args.directory.absolute() if args.directory is not None else None
    if args.config is None and not _is_there(CONFIG_FILE):
        return read_config("", directory)
    return load_config(args.config or CONFIG_FILE, directory)


def _is_there(file: Path) -> bool:
    """Also if we may not look at it."""
    try:
        file.stat()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _run(args: argparse.Namespace, config: "Config") -> int:  # noqa: ARG001
    from agent.ops.log import LineWriter, Log  # noqa: PLC0415
    from controller.daemon import run_daemon  # noqa: PLC0415

    faulthandler.enable()  # the watchdog ends a hung process by SIGABRT: then stderr says where it hung
    log = Log(LineWriter(sys.stdout.fileno()), config.log.level)
    log.take_standard_logging()
    return run_daemon(config, log, os.environ, complain)


def _init(args: argparse.Namespace, config: "Config") -> int:
    from controller.errors import ControllerError, SchemaTooNew, StoreDamaged  # noqa: PLC0415

    try:
        return asyncio.run(_prepare(config, args.admin))
    except (ConfigError, StoreDamaged, SchemaTooNew) as error:
        complain(str(error))
        return EX_CONFIG
    except (ControllerError, OSError) as error:
        complain(str(error))
        return FAILED


async def _prepare(config: "Config", admin: str | None) -> int:
    from agent.ops.log import LineWriter, Log  # noqa: PLC0415
    from controller.bootstrap import ADMIN, TOKEN_FILE, announcement, make_admin  # noqa: PLC0415
    from controller.daemon import build_parts, open_state  # noqa: PLC0415

    parts = build_parts(config, Log(LineWriter(STDERR), "warning"))
    try:
        await open_state(parts)
        print(f"state:         {config.controller.directory}")
        print(f"authority:     {parts.authority.sha256} (SHA-256)")
        name = admin or ("" if await parts.store.access.operators() else ADMIN)
        if name:
            token = await make_admin(parts.store, parts.authority, name, parts.clock())
            print(announcement(name, token))
        else:
            waiting = config.controller.directory / TOKEN_FILE
            print(f"login token:   {waiting}" if waiting.exists() else "There is an administrator already.")
    finally:
        await parts.store.close()
        hand_over(config.controller.directory)
    return OK


def _check(args: argparse.Namespace, config: "Config") -> int:
    shown = args.config or (CONFIG_FILE if CONFIG_FILE.exists() else "no configuration file, everything by default")
    listen = config.listen
    print(f"{shown}: ok")
    print(f"controller {config.controller.id}: agents on {listen.agents}, enrolment and operators on {listen.open}")
    print(f"certificates are for {', '.join(listen.hosts())}")
    print(f"state in {_without_password(config)}")
    return OK


def _without_password(config: "Config") -> str:
    if config.store.postgresql:
        return config.store.url().render_as_string(hide_password=True)
    return str(config.store.file)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("sbc-edge-agent")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
