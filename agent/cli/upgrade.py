"""`sbc-agent upgrade` and `downgrade`: another version of the agent on this host, and back if it does not do its work.

Knows arguments, and where requests and outcomes lie. The work is agent.host.upgrader's, in the service
sbc-edge-agent-upgrade: it goes on when the terminal is gone. Everything that this module needs while the package is
replaced beneath it is imported when it begins.
"""

import argparse
import os
import secrets
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli.output import BAD_INPUT, OK, complain, print_json

if TYPE_CHECKING:
    from agent.host.apt import Apt
    from agent.host.upgrade_files import Outcome, Places, Request

SERVICE: Final = "sbc-edge-agent-upgrade.service"
USER: Final = "sbc-edge"

EPILOG: Final = """\
Fetches the package from the repository in /etc/apt/sources.list.d/sbc-edge-agent.sources, which must be signed
(`sbc-agent setup --upgrades on --repository URL --key FILE` writes that file), and the one in force, for the way back.
Looks whether there is room, installs it, and looks whether the agent takes its configuration and does its work. If not,
the version before is put back. Configuration, policy and state stay; calls pass while the service starts again.

examples:
  sbc-agent upgrade                   to the newest version that the repository has
  sbc-agent upgrade 0.2.0
  sbc-agent upgrade --status          how the last one went, also one that the controller asked for
  journalctl -u sbc-edge-agent-upgrade

exit codes: 0 it is in force, and well; 1 it is not, and why; 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    what = parser.add_mutually_exclusive_group()
    what.add_argument("version", metavar="VERSION", nargs="?", default="", help="default: the newest")
    what.add_argument("--status", action="store_true", help="only show how the last one went")
    what.add_argument("--requested", action="store_true", help="carry out what was asked for: what the service runs")
    add_common(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """What `downgrade` has, too."""
    parser.add_argument("--soak", metavar="SECONDS", type=int, help="how long it must be well (default: 60)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if the version is in force now, else 1."""
    from agent.host.upgrade_files import Places  # noqa: PLC0415  (`--help` is quick)

    places = Places()
    if args.status:
        return _show(places, as_json=args.json)
    if not is_root():
        return BAD_INPUT
    return _requested(places) if args.requested else upgrade(places, args, lambda apt: args.version or _newest(apt))


def upgrade(places: "Places", args: argparse.Namespace, choose: "Callable[[Apt], str]") -> int:
    """Have the service put the version that `choose` finds in force, and say what came of it."""
    from agent.host.apt import Apt, start  # noqa: PLC0415
    from agent.host.upgrade_files import (  # noqa: PLC0415
        FRESH_SECONDS,
        SOAK_MAX,
        SOAK_SECONDS,
        Request,
        check_version,
        read_outcome,
        write_request,
    )
    from agent.host.upgrader import HostError  # noqa: PLC0415

    soak = SOAK_SECONDS if args.soak is None else float(args.soak)
    try:
        if not 1 <= soak <= SOAK_MAX:
            raise ValueError(f"--soak: must be from 1 to {SOAK_MAX:g} s")
        version = check_version(choose(Apt(places)))
        request = Request(f"host-{secrets.token_hex(8)}", version, time.time() + FRESH_SECONDS, soak)
        places.told.parent.mkdir(mode=0o755, exist_ok=True)
        write_request(places.told, request)
    except (HostError, ValueError) as error:
        complain(str(error))
        return BAD_INPUT
    except OSError as error:
        complain(f"{error.filename or places.told}: {error.strerror}")
        return BAD_INPUT
    print(f"{version}: see journalctl -fu sbc-edge-agent-upgrade", file=sys.stderr)
    try:
        start(SERVICE)
    except HostError as error:
        complain(str(error))
    outcome = read_outcome(places.outcome)
    if outcome is None or outcome.id != request.id:
        complain(f"{SERVICE} has not carried it out: journalctl -u {SERVICE}")
        return BAD_INPUT
    return _show(places, as_json=args.json)


def _newest(apt: "Apt") -> str:
    apt.refresh()
    return apt.newest()


def _show(places: "Places", *, as_json: bool) -> int:
    from dataclasses import asdict  # noqa: PLC0415

    from agent.host.upgrade_files import State, read_outcome  # noqa: PLC0415

    outcome = read_outcome(places.outcome)
    if as_json:
        print_json({"enabled": places.is_enabled(), "outcome": None if outcome is None else asdict(outcome)})
    elif outcome is None:
        print("no upgrade yet")
    else:
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(outcome.at))
        why = f": {outcome.why}" if outcome.why else ""
        print(f"{outcome.before or 'nothing'} to {outcome.version}, {when}: {outcome.state}{why}")
    return OK if outcome is None or outcome.state in (State.DONE, State.UNDERWAY) else BAD_INPUT


def is_root() -> bool:
    """Whether it may go on; says so if not."""
    if os.geteuid() != 0:
        complain("packages are replaced by root: sudo sbc-agent ...")
        return False
    return True


# --- in the service


def _requested(places: "Places") -> int:
    """Returns 1 only if somebody must look."""
    import pwd  # noqa: PLC0415

    from agent.host.apt import Apt  # noqa: PLC0415
    from agent.host.upgrade_files import (  # noqa: PLC0415
        SOAK_SECONDS,
        Outcome,
        Request,
        State,
        read_outcome,
        take_request,
        write_outcome,
    )
    from agent.host.upgrader import Upgrader  # noqa: PLC0415

    def tell(outcome: Outcome) -> None:
        """First what a start after a power loss looks for; its end is known before that is taken away."""
        if outcome.state is State.UNDERWAY:
            write_outcome(places.underway, outcome)
        write_outcome(places.outcome, outcome)
        if outcome.state not in (State.PREPARING, State.UNDERWAY):
            places.underway.unlink(missing_ok=True)

    upgrader = Upgrader(Apt(places), tell, lambda text: print(text, flush=True), time.time)
    if places.underway.exists():
        cut_off = read_outcome(places.underway)
        if cut_off is None:
            places.underway.unlink()
        else:
            request = Request(cut_off.id, cut_off.version, 0.0, SOAK_SECONDS)
            return _code(upgrader.resume(request, cut_off.before))
    last = read_outcome(places.outcome)
    code = OK
    for path, owner, by_root in (
        (places.told, 0, True),
        (places.asked, pwd.getpwnam(USER).pw_uid, False),
    ):
        if not by_root and not places.is_enabled():
            continue
        found = _taken(path, partial(take_request, path, owner))
        if found is None:
            continue
        if last is not None and last.id == found.id:
            print(f"{found.id} was carried out already", flush=True)
            continue
        last = upgrader.carry_out(found, last, by_root=by_root)
        code = max(code, _code(last))
    return code


def _taken(path: Path, take: "Callable[[], Request | None]") -> "Request | None":
    try:
        return take()
    except (OSError, ValueError) as error:
        complain(f"{path}: {error}")
        return None


def _code(outcome: "Outcome") -> int:
    return BAD_INPUT if outcome.state == "failed" else OK
