"""Every metric of ours, declared in one table. vLLM's own series stand beside them on /metrics, unchanged.

Base units, counters end in `_total`. `tenant`, `adapter` and `version` are bounded: the busiest
(`--metrics-label-sets`) have series of their own, all others share `other` (`server.observability.top_labels`).
docs/metrics.md is made from `SERIES`. What is counted where it happens is a `counter` or `histogram`; what is known
only when somebody asks is a `family`, made for each scrape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from server.request.histogram import TokenGapHistogram

PREFIX = "loragate_"
#: Of loads, swaps and queries.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_MODEL = ("tenant", "adapter", "version")


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: its name without prefix (and without `_total`), kind, meaning and labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exposed_name(self) -> str:
        """As a query writes it; a histogram's own series add `_bucket`, `_sum` and `_count`."""
        return f"{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")


#: The whole list. Adapter "" and version "" are the base model, tenant "" is an operator.
SERIES = {
    series.name: series
    for series in (
        # Counted when a request ends
        Series("requests", "counter", "Finished requests.", (*_MODEL, "endpoint", "status")),
        Series("finishes", "counter", "Answers by how they ended.", (*_MODEL, "reason")),
        Series("tokens", "counter", "Tokens: prompt, cached (part of prompt) and generated.", (*_MODEL, "kind")),
        Series("repetition_stops", "counter", "Answers that were ended because they went in circles.", _MODEL),
        Series("repetition_adjustments", "counter", "Answers that were steered out of going in circles.", _MODEL),
        Series("feedback", "counter", "Ratings of answers: up and down.", (*_MODEL, "rating")),
        Series("time_to_first_token_seconds", "histogram", "From routing to the first token.", _MODEL),
        Series("inter_token_seconds", "histogram", "Between two tokens of a streamed answer.", _MODEL),
        Series("request_duration_seconds", "histogram", "From routing to the last byte.", _MODEL),
        Series("queue_seconds", "histogram", "From the engine's queue to its first step.", _MODEL),
        Series("rejections", "counter", "Requests refused, by reason (limit or error code).", ("tenant", "reason")),
        Series("failed_attempts", "counter", "Requests with a missing or wrong key."),
        # Asked of the scheduler at each scrape; they begin at zero with each engine
        Series("requests_running", "gauge", "Sequences in the engine's batch.", ("tenant",)),
        Series("requests_waiting", "gauge", "Sequences that wait for their turn.", ("tenant",)),
        Series("kv_used_blocks", "gauge", "KV-cache blocks held now, shared ones once.", ("tenant",)),
        Series("kv_reserved_blocks", "gauge", "Blocks held and those that prompts under way will take.", ("tenant",)),
        Series("kv_guaranteed_blocks", "gauge", "Blocks a tenant gets whenever it has work.", ("tenant",)),
        Series("kv_limit_blocks", "gauge", "Blocks a tenant never exceeds.", ("tenant",)),
        Series("kv_capacity_blocks", "gauge", "Blocks of the whole cache."),
        Series("kv_block_seconds", "counter", "Blocks held, times how long.", ("tenant",)),
        Series("service_units", "gauge", "Virtual service: what was given over the weight. The least is next.",
               ("tenant",)),
        Series("scheduler_steps", "counter", "Steps of the scheduler."),
        Series("preemptions", "counter", "Sequences that gave way, by for what.", ("reason",)),
        Series("kv_limit_violations", "counter", "Steps in which a tenant was above its limit; always 0."),
        Series("starved_steps", "counter", "Steps that broke a promised guarantee; always 0."),
        # Adapters
        Series("adapter_versions", "gauge", "Versions in the registry.", ("tenant", "state")),
        Series("adapters_resident", "gauge", "Versions in the engine: in its memory (cpu), in the batch (gpu).",
               ("place",)),
        Series("adapter_slots", "gauge", "Most versions at once.", ("place",)),
        Series("adapters_pinned", "gauge", "Versions that never leave."),
        Series("adapters_held", "gauge", "Versions that a request uses."),
        Series("adapter_waiting", "gauge", "Requests that wait until their adapter is resident."),
        Series("adapter_damaged", "gauge", "Stored artifacts that differ from their digest."),
        Series("adapter_load_seconds", "histogram", "Loading one version into the engine."),
        Series("adapter_swap_seconds", "histogram", "Promote, split or roll back: load, probe, flip."),
        Series("adapter_load_failures", "counter", "Loads the engine refused or did not finish."),
        Series("adapter_unloads", "counter", "Unloads that the engine confirmed."),
        Series("adapter_evictions", "counter", "Versions unloaded to make room for another."),
        Series("adapter_waits", "counter", "Requests that had to wait for a place for their adapter."),
        Series("adapter_busy", "counter", "Requests that waited for a place in vain."),
        Series("adapter_drift", "counter", "Differences of registry and engine that were mended.", ("kind",)),
        Series("canary_rollbacks", "counter", "CanaryRollback that were rolled back by themselves."),
        # The process
        Series("ready", "gauge", "1 while the server takes work."),
        Series("requests_in_flight", "gauge", "Requests inside the server."),
        Series("passages", "gauge", "Deprecated name of `loragate_requests_in_flight`; gone in the next release."),
        Series("tasks", "gauge", "Tasks of the event loop."),
        Series("engine_restarts", "counter", "Times a dead engine was started again."),
        Series("registry_query_seconds", "histogram", "Statements on the registry's database.", ("operation",)),
        Series("build_info", "gauge", "1; the labels tell what runs.", ("version", "vllm", "python")),
    )
}  # fmt: skip


def counter(name: str, registry: CollectorRegistry) -> Counter:
    """A counter of `SERIES` that is counted where it happens."""
    series = SERIES[name]
    assert series.kind == "counter", name
    return Counter(PREFIX + name, series.help, series.labels, registry=registry)


def histogram(name: str, registry: CollectorRegistry) -> Histogram:
    """A histogram of `SERIES` that is counted where it happens."""
    series = SERIES[name]
    assert series.kind == "histogram", name
    return Histogram(PREFIX + name, series.help, series.labels, buckets=_SECONDS, registry=registry)


def family(name: str, samples: Iterable[tuple[Sequence[str], float]]) -> Metric:
    """One counter or gauge of `SERIES` with all its samples: label values and value."""
    series = SERIES[name]
    assert series.kind != "histogram", name
    make = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    made = make(PREFIX + name, series.help, labels=series.labels)
    for values, value in samples:
        made.add_metric(values, value)
    return made


def distributions(name: str, samples: Iterable[tuple[Sequence[str], TokenGapHistogram]]) -> Metric:
    """One histogram of `SERIES` with all its samples."""
    series = SERIES[name]
    assert series.kind == "histogram", name
    made = HistogramMetricFamily(PREFIX + name, series.help, labels=series.labels)
    for values, distribution in samples:
        made.add_metric(values, distribution.cumulative(), distribution.total)
    return made
