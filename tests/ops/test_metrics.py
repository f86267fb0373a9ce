"""What Prometheus reads: names, labels and values, however many there are."""

import os
import re
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from agent.ops.log import LineWriter, Log
from agent.ops.metrics import PIECE, AgentCollector, Page
from agent.ops.readings import Readings
from agent.policy.compile import compile_policy
from agent.screening import Screening
from agent.service import LATENCY_BUCKETS, RecordSink, Service
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import invite, observe, policy
from tests.fakes.lists import small_list


class NoRecords(RecordSink):
    def put(self, decision: object) -> None:
        pass


class Part:
    """A component that is not well."""

    name = "part"

    def health(self) -> tuple[bool, str]:
        return False, "broken"

    def counters(self) -> Mapping[str, int]:
        return {"part_things": 5, "part_calls_in_flight": 2, "spool_bytes": 77}


@pytest.fixture
def readings() -> Iterator[Readings]:
    sink = os.open(os.devnull, os.O_WRONLY)
    shadow = pb.Limit(name="quiet", mode=pb.MODE_SHADOW, scope=pb.SCOPE_GLOBAL, rate=1, window_seconds=3600, burst=1)
    compiled = policy(pb.Policy(generation=12, limits=[shadow]))
    service = Service(Screening(compiled), NoRecords())
    yield Readings(service, Log(LineWriter(sink)), [Part()], "1.2.3")
    os.close(sink)


def families(readings: Readings) -> dict[str, Metric]:
    text = b"".join(Page(readings)).decode()
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


def value(readings: Readings, name: str, **labels: str) -> float:
    (sample,) = [
        s for f in families(readings).values() for s in f.samples if s.name == name and s.labels == labels
    ]  # fmt: skip
    return sample.value


def test_calls_are_counted_by_trunk_and_by_rule_and_mode(readings: Readings) -> None:
    for _ in range(3):
        readings.service.handle(observe(invite()))
    readings.service.handle(observe(b"OPTIONS sip:a SIP/2.0\r\n\r\n"))
    readings.service.handle(observe(b"no SIP"))
    assert value(readings, "sbc_edge_attempts_total", trunk="unknown", action="allow") == 3
    assert value(readings, "sbc_edge_verdicts_total", rule="none", action="allow", mode="enforce") == 3
    assert value(readings, "sbc_edge_verdicts_total", rule="quiet", action="refuse", mode="shadow") == 2
    assert value(readings, "sbc_edge_unreadable_total") == 1
    assert value(readings, "sbc_edge_not_decided_total") == 2
    assert value(readings, "sbc_edge_policy_generation") == 12
    assert value(readings, "sbc_edge_overflows_total", table="attempts") == 0


def test_parts_are_counters_or_gauges_by_their_nature(readings: Readings) -> None:
    found = families(readings)
    assert found["sbc_edge_part_things"].type == "counter"
    assert found["sbc_edge_part_calls_in_flight"].type == "gauge"
    assert (found["sbc_edge_spool_bytes"].type, value(readings, "sbc_edge_spool_bytes")) == ("gauge", 77)
    assert value(readings, "sbc_edge_component_healthy", component="part") == 0
    assert value(readings, "sbc_edge_build_info", version="1.2.3") == 1


def test_the_histogram_has_every_bucket_and_its_sum(readings: Readings) -> None:
    tally = readings.service.tally
    for seconds in (1e-6, 3e-6, 3e-6, 1.0):
        tally.time(seconds)
    assert value(readings, "sbc_edge_decision_seconds_bucket", le="2e-06") == 1
    assert value(readings, "sbc_edge_decision_seconds_bucket", le="5e-06") == 3
    assert value(readings, "sbc_edge_decision_seconds_bucket", le="+Inf") == 4
    assert value(readings, "sbc_edge_decision_seconds_count") == 4
    assert value(readings, "sbc_edge_decision_seconds_sum") == pytest.approx(1.000007)
    samples = families(readings)["sbc_edge_decision_seconds"].samples
    assert sum(s.name.endswith("_bucket") for s in samples) == len(LATENCY_BUCKETS) + 1


def test_a_list_has_its_age_and_its_size(readings: Readings) -> None:
    rule = pb.DoNotOriginateRule(lists=["small.list"])
    lists = {"small.list": small_list(1_800_000_000.0)}
    readings.service.screening.swap(compile_policy(pb.Policy(do_not_originate=rule), lists))
    found = {
        sample.name: (sample.labels, sample.value)
        for metric in AgentCollector(readings, wall_clock=lambda: 1_800_000_060.0).collect()
        for sample in metric.samples
        if "_list_" in sample.name
    }
    assert found["sbc_edge_list_age_seconds"] == ({"list": "small.list"}, 60.0)
    assert found["sbc_edge_list_numbers"] == ({"list": "small.list"}, 2)


def test_thousands_of_trunks_come_in_pieces_and_are_one_family(readings: Readings) -> None:
    count = 10 * PIECE + 3
    readings.service.tally.by_trunk.update({(f'trunk "{n}"\n', "allow"): n for n in range(count)})
    pieces = [piece for piece in Page(readings) if b"sbc_edge_attempts_total{" in piece]
    assert [piece.count(b"sbc_edge_attempts_total{") for piece in pieces] == [PIECE] * 10 + [3]
    assert sum(piece.count(b"# TYPE") for piece in pieces) == 1
    assert len(families(readings)["sbc_edge_attempts"].samples) == count
    assert value(readings, "sbc_edge_attempts_total", trunk='trunk "7"\n', action="allow") == 7


def test_every_name_keeps_the_conventions(readings: Readings) -> None:
    for metric in AgentCollector(readings).collect():
        assert re.fullmatch("sbc_edge_[a-z_]+", metric.name)
        assert metric.documentation.endswith("."), metric.name


def test_a_part_that_cannot_say_how_it_is_does_not_hide_the_others(readings: Readings) -> None:
    class Speechless(Part):
        name = "speechless"

        def health(self) -> tuple[bool, str]:
            raise ZeroDivisionError

    readings.components = [Speechless(), Part()]
    assert value(readings, "sbc_edge_component_healthy", component="speechless") == 0
    assert value(readings, "sbc_edge_component_healthy", component="part") == 0
    assert readings.log.faults == 2
