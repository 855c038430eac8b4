"""The server's metrics, as its parts count them; `server.observability.metrics` declares their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.observability.metrics import PREFIX, SERIES, histogram
from server.observability.request_collector import RequestCollector


class MetricsRecorder(Collector):
    """Counts, in a registry of its own (vLLM uses the process's default one).

    Args:
        label_sets: the most tenants, and the most (tenant, adapter, version), with series of their own.
        registry: holds the metrics; a new one if omitted.
    """

    def __init__(self, label_sets: int = 100, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self.requests = RequestCollector(label_sets)
        self._snapshot = self.requests.snapshot()
        self._state: list[Metric] = []
        self.load_s = histogram("adapter_load_seconds", registry)
        self.swap_s = histogram("adapter_swap_seconds", registry)
        self.query_s = histogram("registry_query_seconds", registry)
        self.loop_lag_s = histogram("event_loop_lag_seconds", registry)
        self._own_histograms = {
            "adapter_load_seconds",
            "adapter_swap_seconds",
            "registry_query_seconds",
            "event_loop_lag_seconds",
        }
        registry.register(self)

    def update(self, state: Iterable[Metric] = ()) -> None:
        """Let `exposition` show the present counts, and the state that `StateCollector` has read."""
        self._snapshot = self.requests.snapshot()
        self._state = list(state)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes, as of the last `update`.

        With many label sets it takes tens of milliseconds: call it in a thread, outside the event loop.
        """
        return generate_latest(REGISTRY) + generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Names and kinds, which prometheus-client reads at registration."""
        for name, series in SERIES.items():
            if name not in self._own_histograms:
                yield Metric(PREFIX + name, series.help, series.kind)

    def collect(self) -> Iterator[Metric]:
        """All series of the last `update`, except those that prometheus-client holds itself."""
        yield from self._snapshot.collect()
        yield from self._state
