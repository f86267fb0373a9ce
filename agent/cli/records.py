"""`sbc-agent records`: the last records of the spool, live or once, and export to JSON Lines or Parquet.

Reads beside a running agent and changes nothing. What makes Parquet of records is in records_parquet.py.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.cli.output import BAD_INPUT, OK, USAGE_ERROR, complain, complain_of_file, progress
from agent.files import replace_file
from agent.records.reading import Follower, Problem, Record, Wanted, latest, records
from agent.records.record import rfc3339
from agent.records.segment import Kind
from agent.records.settings import DEFAULT_DIRECTORY

_EXAMPLES = """\
examples:
  sbc-agent records tail -n 20 --refused
  sbc-agent records tail --follow --json | jq .why
  sbc-agent records export --since 24h --format parquet -o yesterday.parquet
  sbc-agent records export --since 2026-10-14T00:00:00Z --until 2026-10-15T00:00:00Z -o day.jsonl

exit codes: 0 done; 1 the spool cannot be read, or part of it is damaged; 2 wrong usage; 130 interrupted"""

# How often --follow looks for more; the agent commits some 20 times a second.
FOLLOW_SECONDS: Final = 0.25
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="records_command", metavar="COMMAND", required=True)
    tail = commands.add_parser("tail", help="show the last records, and with --follow what comes")
    add_directory_argument(tail)
    tail.add_argument("-n", "--lines", metavar="N", type=_number, default=10, help="how many (default 10)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until interrupted")
    tail.add_argument("--refused", action="store_true", help="refused and dropped calls only")
    tail.add_argument("--rollups", action="store_true", help="the ten-second counts instead of calls")
    tail.add_argument("--json", action="store_true", help="one JSON object to a line")
    export = commands.add_parser("export", help="write records as JSON Lines or Parquet")
    add_directory_argument(export)
    export.add_argument("--since", metavar="T", type=_time, help="RFC 3339, or how long ago: 90s, 15m, 24h, 7d")
    export.add_argument("--until", metavar="T", type=_time, help="up to, and without, this time")
    export.add_argument("--refused", action="store_true", help="refused and dropped calls only")
    export.add_argument("--rollups", action="store_true", help="the ten-second counts instead of calls")
    export.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    export.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: stdout (jsonl only)")


def add_directory_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --dir, where the spool is."""
    parser.add_argument(
        "--dir", metavar="D", type=Path, default=DEFAULT_DIRECTORY, help=f"the spool (default {DEFAULT_DIRECTORY})"
    )


NO_SPOOL: Final = "nothing was recorded there; [records] in agent.toml has the folder, --dir names another"


def run(args: argparse.Namespace) -> int:
    """0 when every record could be read, 1 when the spool could not or is damaged (the rest is shown)."""
    problems: list[str] = []

    def problem(text: str) -> None:
        if text not in problems:
            problems.append(text)
            complain(text)

    try:
        if args.records_command == "tail":
            _tail(args, problem)
        elif args.format == "parquet" and args.output is None:
            complain("records export --format parquet needs -o FILE")
            return USAGE_ERROR
        else:
            return _export(args, problem) or (BAD_INPUT if problems else OK)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        complain_of_file(error, args.dir, NO_SPOOL)
        return BAD_INPUT
    return BAD_INPUT if problems else OK


def _tail(args: argparse.Namespace, problem: Problem) -> None:
    wanted = Wanted(kinds=_kinds(args), refused=args.refused)
    follower = Follower(args.dir) if args.follow else None
    last = latest(args.dir, args.lines, wanted, problem)
    _show(last, as_json=args.json)
    if follower is None:
        return
    # What came between the two looks is in both.
    shown = {(record["epoch"], record["sequence"]) for record in last}
    while True:
        new = [r for r in follower.look(wanted, problem) if (r["epoch"], r["sequence"]) not in shown]
        _show(new, as_json=args.json)
        time.sleep(FOLLOW_SECONDS)


def _show(shown: Iterable[Record], *, as_json: bool) -> None:
    for record in shown:
        print(_json(record) if as_json else _line(record))
    sys.stdout.flush()


def _line(record: Record) -> str:
    """One record for people: time, verdict, who calls whom, why."""
    if record["kind"] == Kind.ROLLUP.word:
        rules = ", ".join(
            f"{rule or 'no rule'}: " + " ".join(f"{count} {action}" for action, count in counts.items())
            for rule, counts in record.get("rules", {}).items()
        )
        return f"{record.get('time')}  {record.get('seconds')} s  {record.get('attempts')} attempts  {rules}"
    verdict = str(record.get("action", "?"))
    rule = record.get("rule")
    shadow = "".join(f"  [shadow {verdict['rule']}: {verdict['why']}]" for verdict in record.get("shadow", ()))
    return (
        f"{record.get('time')}  {verdict:6} {record.get('calling') or '-':>15} -> {record.get('called') or '-':15} "
        f"{record.get('trunk')}  {record.get('answer') or ''}  "
        f"{f'{rule}: ' if rule else ''}{record.get('why')}{shadow}  {record.get('call_id')}"
    )


def _export(args: argparse.Namespace, problem: Problem) -> int:
    wanted = Wanted(
        since=rfc3339(args.since) if args.since is not None else "",
        until=rfc3339(args.until) if args.until is not None else "",
        since_epoch=args.since if args.since is not None else float("-inf"),
        kinds=_kinds(args),
        refused=args.refused,
    )
    found = records(args.dir, wanted, problem)
    if args.format == "jsonl" and args.output is None:
        for record in found:
            print(_json(record))
        return OK
    with progress("exporting", None) as moved:
        counted = _counted(found, moved)
        if args.format == "jsonl":
            replace_file(args.output, (f"{_json(record)}\n".encode("utf-8", "backslashreplace") for record in counted))
            return OK
        try:
            from agent.cli.records_parquet import write_parquet  # noqa: PLC0415  (an extra that few install)
        except ImportError:
            complain("Parquet needs pyarrow: pip install 'sbc-edge-agent[parquet]', or use --format jsonl")
            return USAGE_ERROR
        write_parquet(args.output, counted, rollups=args.rollups)
    return OK


def _counted(found: Iterator[Record], moved: Callable[[float], None]) -> Iterator[Record]:
    for number, record in enumerate(found):
        if not number % 4096:
            moved(number)
        yield record


def _kinds(args: argparse.Namespace) -> frozenset[Kind]:
    return frozenset({Kind.ROLLUP}) if args.rollups else frozenset({Kind.REFUSED, Kind.ALLOWED})


def _json(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of records")
    return int(text)


def _time(text: str) -> float:
    """Seconds since the epoch of "15m" (ago) or of an RFC 3339 time; a time without zone is UTC."""
    if ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text):
        return time.time() - int(ago[1]) * _UNITS[ago[2]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: 2026-10-14T15:04:05Z, or how long ago, 15m, 24h, 7d"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
