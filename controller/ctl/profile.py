"""Which controller sbcctl asks, and as whom: what `sbcctl login` has kept, unless options or environment say otherwise.

    ~/.config/sbcctl/PROFILE/    0700
        controller               host:port
        authority.pem            whom the controller's certificate must be of
        token                    login token, or
        identity.pem             private key and certificate; with these, `controller` is the port for certificates

Knows files and their names. Nothing of a secret is in any error.
"""

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.files import replace_file
from agent.model import ConfigError

DEFAULT: Final = "default"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
FILE_MAX: Final = 1 << 20
TOKEN_MAX: Final = 4096
PRIVATE: Final = 0o600

CONTROLLER: Final = "controller"
AUTHORITY: Final = "authority.pem"
TOKEN: Final = "token"  # noqa: S105  (its name)
IDENTITY: Final = "identity.pem"

ENVIRONMENT: Final = {
    "profile": "SBCCTL_PROFILE",
    "controller": "SBCCTL_CONTROLLER",
    "authority": "SBCCTL_AUTHORITY",
    "token_file": "SBCCTL_TOKEN_FILE",
    "identity": "SBCCTL_IDENTITY",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Whom to ask, how it is known (authority, PEM; None: the system's), and with what: a token, or key and chain."""

    controller: str
    authority: bytes | None
    token: str = field(default="", repr=False)
    identity: bytes = field(default=b"", repr=False)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command has that asks the controller."""
    group = parser.add_argument_group("whom to ask, and as whom (default: what `sbcctl login` has kept)")
    group.add_argument("--profile", metavar="NAME", help=f"another login (or {ENVIRONMENT['profile']})")
    group.add_argument("--controller", metavar="HOST:PORT", help=f"(or {ENVIRONMENT['controller']})")
    group.add_argument(
        "--authority",
        type=Path,
        metavar="FILE",
        help=f"the controller's authority, PEM (or {ENVIRONMENT['authority']})",
    )
    secret = group.add_mutually_exclusive_group()
    secret.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"file with a login token (or {ENVIRONMENT['token_file']})"
    )
    secret.add_argument(
        "--identity",
        type=Path,
        metavar="FILE",
        help=f"private key and certificate, PEM (or {ENVIRONMENT['identity']})",
    )


def directory_of(name: str, environment: Mapping[str, str]) -> Path:
    """Where a profile is kept. Raises ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError("--profile", "must be 1 to 64 letters, digits, '.', '_' and '-'")
    base = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME") or "~").expanduser() / ".config")
    return Path(base) / "sbcctl" / name


def profile_of(args: argparse.Namespace, environment: Mapping[str, str]) -> Path:
    """The folder of the profile that is meant. Raises ConfigError."""
    return directory_of(args.profile or environment.get(ENVIRONMENT["profile"]) or DEFAULT, environment)


def resolve(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Access:
    """Options, else environment, else profile. Raises ConfigError that says what is missing."""
    folder = profile_of(args, environment)
    controller = args.controller or environment.get(ENVIRONMENT["controller"]) or _kept(folder / CONTROLLER).decode()
    if not controller:
        raise ConfigError("--controller", "is missing, and nobody has logged in here: see `sbcctl login --help`")
    authority = _given(args.authority, environment, "authority")
    token, identity = _given(args.token_file, environment, "token_file"), _given(args.identity, environment, "identity")
    if args.token_file is not None or (token is not None and args.identity is None):
        identity = b""
    elif identity is not None:
        token = b""
    else:
        token, identity = _kept(folder / TOKEN), _kept(folder / IDENTITY)
    if not token and not identity:
        raise ConfigError("--token-file", "is missing, and nobody has logged in here: see `sbcctl login --help`")
    return Access(
        controller=controller.strip(),
        authority=authority if authority is not None else _kept(folder / AUTHORITY) or None,
        token=token_of(token, "--token-file") if token else "",
        identity=identity or b"",
    )


def token_of(data: bytes, field: str) -> str:
    """The one word in it. Raises ConfigError."""
    text = data.decode("ascii", "replace").strip()
    if not text or len(data) > TOKEN_MAX or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(field, "holds no token: one word on one line")
    return text


def keep(folder: Path, access: Access) -> None:
    """Make this the profile, the secrets for nobody else's eyes. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(folder / CONTROLLER, [access.controller.encode() + b"\n"], PRIVATE)
    if access.authority is None:
        (folder / AUTHORITY).unlink(missing_ok=True)
    else:
        replace_file(folder / AUTHORITY, [access.authority], PRIVATE)
    kept, gone = (IDENTITY, TOKEN) if access.identity else (TOKEN, IDENTITY)
    replace_file(folder / kept, [access.identity or access.token.encode() + b"\n"], PRIVATE)
    (folder / gone).unlink(missing_ok=True)


def forget(folder: Path) -> bool:
    """Remove it; whether there was one. Raises OSError."""
    there = folder.is_dir()
    for name in (IDENTITY, TOKEN, AUTHORITY, CONTROLLER):
        (folder / name).unlink(missing_ok=True)
    if there:
        folder.rmdir()
    return there


def read_file(path: Path, field: str) -> bytes:
    """A whole small file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX + 1)
    except OSError as error:
        advice = ": copy it for this user, or run this as root" if isinstance(error, PermissionError) else ""
        raise ConfigError(field, f"{path} cannot be read: {error.strerror}{advice}") from None
    if len(data) > FILE_MAX:
        raise ConfigError(field, f"{path} is too large")
    return data


def _given(path: Path | None, environment: Mapping[str, str], name: str) -> bytes | None:
    """None: neither as an option nor in the environment. Raises ConfigError."""
    variable = ENVIRONMENT[name]
    if path is not None:
        return read_file(path, f"--{name.replace('_', '-')}")
    return read_file(Path(environment[variable]), variable) if environment.get(variable) else None


def _kept(path: Path) -> bytes:
    try:
        return read_file(path, str(path))
    except ConfigError:
        if path.exists():
            raise
        return b""
