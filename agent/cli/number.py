"""`sbc-agent number`: how a number is read, by which steps, and what the numbering plan says of it."""

import argparse
from typing import Any

from agent.cli.output import OK, print_json, print_table
from agent.model import Number
from agent.numbers.explain import as_uri, explain, plan_of
from agent.numbers.reading import check_country, read_number

_EXAMPLES = """\
examples:
  sbc-agent number 2015550123 911 '*67' +442079460123
  sbc-agent number 'sip:+1201555%30123;npdi@gw.example;user=phone'
  sbc-agent number --country 44 02079460123

exit codes: 0 every number was read, whatever it turned out to be; 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = _EXAMPLES
    parser.add_argument("numbers", metavar="NUMBER", nargs="+", help="digits, or the SIP or tel URI of a message")
    add_country_argument(parser)
    parser.add_argument("--json", action="store_true", help="a JSON array with one object for each number")


def add_country_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --country, the trunk's default country."""
    parser.add_argument(
        "--country",
        metavar="CC",
        type=_country,
        default="1",
        help="the country code of numbers that come without one: 1 (default), 44, ...; none: not known",
    )


def _country(text: str) -> str:
    country = "" if text == "none" else text
    try:
        check_country(country)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return country


def run(args: argparse.Namespace) -> int:
    """Always returns 0: a name, a short code and an invalid number are answers too."""
    results = [_describe(text, args.country) for text in args.numbers]
    if args.json:
        print_json(results)
        return OK
    for result in results:
        rows = [[f"step {n}", step] for n, step in enumerate(result["steps"], 1)]
        rows += [["kind", result["kind"]], ["digits", result["digits"] or "none"]]
        if plan := result["plan"]:
            rows.append(["numbering plan", "valid" if plan["valid"] else "not valid"])
            rows += [[name, plan[name]] for name in ("reason", "service", "area") if plan[name]]
        print_table("", ["number", result["input"]], rows)
    return OK


def _describe(text: str, country: str) -> dict[str, Any]:
    number = read_number(as_uri(text), country)
    return {
        "input": text,
        "kind": number.kind.name,
        "digits": number.digits,
        "national": f"{number.national:010d}" if number.national >= 0 else None,
        "plan": _plan(number),
        "steps": explain(text, country),
    }


def _plan(number: Number) -> dict[str, Any] | None:
    judgement = plan_of(number)
    if judgement is None:
        return None
    return {
        "valid": judgement.valid,
        "reason": judgement.reason,
        "service": str(judgement.service),
        "area": judgement.area.name,
        "country": judgement.area.code or None,
        "easily_recognisable": judgement.easily_recognisable,
    }
