"""Where the server's parts count; the names and meanings stand in `server.observability.metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from adapters.models import Rating, Version
from server.observability.metrics import PREFIX, SERIES, histogram
from server.observability.request_collector import RequestCollector
from server.request.context import RequestContext


class Metrics(Collector):
    """The server's metrics, in a registry of their own (vLLM's is the process's default one).

    Args:
        label_sets: the most tenants, and the most (tenant, adapter, version), with series of their own.
        registry: where they are kept; a new one without it.
    """

    def __init__(self, label_sets: int = 100, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self._requests = RequestCollector(label_sets)
        self._shown = self._requests.snapshot()
        self._state: list[Metric] = []
        self.load_s = histogram("adapter_load_seconds", registry)
        self.swap_s = histogram("adapter_swap_seconds", registry)
        self.query_s = histogram("registry_query_seconds", registry)
        self._kept = {"adapter_load_seconds", "adapter_swap_seconds", "registry_query_seconds"}
        registry.register(self)

    def observe(self, endpoint: str, context: RequestContext, status: int) -> None:
        """Count one finished request."""
        self._requests.observe(endpoint, context, status)

    def rated(self, tenant: str, version: Version | None, rating: Rating) -> None:
        """Count one rating of an answer."""
        self._requests.rated(tenant, version, rating.value)

    def refuse(self, tenant: str, reason: str) -> None:
        """Count one refusal; `reason` is the limit that was reached, or the error's code."""
        self._requests.refuse(tenant, reason)

    def show(self, state: Iterable[Metric] = ()) -> None:
        """Let `exposition` tell what was counted up to now, and what `server.observability.state_collector` found."""
        self._shown = self._requests.snapshot()
        self._state = list(state)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes, as of the last `show`.

        With many label sets it takes tens of milliseconds: call it in a thread, no answer is to wait for it.
        """
        return generate_latest(REGISTRY) + generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """prometheus-client asks for names before anything was counted."""
        for name, series in SERIES.items():
            if name not in self._kept:
                yield Metric(PREFIX + name, series.help, series.kind)

    def collect(self) -> Iterator[Metric]:
        """All series but those that prometheus-client keeps itself, as they were when last asked for."""
        yield from self._shown.collect()
        yield from self._state
