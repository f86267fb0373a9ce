"""`sbc-agent setup`: the first configuration of this host, from what it finds and what it is told.

Knows arguments, questions and writing. What is found is agent.host, what is written agent.host.first_files.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli.output import BAD_INPUT, OK, complain, complain_of_config, complain_of_file
from agent.cli.setup_upgrades import add_upgrades, upgrades
from agent.config import CONFIG_FILE
from agent.model import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from agent.host.first_files import Choice, WayIn
    from agent.host.listeners import Listener

WAYS: Final = ("capture", "queue", "redirect", "hook")
GROUP: Final = "sbc-edge"
HOOK_GROUP: Final = "sbc-edge-hook"
MODE: Final = 0o640

EPILOG: Final = """\
Finds the SBC that runs here (Kamailio, OpenSIPS, FreeSWITCH, Asterisk) and its SIP ports, the interfaces and addresses,
asks what it cannot know (with --yes: asks nothing), and writes agent.toml, policy.toml and what the service needs of
privileges. What it proposes only looks on: the way in is `capture`, and every rule is in shadow mode. Files that are
there are never overwritten without --force.

examples:
  sbc-agent setup                                   with questions
  sbc-agent setup --yes --dry-run                   what would be written?
  sbc-agent setup --yes --way queue --trunk carrier-east=198.51.100.0/28 --trunk pbx=203.0.113.10
  sbc-agent setup --service                         after a change of agent.toml: the service's privileges, only
  sbc-agent setup --upgrades on --repository https://packages.example.net/sbc-edge --key sbc-edge.asc

exit codes: 0 done; 1 not possible, and nothing was written; 2 wrong usage; 130 interrupted"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--config", type=Path, default=CONFIG_FILE, metavar="FILE",
        help=f"agent.toml to write; policy.toml is put beside it (default: {CONFIG_FILE})",
    )  # fmt: skip
    parser.add_argument("--way", action="append", choices=WAYS, help="how calls are seen; may be given several times")
    parser.add_argument("--interface", action="append", metavar="NAME", help="to capture on (default: all that are up)")
    parser.add_argument("--port", action="append", type=int, metavar="PORT", help="of the SBC (default: those it has)")
    parser.add_argument(
        "--trunk", action="append", type=_trunk, metavar="NAME=ADDRESS[,ADDRESS...]", help="who sends calls from where"
    )
    parser.add_argument("--redirect", default="127.0.0.1:5070", metavar="ADDRESS:PORT", help="for --way redirect")
    parser.add_argument("--yes", action="store_true", help="ask nothing, take what is found")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    parser.add_argument("--service", action="store_true", help="only write the drop-in of the service for agent.toml")
    add_upgrades(parser)


def _trunk(text: str) -> tuple[str, tuple[IPv4Network | IPv6Network, ...]]:
    name, _, addresses = text.partition("=")
    try:
        sources = tuple(ip_network(one.strip()) for one in addresses.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not name:
        raise argparse.ArgumentTypeError("a trunk needs a name: carrier-east=198.51.100.0/28")
    return name, sources


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if something is in the way; then nothing was written."""
    try:
        if args.upgrades is not None or args.repository is not None:
            return upgrades(args)
        if args.service:
            return _service(args)
        return _first(args)
    except ConfigErrors as several:
        for error in several.errors:
            complain(str(error))
    except ConfigError as error:
        complain(str(error))
    except OSError as error:
        complain_of_file(error, args.config)
    return BAD_INPUT


def _first(args: argparse.Namespace) -> int:
    from agent.config import read_config  # noqa: PLC0415  (`--help` is quick)
    from agent.host.first_files import agent_toml, policy_toml  # noqa: PLC0415
    from agent.host.unit import drop_in, needs  # noqa: PLC0415

    policy = args.config.absolute().with_name("policy.toml")
    choice = _choose(args, policy)
    texts = {args.config: agent_toml(choice), policy: policy_toml(choice)}
    unit = drop_in(needs(read_config(texts[args.config])))
    if args.dry_run:
        for path, text in texts.items():
            print(f"# --- {path}\n{text}")
        _show_unit(unit)
        return OK
    taken = [path for path in texts if path.exists()]
    if taken and not args.force:
        for path in taken:
            complain(f"{path} is there already; --force overwrites it")
        return BAD_INPUT
    _check_unit(args)
    for path, text in texts.items():
        _write(path, text, force=args.force)
        print(f"wrote {path}")
    _install_unit(args, unit)
    print(
        "\nnext:\n  sbc-agent doctor\n  systemctl start sbc-edge-agent\n  sbc-agent status; sbc-agent top"
        if args.config == CONFIG_FILE
        else f"\nnext:\n  sbc-agent doctor --config {args.config}\n  sbc-agent run --config {args.config}"
    )
    return OK


def _choose(args: argparse.Namespace, policy: Path) -> "Choice":
    """What is found, what was told, and what people answer where they can be asked."""
    from agent.host.first_files import Choice  # noqa: PLC0415
    from agent.host.interfaces import interfaces  # noqa: PLC0415
    from agent.host.listeners import listeners, sip_listeners, sip_servers  # noqa: PLC0415

    sip = sip_listeners(listeners())
    _tell(sip_servers(), sip)
    asks = not args.yes and sys.stdin.isatty()
    found = interfaces()
    ways = tuple(args.way or (_ask_ways() if asks else ("capture",)))
    ports = tuple(args.port or sorted({one.port for one in sip}) or (5060,))
    up = tuple(one.name for one in found if one.up and (one.addresses or not one.is_loopback) and not one.is_loopback)
    names = tuple(args.interface or up or ("lo",))
    if asks and not args.port:
        ports = tuple(int(p) for p in _ask("SIP ports of the SBC", " ".join(map(str, ports)), _are_ports).split())
    if asks and not args.interface and "capture" in ways:
        names = tuple(_ask("interfaces to capture on", " ".join(names), bool).split())
    local = tuple(address for one in found if not one.is_loopback for address in one.addresses)
    return Choice(
        ways=ways,
        interfaces=names,
        ports=ports,
        local=local,
        trunks=tuple(args.trunk or ()),
        redirect=args.redirect,
        hook_group=HOOK_GROUP if _has_group(HOOK_GROUP) else "",
        policy=policy,
    )


def _tell(servers: Sequence[str], sip: "Sequence[Listener]") -> None:
    print(f"SBC on this host: {', '.join(servers) or 'none that is known'}", file=sys.stderr)
    for one in sip:
        print(f"  {one}{f' ({one.program})' if one.program else ''}", file=sys.stderr)


def _ask_ways() -> "tuple[WayIn, ...]":
    from agent.host.first_files import WORDS  # noqa: PLC0415

    for way, words in WORDS.items():
        print(f"  {way:9} {words}", file=sys.stderr)
    answer = _ask("how are calls to be seen?", "capture", lambda text: set(text.split()) <= set(WAYS))
    return tuple(way for way in WORDS if way in answer.split())


def _ask(question: str, default: str, is_good: Callable[[str], bool]) -> str:
    """One line from the terminal; the default for an empty one. Raises KeyboardInterrupt at the end of input."""
    while True:
        print(f"{question} [{default}]: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise KeyboardInterrupt
        answer = line.strip() or default
        if is_good(answer):
            return answer
        print("that is not one of them", file=sys.stderr)


def _are_ports(text: str) -> bool:
    return all(one.isdecimal() and 0 < int(one) <= 65_535 for one in text.split())


def _has_group(name: str) -> bool:
    import grp  # noqa: PLC0415

    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _write(path: Path, text: str, *, force: bool) -> None:
    """Whole or not at all; for root and the service's group. Raises OSError."""
    from agent.files import replace_file  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    if not force:
        path.touch(mode=MODE, exist_ok=False)
    try:
        replace_file(path, [text.encode()])
        path.chmod(MODE)
        if os.geteuid() == 0 and _has_group(GROUP):
            shutil.chown(path, group=GROUP)
    except OSError as error:
        if not force:
            path.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk is not told of by name
        raise


def _service(args: argparse.Namespace) -> int:
    from agent.config import load_config  # noqa: PLC0415
    from agent.host.unit import drop_in, needs  # noqa: PLC0415

    try:
        unit = drop_in(needs(load_config(args.config)))
    except ConfigError as error:
        complain_of_config(args.config, error, "sbc-agent setup")
        return BAD_INPUT
    if args.dry_run:
        _show_unit(unit)
        return OK
    _check_unit(args)
    _install_unit(args, unit)
    return OK


def _show_unit(unit: str) -> None:
    from agent.host.unit import DROP_IN  # noqa: PLC0415

    print(f"# --- {DROP_IN}\n{unit}" if unit else "# --- the service needs no privilege")


def _has_service() -> bool:
    """Whether this is the configuration of an installed service, on whose unit we may write."""
    from agent.host.unit import UNIT  # noqa: PLC0415

    return any((folder / UNIT).exists() for folder in (Path("/lib/systemd/system"), Path("/usr/lib/systemd/system")))


def _check_unit(args: argparse.Namespace) -> None:
    """Raises ConfigError if the drop-in is somebody else's."""
    from agent.host.unit import DROP_IN, HEADING  # noqa: PLC0415

    if not _has_service() or args.config != CONFIG_FILE:
        return
    if DROP_IN.exists() and not DROP_IN.read_text().startswith(HEADING) and not args.force:
        raise ConfigError(str(DROP_IN), "was not made by this command; --force overwrites it")


def _install_unit(args: argparse.Namespace, unit: str) -> None:
    from agent.files import replace_file  # noqa: PLC0415
    from agent.host.unit import DROP_IN  # noqa: PLC0415

    if not _has_service() or args.config != CONFIG_FILE:
        return
    old = DROP_IN.read_text() if DROP_IN.exists() else ""
    if old == unit:
        print("the service has what it needs")
        return
    if unit:
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        replace_file(DROP_IN, [unit.encode()])
        print(f"wrote {DROP_IN}")
    else:
        DROP_IN.unlink()
        if not any(DROP_IN.parent.iterdir()):
            DROP_IN.parent.rmdir()
        print(f"removed {DROP_IN}: the service needs no privilege")
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "daemon-reload"], check=False)
