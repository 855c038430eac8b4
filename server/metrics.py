"""Every metric of ours. vLLM's own series stand beside them on the same /metrics, unchanged."""

from __future__ import annotations

import time

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from adapters.records import Rating, Version
from server.gate import REPETITION
from server.records import Passage

#: Distinct (tenant, adapter) pairs that get series of their own; those that come later share `other`.
MAX_SERIES = 200
OTHER = "other"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The server's metrics, in one registry (vLLM's is the process's default one)."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._known: set[tuple[str, str]] = set()
        labels = ["tenant", "adapter"]
        self.requests = Counter(
            "loragate_requests", "Finished requests.", [*labels, "endpoint", "status"], registry=registry
        )
        self.tokens = Counter(
            "loragate_tokens", "Tokens: prompt, cached (part of prompt) and generated.", [*labels, "kind"],
            registry=registry,
        )  # fmt: skip
        self.repetition_stops = Counter(
            "loragate_repetition_stops", "Answers that were ended because they went in circles.", labels,
            registry=registry,
        )  # fmt: skip
        self.repetition_adjustments = Counter(
            "loragate_repetition_adjustments", "Answers that were steered out of going in circles.", labels,
            registry=registry,
        )  # fmt: skip
        self.ttft = Histogram(
            "loragate_time_to_first_token_seconds", "From routing to the first token.", labels,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.duration = Histogram(
            "loragate_request_duration_seconds", "From routing to the last byte.", labels,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.feedback = Counter(
            "loragate_feedback", "Ratings of answers: up and down.", [*labels, "rating"], registry=registry
        )
        self.restarts = Gauge(
            "loragate_engine_restarts", "Times the engine was restarted.", registry=registry
        )
        self.ready = Gauge("loragate_ready", "1 while the server takes work.", registry=registry)
        self.failed_attempts = Gauge(
            "loragate_failed_attempts", "Requests with a missing or wrong key.", registry=registry
        )

    def register(self, series: Collector) -> None:
        """Let `series` be read at every scrape."""
        self._registry.register(series)

    def observe(self, endpoint: str, passage: Passage, status: int) -> None:
        """Count one finished request."""
        version = passage.target.version
        tenant, adapter = self._bounded(passage.caller.tenant_name, version.adapter if version else "")
        meter = passage.meter
        self.requests.labels(tenant, adapter, endpoint, str(status)).inc()
        self.tokens.labels(tenant, adapter, "prompt").inc(meter.prompt_tokens)
        self.tokens.labels(tenant, adapter, "cached").inc(meter.cached_tokens)
        self.tokens.labels(tenant, adapter, "generated").inc(meter.generated_tokens)
        if looped := meter.finish_reasons.count(REPETITION):
            self.repetition_stops.labels(tenant, adapter).inc(looped)
        if meter.answers_steered:
            self.repetition_adjustments.labels(tenant, adapter).inc(meter.answers_steered)
        self.duration.labels(tenant, adapter).observe(time.monotonic() - passage.started_at)
        if meter.first_token_at is not None:
            self.ttft.labels(tenant, adapter).observe(meter.first_token_at - passage.started_at)

    def rated(self, tenant: str, version: Version | None, rating: Rating) -> None:
        """Count one rating."""
        self.feedback.labels(*self._bounded(tenant, version.adapter if version else ""), rating.value).inc()

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _bounded(self, tenant: str, adapter: str) -> tuple[str, str]:
        pair = (tenant, adapter)
        if pair in self._known:
            return pair
        if len(self._known) >= MAX_SERIES:
            return OTHER, OTHER
        self._known.add(pair)
        return pair
