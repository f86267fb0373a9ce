#!/usr/lib/sbc-edge-agent/python/bin/python3.11 -IBS
"""`sbc-edge-kamailio`: puts the agent's hook into a Kamailio configuration on request, and takes it out again.

What it adds stands between two marks, whole lines each, so that taking them out leaves every other byte as it is. A
configuration is changed only if Kamailio itself says yes to the result (`kamailio -c`). Knows Kamailio's syntax as far
as finding the opening of a route; uses nothing of the agent, so that it works while the agent is broken, too.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

CONFIG: Final = Path("/etc/kamailio/kamailio.cfg")
ROUTES: Final = Path("/usr/share/sbc-edge-agent/integrations/kamailio/sbc-edge-hook.cfg")
STATE: Final = Path("/var/lib/sbc-edge-agent-kamailio/enabled")
"""One path a line: files that hold our marks, so that removing the package finds all of them."""
DROP_IN: Final = Path("/etc/systemd/system/kamailio.service.d/50-sbc-edge-agent.conf")
DROP_IN_TEXT: Final = (
    "# Lets Kamailio open the socket on which the SBC edge agent is asked. By sbc-edge-kamailio.\n"
    "[Service]\nSupplementaryGroups=sbc-edge-hook\n"
)

BEGIN: Final = "# BEGIN sbc-edge-agent: made and taken out by sbc-edge-kamailio(8); changes in here are lost"
END: Final = "# END sbc-edge-agent"

MODULES: Final = ("sl", "tm", "tmx", "pv", "textops")
"""What the routes need; those that the configuration does not load are loaded in our block."""

TOP: Final = """\
{begin}
{loads}include_file "{routes}"
{reply}{end}
"""
REPLY_ROUTE: Final = "reply_route {\n    route(SBC_EDGE_ANSWERED);\n}\n"
REPLY: Final = "{begin}\n    route(SBC_EDGE_ANSWERED);\n{end}\n"
REQUEST: Final = """\
{begin}
    # A new call: not a retransmission, which has its answer already.
    if (is_method("INVITE") && $tt == $null) {{
        if (t_precheck_trans()) {{
            t_check_trans();
            exit;
        }}
        t_check_trans();
        route(SBC_EDGE_SCREEN);
    }} else if (is_method("BYE") && $tt != $null) {{
        route(SBC_EDGE_ENDED);
    }}
{end}
"""

_OURS: Final = re.compile(rf"^{re.escape(BEGIN)}\n.*?^{re.escape(END)}\n", re.MULTILINE | re.DOTALL)
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_REQUEST_ROUTE: Final = re.compile(r"^[ \t]*(?:request_route|route)[ \t]*\n?[ \t]*\{[ \t]*(?:#[^\n]*)?\n", re.MULTILINE)
_REPLY_ROUTE: Final = re.compile(
    r"^[ \t]*(?:reply_route|onreply_route)[ \t]*\n?[ \t]*\{[ \t]*(?:#[^\n]*)?\n", re.MULTILINE
)
_LOADED: Final = re.compile(r'^[ \t]*loadmodule(?:x)?[ \t]+"(?:[^"\n]*/)?([a-z0-9_]+)(?:\.so)?"', re.MULTILINE)

BY_HAND: Final = "put it in by hand, as /usr/share/doc/sbc-edge-agent-kamailio/README.md says"


class NotPossibleError(Exception):
    """Why nothing was changed, for people."""


class Places(NamedTuple):
    """Offsets: before the request_route, after its opening, after that of the reply_route (or -1)."""

    before: int
    request: int
    reply: int


def enabled(text: str, routes: Path = ROUTES) -> str:
    """The configuration with the hook in it. Raises NotPossibleError."""
    bare = without(text)
    places = _places(bare)
    marks = {"begin": BEGIN, "end": END}
    loads = "".join(f'loadmodule "{name}.so"\n' for name in MODULES if name not in _loaded(bare))
    insertions = [
        (
            places.before,
            TOP.format(loads=loads, routes=routes, reply="" if places.reply >= 0 else REPLY_ROUTE, **marks),
        ),
        (places.request, REQUEST.format(**marks)),
    ]
    if places.reply >= 0:
        insertions.append((places.reply, REPLY.format(**marks)))
    for offset, block in sorted(insertions, reverse=True):
        bare = bare[:offset] + block + bare[offset:]
    return bare


def without(text: str) -> str:
    """The configuration without what we put into it; every other byte stays. Raises NotPossibleError."""
    bare = _OURS.sub("", text)
    if BEGIN in bare or (END + "\n") in bare:
        raise NotPossibleError("one of our two marks is missing: take out by hand what stands at the other")
    return bare


def _places(text: str) -> Places:
    code = _COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)
    requests = list(_REQUEST_ROUTE.finditer(code))
    replies = list(_REPLY_ROUTE.finditer(code))
    if len(requests) != 1 or len(replies) > 1:
        raise NotPossibleError(f"it has {len(requests)} main routes, and not one in this file and form: {BY_HAND}")
    return Places(requests[0].start(), requests[0].end(), replies[0].end() if replies else -1)


def _loaded(text: str) -> set[str]:
    """Modules that are loaded whatever is defined: lines within #!ifdef may not count."""
    depth, certain = 0, []
    for line in text.splitlines():
        if line.startswith(("#!ifdef", "#!ifndef", "#!ifexp", "!!ifdef", "!!ifndef")):
            depth += 1
        elif line.startswith(("#!endif", "!!endif")):
            depth -= 1
        elif depth == 0:
            certain.append(line)
    return set(_LOADED.findall("\n".join(certain)))


def check(config: Path, *, what: str) -> None:
    """Ask Kamailio. Raises NotPossibleError with its words."""
    kamailio = shutil.which("kamailio") or "/usr/sbin/kamailio"
    try:
        done = subprocess.run(
            [kamailio, "-c", "-f", str(config)], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotPossibleError(f"Kamailio cannot be asked about it: {error}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line or "CRITICAL" in line]
        raise NotPossibleError(f"Kamailio says no to {what}:\n" + "\n".join(said[-5:] or done.stderr.splitlines()[-5:]))


def embedded_python_fits() -> None:
    """Kamailio embeds the distribution's Python, and what is compiled for the agent's must fit it. Raises."""
    try:
        said = subprocess.run(
            ["/usr/bin/python3", "-V"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except OSError:
        said = "no Python"
    if not said.startswith("Python 3.11."):
        raise NotPossibleError(
            f"Kamailio embeds this system's Python, which is {said.strip() or 'not there'}, and the hook's libraries "
            f"are for 3.11: ask by SIP (redirect), or give it libraries of its own; {BY_HAND}"
        )


def replace(path: Path, text: str) -> None:
    """Write a file as a whole or not at all, with owner and mode as they were."""
    old = path.stat()
    temporary = path.with_name(f".{path.name}.sbc-edge")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), old.st_mode & 0o7777)
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read(path: Path) -> str:
    """A configuration, whatever bytes its comments hold; line ends stay as they are. Raises NotPossibleError."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except OSError as error:
        raise NotPossibleError(f"{path}: {error.strerror}") from None


def enable(config: Path) -> None:
    """Put it in, once: enabling again renews the blocks. Raises NotPossibleError, and then nothing was changed."""
    config = config.resolve()
    old = read(config)
    embedded_python_fits()
    new = enabled(old)
    check(config, what="the configuration as it is, before any change")
    # Beside the file, as it may include others by relative names.
    trial = config.with_name(f".{config.name}.sbc-edge-trial")
    try:
        shutil.copy2(config, trial)
        replace(trial, new)
        check(trial, what="the configuration with the hook in it")
    finally:
        trial.unlink(missing_ok=True)
    _remember(config, there=True)
    replace(config, new)
    _grant()
    print(f"{config} asks the agent about each new call, once Kamailio is restarted: systemctl restart kamailio")
    if not Path("/run/sbc-edge-agent/hook.sock").exists():
        print("the agent's hook does not listen: agent.toml needs a section [hook] (sbc-agent setup --hook)")


def disable(config: Path) -> None:
    """Take it out. Raises NotPossibleError."""
    config = config.resolve()
    old = read(config)
    new = without(old)
    if new != old:
        replace(config, new)
    _remember(config, there=False)
    print(f"{config} does not ask the agent, once Kamailio is restarted: systemctl restart kamailio")


def disable_all() -> None:
    """Take it out of every file that holds it. Raises NotPossibleError if one of them cannot be changed."""
    failure = None
    for config in _remembered():
        try:
            if config.exists():
                disable(config)
            else:
                _remember(config, there=False)
        except (NotPossibleError, OSError) as error:
            failure = NotPossibleError(f"{config}: {error}")
    if failure is not None:
        raise failure


def _remembered() -> list[Path]:
    try:
        return [Path(line) for line in STATE.read_text(errors="surrogateescape").splitlines() if line]
    except FileNotFoundError:
        return []


def _remember(config: Path, *, there: bool) -> None:
    """Keep the list of files; with the last one goes all that is ours."""
    paths = [p for p in _remembered() if p != config] + ([config] if there else [])
    if paths:
        STATE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        STATE.write_text("".join(f"{p}\n" for p in paths), errors="surrogateescape")
        return
    STATE.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        STATE.parent.rmdir()
    if DROP_IN.exists():
        DROP_IN.unlink()
        with contextlib.suppress(OSError):
            DROP_IN.parent.rmdir()
        _daemon_reload()


def _grant() -> None:
    DROP_IN.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    DROP_IN.write_text(DROP_IN_TEXT)
    _daemon_reload()


def _daemon_reload() -> None:
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "daemon-reload"], check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 1 if it is not possible or, for status, if it is not enabled; 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="sbc-edge-kamailio", description="Have Kamailio ask the SBC edge agent.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("enable", "put the hook into a Kamailio configuration"),
        ("disable", "take it out again"),
        ("status", "say whether it is in there"),
    ):
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        action.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"default: {CONFIG}")
        if name == "disable":
            action.add_argument("--all", action="store_true", help="out of every file that it was put into")
    args = parser.parse_args(arguments)
    try:
        if args.action == "enable":
            enable(args.config)
        elif args.action == "status":
            return _status(args.config)
        elif args.all:
            disable_all()
        else:
            disable(args.config)
    except (NotPossibleError, OSError) as error:
        print(f"sbc-edge-kamailio: {error}", file=sys.stderr)
        return 1
    return 0


def _status(config: Path) -> int:
    text = read(config)
    if without(text) == text:
        print(f"{config} does not ask the agent")
        return 1
    print(f"{config} asks the agent")
    return 0


if __name__ == "__main__":
    sys.exit(main())
