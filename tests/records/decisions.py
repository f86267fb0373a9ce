"""Decisions and lines of records for tests of the spool."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from agent.model import Answer, Category, Refuse, Verdict
from agent.records.segment import Batch, Damage, read_batches
from agent.screening import Decision, Screening
from tests.fakes.calls import invite, policy, screen

REFUSAL = Verdict(Refuse(Answer(603, "Decline")), "provider-block", Category.PROVIDER_BLOCK, "blocked by order")


def allowed(call_id: str | None = None, when: float = 1_800_000_000.0) -> Decision:
    """One call that no rule objects to."""
    return screen(Screening(policy()), invite(call_id=call_id), when)


def refused(call_id: str | None = None, when: float = 1_800_000_000.0) -> Decision:
    """One call that a rule refuses."""
    decision = allowed(call_id, when)
    decision.verdict = REFUSAL
    return decision


def lines(number: int, word: str = "x", pad: int = 0) -> list[bytes]:
    """So many short records that can be told apart."""
    return [json.dumps({"call_id": f"{word}-{i}", "pad": "p" * pad}).encode() for i in range(number)]


def batches(path: Path) -> list[Batch | Damage]:
    """What a segment holds."""
    return list(read_batches(path.read_bytes()))


def segments(directory: Path, stream: str = "*") -> list[Path]:
    """The segments of a stream by name."""
    return sorted(path for path in directory.glob(f"{stream}-*") if path.suffix in {".seg", ".open"})


def taken(number: int, source: Iterator[Decision]) -> list[Decision]:
    """The first so many."""
    return list(islice(source, number))
