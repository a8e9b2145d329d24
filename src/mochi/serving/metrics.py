"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mochi.core.errors import MochiError

if TYPE_CHECKING:
    from mochi.serving.services import Services

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 60.0)
_RUN_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """Counters of one server; jobs and runners are looked up when they are asked for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "mochi_request_seconds",
            "Time to answer.",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._jobs = Counter(
            "mochi_jobs", "Jobs that ended here.", ["model", "status"], registry=self._registry
        )
        self._run_seconds = Histogram(
            "mochi_run_seconds",
            "Time that runs took.",
            ["model"],
            buckets=_RUN_SECONDS,
            registry=self._registry,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def ended(self, model: str, status: str, seconds: float | None) -> None:
        """A run ended."""
        self._jobs.labels(model, status).inc()
        if seconds is not None:
            self._run_seconds.labels(model).observe(seconds)

    def watch(self, services: Services) -> None:
        """Tell of this server's queue and runners too."""
        self._registry.register(_Now(lambda: _families(services)))

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self._registry)


class _Now(Collector):
    def __init__(self, look: Callable[[], Iterator[Metric]]):
        self._look = look

    def describe(self) -> list[Metric]:
        """Nothing ahead: a look would need the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What is so now."""
        with suppress(MochiError):
            yield from self._look()


def _families(services: Services) -> Iterator[Metric]:
    counts = services.store.counts()
    jobs = GaugeMetricFamily("mochi_queue_jobs", "Jobs by state.", labels=["status"])
    for status in ("starting", "processing"):
        jobs.add_metric([status], counts.get(status, 0))
    yield jobs
    runners = GaugeMetricFamily("mochi_runner_up", "1 where ready.", labels=["runner", "state"])
    for runner in services.runners:
        state = runner.state
        runners.add_metric([state.name, state.state], float(state.state in ("idle", "busy")))
    yield runners
