"""What a live capture has seen, as one screen and as plain values. Pure, but for the tallies that a `Board` keeps.

Who calls chooses what is shown of his messages; cells hold nothing that moves a terminal's cursor.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agent.calls.legs import AnswerResult, TransitCounts, TransitResult
from agent.ingress.capture.observer import Observed
from agent.records.record import rfc3339, verdict_words, wire_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agent.calls.pairing import Pairing
    from agent.ingress.capture.server import CaptureServer

MAX_SOURCES: Final = 1024
"""Addresses that are tallied by name; what calls beyond them is summed up."""

OTHERS: Final = "(others)"
ROWS: Final = 12  # of one table on the screen
EXAMPLES: Final = 20
"""Calls with altered Identity or refusal that are kept to be shown."""


_NUMBER: Final = re.compile(r"[0-9,.]+(?: %)?|-", re.ASCII)


@dataclass(slots=True)
class Tally:
    """Call attempts, and how many of them the policy would have refused or dropped."""

    attempts: int = 0
    would_refuse: int = 0

    def add(self, refused: bool) -> None:
        """Count one attempt."""
        self.attempts += 1
        self.would_refuse += refused


@dataclass(frozen=True, slots=True)
class Look:
    """Everything at one moment. `at` is monotonic seconds, `seconds` how long the capture has been running."""

    at: float
    seconds: float
    health: str
    counters: Mapping[str, int]
    methods: Mapping[str, int]
    responses: Mapping[str, int]
    trunks: Mapping[str, Tally]
    sources: Mapping[tuple[str, str], Tally]  # (address, trunk)
    rules: Mapping[tuple[str, str], int]  # (rule, answer)
    transit: Mapping[tuple[str, str], TransitCounts]
    altered: tuple[dict[str, Any], ...]
    with_policy: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON. No verdict in it was enforced."""
        return {
            "observed": True,
            "seconds": round(self.seconds, 3),
            "interfaces": self.health,
            "counters": dict(self.counters),
            "methods": dict(self.methods),
            "responses": dict(self.responses),
            "trunks": {name: asdict(tally) for name, tally in self.trunks.items()},
            "sources": [{"source": s, "trunk": t, **asdict(tally)} for (s, t), tally in self.sources.items()],
            "would_refuse": [{"rule": r, "answer": a, "attempts": n} for (r, a), n in self.rules.items()],
            "identity_transit": [
                {"ingress": i, "egress": e, **asdict(counts), "kept": counts.kept}
                for (i, e), counts in self.transit.items()
            ],
            "altered": list(self.altered),
        }


@dataclass(slots=True)
class Board:
    """Tallies what the capture tells. It is the observer's sink, and the listener of the pairing."""

    with_policy: bool
    trunks: dict[str, Tally] = field(default_factory=dict)
    sources: dict[tuple[str, str], Tally] = field(default_factory=dict)
    rules: dict[tuple[str, str], int] = field(default_factory=dict)
    altered: list[dict[str, Any]] = field(default_factory=list)
    began: float | None = None

    def put(self, observed: Observed) -> None:
        """One new call attempt."""
        attempt, refused = observed.decision.attempt, observed.would_refuse
        self.trunks.setdefault(attempt.trunk, Tally()).add(refused)
        source = (attempt.source, attempt.trunk)
        if source not in self.sources and len(self.sources) >= MAX_SOURCES:
            source = (OTHERS, OTHERS)
        self.sources.setdefault(source, Tally()).add(refused)
        if refused:
            words = verdict_words(observed.decision.verdict)
            key = (words["rule"], words["answer"] or "drop")
            self.rules[key] = self.rules.get(key, 0) + 1

    def transit(self, result: TransitResult) -> None:
        """One outgoing leg; the first ones that lost something are kept to be shown."""
        if not result.transit.intact:
            self._keep(result.when, result.call_id, result.ingress, result.egress, result.transit.words())

    def answer(self, result: AnswerResult) -> None:
        """One refusal on its way back."""
        if result.lost:
            what = f"{result.came} became {result.went}: lost {', '.join(result.lost)}"
            self._keep(result.when, result.call_id, result.ingress, result.egress, what)

    def _keep(self, when: float, call_id: bytes, ingress: str, egress: str, what: str) -> None:
        if len(self.altered) < EXAMPLES:
            entry = {"time": rfc3339(when), "call_id": wire_text(call_id), "ingress": ingress, "egress": egress}
            self.altered.append({**entry, "what": what})

    def look(self, server: "CaptureServer", pairing: "Pairing", now: float) -> Look:
        """Everything as it is now."""
        self.began = now if self.began is None else self.began
        return Look(
            at=now,
            seconds=now - self.began,
            health=server.health()[1],
            counters={**server.counters(), **pairing.counters()},
            methods=dict(server.counts.methods),
            responses=dict(server.counts.responses),
            trunks=_copied(self.trunks),
            sources=_copied(self.sources),
            rules=dict(self.rules),
            transit={pair: TransitCounts(**asdict(counts)) for pair, counts in pairing.trunks.items()},
            altered=tuple(self.altered),
            with_policy=self.with_policy,
        )


def _copied(tallies: Mapping[Any, Tally]) -> dict[Any, Tally]:
    """The busiest first."""
    ranked = sorted(tallies.items(), key=lambda item: (-item[1].attempts, item[0]))
    return {name: Tally(tally.attempts, tally.would_refuse) for name, tally in ranked}


def render(after: Look, before: Look | None) -> "RenderableType":
    """One screen: rates since the look `before`, or over the whole capture."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    parts: list[RenderableType] = [
        Text(f"observed only, nothing is enforced   {after.seconds:,.0f} s   {_cell(after.health)}"),
        Text(headline(after, before), style="bold"),
    ]
    if lost := after.counters["capture_kernel_drops"]:
        parts.append(Text(f"LOST {lost:,} packets: what is shown is not all there was", style="bold red"))
    for columns, rows in tables(after, before):
        if rows:
            parts += [Text(), _table(columns, rows)]
    return Group(*parts)


def headline(after: Look, before: Look | None) -> str:
    """Rates in one line."""
    seconds = max((after.at - before.at) if before else after.seconds, 1e-9)

    def rate(name: str) -> str:
        number = after.counters[name] - (before.counters[name] if before else 0)
        return f"{number / seconds:,.1f}"

    line = f"{rate('capture_packets')} packets/s   {rate('capture_sip_messages')} messages/s"
    line += f"   {rate('capture_attempts')} call attempts/s"
    return line + (f"   {rate('capture_would_refuse')} would be refused/s" if after.with_policy else "")


Rows = list[tuple[str, ...]]


def tables(after: Look, before: Look | None) -> list[tuple[tuple[str, ...], Rows]]:
    """Columns and rows of every table, the empty ones too."""
    would = ("would be refused",) if after.with_policy else ()

    def tallies(name: str, tally: Tally) -> tuple[str, ...]:
        refused = (f"{tally.would_refuse:,}",) if after.with_policy else ()
        return (name, f"{tally.attempts:,}", *refused)

    kinds = sorted([*after.methods.items(), *after.responses.items()], key=lambda item: (-item[1], item[0]))
    old = {} if before is None else {**before.methods, **before.responses}
    seconds = max((after.at - before.at) if before else after.seconds, 1e-9)
    messages: Rows = [(_cell(n), f"{(k - old.get(n, 0)) / seconds:,.1f}", f"{k:,}") for n, k in kinds[:ROWS]]
    sources: Rows = [(_cell(s), *tallies(_cell(t), tally)) for (s, t), tally in list(after.sources.items())[:ROWS]]
    rules = sorted(after.rules.items(), key=lambda item: -item[1])
    return [
        (("method or code", "per second", "messages"), messages),
        (("trunk", "call attempts", *would), [tallies(_cell(n), t) for n, t in list(after.trunks.items())[:ROWS]]),
        (("source", "trunk", "call attempts", *would), sources),
        (("rule", "answer", "would be refused"), [(_cell(r), _cell(a), f"{n:,}") for (r, a), n in rules[:ROWS]]),
        (TRANSIT, [_transit(*item) for item in list(after.transit.items())[:ROWS]]),
        (
            ("altered call", "ingress", "egress", "what"),
            [tuple(_cell(entry[k]) for k in ("call_id", "ingress", "egress", "what")) for entry in after.altered[-5:]],
        ),
    ]


TRANSIT: Final = ("ingress", "egress", "calls", "signed", "Identity kept", "stripped", "altered", "refusals kept")


def _transit(pair: tuple[str, str], counts: TransitCounts) -> tuple[str, ...]:
    kept = f"{100 * counts.kept:.1f} %" if counts.signed else "-"
    refusals = f"{counts.refusals - counts.refusals_altered} of {counts.refusals}" if counts.refusals else "-"
    numbers = (f"{counts.calls:,}", f"{counts.signed:,}", kept, f"{counts.stripped:,}", f"{counts.altered:,}")
    return (_cell(pair[0]), _cell(pair[1]), *numbers, refusals)


def _cell(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:120])


def _table(columns: tuple[str, ...], rows: Rows) -> "RenderableType":
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(show_edge=False, pad_edge=False)
    for column, *cells in zip(columns, *rows, strict=True):
        numbers = column != columns[0] and all(_NUMBER.fullmatch(cell) for cell in cells)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
