"""Metrics in the words of Prometheus: what the counters of the running agent are called there, and their help texts.

Reads counters when it is asked, and keeps none. Names follow the conventions of Prometheus (sbc_edge_ as prefix, base
units, _total on counters). Labels are names of trunks, rules, tables, lists and parts: all from the policy or from us,
none from the wire, so that no caller can make a time series.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import accumulate
from typing import Final

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agent.ops.readings import Readings
from agent.service import LATENCY_BUCKETS, LATENCY_EVERY, Tally

PREFIX: Final = "sbc_edge_"

PIECE: Final = 200
"""Samples that are put together at once, in a millisecond or less."""

NO_RULE: Final = "none"
"""The rule of calls that no rule objects to."""

GAUGES: Final = frozenset(
    {
        "spool_bytes",
        "spool_queue_records",
        "redirect_connections",
        "redirect_transactions",
        "redirect_waiting_for_ack",
        "queue_transactions",
        "queue_waiting_for_ack",
        "kernel_blocks",
        "kernel_early_interfaces",
        "capture_datagrams_unfinished",
        "capture_streams",
        "capture_interfaces",
        "capture_interfaces_silent",
        "transit_calls_held",
        "transit_legs_waiting",
    }
)
"""What components count that can go down; everything else that they count only grows."""

IN_FLIGHT: Final = "_in_flight"
"""How the names of counts end that say how much a part has not finished."""

HELP: Final = {
    "repeats": "Retransmissions and retries of call attempts that were decided before.",
    "not_decided": "Messages that are not ours to decide: in-dialog, responses, other methods.",
    "unreadable": "Messages that are no SIP; each passed.",
    "screening_failures": "Faults of ours while screening; each of these calls passed.",
    "faults": "Faults of ours anywhere; one line per kind is in the log.",
    "log_lines_lost": "Log lines that the journal did not take at once.",
    "refusals_not_logged": "Refused calls without a log line of their own.",
    "sessions_answered": "Calls that were answered.",
    "sessions_expired": "Calls that the clock ended, as nobody said that they are over.",
    "policy_applied": "Policies that came into force.",
    "policy_rejected": "Policies that were wrong; the one before stayed.",
    "wall_clock_steps": "Times that the wall clock was set by a second or more, or the machine slept.",
}


class AgentCollector(Collector):
    """The agent's metric families, in pieces. `wall_clock` is epoch seconds, for the age of lists."""

    def __init__(self, readings: Readings, wall_clock: Callable[[], float] = time.time) -> None:
        self._readings = readings
        self._clock = wall_clock

    def collect(self) -> Iterator[Metric]:
        """Every family, read now."""
        tally, screening = self._readings.service.tally, self._readings.service.screening
        yield from _tally(tally)
        overflows = CounterMetricFamily(
            f"{PREFIX}overflows", "Entries of a table that were forgotten early because it was full.", labels=["table"]
        )
        for table, count in screening.overflows.items():
            overflows.add_metric([table], count)
        yield overflows
        yield _gauge("sessions", "Calls in progress.", screening.sessions.in_progress)
        yield from self._policy()
        yield from self._transit()
        yield from self._components()
        yield _gauge("draining", "1 while no new calls are taken.", self._readings.service.draining)
        yield _gauge("stall_seconds", "Longest wait of the event loop in the last second.", self._readings.stall)
        yield InfoMetricFamily(f"{PREFIX}build", "The agent.", {"version": self._readings.version})

    def _policy(self) -> Iterator[Metric]:
        policy = self._readings.service.policy
        yield _gauge("policy_generation", "Generation of the policy in force.", policy.generation)
        age = GaugeMetricFamily(f"{PREFIX}list_age_seconds", "Age of a do-not-originate list.", labels=["list"])
        numbers = GaugeMetricFamily(f"{PREFIX}list_numbers", "Numbers on a do-not-originate list.", labels=["list"])
        for name, dno in policy.dno.lists if policy.dno is not None else ():
            created = epoch(dno.manifest.created_at)
            if created is not None:
                age.add_metric([name], max(0.0, self._clock() - created))
            numbers.add_metric([name], dno.manifest.counts.get("numbers", 0))
        yield age
        yield numbers

    def _transit(self) -> Iterator[Metric]:
        """What the SBC did to Identity, by pair of trunks."""
        legs = CounterMetricFamily(
            f"{PREFIX}transit_legs_by_trunks",
            "Outgoing legs whose call came in with Identity, by what became of its rows.",
            labels=["ingress", "egress", "result"],
        )
        for (ingress, egress), counts in self._readings.transit.items():
            for result in ("intact", "stripped", "altered"):
                legs.add_metric([ingress, egress, result], getattr(counts, result))
        yield legs

    def _components(self) -> Iterator[Metric]:
        for name, value in self._readings.counters().items():
            if name == "attempts":
                continue  # has labels
            text = HELP.get(name, f"Counted by the {name.split('_')[0]}: {name.replace('_', ' ')}.")
            if name in GAUGES or name.endswith(IN_FLIGHT):
                yield _gauge(name, text, value)
            else:
                yield CounterMetricFamily(PREFIX + name, text, value=value)
        healthy = GaugeMetricFamily(f"{PREFIX}component_healthy", "1 while a part does its work.", labels=["component"])
        for component, (well, _detail) in self._readings.health().items():
            healthy.add_metric([component], well)
        yield healthy


class _One(Collector):
    """One family as a registry, so that the page can be made in small steps."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class Page:
    """The text that Prometheus scrapes, in pieces: between two of them, calls can be decided."""

    def __init__(self, readings: Readings) -> None:
        self._collectors: tuple[Collector, ...] = (AgentCollector(readings), ProcessCollector(registry=None))

    def __iter__(self) -> Iterator[bytes]:
        name = ""
        for collector in self._collectors:
            for metric in collector.collect():
                text = generate_latest(_One(metric))
                if metric.name == name:  # more of the same family: it has its HELP and TYPE already
                    text = text.split(b"\n", 2)[2]
                name = metric.name
                yield text


def _tally(tally: Tally) -> Iterator[Metric]:
    """Attempts and verdicts, a family in pieces where a policy has thousands of trunks or rules."""
    for by_trunk in _pieces(tally.by_trunk):
        attempts = CounterMetricFamily(
            f"{PREFIX}attempts", "Call attempts by trunk and by what became of them.", labels=["trunk", "action"]
        )
        for (trunk, action), count in by_trunk:
            attempts.add_metric([trunk, action], count)
        yield attempts
    for by_rule in _pieces(tally.by_rule):
        verdicts = CounterMetricFamily(
            f"{PREFIX}verdicts",
            "Verdicts by rule; in shadow mode a refusal is recorded and not enforced.",
            labels=["rule", "action", "mode"],
        )
        for (rule, action), count in by_rule:
            shadow = action == "shadow"
            labels = [rule or NO_RULE, "refuse" if shadow else action, "shadow" if shadow else "enforce"]
            verdicts.add_metric(labels, count)
        yield verdicts
    bounds = [*(repr(bound) for bound in LATENCY_BUCKETS), "+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(tally.latency)), strict=True))
    yield HistogramMetricFamily(
        f"{PREFIX}decision_seconds",
        f"Time from message to verdict; one in {LATENCY_EVERY} is timed.",
        buckets=buckets,
        sum_value=tally.latency_sum,
    )


def _pieces(counts: Mapping[tuple[str, str], int]) -> Iterator[list[tuple[tuple[str, str], int]]]:
    """What is counted right now, some at a time; one empty piece for nothing."""
    items = list(counts.items())
    for first in range(0, max(1, len(items)), PIECE):
        yield items[first : first + PIECE]


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def epoch(rfc3339: str) -> float | None:
    """Epoch seconds of RFC 3339 text; None for what is none."""
    try:
        return datetime.fromisoformat(rfc3339).timestamp()
    except (ValueError, OverflowError):
        return None
