"""`sbc-agent kernel`: what the agent has in the kernel, and what it would put there.

`plan` needs no privileges: it prints the tables in the syntax of nft(8). `apply` installs the guard without the agent,
to watch it in shadow mode or to keep it for good; the queue it never installs, as there would be nobody to ask.
"""

import argparse
import signal
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli.output import BAD_INPUT, OK, complain, complain_of_config, print_json, print_table
from agent.config import CONFIG_FILE, MAX_CONFIG_BYTES
from agent.documents import raise_all, read_toml
from agent.ingress.queue.settings import QueueSettings
from agent.kernel.settings import KernelSettings
from agent.loading import read_text
from agent.model import ConfigError
from agent.settings import as_table, fill

if TYPE_CHECKING:
    from agent.kernel.fast_path import FastPath
    from agent.kernel.nft import Nft

EPILOG: Final = """\
examples:
  sbc-agent kernel plan                      what agent.toml would install
  sbc-agent kernel apply --shadow            count what would be dropped, until Ctrl-C
  sbc-agent kernel apply --hold              install the guard, and leave it there
  sbc-agent kernel status                    what is installed, with its counters
  sbc-agent kernel remove                    remove a table that was left there

exit codes: 0 done; 1 not possible, or nothing is installed; 2 wrong usage"""

SOURCES_SHOWN: Final = 20
SOURCES_READ: Final = 1 << 17
"""Of a program's map, which packets change meanwhile: a walk through it must end."""

PROGRAM: Final = """\
a program of eBPF, made of the same rules, drops at each Ethernet interface
# what the table would drop as blocked or flood, before it comes here. It is there for as long as the agent lives, and
# drops nothing when the agent has been silent for 2 s."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="show the tables in the kernel, their counters and blocked sources")
    status.add_argument("--json", action="store_true", help="print JSON")
    plan = actions.add_parser("plan", help="print what would be installed, in the syntax of nft; needs no privileges")
    apply = actions.add_parser("apply", help="install the guard without the agent, until Ctrl-C")
    apply.add_argument("--shadow", action="store_true", help="count what would be dropped, and drop nothing")
    apply.add_argument("--hold", action="store_true", help="leave it there, until `remove`")
    actions.add_parser("remove", help="remove what was left in the kernel")
    for one in (plan, apply):
        one.add_argument(
            "--config", type=Path, default=CONFIG_FILE, metavar="PATH", help=f"agent.toml (default: {CONFIG_FILE})"
        )


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 with a complaint for what is not possible."""
    try:
        match args.action:
            case "plan":
                return _plan(*read_settings(args.config))
            case "apply":
                return _apply(read_settings(args.config)[0], shadow=args.shadow, hold=args.hold)
            case "status":
                return _status(as_json=args.json)
            case _:
                return _remove()
    except ConfigError as error:
        complain_of_config(args.config, error, "sbc-agent setup")
    except OSError as error:
        complain(error.strerror or str(error))
    return BAD_INPUT


def read_settings(path: Path) -> tuple[KernelSettings | None, QueueSettings | None]:
    """The two sections that matter here. Raises ConfigError, ConfigErrors."""
    table = read_toml(read_text(path, MAX_CONFIG_BYTES))
    errors: list[ConfigError] = []
    kernel = queue = None
    if "kernel" in table:
        kernel = fill(KernelSettings, as_table(table["kernel"], "kernel"), "kernel", errors)
    if "queue" in table:
        queue = fill(QueueSettings, as_table(table["queue"], "queue"), "queue", errors)
    raise_all(errors)
    if kernel is None and queue is None:
        raise ConfigError("kernel", "there is neither [kernel] nor [queue]: nothing would be installed")
    return kernel, queue


def _plan(kernel: KernelSettings | None, queue: QueueSettings | None) -> int:
    from agent.kernel.ruleset_text import table_text  # noqa: PLC0415  (`--help` is quick)
    from agent.kernel.tables import guard_table, queue_table  # noqa: PLC0415

    if kernel is not None:
        if kernel.engine != "nftables" and kernel.mode == "enforce":
            print(f"# engine = {kernel.engine}: {PROGRAM}")
        print(table_text(guard_table(kernel, {}, reassembles=True)), end="")
    if queue is not None:
        ports = ", ".join(map(str, sorted(set(queue.ports))))
        print(f"# While the agent is alive, the sets armed and armed_following hold: {ports}")
        print(table_text(queue_table(queue.number, queue.mark, reassembles=True)), end="")
    return OK


def _apply(settings: KernelSettings | None, *, shadow: bool, hold: bool) -> int:
    from agent.kernel.fast_path import BEAT_SECONDS, FastPath  # noqa: PLC0415
    from agent.kernel.nft import Nft  # noqa: PLC0415
    from agent.kernel.tables import GUARD, guard_table  # noqa: PLC0415

    if settings is None:
        raise ConfigError("kernel", "there is no section [kernel]")
    settings = replace(settings, on_death="hold" if hold else "pass")
    if shadow:
        settings = replace(settings, mode="shadow")
    with Nft() as nft, closing(FastPath()) as program:
        nft.install(guard_table(settings, {}, reassembles=nft.reassembles()))
        if hold:
            print(f"installed table {GUARD}; `sbc-agent kernel remove` removes it")
            return OK
        print(f"installed table {GUARD}; it goes when this command ends (Ctrl-C)", flush=True)
        print(_put_in_front(program, settings), flush=True)
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        while not ended.wait(BEAT_SECONDS):
            program.beat()
        early = program.counts()
        counts = nft.counters(GUARD).items()
        print(", ".join(f"{name}: {count + early.get(name, 0):,}" for name, count in counts))
    return OK


def _put_in_front(program: "FastPath", settings: KernelSettings) -> str:
    """Open the program if it is wanted; in words, whether it is there. Raises OSError if it must be and cannot."""
    if settings.engine == "nftables" or settings.mode == "shadow":
        return "no program of eBPF is in front of it"
    try:
        program.open(settings, {})
    except OSError as error:
        if settings.engine == "ebpf":
            raise
        return f"no program of eBPF is in front of it: {error.strerror or error}"
    program.beat()
    return f"in front of it, a program of eBPF ({program.how}) on {', '.join(program.interfaces) or 'no interface'}"


def _status(*, as_json: bool) -> int:
    from agent.kernel.nft import Nft  # noqa: PLC0415
    from agent.kernel.tables import GUARD, QUEUE  # noqa: PLC0415

    with Nft() as nft:
        found = {table.name: table for table in nft.tables() if table.name in {GUARD, QUEUE}}
        report = {
            name: {
                "held_by": table.owner,
                "packets": nft.counters(name),
                "sources": _sources(nft, name),
            }
            for name, table in found.items()
        }
    report |= _programs()
    if as_json:
        print_json(report)
    elif not report:
        print("nothing of the agent is in the kernel")
    else:
        for name, one in report.items():
            _print_table(name, one)
        if GUARD in report and "ebpf" not in report:
            print("no program of eBPF is in front of it; `sbc-agent doctor` says whether one can be")
    return OK if report else BAD_INPUT


def _sources(nft: "Nft", table: str) -> list[dict[str, object]]:
    """Blocked and flooding sources, what was dropped of them most first."""
    from ipaddress import ip_address  # noqa: PLC0415

    from agent.kernel.guard import networks_of  # noqa: PLC0415
    from agent.kernel.netlink import KernelError  # noqa: PLC0415
    from agent.kernel.tables import GUARD  # noqa: PLC0415

    if table != GUARD:
        return []
    out: list[dict[str, object]] = []
    for version in (4, 6):
        for name in (f"blocked{version}", f"blocked_nets{version}"):
            found = nft.elements(table, name)
            blocked = networks_of(found, ranges=name.startswith("blocked_nets"))
            out += [{"source": str(network), "blocked_seconds": round(seconds)} for network, seconds in blocked]
        try:
            limited = nft.elements(table, f"invites{version}")
        except KernelError:  # there is no limit
            continue
        flooding = sorted((one for one in limited if one.packets), key=lambda one: -one.packets)
        out += [{"source": str(ip_address(one.key)), "over_limit": one.packets} for one in flooding[:SOURCES_SHOWN]]
    return out


def _programs() -> dict[str, dict[str, object]]:
    """The program in front of the guard's table, if there is one. To see it takes root."""
    from ipaddress import ip_address  # noqa: PLC0415

    from agent.kernel.ebpf import programs, supported  # noqa: PLC0415
    from agent.kernel.ebpf_guard import COUNTED, COUNTS, SOURCES, over_limit, source_of  # noqa: PLC0415
    from agent.kernel.fast_path import program_name  # noqa: PLC0415

    try:
        # With XDP there is one for each interface, and they share their maps.
        found = next(programs(program_name()), None) if supported() else None
        if found is None:
            return {}
        with closing(found):
            counts = dict(zip(COUNTED, found.maps[COUNTS].sums(), strict=True))
            sources = found.maps.get(SOURCES)  # there is none without a limit
            over = [] if sources is None else [(over_limit(value), key) for key, value in sources.items(SOURCES_READ)]
    except OSError as error:
        complain(f"whether a program of eBPF is there cannot be seen: {error.strerror or error}")
        return {}
    over = sorted((one for one in over if one[0]), reverse=True)[:SOURCES_SHOWN]
    told = [{"source": str(ip_address(source_of(key))), "over_limit": number} for number, key in over]
    return {"ebpf": {"attached_by": found.attach.title, "packets": counts, "sources": told}}


def _print_table(name: str, report: dict[str, object]) -> None:
    holder = report.get("held_by")
    held = f"held by the process with netlink port {holder}" if holder else "held by nobody: stays until removed"
    packets, sources = report["packets"], report["sources"]
    assert isinstance(packets, dict)
    assert isinstance(sources, list)
    early = f"a program of eBPF ({report.get('attached_by')}) in front of it has dropped"
    print(f"table {name}, {held}" if "held_by" in report else early)
    print_table("", ("what", "packets"), [(word, f"{count:,}") for word, count in packets.items()])
    if sources:
        rows = [(str(one["source"]), *_words(one)) for one in sources]
        print_table("", ("source", "what", ""), rows)


def _words(source: dict[str, object]) -> tuple[str, str]:
    if "blocked_seconds" in source:
        return "blocked", f"for {source['blocked_seconds']} s"
    return "over the limit", f"{source['over_limit']:,} INVITEs"


def _remove() -> int:
    from agent.kernel.nft import Nft  # noqa: PLC0415
    from agent.kernel.tables import GUARD, QUEUE  # noqa: PLC0415

    with Nft() as nft:
        removed = [name for name in (GUARD, QUEUE) if nft.remove(name)]
    print(f"removed: {', '.join(removed)}" if removed else "nothing of the agent is in the kernel")
    return OK
