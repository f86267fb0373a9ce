"""Which of the calls that were recorded lately another policy would decide otherwise. In shadow: nothing comes of it.

Runs in a process of its own (agent/ops/aside.py): `main` reads both policies from stdin and prints JSON objects. Both
policies decide every record anew, one after the other, by the records' own time, so that what differs is due to the
policies and to nothing else. What records do not hold takes no part: when calls ended (limits of calls in progress),
and calls that were not recorded (sampling), so that rates see fewer than came.
"""

import json
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from agent.identity.model import Failure, Verification
from agent.loading import load_policy, open_list
from agent.model import ConfigError
from agent.policy.compile import compile_policy
from agent.policy.policy import Policy
from agent.records.reading import Record, Wanted, records
from agent.records.record import rfc3339, verdict_words
from agent.records.segment import Kind
from agent.screening import Decision, Observation, Screening
from sbcedge.policy.v1 import policy_pb2

CHANGES_MAX: Final = 5000
"""That are named; the rest is counted."""

SECONDS_MAX: Final = 60.0
"""After which it says how far it came: 20,000 records a second are decided twice."""

LEFT_OUT_MAX: Final = 256
"""Rules that are named as left out."""

NO_CLOCK: Final = 1_000_000.0
NATIONAL_MIN: Final = 7
"""Digits of a number that is written with its country; shorter ones are dialled codes."""

HOST: Final = "replay.invalid"


def question(
    spool: Path, seconds: float, after: bytes, before: bytes | None, policy_file: Path, lists: Mapping[str, Path]
) -> bytes:
    """What `main` reads. `before` None: the policy of the file decides now."""
    return json.dumps(
        {
            "spool": str(spool),
            "seconds": seconds,
            "after": b64encode(after).decode(),
            "before": None if before is None else b64encode(before).decode(),
            "file": str(policy_file),
            "lists": {name: str(path) for name, path in lists.items()},
        }
    ).encode()


def main(_arguments: Sequence[str]) -> int:
    """Reads the question on stdin. Prints objects, or one with "field" and "reason" per error, and returns 1."""
    asked = json.loads(sys.stdin.buffer.read())
    paths = {name: Path(path) for name, path in asked["lists"].items()}
    try:
        after = _open(b64decode(asked["after"]), paths)
        before = (
            load_policy(Path(asked["file"])) if asked["before"] is None else _open(b64decode(asked["before"]), paths)
        )
    except ConfigError as error:
        for one in getattr(error, "errors", (error,)):
            print(json.dumps({"field": one.field, "reason": one.reason}))  # noqa: T201
        return 1
    since = time.time() - asked["seconds"]
    wanted = Wanted(since=rfc3339(since), since_epoch=since, kinds=frozenset({Kind.REFUSED, Kind.ALLOWED}))
    for line in compare(records(Path(asked["spool"]), wanted), before, after, time.monotonic() + SECONDS_MAX):
        print(line)  # noqa: T201
    return 0


def compare(found: Iterator[Record], before: Policy, after: Policy, until: float = float("inf")) -> Iterator[str]:
    """An object for each call that changes, then one with the sums. Stops at `until`, monotonic."""
    screenings = [Screening(_without_sessions(policy)) for policy in (before, after)]
    replayed = changed = unreadable = 0
    whole = True
    for number, record in enumerate(found):
        if not number % 1024 and time.monotonic() > until:
            whole = False
            break
        observation, identity = observation_of(record, number)
        now = NO_CLOCK + observation.when
        decisions = [screening.handle(observation, now, identity) for screening in screenings]
        if decisions[0] is None or decisions[1] is None:
            unreadable += 1
            continue
        replayed += 1
        said = [_words(decision) for decision in decisions if decision is not None]
        if said[0] != said[1]:
            changed += 1
            if changed <= CHANGES_MAX:
                yield json.dumps({"call_id": str(record.get("call_id", "")), "before": said[0], "after": said[1]})
    sums: dict[str, Any] = {"replayed": replayed, "changed": changed}
    if unreadable:
        sums["not_replayed"] = unreadable
    if not whole:
        sums["ended_early"] = True
    if left_out := _left_out(before, after):
        sums["left_out"] = left_out
    yield json.dumps(sums)


def observation_of(record: Mapping[str, Any], number: int) -> tuple[Observation, Verification | None]:
    """The INVITE that a record tells of, as far as rules look at it. `number` makes it a call of its own."""
    asserted = "".join(f"P-Asserted-Identity: <{_line(uri)}>\r\n" for uri in record.get("asserted", ()))
    uri = _uri(str(record.get("called", "")))
    from_uri = _line(str(record.get("from_uri", ""))) or _uri(str(record.get("calling", "")))
    raw = (
        f"INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {HOST};branch=z9hG4bK-{number}\r\n"
        f"From: <{from_uri}>;tag={number}\r\nTo: <{uri}>\r\nCall-ID: {number}@{HOST}\r\nCSeq: 1 INVITE\r\n"
        f"{asserted}Content-Length: 0\r\n\r\n"
    )
    observation = Observation(
        raw.encode(),
        "udp",
        str(record.get("source", "")),
        5060,
        HOST,
        5060,
        _epoch(str(record.get("time", ""))),
        str(record.get("trunk", "")),
        str(record.get("customer", "")),
    )
    return observation, _verification(record.get("verification"))


def _left_out(before: Policy, after: Policy) -> dict[str, str]:
    """Rules that took no part, or not as they would have, and why."""
    left: dict[str, str] = {}
    for limit in (*before.limits, *after.limits):
        if limit.sessions:
            also = "; its rate was replayed" if limit.rate is not None else ""
            left[limit.name] = f"calls in progress are not counted: records do not say when calls ended{also}"
        elif limit.fleet is not None:
            left[limit.name] = "is the fleet's, and was replayed with its whole rate: records do not hold the shares"
    return dict(sorted(left.items())[:LEFT_OUT_MAX])


def _without_sessions(policy: Policy) -> Policy:
    return replace(policy, limits=tuple(replace(limit, sessions=0) for limit in policy.limits))


def _open(document: bytes, paths: Mapping[str, Path]) -> Policy:
    """Raises ConfigError."""
    try:
        message = policy_pb2.Policy.FromString(document)
    except DecodeError as error:
        raise ConfigError("policy", f"is no serialised Policy ({error})") from None
    lists = {}
    for i, name in enumerate(message.do_not_originate.lists):
        if name not in paths:
            raise ConfigError(f"do_not_originate.lists[{i}]", "is not on this agent")
        lists[name] = open_list(paths[name])
    return compile_policy(message, lists)


def _words(decision: Decision) -> str:
    words = verdict_words(decision.verdict)
    return f"{words['action']} {words['rule']}".strip() + (f" ({words['answer']})" if words["answer"] else "")


def _uri(digits: str) -> str:
    shown = "".join(c for c in digits if c.isalnum() or c in "*#+")
    plus = "+" if len(shown) >= NATIONAL_MIN and shown.isdecimal() else ""
    return f"sip:{plus}{shown}@{HOST}" if shown else f"sip:{HOST}"


def _line(text: str) -> str:
    """What can stand in a row."""
    return "".join(c for c in text if c.isprintable() and c not in "<>")


def _epoch(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _verification(words: object) -> Verification | None:
    """What was found out of its Identity rows."""
    if not isinstance(words, dict):
        return None
    try:
        failure = Failure(words["failure"]) if words.get("failure") else None
    except ValueError:
        return None
    return Verification(
        failure,
        str(words.get("why", "")),
        str(words.get("attestation", "")),
        str(words.get("signer", "")),
        str(words.get("origid", "")),
    )
