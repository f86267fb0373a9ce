"""Checks of what the operator wrote: agent.toml, the policy with its lists, and whether the service may read them."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.config import Config, load_config
from agent.host.finding import Finding, fault, ok, warning
from agent.loading import load_policy
from agent.model import ConfigError, ConfigErrors
from agent.policy.policy import Policy

USER: Final = "sbc-edge"
STATE: Final = Path("/var/lib/sbc-edge-agent")
AS_ROOT: Final = "run it as root"


def read_configuration(path: Path) -> tuple[Config | None, list[Finding]]:
    """agent.toml, or every error of it."""
    try:
        return load_config(path), [ok("configuration", f"{path} is right")]
    except ConfigError as error:
        return None, _faults("configuration", path, error, "sbc-agent setup")


def read_rules(config: Config) -> tuple[Policy | None, list[Finding]]:
    """The policy with its lists, or every error of it."""
    file = config.policy.file
    try:
        policy = load_policy(file)
    except ConfigError as error:
        return None, _faults("policy", file, error, f"sbc-agent policy init {file}")
    return policy, [ok("policy", f"{file} is right, generation {policy.generation}"), *_substance(policy)]


def _faults(about: str, path: Path, error: ConfigError, made_by: str) -> list[Finding]:
    try:
        path.stat()
    except FileNotFoundError:
        return [fault(about, f"there is no {path}", made_by)]
    except OSError:
        pass  # the error says it
    advice = "mend it" if os.access(path, os.R_OK) else AS_ROOT
    errors = error.errors if isinstance(error, ConfigErrors) else (error,)
    return [fault(about, str(one) if one.field == str(path) else f"{path}: {one}", advice) for one in errors]


def _substance(policy: Policy) -> Iterator[Finding]:
    """What is right and yet not what anybody wants."""
    if not policy.addresses.trunks:
        yield warning(
            "policy",
            'it names no trunk: every call belongs to "unknown"',
            "add a [[trunks]] table with the source addresses of each peer and customer",
        )


def readable(config: Config, path: Path, user: str = USER) -> Iterator[Finding]:
    """Whether the service's user may read its files. Nothing is said where that user is not on this host."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return
    groups = {account.pw_gid, *(g.gr_gid for g in grp.getgrall() if user in g.gr_mem)}
    for file in (path, config.policy.file):
        blocked = blocking(file.absolute(), account.pw_uid, groups)
        if blocked is not None:
            yield fault(
                "permissions",
                f"the service's user {user} may not read {file}: {blocked} has mode {_mode(blocked)}",
                f"chgrp {grp.getgrgid(account.pw_gid).gr_name} {blocked} && chmod g+{_bits(blocked)} {blocked}",
            )


def writable(config: Config, user: str = USER) -> Iterator[Finding]:
    """Whether records and counts are the service's: an agent that root ran by hand leaves files that it may not write.
    Nothing is said where there is no such user, or we may not look."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return
    records = config.records.directory if config.records is not None else None
    for folder in (records, config.restart.directory or STATE / "restart"):
        try:
            if folder is None:
                continue
            files = [path for path in folder.iterdir() if path.is_file()]  # lost+found is root's
            foreign = any(path.stat().st_uid != account.pw_uid for path in (folder, *files))
        except OSError:
            continue  # not there yet, or going
        if foreign:
            words = f"{folder}: something is not of the service's user {user}: was the agent run by hand, as root?"
            yield fault("permissions", words, f"chown -R {user}: {folder}")


def blocking(file: Path, uid: int, groups: set[int]) -> Path | None:
    """The first folder on the way, or the file itself, that this user may not pass or read; None if all lets him."""
    for place in [*reversed(file.parents), file]:
        try:
            status = place.stat()
        except OSError:
            return None  # not there, or not for us to see: another check says so
        wanted = 1 if stat.S_ISDIR(status.st_mode) else 4
        shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
        if uid and not status.st_mode >> shift & wanted:
            return place
    return None


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def _bits(path: Path) -> str:
    return "x" if path.is_dir() else "r"


def is_root() -> bool:
    """Whether everything can be looked at."""
    return os.geteuid() == 0
