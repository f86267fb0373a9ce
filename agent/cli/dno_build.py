"""`sbc-agent dno build`: files in, one list file out."""

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agent.cli.dno_files import complain_of, opened_list
from agent.cli.output import BAD_INPUT, OK, USAGE_ERROR, complain, print_json, print_table, progress
from agent.files import read_lines, replace_file
from agent.model import ConfigError
from agent.numbers.dno import Manifest
from agent.numbers.dno_build import STEPS, Contents, DnoBuilder
from agent.numbers.dno_import import Importer, ImportReport, parse_category, parse_time, shrinkage
from agent.numbers.listfile import encode, rfc3339
from agent.numbers.npa_report import MAX_REPORT_DAYS, read_npa_report


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("out", metavar="OUT", type=Path, help="the list file to write, or to replace")
    inputs = parser.add_argument_group("inputs (at least one; each may be given several times)")
    inputs.add_argument(
        "--csv",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="entries with a header row that names the columns",
    )
    inputs.add_argument(
        "--text",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="one number, prefix (201555*) or range in each line; needs --category and the like",
    )
    inputs.add_argument(
        "--npa-report",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="NANPA's area code report: US area codes that are not in service become unallocated",
    )
    ground = parser.add_argument_group("on what ground the numbers are listed")
    ground.add_argument("--category", type=_category, help="of --text: 1 to 4, or its name")
    ground.add_argument("--source", default="", help="of --text, and of CSV rows that state none")
    ground.add_argument("--asserted-by", default="", metavar="WHO", help="of --text, and of CSV rows that state none")
    ground.add_argument(
        "--verified-at", metavar="TIME", type=_time, help="of --text: 2026-01-31, or 2026-01-31T12:00:00Z"
    )
    ground.add_argument("--expires-at", metavar="TIME", type=_time, help="of --text, likewise")
    checks = parser.add_argument_group("checks")
    checks.add_argument(
        "--previous", metavar="LIST", type=Path, help="the list that this one follows (default: OUT, if it exists)"
    )
    checks.add_argument("--expect-rows", metavar="N", type=int, help="rows that the CSV files have in all")
    checks.add_argument(
        "--allow-shrink", action="store_true", help="also if it has less than 90 percent of the previous list's numbers"
    )
    checks.add_argument(
        "--allow-stale",
        action="store_true",
        help=f"also use an area code report that is older than {MAX_REPORT_DAYS} days",
    )
    checks.add_argument(
        "--npa-unassigned",
        action="store_true",
        help="also list area codes that the report shows as assignable but assigned to nobody",
    )
    parser.add_argument("--generation", metavar="N", type=int, help="default: one more than the previous list's, or 1")
    parser.add_argument("--json", action="store_true", help="what was built, as JSON")


def _category(text: str) -> str:
    try:
        parse_category(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _time(text: str) -> str:
    try:
        parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(args: argparse.Namespace) -> int:
    """Returns 0 when the list was written; 1 when an input is refused or OUT cannot be written."""
    if not (args.csv or args.text or args.npa_report):
        complain("dno build: give at least one of --csv, --text and --npa-report")
        return USAGE_ERROR
    if args.text and not (args.category and args.source and args.asserted_by):
        complain("dno build: --text needs --category, --source and --asserted-by")
        return USAGE_ERROR
    try:
        return _build(args, time.time())
    except ConfigError as error:
        complain_of(error)
        complain(f"{args.out} was not written")
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}")
        complain(f"{args.out} was not written")
    return BAD_INPUT


def _build(args: argparse.Namespace, when: float) -> int:
    previous = _previous(args)
    builder = DnoBuilder()
    reports = _read_inputs(args, builder, when)
    with progress("building", STEPS) as moved:
        contents = builder.finish(moved)
    if not contents.assertions:
        raise ConfigError(str(args.out), "no entry is left, and an empty list would let every call pass")
    if previous is not None and not args.allow_shrink and (lost := shrinkage(contents, previous)):
        raise ConfigError(str(args.out), f"{lost}; if that is right, --allow-shrink")
    generation = args.generation or (previous.generation + 1 if previous else 1)
    chunks = encode(contents, generation, when, _version())
    try:
        replace_file(args.out, chunks)
    except OSError as error:
        raise ConfigError(str(args.out), f"cannot be written: {error.strerror}") from None
    size = sum(memoryview(chunk).nbytes for chunk in chunks)
    _show(args, contents, generation, reports, size)
    return OK


def _version() -> str:
    try:
        return version("sbc-edge-agent")
    except PackageNotFoundError:
        return "unknown"


def _previous(args: argparse.Namespace) -> Manifest | None:
    """The manifest of the list before; an unreadable OUT is no reason not to replace it."""
    path = args.previous or args.out
    if args.previous is None and not args.out.exists():
        return None
    try:
        with opened_list(path) as dno_list:
            return dno_list.manifest
    except ConfigError as error:
        if args.previous is not None:
            raise
        complain_of(error)
        complain(f"{path} is not compared with, and will be replaced")
        return None


def _read_inputs(args: argparse.Namespace, builder: DnoBuilder, when: float) -> list[ImportReport]:
    """Put every input into the builder. Raises ConfigError, OSError."""
    paths = [*args.csv, *args.text, *args.npa_report]
    total = sum(path.stat().st_size for path in paths)
    reports = []
    with ExitStack() as stack:
        moved = stack.enter_context(progress("reading", total))
        done = 0

        def lines(path: Path) -> Iterator[bytes]:
            try:
                yield from read_lines(path, lambda position: moved(done + position))
            except ValueError as error:
                raise ConfigError(str(path), str(error)) from None

        who = {"source": args.source, "asserted_by": args.asserted_by}
        rows = Importer(builder, when, who)
        for path in args.csv:
            reports.append(rows.add_csv(lines(path), str(path)))
            done += path.stat().st_size
        _check_rows(args, reports)
        stated = {name: getattr(args, name) or "" for name in ("category", "verified_at", "expires_at")}
        numbers = Importer(builder, when, who | stated)
        for path in args.text:
            reports.append(numbers.add_text(lines(path), str(path)))
            done += path.stat().st_size
        reports.extend(_add_npa_report(args, builder, path, lines(path), when) for path in args.npa_report)
    for report in reports:
        _warn(report)
    return reports


def _check_rows(args: argparse.Namespace, reports: list[ImportReport]) -> None:
    rows = sum(report.rows for report in reports)
    if args.expect_rows is not None and rows != args.expect_rows:
        raise ConfigError(", ".join(map(str, args.csv)) or "--csv", f"{rows} rows, expected {args.expect_rows}")


def _add_npa_report(
    args: argparse.Namespace, builder: DnoBuilder, path: Path, lines: Iterable[bytes], when: float
) -> ImportReport:
    report = read_npa_report(lines, str(path), also_unassigned=args.npa_unassigned)
    day = rfc3339(report.file_date)[:10]
    if report.is_stale(when) and not args.allow_stale:
        raise ConfigError(
            str(path),
            f"is of {day}, older than {MAX_REPORT_DAYS} days: area codes that were opened since would be blocked; "
            "if you know better, --allow-stale",
        )
    result = ImportReport(str(path), rows=len(report.unallocated))
    for piece, assertion in report.entries(f"NANPA area code report {day}", "NANPA", expire=not args.allow_stale):
        if assertion.holds(when):
            builder.add(piece, builder.assertion_id(assertion))
        else:
            result.expired += 1
    for reason, count in sorted(report.left_out.items()):
        complain(f"{path}: {count} area codes not in service are left out: {reason}")
    return result


def _warn(report: ImportReport) -> None:
    if report.expired:
        complain(f"{report.name}: {report.expired} entries have expired and are left out")
    if report.ignored_columns:
        complain(f"{report.name}: columns that are not read: {', '.join(report.ignored_columns)}")


def _show(
    args: argparse.Namespace, contents: Contents, generation: int, reports: list[ImportReport], size: int
) -> None:
    counts = contents.counts()
    if args.json:
        result: dict[str, Any] = {
            "list": str(args.out),
            "generation": generation,
            "bytes": size,
            "counts": counts,
            "inputs": [
                {"name": r.name, "rows": r.rows, "expired": r.expired, "ignored_columns": list(r.ignored_columns)}
                for r in reports
            ],
        }
        print_json(result)
        return
    rows = [["generation", str(generation)], ["bytes", f"{size:,}"]]
    rows += [[name.replace("-", " "), f"{count:,}"] for name, count in counts.items()]
    print_table("", ["list", str(args.out)], rows)
