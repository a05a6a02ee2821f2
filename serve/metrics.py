"""What the service counts, for Prometheus. Each process counts for itself, and says which one it is."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
KEPT_S = 5.0  # seconds that what the database told is shown again: whoever may scrape cannot keep it busy


class Gauge(NamedTuple):
    """A figure that is read when somebody looks: one value, or (with ``label``) one for each thing."""

    name: str
    meaning: str
    values: Mapping[Any, float]
    label: str | None = None


class Meters:
    """Counters that the routes move, and gauges that are read when somebody looks.

    What is this process's own has the label ``replica``: behind one address, each scrape may meet another process.
    """

    def __init__(self) -> None:
        self._own, self._registry = CollectorRegistry(), CollectorRegistry()
        self._registry.register(_Marked(self._own, secrets.token_hex(4)))
        self.requests = Counter(
            "valuealign_requests", "Requests answered", ["route", "method", "status"], registry=self._own
        )
        self.seconds = Histogram(
            "valuealign_request_seconds",
            "From a request's arrival to the end of its answer",
            ["route"],
            buckets=SECONDS,
            registry=self._own,
        )
        self.tokens = Counter("valuealign_tokens", "Tokens read and written", ["kind"], registry=self._own)
        self.questions = Counter("valuealign_questions", "Closed questions answered", registry=self._own)
        self.feedback = Counter("valuealign_feedback_posted", "Feedback kept", ["verdict"], registry=self._own)
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind)
        for verdict in ("desirable", "undesirable", "correction", "shares"):
            self.feedback.labels(verdict)

    def watch(self, read: Callable[[], Iterable[Gauge]]) -> None:
        """Show what ``read`` reads of this process too."""
        self._own.register(_Read(read))

    def watch_shared(self, read: Callable[[], Iterable[Gauge]]) -> None:
        """Show what ``read`` reads of what all replicas share; it is asked once in ``KEPT_S`` seconds at most."""
        self._registry.register(_Read(_Kept(read)))

    def show(self) -> bytes:
        """Everything, in Prometheus's text format. Reads the gauges: not for the event loop."""
        return generate_latest(self._registry)


class _Marked(Collector):
    """What another registry collects, with the label ``replica``."""

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry, self._replica = registry, replica

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            family.samples = [one._replace(labels={**one.labels, "replica": self._replica}) for one in family.samples]
            yield family


class _Kept:
    """What was read last, while it is fresh."""

    def __init__(self, read: Callable[[], Iterable[Gauge]]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._found: tuple[float, list[Gauge]] | None = None

    def __call__(self) -> list[Gauge]:
        with self._lock:  # of many who scrape at once, one reads
            if self._found is None or time.monotonic() - self._found[0] >= KEPT_S:
                self._found = time.monotonic(), list(self._read())
            return self._found[1]


class _Read(Collector):
    def __init__(self, read: Callable[[], Iterable[Gauge]]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        return []  # nothing is read when it is registered

    def collect(self) -> Iterable[Metric]:
        for one in self._read():
            family = GaugeMetricFamily(one.name, one.meaning, labels=[one.label] if one.label else None)
            for thing, value in one.values.items():
                family.add_metric([thing] if one.label else [], value)
            yield family
