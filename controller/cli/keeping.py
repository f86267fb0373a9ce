"""`sbc-controller backup`, `restore`, `authority`: what keeps a controller for years. Knows arguments and printing."""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from controller.config import Config
    from controller.daemon import Parts

OK: Final = 0
FAILED: Final = 1
STDERR: Final = 2

Declare = Callable[[Any, str, str, str], argparse.ArgumentParser]

BACKUP: Final = "copy the state to a folder, while the controller runs"
BACKUP_EPILOG: Final = """\
The folder gets the database on one snapshot, the records and lists that it names, and the authority's certificate. A
folder that holds an earlier back-up gets what is new. Private keys are left out unless they are asked for: whoever has
them can be any agent and any controller. Keep one copy of the folder authority/ offline, and back-ups without keys.

With PostgreSQL the database is dumped by pg_dump, which must be here (postgresql-client); one controller of the fleet
does it, where the records and lists are that they share.
Records and lists on object storage ([archive] url, [artifacts] url) are not copied.

examples:
  sbc-controller backup /backup/sbc
  sbc-controller backup --with-keys /media/safe/sbc"""

RESTORE: Final = "put a back-up into an empty state folder, and have the fleet go on with it"
RESTORE_EPILOG: Final = """\
The controller must not be running. Keys that are not in the back-up must be in place first (authority/ca.key and
authority/artifact.key, or systemd's credentials). What agents have heard since the back-up cannot be unsaid: policies
and lists get numbers far beyond, and what was in force goes to all agents again. Agents go on with the certificates
that they have; those that were enrolled after the back-up must be enrolled again, and operators made after it, made
again. What was revoked after the back-up must be revoked again. Records that agents still have are sent again, once.

With PostgreSQL no controller of the fleet may be running, and [store] must name an empty database of its user's own:
  createdb --owner=controller sbcedge_restored
It is put back by pg_restore (postgresql-client), as a whole or not at all.

example:
  systemctl stop sbc-edge-controller && mv /var/lib/sbc-edge-controller/state.db /root/
  sbc-controller restore /backup/sbc && systemctl start sbc-edge-controller"""

AUTHORITY: Final = "show the roots of the fleet, or change to a new one: stage, activate, retire"
AUTHORITY_EPILOG: Final = """\
A new root in three steps, with a start of the controller between them, and time: agents get it with their next
certificate, which is after half a day by default ([authority] hours).

  stage      make the next root. It issues nothing yet, and everybody gets to know it
  activate   have it issue. Refused while an agent does not know it; --force leaves those to be enrolled again
  retire     trust those before it no longer. Refused while an agent may have a certificate of them

The controller must not be running, unless its state is in PostgreSQL; it takes a moment, and agents do not mind.
Several controllers have the same keys: copy ca-next.key to all after `stage`, and start them all after each step.
After `activate`, operators log in once more (`sbcctl login`) with the SHA-256 that is printed.

examples:
  sbc-controller authority
  systemctl stop sbc-edge-controller; sbc-controller authority stage; systemctl start sbc-edge-controller"""

STEPS: Final = ("show", "stage", "activate", "retire")


def configure(commands: Any, declare: Declare) -> None:
    """The commands and their arguments."""
    backup = declare(commands, "backup", BACKUP, BACKUP_EPILOG)
    backup.add_argument("folder", metavar="DIR", type=Path, help="made if it is not there; mode 0700")
    backup.add_argument("--with-keys", action="store_true", help="private keys, too")
    backup.set_defaults(act=_backup)
    restore = declare(commands, "restore", RESTORE, RESTORE_EPILOG)
    restore.add_argument("folder", metavar="DIR", type=Path, help="as `backup` made it")
    restore.set_defaults(act=_restore)
    authority = declare(commands, "authority", AUTHORITY, AUTHORITY_EPILOG)
    authority.add_argument("step", metavar="STEP", nargs="?", choices=STEPS, default="show", help=", ".join(STEPS))
    authority.add_argument("--force", action="store_true", help="although agents are behind")
    authority.set_defaults(act=_authority)


def complain(message: str) -> None:
    """One line on stderr, named after the program."""
    print(f"sbc-controller: {message}", file=sys.stderr)


def _backup(args: argparse.Namespace, config: "Config") -> int:
    from controller.backup import BackupError, make_backup  # noqa: PLC0415  (`--help` is quick)

    try:
        made = make_backup(config, args.folder, time.time(), with_keys=args.with_keys)
    except (BackupError, OSError) as error:
        complain(str(error))
        return FAILED
    keys = "with private keys: keep it like them" if made.keys else "without private keys"
    print(f"{args.folder}: {len(made.files)} files, {made.size:,} bytes, {keys}")
    return OK


def _restore(args: argparse.Namespace, config: "Config") -> int:
    from controller.backup import BackupError  # noqa: PLC0415
    from controller.restoring import put_back, take_up  # noqa: PLC0415

    try:
        backup = put_back(config, args.folder)
    except (BackupError, OSError) as error:
        complain(str(error))
        return FAILED
    finally:
        hand_over(config.controller.directory)
    print(f"back-up of {_moment(backup.at)}: {len(backup.files)} files are in place")

    async def work(parts: "Parts") -> None:
        generation = await take_up(parts, backup)
        print(f"authority:     {parts.authority.sha256} (SHA-256)")
        if generation:
            print(f"agents get what was in force as generation {generation}")
        print("start the controller now; agents that were enrolled since must be enrolled again")

    return _with_parts(config, work)


def _authority(args: argparse.Namespace, config: "Config") -> int:
    from controller.authority.rotation import Rotation  # noqa: PLC0415
    from controller.daemon import open_state  # noqa: PLC0415
    from controller.model import Act  # noqa: PLC0415

    async def work(parts: "Parts") -> None:
        await open_state(parts)
        rotation, when = Rotation(config.authority, parts.store), parts.clock()
        act = Act(f"controller:{parts.store.controller_id}", f"authority.{args.step}", {"force": args.force})
        if args.step == "stage":
            print(f"staged:        {await rotation.stage(act, when)} (SHA-256)")
        elif args.step == "activate":
            print(f"issues:        {await rotation.activate(act, when, force=args.force)} (SHA-256)")
        elif args.step == "retire":
            print(f"not trusted any more: {await rotation.retire(act, when, force=args.force)}")
        for root in await rotation.roots():
            print(f"{root.role:7} {root.sha256}  since {_moment(root.since)}, until {_moment(root.not_after)}")
        without, of_before = await rotation.behind()
        if without:
            print(f"do not know the next one yet: {len(without)} agents: {_some(without)}")
        if of_before:
            print(f"may have a certificate of one before: {len(of_before)} agents: {_some(of_before)}")
        if args.step != "show":
            print("start the controller (again) now: it reads its authority at the start")

    return _with_parts(config, work)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _with_parts(config: "Config", work: "Callable[[Parts], Coroutine[Any, Any, None]]") -> int:
    from agent.ops.log import LineWriter, Log  # noqa: PLC0415
    from controller.daemon import build_parts  # noqa: PLC0415
    from controller.errors import ControllerError, SchemaTooNew, StoreDamaged  # noqa: PLC0415

    async def main() -> None:
        parts = build_parts(config, Log(LineWriter(STDERR), "warning"))
        try:
            await work(parts)
        finally:
            await parts.store.close()

    try:
        try:
            asyncio.run(main())
        finally:
            hand_over(config.controller.directory)
    except (StoreDamaged, SchemaTooNew) as error:
        complain(str(error))
        return 78
    except (ControllerError, OSError) as error:
        complain(str(error))
        return FAILED
    return OK


def hand_over(directory: Path) -> None:
    """Root does this for the service: what it made belongs to whom the folder belongs."""
    if os.geteuid() != 0 or not directory.is_dir():
        return
    owner = directory.stat()
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid == 0 and owner.st_uid != 0:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _moment(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
