"""What a replay has to say: rows of refused calls, alike ones folded together, and sums by rule and trunk.

Pure: decisions in, cells and plain values out. Holds a bounded number of rows however long the capture is.
"""

from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from agent.ingress.replay import FileCounts, Outcome
from agent.model import CallAttempt, NumberKind, Verdict
from agent.records.record import rfc3339, verdict_words
from agent.screening import Decision

FOLD_AFTER: Final = 3
"""Refusals alike that are shown one by one, so that one sees what they have in common."""

RUN_GAP: Final = 10.0
"""Seconds of capture without a refusal of its kind after which the next one is news again."""

MAX_CELL: Final = 160
"""Characters of one cell; who calls chooses some of them."""

COLUMNS: Final = ("time (UTC)", "calling", "called", "trunk", "rule", "why", "answer")
NOTE_COLUMNS: Final = ("time (UTC)", "calling", "called", "trunk", "noticed")
CHANGE_COLUMNS: Final = ("time (UTC)", "calling", "called", "trunk", "before", "after")
NOT_AN_ATTEMPT: Final = {
    "action": "none",
    "rule": "",
    "category": "none",
    "why": "no new call attempt under this policy",
    "answer": "",
}


@dataclass(slots=True)
class _Run:
    """Refusals alike that follow one another."""

    last: float
    count: int = 0
    folded: list[str] | None = None  # the row that stands for those beyond FOLD_AFTER


class FoldedRows:
    """Rows of a table, of which runs of the same `key` are shown FOLD_AFTER times and then counted.

    Runs of different kinds may interleave. Holds at most `limit` rows; `unshown` counts what had no place.
    """

    def __init__(self, limit: int) -> None:
        self.rows: list[list[str]] = []
        self.unshown = 0
        self._limit = limit
        self._runs: dict[Hashable, _Run] = {}  # a policy has few rules and trunks

    def add(self, key: Hashable, when: float, cells: list[str]) -> None:
        """One more row. Its first cell is the time, the second is where a fold says how many it stands for."""
        run = self._runs.get(key)
        if run is None or when - run.last > RUN_GAP:
            run = self._runs[key] = _Run(when)
        run.last = when
        run.count += 1
        if run.count <= FOLD_AFTER:
            self._append(cells)
        elif run.folded is None:
            folded: list[str] = []
            if self._append(folded):
                run.folded = folded
        if run.folded is not None:
            more = run.count - FOLD_AFTER
            run.folded[:] = [
                f"… {cells[0][11:]}",
                f"and {more:,} more like {'these' if more > 1 else 'it'}",
                "",
                *cells[3:],
            ]

    def _append(self, row: list[str]) -> bool:
        if len(self.rows) >= self._limit:
            self.unshown += 1
            return False
        self.rows.append(row)
        return True


@dataclass(slots=True)
class Tally:
    """Sums over one name: of a rule, a trunk, or all of the run."""

    attempts: int = 0
    allowed: int = 0
    refused: int = 0
    dropped: int = 0
    shadow: int = 0  # refusals that a rule in shadow mode would have made

    def count(self, action: str) -> None:
        """Count one attempt by what became of it."""
        self.attempts += 1
        self.allowed += action == "allow"
        self.refused += action == "refuse"
        self.dropped += action == "drop"


@dataclass(slots=True)
class Summary:
    """Sums over all files. `rules` counts attempts that the rule decided; most attempts are decided by none."""

    total: Tally = field(default_factory=Tally)
    rules: dict[str, Tally] = field(default_factory=dict)
    trunks: dict[str, Tally] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    changed: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome; the first decision is the one that counts."""
        decision = outcome.decisions[0]
        self.changed += changes(outcome)
        if decision is None or not decision.seen.counts:
            return
        words = verdict_words(decision.verdict)
        action, rule = words["action"], words["rule"]
        trunk = self.trunks.setdefault(decision.attempt.trunk, Tally())
        for tally in (self.total, trunk, *([self.rules.setdefault(rule, Tally())] if rule else ())):
            tally.count(action)
        if action == "refuse":
            self.answers[words["answer"]] = self.answers.get(words["answer"], 0) + 1
        for verdict in decision.shadow:
            for tally in (self.total, trunk, self.rules.setdefault(verdict.rule, Tally())):
                tally.shadow += 1

    def as_dict(self, files: list[FileCounts]) -> dict[str, Any]:
        """Plain values, ready for JSON; messages are summed over the files."""
        return {
            "files": len(files),
            **{
                name: sum(getattr(f, name) for f in files)
                for name in ("packets", "sip_messages", "invites", "parse_errors", "not_sip")
            },
            "methods": merged([f.methods for f in files]),
            "responses": merged([f.responses for f in files]),
            **asdict(self.total),
            "rules": {name: asdict(tally) for name, tally in ranked(self.rules)},
            "trunks": {name: asdict(tally) for name, tally in ranked(self.trunks)},
            "answers": self.answers,
            "changed": self.changed,
        }


def ranked(tallies: dict[str, Tally]) -> list[tuple[str, Tally]]:
    """Those that refused most first."""
    return sorted(tallies.items(), key=lambda item: (-item[1].refused - item[1].dropped, -item[1].attempts, item[0]))


def merged(tables: list[dict[str, int]]) -> dict[str, int]:
    """The sum of counters, greatest first."""
    total: dict[str, int] = {}
    for table in tables:
        for name, count in table.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def changes(outcome: Outcome) -> bool:
    """Whether two policies do something else with the call, or do it in the name of another rule."""
    if len(outcome.decisions) < 2:
        return False
    before, after = map(_words, outcome.decisions)
    return any(before[name] != after[name] for name in ("action", "rule", "answer"))


def verdict_entry(outcome: Outcome) -> dict[str, Any]:
    """One attempt for `--json`: who and when, the verdict, and with two policies the other verdict."""
    decision = next(d for d in outcome.decisions if d is not None)
    attempt, first = decision.attempt, outcome.decisions[0]
    entry: dict[str, Any] = {
        "time": rfc3339(outcome.when),
        "call_id": attempt.message.call_id.decode("utf-8", "backslashreplace"),
        "calling": attempt.calling.digits,
        "called": attempt.called.digits,
        "trunk": attempt.trunk,
        "source": attempt.source,
        **_words(first),
        "shadow": _shadow(first),
        "notes": list(attempt.notes),
    }
    if len(outcome.decisions) > 1:
        other = outcome.decisions[1]
        entry["compare"] = {**_words(other), "shadow": _shadow(other)}
        entry["changed"] = changes(outcome)
    return entry


def add_refused(rows: FoldedRows, outcome: Outcome) -> None:
    """Add the first policy's verdict to the table of refused calls, if it is a refusal."""
    decision = outcome.decisions[0]
    if decision is None or not decision.seen.counts:
        return
    words = verdict_words(decision.verdict)
    if words["action"] == "allow":
        return
    attempt, answer = decision.attempt, words["answer"] or "none: dropped"
    rows.add(
        (words["rule"], attempt.trunk, answer),
        outcome.when,
        [*_who(outcome.when, attempt), words["rule"], _cell(words["why"]), answer],
    )


def add_notes(rows: FoldedRows, outcome: Outcome) -> None:
    """Add what the first policy's rules noticed without refusing the call for it."""
    decision = outcome.decisions[0]
    if decision is not None and decision.seen.counts:
        attempt = decision.attempt
        for note in attempt.notes:
            rows.add((attempt.trunk, note.partition(":")[0]), outcome.when, [*_who(outcome.when, attempt), _cell(note)])


def add_change(rows: FoldedRows, outcome: Outcome) -> None:
    """Add a call to the table of changes, if its verdict changes."""
    if not changes(outcome):
        return
    attempt = next(d.attempt for d in outcome.decisions if d is not None)
    before, after = (_short(_words(decision)) for decision in outcome.decisions)
    rows.add((attempt.trunk, before, after), outcome.when, [*_who(outcome.when, attempt), before, after])


def clock(when: float) -> str:
    """Date and time with milliseconds, as tables show it."""
    return rfc3339(when).replace("T", " ").rstrip("Z")[:23]


def _words(decision: Decision | None) -> dict[str, str]:
    return NOT_AN_ATTEMPT if decision is None else verdict_words(decision.verdict)


def _shadow(decision: Decision | None) -> list[dict[str, str]]:
    shadow: tuple[Verdict, ...] = () if decision is None else decision.shadow
    return [verdict_words(verdict) for verdict in shadow]


def _short(words: dict[str, str]) -> str:
    """A verdict in one cell: "503 Service Unavailable (flood)"."""
    what = words["answer"] or {"allow": "allowed", "drop": "dropped", "none": "no attempt"}[words["action"]]
    return f"{what} ({words['rule']})" if words["rule"] else what


def _who(when: float, attempt: CallAttempt) -> list[str]:
    message = attempt.message
    return [
        clock(when),
        _number(attempt.calling.digits, attempt.calling.kind, message.from_uri),
        _number(attempt.called.digits, attempt.called.kind, message.request_uri),
        attempt.trunk,
    ]


def _number(digits: str, kind: NumberKind, uri: bytes) -> str:
    if digits:
        return digits
    return "anonymous" if kind is NumberKind.ANONYMOUS else _cell(uri.decode("utf-8", "backslashreplace")) or "none"


def _cell(text: str) -> str:
    """Text that a terminal can take: one line, nothing that moves its cursor, not endless."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: MAX_CELL + 1])
    return clean if len(clean) <= MAX_CELL else clean[: MAX_CELL - 1] + "…"
