"""A restored controller takes up its fleet: agents have gone on since the back-up, and know what it has lost.

What agents have seen since then must not come again as something else: numbers of policies and lists leap ahead, and
what was in force is handed out anew under them; leases begin beyond every epoch that there was. Certificates that were
renewed since are taken as ours by their signature, if they are of agents that it knows. Records need nothing: agents
send again what is behind the watermark, as far as they still have it.
"""

import json
from pathlib import Path
from typing import Final

from agent.files import replace_file
from agent.model import ConfigError
from controller.backup import Backup, check_empty, check_keys, has_state, lay_out, read_backup
from controller.config import Config
from controller.daemon import RESTORE_MARK, Parts, open_state
from controller.model import Act

LEAP: Final = 1000
"""Generations and terms that may have been given since the back-up: some months of a list that is renewed hourly."""

PRIVATE: Final = 0o600


def put_back(config: Config, folder: Path) -> Backup:
    """Lay out the files. Goes on where it was interrupted. Raises BackupError, ConfigError, OSError."""
    backup = read_backup(folder)
    mark = config.controller.directory / RESTORE_MARK
    if not mark.exists():
        check_empty(backup, config)  # a state without our mark is none that we began to put back
        if not backup.keys:
            check_keys(config)
        config.controller.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        replace_file(mark, [json.dumps({"from": str(folder), "at": backup.at}).encode()], PRIVATE)
    if not has_state(config):  # it comes last
        lay_out(backup, folder, config)
    check_keys(config)
    return backup


async def take_up(parts: Parts, backup: Backup) -> int:
    """Make the state fit to a fleet that went on. The generation that brings agents back; 0: there was no policy.

    Raises ConfigError and ControllerError.
    """
    await open_state(parts, restoring=True)
    if not parts.config.authority.certificate and not parts.authority.sha256:
        raise ConfigError("authority.directory", "holds no authority")
    actor, now = f"controller:{parts.store.controller_id}", parts.clock()
    await parts.store.restored(backup.at, now, LEAP, Act(actor, "state.restore", {"of": backup.at}))
    policy = await parts.publisher.after_restore(LEAP, lambda action, **detail: Act(actor, action, detail))
    (parts.config.controller.directory / RESTORE_MARK).unlink(missing_ok=True)
    return 0 if policy is None else policy.info.generation
