"""`sbc-agent downgrade`: the version before this one, by one command. See agent.cli.upgrade, of which it is a case."""

import argparse
import functools
from typing import TYPE_CHECKING, Final

from agent.cli.upgrade import add_common, is_root, upgrade

if TYPE_CHECKING:
    from agent.host.apt import Apt

EPILOG: Final = """\
The version before is on this host's disk if `sbc-agent upgrade` or the controller put the present one in force: no
network is needed. Else it is the next lower one of the repository. Configuration, policy and state stay.

examples:
  sbc-agent downgrade
  sbc-agent upgrade 0.1.0             any version that the repository has, lower ones too

exit codes: 0 it is in force, and well; 1 it is not, and why; 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if the version before is in force now, else 1."""
    from agent.cli.output import BAD_INPUT  # noqa: PLC0415  (`--help` is quick)
    from agent.host.upgrade_files import Places  # noqa: PLC0415

    return upgrade(Places(), args, before) if is_root() else BAD_INPUT


def before(apt: "Apt") -> str:
    """The highest version below the one in force, of those on the disk, else of the repository. Raises HostError."""
    from agent.host.upgrader import HostError  # noqa: PLC0415

    present = apt.installed()

    def lower(versions: "list[str]") -> str:
        found = [one for one in versions if apt.is_newer(present, one)]
        return functools.reduce(lambda a, b: a if apt.is_newer(a, b) else b, found) if found else ""

    if found := lower(apt.kept_versions()):
        return found
    apt.refresh()
    if found := lower(apt.versions()):
        return found
    raise HostError(f"there is no version below {present}, neither on the disk nor in the repository")
