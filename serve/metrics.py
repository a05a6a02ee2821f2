"""What the service counts, for Prometheus. Each process counts for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Gauge(NamedTuple):
    """A figure that is read when somebody looks: one value, or (with ``label``) one for each thing."""

    name: str
    meaning: str
    values: Mapping[Any, float]
    label: str | None = None


class Meters:
    """Counters that the routes move, and gauges that are read when somebody looks."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "valuealign_requests", "Requests answered", ["route", "method", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "valuealign_request_seconds",
            "From a request's arrival to the end of its answer",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.tokens = Counter("valuealign_tokens", "Tokens read and written", ["kind"], registry=self._registry)
        self.questions = Counter("valuealign_questions", "Closed questions answered", registry=self._registry)
        self.feedback = Counter("valuealign_feedback_posted", "Feedback kept", ["verdict"], registry=self._registry)
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind)
        for verdict in ("desirable", "undesirable", "correction", "shares"):
            self.feedback.labels(verdict)

    def watch(self, read: Callable[[], Iterable[Gauge]]) -> None:
        """Show what ``read`` reads too."""
        self._registry.register(_Read(read))

    def show(self) -> bytes:
        """Everything, in Prometheus's text format. Reads the gauges: not for the event loop."""
        return generate_latest(self._registry)


class _Read(Collector):
    def __init__(self, read: Callable[[], Iterable[Gauge]]) -> None:
        self._read = read

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # nothing is read when it is registered

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for one in self._read():
            family = GaugeMetricFamily(one.name, one.meaning, labels=[one.label] if one.label else None)
            for thing, value in one.values.items():
                family.add_metric([thing] if one.label else [], value)
            yield family
