"""Metrics of the controller in the words of Prometheus: what its parts count, and what the fleet is like.

Reads counters when it is asked, and keeps none. No label comes from an agent: no agent can make a time series.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.ops.component import Component

PREFIX: Final = "sbc_edge_controller_"
IN_FLIGHT: Final = "_in_flight"
"""How the names of counts end that can go down; everything else only grows."""


class ControllerCollector(Collector):
    """`components` are read anew each time; `stall` is the event loop's longest wait in the last second."""

    def __init__(
        self,
        components: Callable[[], Sequence[Component]],
        counters: Callable[[], Mapping[str, int]],
        stall: Callable[[], float],
        version: str,
    ) -> None:
        self._components = components
        self._counters = counters
        self._stall = stall
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Every family, read now."""
        components = self._components()
        for counts in (self._counters(), *(component.counters() for component in components)):
            for name, value in counts.items():
                text = f"{name.replace('_', ' ').capitalize()}."
                if name.endswith(IN_FLIGHT):
                    yield GaugeMetricFamily(PREFIX + name, text, value=value)
                else:
                    yield CounterMetricFamily(PREFIX + name, text, value=value)
        healthy = GaugeMetricFamily(f"{PREFIX}component_healthy", "1 while a part does its work.", labels=["component"])
        for component in components:
            healthy.add_metric([component.name], component.health()[0])
        yield healthy
        yield GaugeMetricFamily(
            f"{PREFIX}stall_seconds", "Longest wait of the event loop in the last second.", value=self._stall()
        )
        yield InfoMetricFamily(f"{PREFIX}build", "The controller.", {"version": self._version})


class Page:
    """The text that Prometheus scrapes, in pieces."""

    def __init__(self, collector: ControllerCollector) -> None:
        self._collectors: tuple[Collector, ...] = (collector, ProcessCollector(registry=None))

    def __iter__(self) -> Iterator[bytes]:
        for collector in self._collectors:
            yield generate_latest(collector)
