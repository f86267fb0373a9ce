"""`sbc-agent explain`: everything the agent knew of one call, and why it decided so."""

import argparse
from collections.abc import Iterator

from agent.cli.output import BAD_INPUT, OK, complain, complain_of_file, print_json, print_table
from agent.cli.records import NO_SPOOL, add_directory_argument
from agent.records.reading import Record, find

_EXAMPLES = """\
examples:
  sbc-agent explain 1f0e2d3c-7b6a@192.0.2.10
  sbc-agent explain --json 1f0e2d3c-7b6a@192.0.2.10 | jq '.[].why'

An allowed call is recorded only if it was in the sample (sample_allowed). Retransmissions and retries of a call
attempt are part of its first record.

exit codes: 0 found; 1 no record of this call, or the spool cannot be read; 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = _EXAMPLES
    parser.add_argument("call_id", metavar="CALL-ID", help="as in the SIP header, without <>")
    add_directory_argument(parser)
    parser.add_argument("--json", action="store_true", help="a JSON array with one object for each attempt")


def run(args: argparse.Namespace) -> int:
    """0 when there is a record of the call."""
    try:
        found = list(find(args.dir, args.call_id, complain))
    except OSError as error:
        complain_of_file(error, args.dir, NO_SPOOL)
        return BAD_INPUT
    if args.json:
        print_json(found)
    else:
        for number, record in enumerate(found, 1):
            print_table(f"attempt {number} of {len(found)}", ["what", "value"], list(explained(record)))
    if not found:
        complain(f"no record of a call with Call-ID {args.call_id}")
        return BAD_INPUT
    return OK


def explained(record: Record) -> Iterator[tuple[str, str]]:
    """A record as rows of name and value, from what was decided to what it was decided by."""
    yield "verdict", _verdict(record) + (" (observed only: nobody enforced it)" if record.get("observed") else "")
    yield "why", str(record.get("why", ""))
    for shadow in record.get("shadow", ()):
        yield "in shadow", f"{_verdict(shadow)}: {shadow.get('why', '')}"
    for note in record.get("notes", ()):
        yield "noticed", str(note)
    yield "time", str(record.get("time", ""))
    yield "Call-ID", str(record.get("call_id", ""))
    yield "calling", str(record.get("calling") or "no number")
    yield "called", str(record.get("called") or "no number")
    yield "From", str(record.get("from_uri", ""))
    for uri in record.get("asserted", ()):
        yield "P-Asserted-Identity", str(uri)
    for row in record.get("identity", ()):
        stated = row.get("attestation") or "not readable"
        yield "Identity", f"attestation stated: {stated} (not verified), SHA-256 {row.get('sha256', '')}"
    if not record.get("identity"):
        yield "Identity", "none"
    if verification := record.get("verification"):
        yield from _verification(verification)
    for name in ("trunk", "source", "customer", "upstream"):
        if record.get(name):
            yield name, str(record[name])
    yield "policy generation", str(record.get("policy_generation", ""))
    for version in record.get("lists", ()):
        yield "list", str(version)
    yield "record", f"{record.get('sequence')} of spool {record.get('epoch')}"


def _verification(words: Record) -> Iterator[tuple[str, str]]:
    failure = words.get("failure")
    yield "authentication", f"{failure}: {words.get('why', '')}" if failure else "verified"
    for name, key in (("attestation", "attestation"), ("signed by SPC", "signer"), ("origid", "origid")):
        if value := words.get(key):
            yield name, f"{value} (stated, not verified)" if failure else str(value)
    for row in words.get("rows", ()):
        yield (
            f"PASSporT {row.get('ppt', '')}",
            f"{row.get('failure') or 'verified'}: {row.get('why') or row.get('url', '')}",
        )


def _verdict(words: Record) -> str:
    action = str(words.get("action", "?"))
    text = f"{action} with {words['answer']}" if words.get("answer") else action
    if rule := words.get("rule"):
        text += f", by rule {rule}"
    if (category := words.get("category", "none")) != "none":
        text += f" ({category})"
    return text
