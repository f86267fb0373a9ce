"""`sbc-agent setup --upgrades`: whence this host gets other versions of the agent, and whether its controller may ask.

Two files of the system, and nothing else: a source for apt with the key in it, and what `systemctl enable` makes.
"""

import argparse
import os
import re
from pathlib import Path
from typing import Final

from agent.cli.output import BAD_INPUT, OK, complain
from agent.model import ConfigError

HEADING: Final = "# Made by `sbc-agent setup --repository`; purging sbc-edge-agent removes it.\n"
PATH_UNIT: Final = "sbc-edge-agent-upgrade.path"
KEY_MAX: Final = 64 << 10

_URL: Final = re.compile(r"(?:https?://|file:/)[!-~]{1,1000}", re.ASCII)
_SUITE: Final = re.compile(r"[a-z0-9][a-z0-9./-]{0,63}", re.ASCII)
_BEGIN: Final = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
_END: Final = "-----END PGP PUBLIC KEY BLOCK-----"


def add_upgrades(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    group = parser.add_argument_group("other versions of the agent (only these are done then)")
    group.add_argument(
        "--upgrades", choices=("on", "off"), help="whether the controller may ask for another version (at first: off)"
    )
    group.add_argument("--repository", metavar="URL", help="where packages come from: https://..., or file:/media/usb")
    group.add_argument("--suite", default="stable", metavar="NAME", help="of the repository (default: stable)")
    group.add_argument("--key", type=Path, metavar="FILE", help="the repository's public key, ASCII-armoured")


def upgrades(args: argparse.Namespace) -> int:
    """Returns 0. Raises ConfigError and OSError; then nothing was changed but what it has said."""
    from agent.host.apt import check_source, switch  # noqa: PLC0415  (`--help` is quick)
    from agent.host.upgrade_files import Places  # noqa: PLC0415
    from agent.host.upgrader import HostError  # noqa: PLC0415

    places = Places()
    text = _source(args) if args.repository is not None else ""
    if args.dry_run:
        print(f"# --- {places.source}\n{text}" if text else f"# --- {places.source} stays as it is")
        print(f"# --- systemctl {'enable' if args.upgrades == 'on' else 'disable'} --now {PATH_UNIT}")
        return OK
    if os.geteuid() != 0:
        complain("apt and systemd are set up by root: run it as root")
        return BAD_INPUT
    if text:
        _write_source(places.source, text, force=args.force)
    try:
        if args.upgrades == "on":
            check_source(places.source)
        if args.upgrades is not None:
            switch(PATH_UNIT, on=args.upgrades == "on")
    except HostError as error:
        raise ConfigError("--upgrades", str(error)) from None
    if args.upgrades == "on":
        print("the controller may ask for another version; the agent tells it so when it connects next:")
        print("  systemctl restart sbc-edge-agent")
    return OK


def _source(args: argparse.Namespace) -> str:
    """A source of apt's, deb822 (sources.list(5)), with the key in it. Raises ConfigError."""
    if not _URL.fullmatch(args.repository):
        raise ConfigError("--repository", "must begin with https://, http:// or file:/, and have no spaces")
    if not _SUITE.fullmatch(args.suite):
        raise ConfigError("--suite", "is no name of one")
    if args.key is None:
        raise ConfigError("--key", "is missing: a repository that nobody signs is not taken")
    try:
        text = args.key.read_bytes()[: KEY_MAX + 1].decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError("--key", "is not ASCII-armoured: gpg --armor --export") from None
    lines = [line.strip() for line in text.splitlines()]
    if len(text) > KEY_MAX or lines.count(_BEGIN) != 1 or lines.count(_END) != 1:
        raise ConfigError("--key", "must hold one public key, ASCII-armoured: gpg --armor --export")
    key = lines[lines.index(_BEGIN) : lines.index(_END) + 1]
    signed = "".join(f" {line or '.'}\n" for line in key)
    return f"{HEADING}Types: deb\nURIs: {args.repository}\nSuites: {args.suite}\nComponents: main\nSigned-By:\n{signed}"


def _write_source(path: Path, text: str, *, force: bool) -> None:
    from agent.files import replace_file  # noqa: PLC0415

    if path.exists() and not path.read_text("utf-8", "replace").startswith(HEADING) and not force:
        raise ConfigError("--repository", f"{path} was not made by this command; --force overwrites it")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, [text.encode()], 0o644)
    print(f"wrote {path}")
