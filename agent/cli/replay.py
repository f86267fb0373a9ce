"""`sbc-agent replay`: what a policy would have done with the calls of a capture.

Knows arguments and printing; reading and screening are `agent.ingress.replay`, rows and sums `replay_report`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from agent.cli.output import BAD_INPUT, OK, complain, print_table, progress
from agent.cli.replay_report import (
    CHANGE_COLUMNS,
    COLUMNS,
    NOTE_COLUMNS,
    FoldedRows,
    Summary,
    Tally,
    add_change,
    add_notes,
    add_refused,
    clock,
    ranked,
    verdict_entry,
)
from agent.ingress.layers import LINK_TYPES
from agent.ingress.replay import FileCounts, Outcome, Replay
from agent.loading import load_policy
from agent.model import ConfigError, ConfigErrors
from agent.policy.compile import compile_policy
from agent.policy.policy import Policy
from agent.records.record import rfc3339
from agent.screening import Screening
from sbcedge.policy.v1 import policy_pb2

DEFAULT_LIMIT: Final = 100
"""Rows of a table; alike refusals share rows, so that a hundred of them say more than one reads."""

DESCRIPTION: Final = """\
Screens the calls of capture files (pcap, pcapng, gzipped or not) under a policy, on the capture's own clock, and
shows what would have been refused, by which rule, why, and with which SIP answer. Without a policy every call
passes, and the counts show what the capture holds.

SIP is told by its content on every UDP and TCP port, in VLANs, tunnels (IP in IP, GRE, PPPoE, MPLS, VXLAN,
GTP-U), IP fragments and TCP streams. Several files are one run in the order given: limits, calls and streams
carry on from file to file, as they do in a capture that was written in parts."""

EPILOG: Final = """\
examples:
  sbc-agent replay calls.pcap                                      what is in this capture?
  sbc-agent replay calls.pcap --policy policy.toml                 what would be refused, and why?
  sbc-agent replay calls.pcap --policy now.toml --compare new.toml what would the new policy change?
  sbc-agent replay day-*.pcap.gz --policy policy.toml --json | jq '.summary'

exit codes: 0 every file was read to its end; 1 a file or policy cannot be read, or a capture is cut off or
damaged (what could be read of it is shown); 2 wrong usage; 130 interrupted"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="capture file")
    parser.add_argument("--policy", type=Path, metavar="POLICY", help="policy file (TOML)")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="POLICY",
        help="a second policy, run in the same pass; shows the calls whose verdict changes",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object: verdicts (every attempt), files, summary"
    )
    parser.add_argument(
        "--limit",
        type=_count,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"rows per table of calls (default {DEFAULT_LIMIT}); --json always has them all",
    )
    parser.add_argument(
        "--port",
        type=_port,
        action="append",
        default=[],
        metavar="N",
        dest="ports",
        help="look at this UDP and TCP port only; may be repeated (default: every port)",
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show progress on stderr (default: on a terminal, after one second)",
    )


def run(args: argparse.Namespace) -> int:
    """Replay, print, and return the exit code."""
    policies = _policies(args)
    if policies is None:
        return BAD_INPUT
    failures: list[str] = []

    def note(error: Exception) -> None:
        if not failures:
            failures.append(repr(error))

    screenings = [Screening(policy, on_failure=note) for policy in policies]
    total = sum(path.stat().st_size for path in args.files if path.is_file())
    with progress("replay", total or None, enabled=args.progress) as moved:
        replay = Replay(screenings, frozenset(args.ports), moved)
        outcomes = replay.run(args.files)
        printed = _Json(outcomes) if args.json else _Tables(outcomes, policies, args)
    printed.finish(replay.files)
    _complain(replay.files, args.ports)
    if failures:
        broken = sum(screening.failures for screening in screenings)
        complain(f"screening failed on {broken:,} messages, which therefore pass; first failure: {failures[0]}")
    return OK if all(counts.whole for counts in replay.files) and not failures else BAD_INPUT


class _Json:
    """Prints one JSON object: the verdicts while they come, so that memory does not grow with them."""

    def __init__(self, outcomes: Iterator[Outcome]) -> None:
        self._summary = Summary()
        sys.stdout.write('{"verdicts": [')
        for number, outcome in enumerate(outcomes):
            self._summary.add(outcome)
            sys.stdout.write((",\n" if number else "\n") + json.dumps(verdict_entry(outcome)))

    def finish(self, files: list[FileCounts]) -> None:
        """What is known at the end."""
        rest = {"files": [_file_entry(counts) for counts in files], "summary": self._summary.as_dict(files)}
        sys.stdout.write("\n],\n" + json.dumps(rest, indent=1)[1:].lstrip("\n") + "\n")


class _Tables:
    """Gathers a bounded number of rows, and prints tables."""

    def __init__(self, outcomes: Iterator[Outcome], policies: list[Policy], args: argparse.Namespace) -> None:
        self._summary = Summary()
        self._policies, self._args = policies, args
        self._refused, self._notes, self._changes = (FoldedRows(args.limit) for _ in range(3))
        for outcome in outcomes:
            self._summary.add(outcome)
            add_refused(self._refused, outcome)
            add_notes(self._notes, outcome)
            add_change(self._changes, outcome)

    def finish(self, files: list[FileCounts]) -> None:
        """Print the tables and the sums."""
        summary = self._summary
        self._rows("Refused calls", COLUMNS, self._refused)
        self._rows("Noticed", NOTE_COLUMNS, self._notes)
        if len(self._policies) > 1:
            self._rows(f"Calls whose verdict changes with {self._args.compare}", CHANGE_COLUMNS, self._changes)
        self._tallies("By rule", "rule", summary.rules)
        self._tallies("By trunk", "trunk", summary.trunks)
        totals = summary.as_dict(files)
        names = [
            (kind, name, f"{count:,}")
            for kind, table in (("request", "methods"), ("response", "responses"))
            for name, count in totals[table].items()
        ]
        if names:
            print_table("SIP messages", ("kind", "method or code", "messages"), names)
            print()
        for counts in files:
            print(_file_line(counts))
        print(self._conclusion())

    def _rows(self, title: str, columns: tuple[str, ...], folded: FoldedRows) -> None:
        if folded.rows:
            print_table(title, columns, folded.rows)
        if folded.unshown:
            print(f"… and {folded.unshown:,} more that are not shown (--limit {self._args.limit})")
        if folded.rows or folded.unshown:
            print()

    def _tallies(self, title: str, name: str, tallies: dict[str, Tally]) -> None:
        rows = [(key, *(f"{n:,}" for n in (t.allowed, t.refused, t.dropped, t.shadow))) for key, t in ranked(tallies)]
        if rows:
            print_table(title, (name, "allowed", "refused", "dropped", "would be refused (shadow)"), rows)
            print()

    def _conclusion(self) -> str:
        total = self._summary.total
        line = f"{total.attempts:,} call attempts: {total.allowed:,} allowed, {total.refused:,} refused"
        line += f", {total.dropped:,} dropped" if total.dropped else ""
        line += f"; {total.shadow:,} refusals by rules in shadow mode" if total.shadow else ""
        if len(self._policies) > 1:
            line += f"; {self._summary.changed:,} verdicts change with {self._args.compare}"
        return line if self._args.policy else line + " (no --policy: every call passes)"


def _policies(args: argparse.Namespace) -> list[Policy] | None:
    """The policy to decide by, and the one to compare with. None after complaining of one that cannot be used."""
    policies: list[Policy] = []
    for path in (args.policy, *([args.compare] if args.compare else [])):
        try:
            policies.append(load_policy(path) if path else compile_policy(policy_pb2.Policy(), {}))
        except ConfigErrors as errors:
            for error in errors.errors:
                complain(f"{path}: {error}")
            return None
        except ConfigError as error:
            complain(str(error) if error.field == str(path) else f"{path}: {error}")
            return None
    return policies


def _file_entry(counts: FileCounts) -> dict[str, Any]:
    entry = asdict(counts)
    for name in ("first", "last"):
        entry[name] = None if entry[name] is None else rfc3339(entry[name])
    entry["damage"] = counts.damage._asdict() if counts.damage else None
    return entry


def _file_line(counts: FileCounts) -> str:
    line = f"{counts.path}: {counts.packets:,} packets"
    if counts.first is not None and counts.last is not None:
        line += f", {clock(counts.first)} to {clock(counts.last)[11:]} UTC"
    line += f"; {counts.sip_messages:,} SIP messages, {counts.invites:,} INVITEs, {counts.attempts:,} attempts"
    extras = {
        "unreadable as SIP": counts.parse_errors,
        "not SIP on a SIP port": counts.not_sip,
        "in tunnels": counts.tunnels,
        "in VLANs": counts.vlan,
        "fragments": counts.fragments,
        "cut by the snap length": counts.truncated,
        "gaps in TCP streams": counts.tcp_gaps,
    }
    return line + "".join(f"; {number:,} {what}" for what, number in extras.items() if number)


def _complain(files: list[FileCounts], ports: list[int]) -> None:
    """Say what is wrong with each file, and what to do about a file without SIP."""
    for counts in files:
        if counts.error:
            complain(f"{counts.path}: {counts.error}")
            continue
        if counts.damage:
            complain(f"{counts.path}: {counts.damage}; {counts.packets:,} packets before it were read")
        for number, frames in counts.unsupported_links.items():
            complain(
                f"{counts.path}: {frames:,} frames of link type {number} cannot be read; supported:"
                f" {', '.join(f'{name} ({n})' for n, name in sorted(LINK_TYPES.items()))}"
            )
        if not counts.sip_messages and not counts.damage:
            complain(
                f"{counts.path}: no SIP message in {counts.packets:,} packets"
                + (
                    f" on port {', '.join(map(str, ports))}; leave out --port to look at all"
                    if ports
                    else ". SIP over TLS (5061) cannot be read from a capture; check the interface and filter it"
                    " was taken with"
                )
            )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError("must be 1 to 65535")
    return number
